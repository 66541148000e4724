// S_0 = H_bb - W'W in blocks: the lower triangle by block rows, each one dense strip over the blocks that it touches,
// so that the task of a block row adds all its rows of W into memory that it owns.
#pragma once

#include <span>
#include <vector>

#include "eliminate/whitened.hpp"
#include "linalg/buffer.hpp"
#include "plan/schur_pattern.hpp"

namespace arrowschur::border {

class SparseSchur {
 public:
  SparseSchur(const ArrowSystem& system, const eliminate::BlockSparseWhitened& w);

  const BlockPattern& pattern() const noexcept { return pattern_; }
  Index k() const noexcept { return pattern_.offsets.back(); }
  Index nbytes() const noexcept;

  // Block (i, j), i >= j: width(i) x width(j), rows ld apart.
  struct Block {
    const double* data;
    Index ld;
  };
  // f(other, block, transposed) for every block of block row and column b: S[other, b] is `block` when other >= b and
  // its transpose when other < b (`transposed`). The diagonal block is the lower triangle of its storage.
  template <class F>
  void for_each_in(Index b, F&& f) const {
    for (Index e = row_ptr_[at(b)]; e + 1 < row_ptr_[at(b) + 1]; ++e) {
      f(row_blocks_[at(e)], Block{strip(b) + row_at_[at(e)], ld_[at(b)]}, true);
    }
    f(b, diagonal(b), false);
    for (Index e = pattern_.ptr[at(b)]; e < pattern_.ptr[at(b) + 1]; ++e) {
      const Index i = pattern_.rows[at(e)];
      f(i, Block{strip(i) + row_at_[at(place_[at(e)])], ld_[at(i)]}, false);
    }
  }
  Block diagonal(Index b) const { return {strip(b) + row_at_[at(row_ptr_[at(b) + 1] - 1)], ld_[at(b)]}; }

  // y = (S_0 + diag(shift)) x, [k, m].
  void apply(const double* shift, const double* x, double* y, Index m) const;
  // Absolute row sums of D^-1 S_0 D^-1 off the diagonal, D by its reciprocals (null: 1).
  void off_diagonal_sums(const double* inverse_scale, double* sums) const;

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  const double* strip(Index b) const { return values_.data() + strip_ptr_[at(b)]; }

  BlockPattern pattern_;
  // Block row b: its blocks up to and including b, and the first column of each in the strip.
  std::vector<Index> row_ptr_, row_blocks_, row_at_;
  std::vector<Index> place_;  // of an entry of the pattern (by columns) among the entries by rows
  std::vector<Index> strip_ptr_, ld_;
  linalg::Buffer<double> values_;
};

}  // namespace arrowschur::border
