// What the indices of residual blocks decide (jacobian_pattern() of the public header), without numbers.
#pragma once

#include <memory>
#include <vector>

#include "arrowschur/system.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/cross_pattern.hpp"
#include "system/jacobians.hpp"

namespace arrowschur {

struct JacobianPattern {
  // Blocks (row, col) of the lower triangle of the border, col <= row, where some residual block touches both; diagonal
  // blocks always. And the entries of j_beta by border block, ascending residual blocks.
  struct BorderRows {
    std::vector<Index> ptr, cols, data;  // ptr [blocks + 1]; data [blocks of the triangle + 1]: first values
    std::vector<Index> entry_ptr, entry, residual;
  };

  JacobianPattern(const JacobianParts&, const BlockSparseCross& j_beta);  // of sizes and indices that have been checked

  Index n, d, k, r, q;
  bool own_rows;  // residual block b belongs to row b

  // j_beta: of each residual block distinct border blocks, ascending. Where it was given otherwise, as it was given: its
  // values are merged anew each time.
  linalg::Buffer<Index> j_ptr, j_block, given_ptr, given_block;
  bool merged = false;
  Index values = 0;  // numbers of j_beta as it was given
  std::vector<Index> offsets;
  std::shared_ptr<const cross::Layout> layout;

  jacobians::BlocksOfRows of;
  std::shared_ptr<cross::Pattern> cross;
  linalg::Buffer<Index> place;  // entry of j_beta -> entry of the cross block
  linalg::Buffer<Index> value_ptr;  // entry of the cross block -> first value

  // The border: its diagonal blocks, and where no residual block touches two of them and they are small against the
  // Jacobians, `groups` partials of it, made along with the rows. Else its rows are made by their own tasks.
  bool diagonal = false, fused = false;
  Index groups = 0, widest = 0;
  std::vector<Index> sizes, border_at;  // of the diagonal blocks; border_at [blocks + 1]: first values of a partial
  BorderRows border;

  Index blocks() const { return static_cast<Index>(sizes.size()); }
  Index width(Index block) const { return sizes[static_cast<std::size_t>(block)]; }
  bool large() const { return layout->stored * (d + layout->width) >= linalg::kParallelWork; }

  static constexpr Index kMaxTasks = 64;  // of rows, or of block rows of the border

  // f(block row) in tasks, each with a workspace of `blocks` indices that are -1, and left so.
  template <class F>
  void for_block_rows(F&& f) const {
    const Index tasks = std::min(blocks(), kMaxTasks);
    linalg::parallel_for_if(large(), tasks, [&](Index t) {
      std::vector<Index> mark(static_cast<std::size_t>(blocks()), -1);
      for (Index b = blocks() * t / tasks; b < blocks() * (t + 1) / tasks; ++b) f(b, mark);
    });
  }

 private:
  void find_cross(const Index* row_index);
  void find_border();
  void list_border_rows();
};

}  // namespace arrowschur
