// How work is cut into blocks: pure functions of the shape, so that results depend on nothing else. Tests hold them to the
// limits that every device from compute capability 8.0 on has.
#pragma once

#include <initializer_list>

#include "backend/device_api.h"
#include "kernel.hpp"

namespace arrowschur::kernels {

// ---- limits that every supported device has ---------------------------------------------------------------------------
inline constexpr std::int64_t kMostBlocks = 2147483647;  // of a grid
inline constexpr std::size_t kSharedDoubles = 49152 / 8;  // of a block, without asking for more
inline constexpr std::size_t kMostSharedDoubles = 101376 / 8;  // with: 8.6, 8.9 and 12.0 have the least

// ---- depths: kernels are compiled for these, and one serves the depths down to the next smaller -----------------------
inline constexpr int kDepths[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32};
inline constexpr int kExactDepths = 8;  // up to here a kernel serves its own depth only, in registers

template <int kIndex = 0, class F>
int with_depth(int d, F&& f) {
  if constexpr (kIndex + 1 < static_cast<int>(sizeof kDepths / sizeof *kDepths)) {
    if (d > kDepths[kIndex]) return with_depth<kIndex + 1>(d, f);
  }
  return f.template operator()<kDepths[kIndex]>();
}

// Does the kernel for `depth` serve d?
template <int kIndex = 0>
ARROWSCHUR_HD constexpr bool serves(int depth, int d) {
  constexpr int kDepth = kDepths[kIndex];
  if constexpr (kIndex + 1 < static_cast<int>(sizeof kDepths / sizeof *kDepths)) {
    if (d > kDepth) return serves<kIndex + 1>(depth, d);
  }
  return depth == kDepth;
}

// ---- products with the stacked T x k matrix: tiles of columns, chunks of lines ------------------------------------------
inline constexpr int kTileThreads = 128;
inline constexpr std::int64_t kTileColumns = 2 * kTileThreads;  // each thread has two neighbours
inline constexpr int kSublines = 16;  // lines between two reductions over a tile's columns

struct Tiling {
  std::int64_t lines, k;
  std::int64_t tiles;  // of columns
  std::int64_t chunks;  // of lines
  std::int64_t lines_per_chunk;  // a multiple of kSublines

