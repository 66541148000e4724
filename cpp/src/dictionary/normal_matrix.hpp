// A = C'C, the Gram matrix of the codes: lower triangle, row k holds the atoms l <= k that fired together with k.
//
// Dense by block rows (linalg::PackedTriangle) within the budget, else one ascending list per row. Every entry is one
// float64 sum that receives its terms in ascending global row order, and every row of A has one writer.
#pragma once

#include <cstdint>
#include <vector>

#include "linalg/block_cholesky.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::dictionary {

class NormalMatrix {
 public:
  // Dense when 4 K (K + 128) <= budget.
  NormalMatrix(Index k, Index budget);
  bool dense() const noexcept { return dense_; }
  Index k() const noexcept { return k_; }
  void clear();
  void scale(double beta);
  void forget(Index k);  // row and column k become zeros
  // Rows and columns of the other atoms become zeros.
  void restrict_to(const std::vector<char>& live);
  Index nbytes() const noexcept;
  NormalMatrix copy() const;

  // Dense only.
  const linalg::PackedTriangle& layout() const noexcept { return layout_; }
  double* data() noexcept { return values_.data(); }
  double* row(Index k) noexcept { return values_.data() + layout_.row(k); }
  const double* row(Index k) const noexcept { return values_.data() + layout_.row(k); }

  // Sparse only: columns (ascending, without the diagonal) and values of row k.
  struct List {
    std::vector<std::uint32_t> columns;
    std::vector<double> values;
  };
  List& list(Index k) noexcept { return lists_[static_cast<std::size_t>(k)]; }
  const List& list(Index k) const noexcept { return lists_[static_cast<std::size_t>(k)]; }
  // Makes room for these columns (ascending, distinct) in row k.
  void insert(Index k, const std::vector<std::uint32_t>& columns);

  double& diagonal(Index k) noexcept { return dense_ ? row(k)[k] : diagonal_[static_cast<std::size_t>(k)]; }
  double diagonal(Index k) const noexcept { return dense_ ? row(k)[k] : diagonal_[static_cast<std::size_t>(k)]; }

  // f(l, a_kl) for the off-diagonal entries of row k that are not zero, l < k ascending.
  template <class F>
  void each(Index k, F&& f) const {
    if (dense_) {
      const double* a = row(k);
      for (Index l = 0; l < k; ++l) {
        if (a[l] != 0.0) f(l, a[l]);
      }
    } else {
      const List& a = list(k);
      for (std::size_t j = 0; j < a.columns.size(); ++j) {
        if (a.values[j] != 0.0) f(static_cast<Index>(a.columns[j]), a.values[j]);
      }
    }
  }

 private:
  Index k_;
  bool dense_;
  linalg::PackedTriangle layout_;
  linalg::Buffer<double> values_;
  std::vector<List> lists_;
  std::vector<double> diagonal_;
};

}  // namespace arrowschur::dictionary
