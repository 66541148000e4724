// V5 and V6: dt_i = -L_i^-T (u_i + W_i dbeta), in one pass of W.
//
// `lanes` threads have a row block: each adds its columns of the d products, the sums are folded in a fixed order, and one
// thread substitutes back. Narrow borders have several row blocks in one block of threads.
#pragma once

#include "geometry.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

struct ExpandArgs {
  ArrowschurDeviceRows rows;
  std::int64_t k;
  const double* l;
  const double* inverse_diagonal;
  const double* w;
  const double* beta;
  double* t;  // u in, dt out
  const ArrowschurBuildRecord* record;
};

template <int D>
struct Expand {
  using Args = ExpandArgs;
  static constexpr int kThreads = 128;
  static constexpr int kFold = 8;
  static constexpr int kColumns = D <= 16 ? 2 : 1;  // that a thread loads at once

  ARROWSCHUR_HD static constexpr int lanes(std::int64_t k) { return k > 128 ? 128 : k > 32 ? 32 : 8; }
  static Launch launch(const Args& args) {
    return {ceil_div(args.rows.n, kThreads / lanes(args.k)), D * kThreads + D * kThreads / kFold, 3};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const int d = D <= kExactDepths ? D : args.rows.d;
    const int width = lanes(args.k), slot = thread / width, lane = thread % width, slots = kThreads / width;
    double* const folded = shared + D * kThreads;
    if (phase == 0) {
      products(block * slots + slot, d, lane, width, shared + slot * D * width, args);
    } else if (phase == 1) {
      fold(shared, folded, slots * D, kFold, width / kFold, thread, kThreads);
    } else if (thread < slots && block * slots + thread < args.rows.n) {
      substitute(block * slots + thread, d, width / kFold, folded + thread * D * (width / kFold), args);
    }
  }

 private:
  // shared[r, lane]: the lane's share of line r.
  ARROWSCHUR_HD static void products(std::int64_t j, int d, int lane, int width, double* shared, const Args& args) {
    double sum[D];
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) sum[r] = 0.0;
    if (j < args.rows.n) {
      const double* const w = args.w + line_of(args.rows, j) * args.k;
      if (kColumns == 2 && args.k % 2 == 0) {
        add<true>(w, d, lane, width, sum, args);
      } else {
        add<false>(w, d, lane, width, sum, args);
      }
    }
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) shared[r * width + lane] = sum[r];
  }

  template <bool kEven>
  ARROWSCHUR_HD static void add(const double* w, int d, int lane, int width, double (&sum)[D], const Args& args) {
    const std::int64_t k = args.k;
    for (std::int64_t c = kColumns * lane; c < k; c += kColumns * width) {
      const bool both = kColumns == 2 && c + 1 < k;
      const Pair x{args.beta[c], both ? args.beta[c + 1] : 0.0};  // behind T entries: not always on 16 bytes
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        const Pair value = r < d ? load_pair<kEven>(w + r * k + c, both) : Pair{0.0, 0.0};
        sum[r] = std::fma(value.x, x.x, sum[r]);
        if (kColumns == 2) sum[r] = std::fma(value.y, x.y, sum[r]);
      }
    }
  }

  ARROWSCHUR_HD static void substitute(std::int64_t j, int d, int terms, double* folded, const Args& args) {
    const std::int64_t line = line_of(args.rows, j);
    const double* const l = args.l + entry_of(args.rows, j);
    const double* const inverse = args.inverse_diagonal + line;
    if constexpr (D <= 16) {
      double x[D];
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        if (r < d) x[r] = args.t[line + r] + total(folded + r * terms, terms);
      }
      backward<D>(l, inverse, d, x);
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        if (r < d) args.t[line + r] = -x[r];
      }
    } else {
      for (int r = 0; r < d; ++r) folded[r * terms] = args.t[line + r] + total(folded + r * terms, terms);
      backward(l, inverse, d, folded, terms);
      for (int r = 0; r < d; ++r) args.t[line + r] = -folded[r * terms];
    }
  }

  ARROWSCHUR_HD static double total(const double* terms, int count) {
    double sum = terms[0];
    for (int s = 1; s < count; ++s) sum += terms[s];
    return sum;
  }
};

}  // namespace arrowschur::kernels
