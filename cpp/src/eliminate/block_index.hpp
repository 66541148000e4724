// What the pattern of a block-sparse cross block says about W, without numbers: where values lie, the entries by border
// block, the shares of the tasks.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "arrowschur/system.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"

namespace arrowschur::eliminate {

// Rows that follow one another in the caller's order and have the same size.
struct Stretch {
  Index row, count, d;
};

class BlockIndex {
 public:
  explicit BlockIndex(const ArrowSystem&);  // of a block-sparse cross block

  Index blocks() const noexcept { return block_ptr.size() - 1; }
  Index nbytes() const noexcept;
  static Index nbytes(const ArrowSystem&);  // of an index that is yet to be made

  std::vector<Stretch> stretches;
  Index entries = 0;
  Index height = 0, width = 0;  // of every block; 0: they differ
  linalg::Buffer<Index> value_ptr;  // first value of an entry, [entries + 1]
  linalg::Buffer<Index> row_of;  // by entry
  linalg::Buffer<Index> block_ptr, by_block;  // entries of border block b: by_block[block_ptr[b]] .., ascending rows
  linalg::Buffer<Index> bounds;  // rows of groups with about equal numbers of values, fixed by the pattern

  // Whether W'W is summed in tiles, one for each pair of border blocks; what that takes else follows from the sizes.
  bool tiles_fit() const noexcept;
  // The lists of linalg::GramBandArgs, made when they are first asked for.
  struct GramLists {
    Index chunks = 0;
    linalg::Buffer<linalg::GramEntry> list;
    linalg::Buffer<Index> ptr;
    std::vector<Index> pairs;  // [blocks + 1]: of entries (a, b), b <= a, with a before the block
  };
  const GramLists& gram_lists() const;

 private:
  void split_rows(Index n, Index k);

  std::span<const Index> indptr_, block_;  // of the pattern, which outlives the index
  mutable std::once_flag gram_once_;
  mutable GramLists gram_;
};

// The index of the system's cross block, shared with the other systems of its pattern.
std::shared_ptr<const BlockIndex> index_of(const ArrowSystem&);

}  // namespace arrowschur::eliminate
