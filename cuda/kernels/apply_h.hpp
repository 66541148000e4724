// Q1: q = H z without ridges; and, with absolute values and ones for z, the line sums of |H|.
//
//     q_t = A z_t + B z_beta        q_beta = M z_beta + B'z_t
//
// B is read once: a block has a tile of columns and a chunk of lines, keeps the sums of its columns, and every 16 lines
// folds the products of its lines. Both are partial sums, added in a fixed order by the kernels that multiply with the
// diagonal blocks.
#pragma once

#include "border.hpp"
#include "geometry.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

template <bool kAbsolute>
ARROWSCHUR_HD inline double multiply_add(double a, double x, double sum) {
  return kAbsolute ? sum + std::fabs(a) : std::fma(a, x, sum);
}

struct CrossArgs {
  Tiling tiling;
  const double* b;
  const double* t;  // z_t, z_beta; null where ones are meant
  const double* beta;
  double* columns;  // [chunks, k]
  double* lines;  // [tiles, T]
};

template <bool kAbsolute>
struct CrossProducts {
  using Args = CrossArgs;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kFold = 16;
  static constexpr int kResults = kThreads / kFold;

  // Shared memory: products [16 lines, threads]; folded [16 lines, 8]; sums of the columns [threads, 2].
  static constexpr int kFolded = kSublines * kThreads;
  static constexpr int kColumns = kFolded + kSublines * kResults;
  static constexpr int kShared = kColumns + 2 * kThreads;

  static Launch launch(const Args& args) {
    return {args.tiling.tiles * args.tiling.chunks, kShared,
            2 * static_cast<int>(args.tiling.lines_per_chunk / kSublines) + 1};
  }

  // Phase 2 s adds the lines of the s-th group of 16 and finishes those of the one before, 2 s + 1 folds.
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const std::int64_t tile = block % args.tiling.tiles, chunk = block / args.tiling.tiles;
    const std::int64_t begin = args.tiling.begin(chunk) + phase / 2 * kSublines, end = args.tiling.end(chunk);
    if (phase % 2 == 1) {
      fold(shared, shared + kFolded, kSublines, kFold, kResults, thread, kThreads);
      return;
    }
    if (phase > 0) finish(tile, begin - kSublines, end, thread, shared + kFolded, args);
    const std::int64_t c = tile * kTileColumns + 2 * thread;
    if (phase / 2 < args.tiling.lines_per_chunk / kSublines) {
      add(phase == 0, begin, end, c, thread, shared, args);
    } else if (c < args.tiling.k) {
      const Pair sum{shared[kColumns + thread], shared[kColumns + kThreads + thread]};
      store_pair(args.columns + chunk * args.tiling.k + c, sum, args.tiling.k % 2 == 0, c + 1 < args.tiling.k);
    }
  }

 private:
  ARROWSCHUR_HD static void add(bool start, std::int64_t begin, std::int64_t end, std::int64_t c, int thread,
                                double* shared, const Args& args) {
    const std::int64_t k = args.tiling.k;
    const bool any = c < k, both = c + 1 < k, aligned = k % 2 == 0;
    Pair sum{0.0, 0.0}, x{1.0, 1.0};
    if (!start) sum = {shared[kColumns + thread], shared[kColumns + kThreads + thread]};
    if (!kAbsolute && any) x = load_pair(args.beta + c, false, both);
    ARROWSCHUR_UNROLL
    for (int i = 0; i < kSublines; ++i) {
      Pair b{0.0, 0.0};
      double z = 1.0;
      if (any && begin + i < end) {
        b = load_pair(args.b + (begin + i) * k + c, aligned, both);
        if (!kAbsolute) z = args.t[begin + i];
      }
      sum.x = multiply_add<kAbsolute>(b.x, z, sum.x);
      sum.y = multiply_add<kAbsolute>(b.y, z, sum.y);
      shared[i * kThreads + thread] = multiply_add<kAbsolute>(b.y, x.y, multiply_add<kAbsolute>(b.x, x.x, 0.0));
    }
    shared[kColumns + thread] = sum.x;
    shared[kColumns + kThreads + thread] = sum.y;
  }

  ARROWSCHUR_HD static void finish(std::int64_t tile, std::int64_t begin, std::int64_t end, int thread,
                                   const double* folded, const Args& args) {
    if (thread >= kSublines || begin + thread >= end) return;
    double sum = folded[thread * kResults];
    for (int s = 1; s < kResults; ++s) sum += folded[thread * kResults + s];
    args.lines[tile * args.tiling.lines + begin + thread] = sum;
  }
};

