// V4: x = S^-1 x with S = L_S L_S'.
//
// With inverted diagonal blocks, one launch for each block and triangle. Launch b of the forward triangle subtracts what
// block b - 1 gives from every tile of lines below it, and solves for block b, whose tile is complete then:
//
//     x_t -= L[t, b - 1] y_{b-1}  for t >= b,     y_b = L[b, b]^-1 x_b
//
// and so upwards with L'. Tiles are 128 x 128, column-major.
//
// With the whole inverse X = L_S^-1, two products without a chain: y = X x from partial sums of tiles, x = X' y.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

// ---- products with one tile, by 512 threads ---------------------------------------------------------------------------
inline constexpr int kTileProductThreads = 4 * kDiagonal;
inline constexpr int kLanes = 16;  // of a column, for products with the transpose
inline constexpr int kPitch = kDiagonal + 1;  // lets the lanes of a column write to different banks
inline constexpr int kTileShared = kLanes * kPitch;

// Four partial sums of tile[r, :] x for each line r: part[q, r] adds the columns q, q + 4, ... below `columns`.
ARROWSCHUR_HD inline void tile_times(const double* tile, std::int64_t ld, std::int64_t lines, std::int64_t columns,
                                     const double* x, int thread, double* part) {
  const int r = thread % kDiagonal, q = thread / kDiagonal;
  double sum = 0.0;
  if (r < lines) {
    ARROWSCHUR_UNROLL_8
    for (std::int64_t c = q; c < columns; c += 4) sum = std::fma(tile[c * ld + r], x[c], sum);
  }
  part[q * kDiagonal + r] = sum;
}
ARROWSCHUR_HD inline double tile_sum(const double* part, int r) {
  return part[r] + part[kDiagonal + r] + part[2 * kDiagonal + r] + part[3 * kDiagonal + r];
}

// The same with the transpose: part[lane, c] adds the lines lane, lane + 16, ... of column c, for lines below `lines`.
ARROWSCHUR_HD inline void tile_transposed_times(const double* tile, std::int64_t ld, std::int64_t lines,
                                                std::int64_t columns, const double* x, int thread, double* part) {
  const int lane = thread % kLanes;
  for (int c = thread / kLanes; c < kDiagonal; c += kTileProductThreads / kLanes) {
    double sum = 0.0;
    if (c < columns) {
      ARROWSCHUR_UNROLL
      for (int i = 0; i < kDiagonal / kLanes; ++i) {
        const int r = lane + kLanes * i;
        if (r < lines) sum = std::fma(tile[c * ld + r], x[r], sum);
      }
    }
    part[lane * kPitch + c] = sum;
  }
}
ARROWSCHUR_HD inline double tile_transposed_sum(const double* part, int c) {
  double sum = part[c];
  for (int lane = 1; lane < kLanes; ++lane) sum += part[lane * kPitch + c];
  return sum;
}

// ---- substitution by blocks -------------------------------------------------------------------------------------------
struct StepArgs {
  std::int64_t k, lds, step;  // step: the block that is solved for
  const double* s;
  const double* inverses;
  double* x;
  const ArrowschurBuildRecord* record;
};

struct ForwardStep {
  using Args = StepArgs;
  static constexpr int kThreads = kTileProductThreads;
  static Launch launch(const Args& args) { return {diagonal_blocks(args.k) - args.step, 5 * kDiagonal, 4}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const std::int64_t first = (args.step + block) * kDiagonal, line = first + thread;
    double* const part = shared;
    double* const v = shared + 4 * kDiagonal;
    switch (phase) {
      case 0:
        if (args.step > 0) {
          const std::int64_t before = (args.step - 1) * kDiagonal;
          tile_times(args.s + before * args.lds + first, args.lds, args.k - first, kDiagonal, args.x + before, thread,
                     part);
        }
        return;
      case 1:
        if (thread < kDiagonal) {
          double value = line < args.k ? args.x[line] : 0.0;
          if (args.step > 0) value -= tile_sum(part, thread);
          v[thread] = value;
          if (block > 0 && line < args.k) args.x[line] = value;
        }
        return;
      case 2:
        if (block == 0) {  // below the diagonal of the inverse there is nothing
          const double* const inverse = args.inverses + args.step * kDiagonal * kDiagonal;
          tile_times(inverse, kDiagonal, kDiagonal, thread % kDiagonal + 1, v, thread, part);
        }
        return;
      default:
        if (block == 0 && thread < kDiagonal && line < args.k) args.x[line] = tile_sum(part, thread);
    }
  }
};

