// The dense Schur complement and its Cholesky factor, in one buffer.
//
//        lower triangle: S_0, then L              S = S_0 + ridge_beta I + diag(damping_beta) = L L'
//        strict upper triangle: S_0 transposed    (kept: S x, other ridges, and the advice after a failure need it),
//                               or S^-1 after invert()
//        diagonal(): the diagonal of S_0
//
// Equilibrated as equilibration.hpp says.
#pragma once

#include "arrowschur/options.hpp"
#include "backend/backend.hpp"
#include "linalg/buffer.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::border {

template <class T>
class SchurFactor {
 public:
  SchurFactor() = default;
  explicit SchurFactor(Index k);

  Index k() const noexcept { return k_; }
  T* matrix() noexcept { return s_.data(); }  // where reduce() puts S_0 (lower triangle)

  // To be called once S_0 is in the lower triangle: keeps a copy above the diagonal.
  void keep_schur();
  // Factors S_0 + shift; shift and border_diagonal (M_aa without the shift) are [k].
  backend::BorderReport factor(const double* shift, const double* border_diagonal, Guards, bool evidence,
                               double ridge_beta);
  // A copy that holds S_0 only.
  SchurFactor unfactored_copy() const;

  void solve(backend::Part, double* x, Index m) const;  // x [k, m] in place
  void apply(const double* x, double* y, Index m) const;  // y = S x
  double log_det() const;
  void pivots(double& smallest, double& largest) const;
  Index nbytes() const noexcept {
    return s_.nbytes() + diagonal_.nbytes() + shift_.nbytes() + inverse_diagonal_.nbytes();
  }

  // S^-1 above the diagonal, in place of S_0 (2/3 k^3 flops); L stays. After that apply(), factor() and
  // unfactored_copy() need S_0 anew: fill the lower triangle and call keep_schur().
  void invert();
  bool inverted() const noexcept { return inverse_diagonal_.size() > 0; }
  const T* inverse_row(Index i) const noexcept { return s_.data() + i * ld_; }  // entries j > i of S^-1[i, :]
  T inverse_diagonal(Index i) const noexcept { return inverse_diagonal_[i]; }

 private:
  T upper(Index i, Index j) const { return s_[j * ld_ + i]; }  // S_0[i, j] for i > j
  void restore_lower();
  // Absolute row sums of D^-1 (S_0 + shift) D^-1, D by its reciprocals (null: 1); off the diagonal only.
  void off_diagonal_sums(const double* inverse_scale, double* sums) const;
  double suggest(Guards, double ridge_beta) const;

  Index k_ = 0, ld_ = 0;
  bool lower_is_schur_ = false;
  linalg::Buffer<T> s_;
  linalg::Buffer<T> diagonal_;  // of S_0
  linalg::Buffer<double> shift_;  // [k]
  linalg::Buffer<T> inverse_diagonal_;  // of S^-1, when it stands above the diagonal
};

}  // namespace arrowschur::border
