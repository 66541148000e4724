// The block pattern of S = M - W'W and of its sparse Cholesky factor, without numbers: what the plan decides with, and
// what the sparse solver stores into.
//
// A row of B that touches the border blocks s makes all blocks s x s of W'W non-zero; the border adds its own. Blocks
// are eliminated in the natural order when S is banded, else by approximate minimum degree (Amestoy, Davis, Duff, SIAM
// J. Matrix Anal. Appl. 17(4), 1996), whichever fills less. Columns of the factor with equal structure form panels
// (supernodes): dense trapezoids that BLAS works on. Neighbours in the elimination tree are merged when that stores few
// zeros (Ashcraft and Grimes, ACM Trans. Math. Softw. 15(4), 1989), and wide supernodes are cut so that threads can
// share them.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "arrowschur/system.hpp"

namespace arrowschur {

// Strict lower triangle by block columns: block rows of column j are rows[ptr[j]] .. rows[ptr[j + 1]], ascending.
struct BlockPattern {
  std::vector<Index> offsets;  // [blocks + 1], columns of S
  std::vector<Index> ptr, rows;
  Index blocks() const { return static_cast<Index>(offsets.size()) - 1; }
  Index width(Index b) const { return offsets[static_cast<std::size_t>(b) + 1] - offsets[static_cast<std::size_t>(b)]; }
  std::span<const Index> column(Index j) const {
    const auto begin = static_cast<std::size_t>(ptr[static_cast<std::size_t>(j)]);
    return std::span(rows).subspan(begin, static_cast<std::size_t>(ptr[static_cast<std::size_t>(j) + 1]) - begin);
  }
  double entries() const;  // scalars of the full symmetric pattern, diagonal blocks included
};

// Row i touches blocks[ptr[i]] .. blocks[ptr[i + 1]] of the border cut at `offsets`. Empty when more than max_density
// k^2 entries are non-zero; a sample of columns finds the clear cases at once.
std::optional<BlockPattern> schur_blocks(std::span<const Index> offsets, std::span<const Index> ptr,
                                         std::span<const Index> blocks, const Border& border, double max_density = 1.0);

struct FactorPattern {
  std::vector<Index> order, place;  // order[new] = old block, place[old] = new block
  std::vector<Index> panel_ptr;  // panel p eliminates the new blocks panel_ptr[p] .. panel_ptr[p + 1]
  std::vector<Index> row_ptr, rows;  // new blocks below the panel, ascending
  std::vector<Index> offsets;  // columns of the new blocks, [blocks + 1]
  std::vector<Index> value_ptr;  // panel p is stored at value_ptr[p], row-major [own + below, own]
  double entries = 0.0, flops = 0.0;  // of the factor itself, without the zeros of merged and square panels
  Index panels() const { return static_cast<Index>(panel_ptr.size()) - 1; }
};

// Empty when the factor has more than max_entries entries (lower triangle).
std::optional<FactorPattern> factor_pattern(const BlockPattern&, double max_entries = 1e300);

struct SchurPattern {
  bool sparse = false;  // false: S, or its factor, is too full; the other fields are then 0
  double s_entries = 0.0;  // non-zeros of S, both triangles
  double l_entries = 0.0;  // of its Cholesky factor
  double flops = 0.0;  // of the factorization
  Index peak_bytes = 0;  // S, its factor and what the factorization needs besides
};
// Block-sparse cross blocks only. Cost: pairs of blocks per row, and the block pattern of the factor; gives up early.
SchurPattern schur_pattern(const ArrowSystem&);

}  // namespace arrowschur
