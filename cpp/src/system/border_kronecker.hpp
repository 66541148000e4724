// The Kronecker border forms: what their products, sums and entries have in common.
//
// A (x) I_p on x [left, p, m] is A times the matrix x [left, p m]: rows of p m contiguous entries are combined, and
// nothing of size k x k appears. Only the lower triangle of a diagonal block is read.
#pragma once

#include <vector>

#include "arrowschur/system.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::border {

// A block of the left factor as it is used: `transposed` when it stands for its mirror image.
template <class In>
struct LeftBlock {
  const In* data;
  Index rows, cols;  // as stored
  bool transposed;

  Index height() const { return transposed ? cols : rows; }
  Index width() const { return transposed ? rows : cols; }
  double operator()(Index r, Index c) const {
    return static_cast<double>(transposed ? data[c * cols + r] : data[r * cols + c]);
  }
};

// First index of each group.
std::vector<Index> group_offsets(const FramedKroneckerBorder&);

// W_ab = U_a' U_b of block e, entry by entry: where it is stored, what the one frame says, or computed here.
template <class In>
class FrameProduct {
 public:
  FrameProduct(const FramedKroneckerBorder&, std::size_t e);
  double operator()(Index r, Index c) const {
    return gram_ != nullptr ? gram_[r * cols_ + c] : static_cast<double>(frame_[r * row_step_ + c * col_step_]);
  }

 private:
  Index cols_ = 0;
  const double* gram_ = nullptr;
  const In* frame_ = nullptr;
  Index row_step_ = 0, col_step_ = 0;
  linalg::Buffer<double> own_;
};

// Sets grams where products through them are cheaper than through the frames.
void prepare_grams(FramedKroneckerBorder&, DType);

// Per term: y += P x for m vectors; out += diag(P); abs += off-diagonal absolute row sums.
template <class In>
struct KroneckerProducts {
  Index k;

  void multiply_add(const KroneckerBorder&, const double* x, double* y, Index m) const;
  void multiply_add(const KroneckerProductBorder&, const double* x, double* y, Index m) const;
  void multiply_add(const SparseBlockKroneckerBorder&, const double* x, double* y, Index m) const;
  void multiply_add(const FramedKroneckerBorder&, const double* x, double* y, Index m) const;

  void diagonal_add(const KroneckerBorder&, double* out) const;
  void diagonal_add(const KroneckerProductBorder&, double* out) const;
  void diagonal_add(const SparseBlockKroneckerBorder&, double* out) const;
  void diagonal_add(const FramedKroneckerBorder&, double* out) const;

  void abs_sums_add(const KroneckerBorder&, double* out) const;
  void abs_sums_add(const KroneckerProductBorder&, double* out) const;
  void abs_sums_add(const SparseBlockKroneckerBorder&, double* out) const;
  void abs_sums_add(const FramedKroneckerBorder&, double* out) const;
};

// The sums above are upper bounds: blocks overlap, or frames enter by |U_a|' |U_b|.
bool sums_are_bound(const SparseBlockKroneckerBorder&);
bool sums_are_bound(const FramedKroneckerBorder&);

}  // namespace arrowschur::border
