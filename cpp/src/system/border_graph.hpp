// The graph of border blocks: two blocks are joined when some row touches both, with the number of such rows as weight
// (arrow_schur 10.7; co-visibility in bundle adjustment). A coupling through the border's own off-diagonal entries
// counts as one row.
//
//     M - sum_i B_i' A_i^-1 B_i  couples blocks a and b  <=>  a row touches both, or M_ab != 0
//
// Edges are not stored: a graph over single columns may be nearly complete, and everything below visits the rows of
// each block once. Cost of a visit of all blocks: sum_i s_i^2, s_i the blocks of row i. Rows with more than kLongRow
// blocks say little about who belongs together and are left out of the weights; when the sum is still too large, every
// m-th row stands for all. Components are exact: they need O(sum s_i).
//
// Everything depends on the structure alone: no values (apart from stored zeros of the border), no threads.
// Thread safety: const members may be called from several threads.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "arrowschur/system.hpp"

namespace arrowschur::border {

// Groups of border blocks, each ascending.
using BlockGroups = std::vector<std::vector<Index>>;

class BorderGraph {
 public:
  static constexpr Index kLongRow = 1000;

  // None for a dense or operator cross block: every row touches everything. The system's cross block must outlive it.
  // Nodes are the blocks of a block-sparse cross block; for Kronecker rows the system's border blocks, and without any
  // the intervals between the ends of the pairs' column ranges.
  static std::optional<BorderGraph> make(const ArrowSystem&);

  BorderGraph(BorderGraph&&) = default;
  BorderGraph& operator=(BorderGraph&&) = default;
  BorderGraph(const BorderGraph&) = delete;
  BorderGraph& operator=(const BorderGraph&) = delete;

  Index blocks() const noexcept { return static_cast<Index>(offsets_.size()) - 1; }
  std::span<const Index> offsets() const noexcept { return offsets_; }
  Index width(Index block) const { return offsets_[to_size(block) + 1] - offsets_[to_size(block)]; }
  Index columns(std::span<const Index> group) const;

  // Connected components, by their lowest block.
  BlockGroups components() const;
  // Greedy bounded partition: seed at the lowest unassigned block, absorb the unassigned neighbour with the largest
  // accumulated weight that keeps the group within max_columns, ties to the lower index (A. Kushal, S. Agarwal,
  // Visibility based preconditioning for bundle adjustment, CVPR 2012). A wider block is a group of its own.
  BlockGroups partition(Index max_columns) const;
  // The group grown by `hops` steps along edges, the heaviest neighbours of each step first, within max_columns.
  std::vector<Index> grown(std::span<const Index> group, Index hops, Index max_columns) const;

 private:
  BorderGraph() = default;
  static std::size_t to_size(Index i) noexcept { return static_cast<std::size_t>(i); }
  void take_pairs(const KroneckerCross&, const ArrowSystem&);
  void transpose_rows();
  void join_by_border(const Border&);
  // f(neighbour) once per row (or border coupling) that joins it to `block`; meets `block` itself too.
  template <class F>
  void visit(Index block, F&& f) const;

  std::vector<Index> offsets_;
  std::vector<Index> own_ptr_, own_blocks_;  // rows of Kronecker systems
  std::span<const Index> row_ptr_, row_blocks_;  // blocks of each row
  std::vector<Index> block_ptr_, block_rows_;  // rows of each block, as far as they count
  std::vector<Index> border_ptr_, border_blocks_;  // couplings through the border
};

}  // namespace arrowschur::border