// q_t of one group: A_i z_i and the partial sums of B z_beta. A thread for each line.
struct RowProductArgs {
  ArrowschurDeviceRows rows;
  std::int64_t total, tiles;
  const double* a;
  const double* t;
  const double* lines;  // [tiles, total]
  double* q;
};

template <bool kAbsolute>
struct RowProducts {
  using Args = RowProductArgs;
  static constexpr int kThreads = 128;
  static Launch launch(const Args& args) { return {ceil_div(args.rows.n * args.rows.d, kThreads), 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const std::int64_t d = args.rows.d, at = block * kThreads + thread, j = at / d;
    if (j >= args.rows.n) return;
    const int r = static_cast<int>(at % d);
    const LowerEntry a{args.a + entry_of(args.rows, j), args.rows.d};
    const std::int64_t first = line_of(args.rows, j), line = first + r;
    double sum = 0.0;
    for (int c = 0; c < args.rows.d; ++c) {
      sum = multiply_add<kAbsolute>(a(r, c), kAbsolute ? 1.0 : args.t[first + c], sum);
    }
    for (std::int64_t tile = 0; tile < args.tiles; ++tile) sum += args.lines[tile * args.total + line];
    args.q[line] = sum;
  }
};

// q_beta: M z_beta and the partial sums of B'z_t, four lines for each block. Every thread has its share of both.
struct BorderProductArgs {
  Border border;
  std::int64_t chunks;
  const double* beta;
  const double* columns;  // [chunks, k]
  double* q;
};

template <bool kAbsolute>
struct BorderProducts {
  using Args = BorderProductArgs;
  static constexpr int kThreads = 128;
  static constexpr int kLines = 4;
  static constexpr int kFold = 8;
  static constexpr int kResults = kThreads / kFold;
  static Launch launch(const Args& args) {
    return {ceil_div(args.border.k, kLines), kLines * kThreads + kLines * kResults, 3};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    double* const folded = shared + kLines * kThreads;
    const std::int64_t first = block * kLines;
    if (phase == 0) {
      for (int i = 0; i < kLines; ++i) shared[i * kThreads + thread] = share(first + i, thread, args);
    } else if (phase == 1) {
      fold(shared, folded, kLines, kFold, kResults, thread, kThreads);
    } else if (thread < kLines && first + thread < args.border.k) {
      double sum = folded[thread * kResults];
      for (int s = 1; s < kResults; ++s) sum += folded[thread * kResults + s];
      args.q[first + thread] = sum;
    }
  }

 private:
  ARROWSCHUR_HD static double share(std::int64_t line, int thread, const Args& args) {
    if (line >= args.border.k) return 0.0;
    double sum = 0.0;
    const std::int64_t end = args.border.end(line);
    if (args.border.form == ARROWSCHUR_BORDER_DENSE) {  // along the line, as it lies in memory
      const double* const m = args.border.values + line * args.border.k;
      ARROWSCHUR_UNROLL_8
      for (std::int64_t c = thread; c < end; c += kThreads) {
        sum = multiply_add<kAbsolute>(m[c], kAbsolute ? 1.0 : args.beta[c], sum);
      }
    } else {
      for (std::int64_t c = args.border.begin(line) + thread; c < end; c += kThreads) {
        sum = multiply_add<kAbsolute>(args.border(line, c), kAbsolute ? 1.0 : args.beta[c], sum);
      }
    }
    for (std::int64_t p = thread; p < args.chunks; p += kThreads) sum += args.columns[p * args.border.k + line];
    return sum;
  }
};

}  // namespace arrowschur::kernels
