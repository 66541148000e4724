// E5: log|H + ridges| = 2 sum log L_i[j, j] + 2 sum log L_S[a, a], and the smallest squared pivot, in two kernels: sums of
// pieces, the sum of those. Nothing is written after a failure.
//
// Dual: H with its border eliminated first has the pivots of L_M, and in its rows those of L_i times those of L_C, since
// A - B M^-1 B' = L C L'.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

struct LogDetArgs {
  std::int64_t total, k, lds;
  const double* inverse_diagonal;
  const double* s;
  const double* band;  // diagonal of L_M; null on the direct route
  double* partial;  // [2, pieces]: sums, minima
  ArrowschurBuildRecord* record;
};

struct LogDetPieces {
  using Args = LogDetArgs;
  static constexpr int kThreads = kVectorThreads;
  static Launch launch(const Args& args) { return {pieces_of(args.total + args.k).count, 2 * kThreads + 16, 3}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    double* const sums = shared;
    double* const minima = shared + kThreads;
    double* const folded = minima + kThreads;
    const std::int64_t size = args.total + args.k;
    const Pieces pieces = pieces_of(size);
    if (phase == 0) {
      double sum = 0.0, minimum = HUGE_VAL;
      const std::int64_t end = smaller(size, (block + 1) * pieces.length);
      for (std::int64_t i = block * pieces.length + thread; i < end; i += kThreads) {
        const std::int64_t a = i - args.total;
        const double pivot = args.band == nullptr ? direct(i, a, args) : dual(i, a, args);
        sum += std::log(pivot);
        if (pivot < minimum) minimum = pivot;
      }
      sums[thread] = sum, minima[thread] = minimum;
    } else if (phase == 1) {
      fold(sums, folded, 1, 16, 16, thread, kThreads);
    } else if (thread == 0) {
      double minimum = HUGE_VAL;
      for (int t = 0; t < kThreads; ++t) minimum = minima[t] < minimum ? minima[t] : minimum;
      fold(folded, args.partial + block, 1, 16, 1, 0, 1);
      args.partial[pieces.count + block] = minimum;
    }
  }

 private:
  ARROWSCHUR_HD static double direct(std::int64_t i, std::int64_t a, const Args& args) {
    return a < 0 ? 1.0 / args.inverse_diagonal[i] : args.s[a * args.lds + a];
  }
  ARROWSCHUR_HD static double dual(std::int64_t i, std::int64_t a, const Args& args) {
    return a < 0 ? args.s[i * args.lds + i] / args.inverse_diagonal[i] : args.band[a];
  }
};

struct LogDetTotal {
  using Args = LogDetArgs;
  static constexpr int kThreads = 32;
  static Launch launch(const Args&) { return {1, 0, 1}; }
  ARROWSCHUR_HD static void run(int, std::int64_t, int thread, double*, const Args& args) {
    if (thread != 0 || args.record->failed != 0) return;
    const std::int64_t count = pieces_of(args.total + args.k).count;
    double sum = 0.0, minimum = HUGE_VAL;
    for (std::int64_t p = 0; p < count; ++p) {
      sum += args.partial[p];
      if (args.partial[count + p] < minimum) minimum = args.partial[count + p];
    }
    args.record->log_det = 2.0 * sum;
    args.record->smallest_pivot = minimum * minimum;
  }
};

}  // namespace arrowschur::kernels
