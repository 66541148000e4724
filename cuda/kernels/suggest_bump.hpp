// record->suggested_bump: what repairs the rows that have failed without ruining the border (linalg/gershgorin.hpp).
#pragma once

#include "border.hpp"
#include "linalg/gershgorin.hpp"

namespace arrowschur::kernels {

// *drain = 2 failing rows / smallest border diagonal; 0 where no ridge on the rows can make the border positive.
struct BorderDrain {
  static constexpr int kThreads = kVectorThreads;
  struct Args {
    Border border;
    double ridge_beta;
    double* drain;
    ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args&) { return {1, kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      double smallest = HUGE_VAL;
      for (std::int64_t j = thread; j < args.border.k; j += kThreads) {
        const double diagonal = args.border.lower(j, j) + args.ridge_beta;
        if (diagonal < smallest) smallest = diagonal;
      }
      shared[thread] = smallest;
    } else if (thread == 0) {
      double smallest = HUGE_VAL;
      for (int t = 0; t < kThreads; ++t) smallest = shared[t] < smallest ? shared[t] : smallest;
      *args.drain = smallest > 0.0 ? 2.0 * static_cast<double>(args.record->failing_rows) / smallest : 0.0;
      args.record->suggested_bump = 0.0;
    }
  }
};

// A block for each row block; those that have a factor, hence reciprocal pivots, return at once.
struct SuggestBump {
  static constexpr int kThreads = 128;
  static constexpr int kFold = 8;
  struct Args {
    ArrowschurDeviceRows rows;
    std::int64_t k;
    double ridge;
    const double* a;
    const double* b;
    const double* inverse_diagonal;
    const double* drain;
    ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) { return {args.rows.n, kThreads + kThreads / kFold, 3}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const std::int64_t line = line_of(args.rows, block);
    const double inverse = args.inverse_diagonal[line];
    if (inverse == inverse) return;
    double* const folded = shared + kThreads;
    if (phase == 0) {
      const double* const b = args.b + line * args.k;
      double sum = 0.0;
      for (std::int64_t i = thread; i < args.rows.d * args.k; i += kThreads) sum = std::fma(b[i], b[i], sum);
      shared[thread] = sum;
    } else if (phase == 1) {
      fold(shared, folded, 1, kFold, kThreads / kFold, thread, kThreads);
    } else if (thread == 0) {
      double squared;
      fold(folded, &squared, 1, kThreads / kFold, 1, 0, 1);
      const LowerEntry entry{args.a + entry_of(args.rows, block), args.rows.d};
      const linalg::Discs discs = linalg::discs_of(args.rows.d, entry);
      atomic_max(&args.record->suggested_bump, linalg::suggested_bump(discs, args.ridge, *args.drain, squared));
    }
  }
};

}  // namespace arrowschur::kernels
