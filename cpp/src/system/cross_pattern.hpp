// The pattern of block-sparse cross blocks that differ in their values only: systems of one problem, linearized again
// and again. What is derived from the pattern is derived once.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "linalg/buffer.hpp"
#include "system/cross.hpp"

namespace arrowschur::cross {

struct Pattern {
  Index n = 0, d = 0, k = 0;  // uniform rows
  linalg::Buffer<Index> indptr, block_index;  // of each row distinct blocks, ascending
  std::vector<Index> block_offsets;
  std::shared_ptr<const Layout> layout;

  // Whether the cross block of uniform rows is of this pattern: then it needs no other examination.
  bool is_of(Index rows, Index row_dim, Index columns, const BlockSparseCross& c) const {
    return n == rows && d == row_dim && k == columns && c.indptr == indptr.data() &&
           c.block_index == block_index.data() && c.block_offsets == block_offsets;
  }

  // What another room derives, made by the first who asks. One type per pattern.
  template <class T, class Make>
  std::shared_ptr<const T> derived(Make&& make) const {
    std::call_once(once_, [&] { derived_ = make(); });
    return std::static_pointer_cast<const T>(derived_);
  }

 private:
  mutable std::once_flag once_;
  mutable std::shared_ptr<const void> derived_;
};

}  // namespace arrowschur::cross