struct BackwardStep {
  using Args = StepArgs;
  static constexpr int kThreads = kTileProductThreads;
  static Launch launch(const Args& args) { return {args.step + 1, kTileShared + kDiagonal, 4}; }

  // Block 0 has the tile that is solved for, block i the i-th above it.
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const std::int64_t first = (args.step - block) * kDiagonal, line = first + thread;
    const std::int64_t below = (args.step + 1) * kDiagonal;
    double* const part = shared;
    double* const v = shared + kTileShared;
    switch (phase) {
      case 0:
        if (below < args.k) {
          tile_transposed_times(args.s + first * args.lds + below, args.lds, args.k - below, kDiagonal, args.x + below,
                                thread, part);
        }
        return;
      case 1:
        if (thread < kDiagonal) {
          double value = line < args.k ? args.x[line] : 0.0;
          if (below < args.k) value -= tile_transposed_sum(part, thread);
          v[thread] = value;
          if (block > 0 && line < args.k) args.x[line] = value;
        }
        return;
      case 2:
        if (block == 0) {
          const double* const inverse = args.inverses + args.step * kDiagonal * kDiagonal;
          tile_transposed_times(inverse, kDiagonal, kDiagonal, kDiagonal, v, thread, part);
        }
        return;
      default:
        if (block == 0 && thread < kDiagonal && line < args.k) args.x[line] = tile_transposed_sum(part, thread);
    }
  }
};

// ---- two products with the whole inverse --------------------------------------------------------------------------------
struct InverseArgs {
  std::int64_t k, ld;
  const double* inverse;  // [k, ld], its lower triangle
  double* x;
  double* partial;  // [column tiles, lines of whole tiles], then y [k]
  const ArrowschurBuildRecord* record;

  ARROWSCHUR_HD std::int64_t pitch() const { return ceil_div(k, kDiagonal) * kDiagonal; }
  ARROWSCHUR_HD double* y() const { return partial + ceil_div(k, kDiagonal) * pitch(); }
};

// Partial sums of X x: block (row tile, column tile), also those above the diagonal, which return at once.
struct InverseTiles {
  using Args = InverseArgs;
  static constexpr int kThreads = kTileProductThreads;
  static Launch launch(const Args& args) {
    return {diagonal_blocks(args.k) * diagonal_blocks(args.k), 4 * kDiagonal, 2};
  }
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const std::int64_t count = ceil_div(args.k, kDiagonal), row = block / count, column = block % count;
    if (args.record->failed != 0 || column > row) return;
    const std::int64_t first = row * kDiagonal, start = column * kDiagonal;
    if (phase == 0) {
      // Column start + c ends above line first + r where c exceeds first - start + r.
      const std::int64_t columns = smaller(kDiagonal, first - start + thread % kDiagonal + 1);
      tile_times(args.inverse + start * args.ld + first, args.ld, args.k - first, columns, args.x + start, thread,
                 shared);
    } else if (thread < kDiagonal) {
      args.partial[column * args.pitch() + first + thread] = tile_sum(shared, thread);
    }
  }
};

struct InverseSums {
  using Args = InverseArgs;
  static constexpr int kThreads = 128;
  static Launch launch(const Args& args) { return {ceil_div(args.k, kThreads), 0, 1}; }
  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const std::int64_t line = block * kThreads + thread;
    if (args.record->failed != 0 || line >= args.k) return;
    double sum = args.partial[line];
    ARROWSCHUR_UNROLL_8
    for (std::int64_t c = 1; c <= line / kDiagonal; ++c) sum += args.partial[c * args.pitch() + line];
    args.y()[line] = sum;
  }
};

// x_c = sum_{r >= c} X[r, c] y_r: 32 lanes for a column.
struct InverseTransposed {
  using Args = InverseArgs;
  static constexpr int kThreads = 128;
  static constexpr int kColumns = kThreads / 32;
  static Launch launch(const Args& args) { return {ceil_div(args.k, kColumns), kThreads, 2}; }
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    if (phase == 0) {
      const std::int64_t c = block * kColumns + thread / 32;
      double sum = 0.0;
      if (c < args.k) {
        const double* const y = args.y();
        ARROWSCHUR_UNROLL_8
        for (std::int64_t r = c / 32 * 32 + thread % 32; r < args.k; r += 32) {
          if (r >= c) sum = std::fma(args.inverse[c * args.ld + r], y[r], sum);
        }
      }
      shared[thread] = sum;
    } else if (thread < kColumns && block * kColumns + thread < args.k) {
      double sum = shared[32 * thread];
      for (int lane = 1; lane < 32; ++lane) sum += shared[32 * thread + lane];
      args.x[block * kColumns + thread] = sum;
    }
  }
};

}  // namespace arrowschur::kernels
