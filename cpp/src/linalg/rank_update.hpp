// Symmetric rank-T updates on packed panels (layout: kernels.hpp).
#pragma once

#include <algorithm>

#include "linalg/kernels.hpp"

namespace arrowschur::linalg {

constexpr Index round_up(Index x, Index multiple) noexcept { return (x + multiple - 1) / multiple * multiple; }

// Edge of the tiles that tasks own. 192 rows of packed data (kTile columns x kDepth rows) fill a third of a 1 MiB L2; a
// multiple of both panel widths (24, 48).
inline constexpr Index kTile = 192;
// Rows summed per visit of C: one panel (kDepth x 192 bytes) stays in a 48 KiB L1 while the strips stream past.
inline constexpr Index kDepth = 192;

// Storage of a k x k matrix that tiles may overrun: rows padded to kStrip, leading dimension to kPanel.
template <class T>
constexpr Index padded_ld(Index k) noexcept {
  return round_up(k, kPanel<T>);
}
template <class T>
constexpr Index padded_size(Index k) noexcept {
  return round_up(k, kStrip) * padded_ld<T>(k);
}

// The packed columns of one operand: column c, row r at data + c / kPanel * panel_stride + r kPanel + c % kPanel.
template <class T>
struct PackedPanels {
  const T* data = nullptr;
  Index panel_stride = 0;
  const T* at(Index row, Index col) const noexcept {
    return data + col / kPanel<T> * panel_stride + row * kPanel<T> + col % kPanel<T>;
  }
};

// C[i, j] += alpha sum_{r = row_begin}^{row_end - 1} P[r, i] P[r, j] for i in [i_begin, i_end), j in [j_begin, j_end)
// with j <= i; alpha is +1 or -1. The ranges start at multiples of kTile; i_end is a multiple of kStrip; entries with
// j > i in micro tiles on the diagonal are overwritten unless `keep_upper`. The rows are added in order: same bits
// for any tiling of the row range at multiples of kDepth.
template <class T>
void rank_update_tile(const KernelTable<T>& kernel, PackedPanels<T> p, Index row_begin, Index row_end, Index i_begin,
                      Index i_end, Index j_begin, Index j_end, T alpha, T* c, Index ldc, bool keep_upper) {
  constexpr Index kWidth = kPanel<T>;
  for (Index r = row_begin; r < row_end; r += kDepth) {
    const Index depth = std::min(kDepth, row_end - r);
    for (Index j = j_begin; j < std::min(j_end, i_end); j += kWidth) {
      const T* a = p.at(r, j);
      for (Index i = std::max(i_begin, j); i < i_end; i += kStrip) {
        if (keep_upper && j + kWidth > i + 1) {
          alignas(64) T tile[kStrip * kWidth] = {};
          kernel.rank_update(depth, a, p.at(r, i), alpha, tile, kWidth);
          for (Index s = 0; s < kStrip; ++s) {
            for (Index t = 0; t < kWidth && j + t <= i + s; ++t) c[(i + s) * ldc + j + t] += tile[s * kWidth + t];
          }
        } else {
          kernel.rank_update(depth, a, p.at(r, i), alpha, c + i * ldc + j, ldc);
        }
      }
    }
  }
}

// Tile (i, j), j <= i, number `task` of the lower triangle of a tiles x tiles grid, row by row.
struct TileIndex {
  Index i = 0, j = 0;
};
inline TileIndex lower_tile(Index task) noexcept {
  Index i = 0;
  while (task > i) {
    task -= i + 1;
    ++i;
  }
  return {i, task};
}
constexpr Index lower_tiles(Index tiles) noexcept { return tiles * (tiles + 1) / 2; }

}  // namespace arrowschur::linalg
