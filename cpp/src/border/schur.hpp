// The dense Schur complement and its Cholesky factor, in one buffer.
//
//        lower triangle: S_0, then L              S = S_0 + ridge_beta I + diag(damping_beta) = L L'
//        strict upper triangle: S_0 transposed    (kept: S x, other ridges, and the advice after a failure need it)
//        diagonal(): the diagonal of S_0
//
// Equilibration (E1): E = D^-1 S D^-1 with d_a = 2^round(log2 sqrt(max(|S_aa|, f_a))), f_a = 8 eps (|M_aa| + |M_aa -
// S_aa|). Powers of two scale exactly, so the Cholesky factor of E is D^-1 L entry by entry and bit by bit: the
// scaling is carried out only where its exponents could over- or underflow, and otherwise enters the condition
// estimate alone.
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
  Index nbytes() const noexcept { return s_.nbytes() + diagonal_.nbytes() + shift_.nbytes(); }

 private:
  T upper(Index i, Index j) const { return s_[j * ld_ + i]; }  // S_0[i, j] for i > j
  void restore_lower();
  // Absolute row sums of D^-1 (S_0 + shift) D^-1, D by its reciprocals (null: 1); off the diagonal only.
  void off_diagonal_sums(const double* inverse_scale, double* sums) const;
  double suggest(Guards, double ridge_beta) const;
  void extreme_eigenvalues(double& smallest, double& largest) const;  // 32 Lanczos steps

  Index k_ = 0, ld_ = 0;
  bool lower_is_schur_ = false;
  linalg::Buffer<T> s_;
  linalg::Buffer<T> diagonal_;  // of S_0
  linalg::Buffer<double> shift_;  // [k]
};

}  // namespace arrowschur::border
