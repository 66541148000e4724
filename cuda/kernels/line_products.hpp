// out_t = start_t + sign w_t'x for the lines w_t of the stacked T x k matrix: `lanes` threads for a line, their sums folded
// in a fixed order.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

struct LineProducts {
  static constexpr int kThreads = 128;
  static constexpr int kFold = 8;
  struct Args {
    std::int64_t lines, k;
    const double* w;
    const double* x;  // [k], not always on 16 bytes
    const double* start;  // [lines]; null: zeros
    double sign;
    double* out;  // [lines]; may be `start`
    const ArrowschurBuildRecord* record;
  };

  ARROWSCHUR_HD static constexpr int lanes(std::int64_t k) { return k > 128 ? 128 : k > 32 ? 32 : 8; }
  static Launch launch(const Args& args) {
    return {ceil_div(args.lines, kThreads / lanes(args.k)), kThreads + kThreads / kFold, 3};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const int width = lanes(args.k), slots = kThreads / width, results = width / kFold;
    double* const folded = shared + kThreads;
    const std::int64_t line = block * slots + (phase == 0 ? thread / width : thread);
    if (phase == 0) {
      double sum = 0.0;
      if (line < args.lines) {
        const double* const w = args.w + line * args.k;
        sum = args.k % 2 == 0 ? products<true>(w, thread % width, width, args)
                              : products<false>(w, thread % width, width, args);
      }
      shared[thread] = sum;
    } else if (phase == 1) {
      fold(shared, folded, slots, kFold, results, thread, kThreads);
    } else if (thread < slots && line < args.lines) {
      const double* const terms = folded + thread * results;
      double sum = terms[0];
      for (int s = 1; s < results; ++s) sum += terms[s];
      args.out[line] = std::fma(args.sign, sum, args.start != nullptr ? args.start[line] : 0.0);
    }
  }

 private:
  template <bool kEven>
  ARROWSCHUR_HD static double products(const double* w, int lane, int width, const Args& args) {
    double sum = 0.0;
    ARROWSCHUR_UNROLL_8
    for (std::int64_t c = 2 * lane; c < args.k; c += 2 * width) {
      const bool both = c + 1 < args.k;
      const Pair value = load_pair<kEven>(w + c, both);
      sum = std::fma(value.x, args.x[c], sum);
      if (both) sum = std::fma(value.y, args.x[c + 1], sum);
    }
    return sum;
  }
};

}  // namespace arrowschur::kernels
