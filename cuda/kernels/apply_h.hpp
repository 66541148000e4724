// Q1: q = H z without ridges; and, with absolute values, ones for z and ridges, the line sums of |H + ridges|.
//
//     q_t = A z_t + B z_beta        q_beta = M z_beta + B'z_t
//
// B is read once, and so is the lower triangle of a dense border, which is stacked below it: its lines are products like
// those of B, and its columns below the diagonal give the upper triangle's,
//
//     [ B     ]  line i:    q_i    += sum_c m_ic z_{T+c}        (border: c <= i)
//     [ lower ]  column c:  q_{T+c} += sum_i m_ic z_i           (border: c < i),
//
// with z = (z_t, z_beta) as it lies in memory. A block has a tile of columns and a chunk of lines, keeps the sums of its
// columns, and every 16 lines folds the products of its lines. Both are partial sums, added in a fixed order by the kernels
// that multiply with what is left: the diagonal blocks, and a border that is banded or made of blocks.
#pragma once

#include "border.hpp"
#include "geometry.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

template <bool kAbsolute>
ARROWSCHUR_HD inline double multiply_add(double a, double x, double sum) {
  return kAbsolute ? sum + std::fabs(a) : std::fma(a, x, sum);
}

// Lines of the stacked matrix.
constexpr std::int64_t stacked_lines(const ArrowschurDeviceSystem& s) {
  return s.total + (s.border_form == ARROWSCHUR_BORDER_DENSE ? s.k : 0);
}

struct CrossArgs {
  Tiling tiling;  // of the stacked matrix
  std::int64_t total;  // its lines that are B's
  double ridge_beta;
  const double* b;
  const double* m;  // a dense border
  const double* z;  // [T + k]; null where ones are meant
  double* columns;  // [chunks, k]
  double* lines;  // [tiles, lines]
};

template <bool kAbsolute>
struct CrossProducts {
  using Args = CrossArgs;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kFold = 16;
  static constexpr int kResults = kThreads / kFold;
  static constexpr int kBatch = 8;  // lines whose loads are under way together

  // Shared memory: products [16 lines, threads]; folded [16 lines, 8]; sums of the columns [2, threads].
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
      store_pair<false>(args.columns + chunk * args.tiling.k + c, sum, c + 1 < args.tiling.k);
    }
  }

 private:
  ARROWSCHUR_HD static void add(bool start, std::int64_t begin, std::int64_t end, std::int64_t c, int thread,
                                double* shared, const Args& args) {
    const std::int64_t k = args.tiling.k;
    Pair sum{0.0, 0.0}, x{1.0, 1.0};
    if (!start) sum = {shared[kColumns + thread], shared[kColumns + kThreads + thread]};
    if (!kAbsolute && c < k) x = {args.z[args.total + c], c + 1 < k ? args.z[args.total + c + 1] : 0.0};
    // All lines there, and left of a border's diagonal.
    const bool inside = begin + kSublines <= end && c + 1 < k && (end <= args.total || c + 1 < begin - args.total);
    for (int i = 0; i < kSublines; i += kBatch) {
      Pair value[kBatch];
      if (inside && k % 2 == 0) {
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) value[s] = load_pair<true>(line_at(begin + i + s, args) + c);
      } else {
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) value[s] = guarded(begin + i + s, end, c, args);
      }
      ARROWSCHUR_UNROLL
      for (int s = 0; s < kBatch; ++s) {
        const std::int64_t line = begin + i + s, r = line - args.total;
        const double z = !kAbsolute && line < end ? args.z[line] : 1.0;
        shared[(i + s) * kThreads + thread] =
            multiply_add<kAbsolute>(value[s].y, x.y, multiply_add<kAbsolute>(value[s].x, x.x, 0.0));
        // The diagonal of the border counts in its line only.
        sum.x = multiply_add<kAbsolute>(c == r ? 0.0 : value[s].x, z, sum.x);
        sum.y = multiply_add<kAbsolute>(c + 1 == r ? 0.0 : value[s].y, z, sum.y);
      }
    }
    shared[kColumns + thread] = sum.x;
    shared[kColumns + kThreads + thread] = sum.y;
  }

  // A line of the stacked matrix.
  ARROWSCHUR_HD static const double* line_at(std::int64_t line, const Args& args) {
    const std::int64_t k = args.tiling.k;
    return line < args.total ? args.b + line * k : args.m + (line - args.total) * k;
  }

  ARROWSCHUR_HD static Pair guarded(std::int64_t line, std::int64_t end, std::int64_t c, const Args& args) {
    if (line >= end) return {0.0, 0.0};
    const std::int64_t r = line - args.total, last = r < 0 ? args.tiling.k - 1 : r;  // columns up to `last`
    const double* const from = line_at(line, args) + c;
    Pair value{c <= last ? from[0] : 0.0, c + 1 <= last ? from[1] : 0.0};
    if (kAbsolute && c == r) value.x += args.ridge_beta;
    if (kAbsolute && c + 1 == r) value.y += args.ridge_beta;
    return value;
  }

  ARROWSCHUR_HD static void finish(std::int64_t tile, std::int64_t begin, std::int64_t end, int thread,
                                   const double* folded, const Args& args) {
    if (thread >= kSublines || begin + thread >= end) return;
    double sum = folded[thread * kResults];
    for (int s = 1; s < kResults; ++s) sum += folded[thread * kResults + s];
    args.lines[tile * args.tiling.lines + begin + thread] = sum;
  }
};

// q_t of one group: A_i z_i and the partial sums of its lines. A thread for each line.
struct RowProductArgs {
  ArrowschurDeviceRows rows;
  std::int64_t tiles, pitch;
  double ridge_t;
  const double* a;
  const double* z;
  const double* lines;  // [tiles, pitch]
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
      if (kAbsolute) {
        sum += std::fabs(a(r, c) + (r == c ? args.ridge_t : 0.0));
      } else {
        sum = std::fma(a(r, c), args.z[first + c], sum);
      }
    }
    for (std::int64_t tile = 0; tile < args.tiles; ++tile) sum += args.lines[tile * args.pitch + line];
    args.q[line] = sum;
  }
};

// q_beta: the partial sums, and M z_beta where the border is not dense. Four entries for each block; all threads share
// their terms.
struct BorderProductArgs {
  Border border;
  std::int64_t chunks, tiles, pitch, total;
  double ridge_beta;
  const double* z;
  const double* columns;  // [chunks, k]
  const double* lines;  // [tiles, pitch], those of a dense border from `total` on
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
      args.q[args.total + first + thread] = sum;
    }
  }

 private:
  ARROWSCHUR_HD static double share(std::int64_t line, int thread, const Args& args) {
    if (line >= args.border.k) return 0.0;
    double sum = 0.0;
    if (args.border.form == ARROWSCHUR_BORDER_DENSE) {
      for (std::int64_t tile = thread; tile < args.tiles; tile += kThreads) {
        sum += args.lines[tile * args.pitch + args.total + line];
      }
    } else {
      const Border::Line entries = args.border.line(line);
      for (std::int64_t c = entries.begin + thread; c < entries.end; c += kThreads) {
        const double entry = args.border.in_line(entries, line, c) + (kAbsolute && c == line ? args.ridge_beta : 0.0);
        sum = multiply_add<kAbsolute>(entry, kAbsolute ? 1.0 : args.z[args.total + c], sum);
      }
    }
    for (std::int64_t p = thread; p < args.chunks; p += kThreads) sum += args.columns[p * args.border.k + line];
    return sum;
  }
};

}  // namespace arrowschur::kernels