  ARROWSCHUR_HD std::int64_t begin(std::int64_t chunk) const { return chunk * lines_per_chunk; }
  ARROWSCHUR_HD std::int64_t end(std::int64_t chunk) const { return smaller(lines, begin(chunk) + lines_per_chunk); }
};

// Chunks of at least 32 lines: their partial sums are then at most 1/32 of the matrix. About 2048 blocks in all are
// several waves on the largest device.
constexpr Tiling tiling_of(std::int64_t lines, std::int64_t k) {
  const std::int64_t tiles = ceil_div(k, kTileColumns);
  if (lines == 0 || tiles == 0) return {lines, k, tiles, 0, kSublines};
  const std::int64_t wanted = larger(1, 2048 / tiles);
  const std::int64_t each = larger(32, ceil_div(ceil_div(lines, wanted), kSublines) * kSublines);
  return {lines, k, tiles, ceil_div(lines, each), each};
}

// ---- S x with W read once: blocks that walk along the lines ---------------------------------------------------------------
inline constexpr int kSchurThreads = 512;
inline constexpr std::int64_t kPairColumns = 2 * kSchurThreads;  // columns of one pair for each thread
inline constexpr std::int64_t kSchurBlocks = 132;  // as many as an H100 has multiprocessors
inline constexpr int kSchurPairs = 5;  // of a thread, at most; also the widest slab that fits twice

// Narrower borders leave threads idle, wider ones do not fit: both take two passes over W.
constexpr bool reads_once(std::int64_t k) { return k >= 256 && k <= kSchurPairs * kPairColumns; }
constexpr int pairs_of(std::int64_t k) { return static_cast<int>(ceil_div(k, kPairColumns)); }
ARROWSCHUR_HD constexpr int slab_lines(int pairs) { return pairs == 1 ? 4 : pairs == 2 ? 2 : 1; }

struct Walk {
  std::int64_t slabs, each, blocks;  // of lines; each: slabs of a block
};
ARROWSCHUR_HD constexpr Walk walk_of(std::int64_t lines, int pairs) {
  const std::int64_t slabs = ceil_div(lines, slab_lines(pairs)), each = larger(1, ceil_div(slabs, kSchurBlocks));
  return {slabs, each, ceil_div(slabs, each)};
}

// ---- small systems -------------------------------------------------------------------------------------------------------
inline constexpr int kBatchThreads = 160;
inline constexpr std::int64_t kBatchLines = 4096;  // of a system that one block solves
constexpr int batch_rows(int depth) { return 64 / depth; }  // row blocks at a time
inline constexpr std::int64_t kPartGroups = 64;  // times that, for one block of a larger system
inline constexpr int kPartNumbers = 6;  // of each thread of such a block: four sums, a logarithm, an extreme

// ---- routing ---------------------------------------------------------------------------------------------------------------
inline constexpr int kRouteThreads = 256;  // more than the most atoms of a row, ARROWSCHUR_ROUTE_MAX
inline constexpr std::int64_t kRouteScores = std::int64_t{1} << 21;  // of a tile: 8 MiB
inline constexpr std::int64_t kRouteRows = 4096;  // of a tile
ARROWSCHUR_HD constexpr int route_keep(int wanted) {
  return wanted + (wanted > 8 ? wanted : 8);
}  // candidates of a row

// Rows and atoms of a tile, and where its arrays begin in the workspace, in doubles, each on 256 bytes: scores, candidates,
// states of the rows.
struct RouteSpace {
  std::int64_t rows, atoms;
  std::int64_t lists, states, end;  // the scores at 0
};
constexpr RouteSpace route_space(std::int64_t atoms, std::int64_t rows, int wanted) {
  const auto on_256_bytes = [](std::int64_t doubles) { return ceil_div(doubles, 32) * 32; };
  RouteSpace s{};
  s.rows = larger(1, smaller(rows, kRouteRows));
  s.atoms = smaller(atoms, kRouteScores / s.rows / 32 * 32);
  s.lists =
      atoms <= route_keep(wanted) ? 0 : on_256_bytes(ceil_div(s.rows * s.atoms, 2));  // no scores: all are candidates
  s.states = s.lists + on_256_bytes(s.rows * route_keep(wanted));
  s.end = s.states + 2 * s.rows;
  return s;
}

// ---- sums over a vector -------------------------------------------------------------------------------------------------
inline constexpr int kVectorThreads = 256;
struct Pieces {
  std::int64_t count, length;
};
ARROWSCHUR_HD constexpr Pieces pieces_of(std::int64_t size) {
  const std::int64_t count = larger(1, smaller(256, ceil_div(size, 4 * kVectorThreads)));
  return {count, ceil_div(size, count)};
}

// ---- the border -----------------------------------------------------------------------------------------------------------
inline constexpr int kDiagonal = 128;  // size of the diagonal blocks of L_S that are inverted
constexpr std::int64_t padded(std::int64_t k) { return ceil_div(k, 16) * 16; }  // leading dimension
constexpr std::int64_t diagonal_blocks(std::int64_t k) { return ceil_div(k, kDiagonal); }

constexpr std::int64_t inverse_doubles(std::int64_t k, bool full) {
  return full ? padded(k) * k : diagonal_blocks(k) * kDiagonal * kDiagonal;
}

// ---- workspace ------------------------------------------------------------------------------------------------------------
// In doubles, of the kernels' own stages; every stage has all of it.

// Partial sums of columns and of lines of products with B, a dense border stacked below it or not (apply_h.hpp).
constexpr std::int64_t product_doubles(std::int64_t total, std::int64_t k) {
  std::int64_t most = 0;
  for (const std::int64_t lines : {total, total + k}) {
    const Tiling tiling = tiling_of(lines, k);
    most = larger(most, tiling.chunks * k + tiling.tiles * lines);
  }
  return most;
}
// S x: partial sums of W'(W x) and W x itself; those of a dense border; what conjugate gradients add up (schur.hpp).
inline constexpr int kSchurEntries = 8;  // of S x, for a block
struct SchurSpace {
  std::int64_t parts;  // partial sums of W'(W x)
  std::int64_t image, columns, lines, dots, sums, scalars, end;  // where each begins; the partial sums at 0
};
constexpr SchurSpace schur_space(std::int64_t total, std::int64_t k) {
  SchurSpace s{};
  const Tiling border = tiling_of(k, k);
  s.parts = reads_once(k) ? walk_of(total, pairs_of(k)).blocks : tiling_of(total, k).chunks;
  s.image = larger(s.parts, tiling_of(total, k).chunks) * k;  // also those of the diagonal of S
  s.columns = s.image + total;
  s.lines = s.columns + border.chunks * k;
  s.dots = s.lines + border.tiles * k;
  s.sums = s.dots + ceil_div(k, kSchurEntries);
  s.scalars = s.sums + 3 * pieces_of(k).count;
  s.end = s.scalars + 4;
  return s;
}
constexpr std::int64_t vector_doubles(std::int64_t size) { return 8 * pieces_of(size).count; }
// `order`: of the matrix that is factored, k, or T on the dual route; 0 where there is none.
constexpr std::int64_t workspace_doubles(std::int64_t total, std::int64_t k, std::int64_t order) {
  const std::int64_t product = product_doubles(total, k) + total + k;  // norm_h: and its line sums
  const std::int64_t blocks = diagonal_blocks(order), triangle = blocks * blocks * kDiagonal + order;  // full inverse
  return larger(larger(product, triangle), schur_space(total, k).end) + vector_doubles(total + k);
}

// What is supported: depths with a kernel, grids and 64-bit products that cannot overflow.
constexpr bool fits(std::int64_t lines, std::int64_t k, std::int64_t n) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // entries of a matrix: 8 TiB
  if (lines < 0 || k < 0 || n < 0 || lines > kMost || k > kMost || n > kMost) return false;
  if (k > 0 && (lines > kMost / k || k > kMost / k)) return false;
  const std::int64_t tiles = larger(1, ceil_div(k, kTileColumns));
  return n <= kMostBlocks / tiles && tiles * k <= kMostBlocks && lines <= 16 * kMostBlocks;  // 16: line_products.hpp
}

}  // namespace arrowschur::kernels
