// E6: inverses of the 128 x 128 diagonal blocks of L_S, one block each. Both are column-major; the last one is filled up
// with the identity.
//
// Thread c has column c of the inverse X and finds it 16 lines at a time, from L X = I:
//     acc = I[strip, c] - sum_{q before the strip} L[strip, q] X[q, c],     X[strip, c] = L[strip, strip]^-1 acc.
// acc is in registers, the strip of L in shared memory (reciprocals on its diagonal), X in its place.
#pragma once

#include "border.hpp"

namespace arrowschur::kernels {

struct InvertDiagonalBlocks {
  static constexpr int kThreads = kDiagonal;
  static constexpr int kStrip = 16;
  struct Args {
    std::int64_t k, lds;
    const double* s;
    double* inverses;  // [blocks, 128, 128]
    const ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) {
    return {diagonal_blocks(args.k), kDiagonal * kStrip, 2 * (kDiagonal / kStrip)};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const int first = phase / 2 * kStrip;  // line of the strip
    if (phase % 2 == 0) return load(block * kDiagonal, first, thread, shared, args);
    double* const x = args.inverses + block * kDiagonal * kDiagonal + static_cast<std::int64_t>(thread) * kDiagonal;
    double acc[kStrip];
    ARROWSCHUR_UNROLL
    for (int i = 0; i < kStrip; ++i) acc[i] = first + i == thread ? 1.0 : 0.0;
    for (int q = thread / kStrip * kStrip; q < first; ++q) {  // x is zero above line c
      const double value = x[q];
      ARROWSCHUR_UNROLL
      for (int i = 0; i < kStrip; ++i) acc[i] = std::fma(-shared[q * kStrip + i], value, acc[i]);
    }
    ARROWSCHUR_UNROLL
    for (int i = 0; i < kStrip; ++i) {
      acc[i] *= shared[(first + i) * kStrip + i];
      ARROWSCHUR_UNROLL
      for (int r = i + 1; r < kStrip; ++r) acc[r] = std::fma(-shared[(first + i) * kStrip + r], acc[i], acc[r]);
    }
    ARROWSCHUR_UNROLL
    for (int i = 0; i < kStrip; i += 2) store_pair<true>(x + first + i, {acc[i], acc[i + 1]});
  }

 private:
  // shared[q, i] = L[first + i, q], q up to the end of the strip.
  ARROWSCHUR_HD static void load(std::int64_t start, int first, int thread, double* shared, const Args& args) {
    const int i = thread % kStrip;
    const std::int64_t line = start + first + i;
    for (int q = thread / kStrip; q < first + kStrip; q += kThreads / kStrip) {
      double value = first + i == q ? 1.0 : 0.0;
      if (line < args.k && start + q <= line) {
        value = args.s[(start + q) * args.lds + line];
        if (first + i == q) value = 1.0 / value;
      }
      shared[q * kStrip + i] = value;
    }
  }
};

// A multiple of the identity, [k, ld] column-major: what the full inverse is solved from.
struct SetIdentity {
  static constexpr int kThreads = kTriangleThreads;
  struct Args {
    std::int64_t k, ld;
    double* x;
    double diagonal = 1.0;
  };
  static Launch launch(const Args& args) { return {triangle_blocks(args.k), 0, 1}; }
  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const auto [c, first] = triangle_block(block, args.k);
    const std::int64_t end = smaller(args.ld, first + kTriangleLines);
    for (std::int64_t r = first + 2 * thread; r < end; r += 2 * kThreads) {
      store_pair<true>(args.x + c * args.ld + r, {r == c ? args.diagonal : 0.0, r + 1 == c ? args.diagonal : 0.0});
    }
  }
};

}  // namespace arrowschur::kernels
