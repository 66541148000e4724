// The border matrix: its entries in each form, its expansion into s0, a ridge on its diagonal, and what became of its
// factorization.
#pragma once

#include "geometry.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

struct Border {
  int form;
  std::int64_t k, width;
  const double* values;

  // Entry (r, c), r >= c. What a dense matrix or block has above its diagonal is not read.
  ARROWSCHUR_HD double lower(std::int64_t r, std::int64_t c) const {
    if (form == ARROWSCHUR_BORDER_DENSE) return values[r * k + c];
    if (form == ARROWSCHUR_BORDER_BANDED) return r - c <= width ? values[(r - c) * k + c] : 0.0;
    return r / width == c / width ? values[r * width + c % width] : 0.0;
  }

  // A line of a form that is not dense: its entries outside columns [begin, end) are zero.
  struct Line {
    std::int64_t begin, end;
  };
  ARROWSCHUR_HD Line line(std::int64_t r) const {
    if (form == ARROWSCHUR_BORDER_BANDED) return {larger(0, r - width), smaller(k, r + width + 1)};
    const std::int64_t begin = r / width * width;
    return {begin, begin + width};
  }
  ARROWSCHUR_HD double in_line(const Line& line, std::int64_t r, std::int64_t c) const {
    const std::int64_t high = larger(r, c), low = smaller(r, c);
    return form == ARROWSCHUR_BORDER_BANDED ? values[(high - low) * k + low] : values[high * width + low - line.begin];
  }
};

// Column-major lower triangles are walked by columns, a pair of lines for each thread.
inline constexpr int kTriangleThreads = 128;
inline constexpr std::int64_t kTriangleLines = 8 * kTriangleThreads;  // of a block

struct TriangleBlock {
  std::int64_t column, first;  // lines [first, first + kTriangleLines)
};
ARROWSCHUR_HD inline TriangleBlock triangle_block(std::int64_t block, std::int64_t k) {
  const std::int64_t tiles = ceil_div(k, kTriangleLines);
  return {block / tiles, block % tiles * kTriangleLines};
}
constexpr std::int64_t triangle_blocks(std::int64_t k) { return ceil_div(k, kTriangleLines) * k; }

// s0 = M, lower triangle: from lines to columns through tiles of 32 x 32.
struct ExpandBorder {
  static constexpr int kTile = 32;
  static constexpr int kLines = 8;  // of a tile at a time
  static constexpr int kThreads = kTile * kLines;
  static constexpr int kPitch = kTile + 1;  // a column's entries lie in different banks
  struct Args {
    Border border;
    double* s0;
    std::int64_t lds;
  };
  static Launch launch(const Args& args) {
    const std::int64_t tiles = ceil_div(args.border.k, kTile);
    return {tiles * tiles, kTile * kPitch, 2};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const std::int64_t k = args.border.k, tiles = ceil_div(k, kTile);
    const std::int64_t line = block / tiles * kTile, column = block % tiles * kTile;
    if (column > line) return;
    const int along = thread % kTile;
    for (int across = thread / kTile; across < kTile; across += kLines) {
      const std::int64_t r = line + (phase == 0 ? across : along), c = column + (phase == 0 ? along : across);
      if (r >= k || c > r) continue;
      if (phase == 0) {
        shared[across * kPitch + along] = args.border.lower(r, c);
      } else {
        args.s0[c * args.lds + r] = shared[along * kPitch + across];
      }
    }
  }
};

// s = s0 + ridge I, lower triangle; the border part of the record starts anew. In place only the diagonal is touched.
struct AddRidge {
  static constexpr int kThreads = kTriangleThreads;
  struct Args {
    std::int64_t k, lds;
    double ridge;
    const double* s0;
    double* s;
    ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) {
    return {args.s == args.s0 ? larger(1, ceil_div(args.k, kThreads)) : larger(1, triangle_blocks(args.k)), 0, 1};
  }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    if (block == 0 && thread == 0) {
      args.record->failed &= ~static_cast<std::uint32_t>(ARROWSCHUR_BORDER_FAILED);
      if ((args.record->failed & ARROWSCHUR_BAND_FAILED) == 0) args.record->border_pivot = -1;
    }
    if (args.s == args.s0) {
      const std::int64_t j = block * kThreads + thread;
      if (j < args.k) args.s[j * args.lds + j] += args.ridge;
      return;
    }
    if (args.k == 0) return;
    const auto [c, first] = triangle_block(block, args.k);
    const std::int64_t end = smaller(args.k, first + kTriangleLines);
    for (std::int64_t r = first + 2 * thread; r < end; r += 2 * kThreads) {
      if (r + 1 < c) continue;
      const std::int64_t at = c * args.lds + r;
      if (r < c) {  // the pair straddles the diagonal
        if (r + 1 < args.k) args.s[at + 1] = args.s0[at + 1] + args.ridge;
        continue;
      }
      const double ridge = r == c ? args.ridge : 0.0;
      if (r + 1 == args.k) {
        args.s[at] = args.s0[at] + ridge;
        continue;
      }
      const Pair value = load_pair<true>(args.s0 + at);
      store_pair<true>(args.s + at, {value.x + ridge, value.y});
    }
  }
};

// What the library's factorization says (`info`: 0, or the failing pivot from 1 on), and what its diagonal says: a NaN
// passes some libraries without a word.
struct CheckBorder {
  static constexpr int kThreads = kVectorThreads;
  struct Args {
    std::int64_t k, lds;
    const double* s;
    const int* info;
    ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) { return {args.k > 0 ? 1 : 0, kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      std::int64_t bad = args.k;
      for (std::int64_t j = thread; j < args.k && bad == args.k; j += kThreads) {
        if (!good_pivot(args.s[j * args.lds + j])) bad = j;
      }
      shared[thread] = static_cast<double>(bad);
      return;
    }
    if (thread != 0) return;
    double bad = static_cast<double>(args.k);
    for (int t = 0; t < kThreads; ++t) bad = shared[t] < bad ? shared[t] : bad;
    auto pivot = static_cast<std::int64_t>(bad);
    if (*args.info > 0 && *args.info - 1 < pivot) pivot = *args.info - 1;  // after a NaN it may name a later one
    ArrowschurBuildRecord& record = *args.record;
    if (pivot >= args.k && *args.info == 0) return;
    if ((record.failed & ARROWSCHUR_BAND_FAILED) != 0) return;  // there is no C
    record.failed |= ARROWSCHUR_BORDER_FAILED;
    // After failed rows the border is meaningless, and so is its pivot.
    if ((record.failed & ARROWSCHUR_ROWS_FAILED) == 0 && pivot < args.k) {
      record.border_pivot = static_cast<std::int32_t>(pivot);
    }
  }
};

}  // namespace arrowschur::kernels
