// Vectors: sums of multiples, the largest entry, and the sums that an attempt of the inner loop is judged by. Reductions
// take two kernels: pieces of fixed length, then the pieces in order.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

// out = sum_i coefficients[i] inputs[i], in the order given.
struct Combine {
  static constexpr int kMost = 4;
  static constexpr int kThreads = kVectorThreads;
  struct Args {
    std::int64_t size;
    int count;
    double coefficients[kMost];
    const double* inputs[kMost];
    double* out;
  };
  static Launch launch(const Args& args) { return {ceil_div(args.size, 2 * kThreads), 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    for (int half = 0; half < 2; ++half) {
      const std::int64_t i = (2 * block + half) * kThreads + thread;
      if (i >= args.size) return;
      double sum = args.coefficients[0] * args.inputs[0][i];
      ARROWSCHUR_UNROLL
      for (int v = 1; v < kMost; ++v) {
        if (v < args.count) sum = std::fma(args.coefficients[v], args.inputs[v][i], sum);
      }
      args.out[i] = sum;
    }
  }
};

// max |x_i|; NaN where there is one.
struct LargestArgs {
  std::int64_t size;
  const double* x;
  double* partial;  // [pieces]
  double* norm;
};

struct LargestOfPieces {
  using Args = LargestArgs;
  static constexpr int kThreads = kVectorThreads;
  static Launch launch(const Args& args) { return {pieces_of(args.size).count, kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      const Pieces pieces = pieces_of(args.size);
      const std::int64_t end = smaller(args.size, (block + 1) * pieces.length);
      double largest = 0.0;
      for (std::int64_t i = block * pieces.length + thread; i < end; i += kThreads) {
        largest = worse(largest, std::fabs(args.x[i]));
      }
      shared[thread] = largest;
    } else if (thread == 0) {
      double largest = 0.0;
      for (int t = 0; t < kThreads; ++t) largest = worse(largest, shared[t]);
      args.partial[block] = largest;
    }
  }
};

struct Largest {
  using Args = LargestArgs;
  static constexpr int kThreads = 32;
  static Launch launch(const Args&) { return {1, 0, 1}; }
  ARROWSCHUR_HD static void run(int, std::int64_t, int thread, double*, const Args& args) {
    if (thread != 0) return;
    double largest = 0.0;
    for (std::int64_t p = 0; p < pieces_of(args.size).count; ++p) largest = worse(largest, args.partial[p]);
    *args.norm = largest;
  }
};

// The sums of ArrowschurLoopRecord.
struct MeasureArgs {
  std::int64_t total, k;
  const double* g;
  const double* z;
  const double* r;
  const double* delta;
  const double* q;
  double* partial;  // [sums, pieces]
  const ArrowschurBuildRecord* build;  // may be null
  ArrowschurLoopRecord* record;
};

inline constexpr int kMeasures = 7;  // r'delta, delta'q, |dt|^2, |dbeta|^2, objective, |r + q|^2, |z + delta|^2

struct MeasurePieces {
  using Args = MeasureArgs;
  static constexpr int kThreads = kVectorThreads;
  static Launch launch(const Args& args) {
    return {pieces_of(args.total + args.k).count, kMeasures * kThreads + kMeasures * 16, 3};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const Pieces pieces = pieces_of(args.total + args.k);
    double* const folded = shared + kMeasures * kThreads;
    if (phase == 0) {
      const std::int64_t size = args.total + args.k, end = smaller(size, (block + 1) * pieces.length);
      double sum[kMeasures] = {};
      for (std::int64_t i = block * pieces.length + thread; i < end; i += kThreads) {
        const double delta = args.delta[i], residual = args.r[i] + args.q[i], point = args.z[i] + delta;
        sum[0] = std::fma(args.r[i], delta, sum[0]);
        sum[1] = std::fma(delta, args.q[i], sum[1]);
        if (i < args.total) {
          sum[2] = std::fma(delta, delta, sum[2]);
        } else {
          sum[3] = std::fma(delta, delta, sum[3]);
        }
        sum[4] = std::fma(point, residual - args.g[i], sum[4]);
        sum[5] = std::fma(residual, residual, sum[5]);
        sum[6] = std::fma(point, point, sum[6]);
      }
      ARROWSCHUR_UNROLL
      for (int v = 0; v < kMeasures; ++v) shared[v * kThreads + thread] = sum[v];
    } else if (phase == 1) {
      fold(shared, folded, kMeasures, kThreads / 16, 16, thread, kThreads);
    } else if (thread < kMeasures) {
      fold(folded + 16 * thread, args.partial + thread * pieces.count + block, 1, 16, 1, 0, 1);
    }
  }
};

struct MeasureTotal {
  using Args = MeasureArgs;
  static constexpr int kThreads = 32;
  static Launch launch(const Args&) { return {1, kMeasures, 2}; }
  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      if (thread >= kMeasures) return;
      const std::int64_t count = pieces_of(args.total + args.k).count;
      double sum = args.partial[thread * count];
      for (std::int64_t p = 1; p < count; ++p) sum += args.partial[thread * count + p];
      shared[thread] = sum;
    } else if (thread == 0) {
      *args.record = {shared[0], shared[1], shared[2], shared[3],
                      shared[4], shared[5], shared[6], args.build != nullptr ? args.build->failed : 0};
    }
  }
};

}  // namespace arrowschur::kernels
