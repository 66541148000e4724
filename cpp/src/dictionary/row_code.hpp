// Least squares of one row on its atoms: (G + rho I) c = b in float64, G_jl = s64(d_j, d_l), b_j = s64(x, d_j).
//
// Atoms are appended one by one in selection order; the Cholesky factor grows by a row, so that the greedy routers and the
// correlation router run the same operations and return the same bits. A pivot <= 1e-10 (G_jj + rho) sends the row to
//
//     min | [D_S'; sqrt(rho) I] c - [x; 0] |,
//
// Householder QR with column pivoting and minimum-norm completion: two equal atoms share a weight.
// Arithmetic is neither fused nor vectorised across terms: every instruction set returns the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur::dictionary {

class RowCode {
 public:
  RowCode(Index max_atoms, double ridge)
      : m_(max_atoms), ridge_(ridge), g_(size(m_ * m_)), l_(size(m_ * m_)), b_(size(m_)), y_(size(m_)), c_(size(m_)) {}

  void clear() noexcept {
    n_ = 0;
    degenerate_ = false;
  }
  Index size() const noexcept { return n_; }
  // `g` has n + 1 entries: the inner products with the atoms before, and the atom's own.
  void append(double b, const double* g);
  // c of the atoms so far. x [p] and rows [n][p] serve the degenerate case only.
  void solve(const float* x, const float* const* rows, Index p);
  const double* codes() const noexcept { return c_.data(); }
  double gram(Index j, Index l) const { return g_[size(j * m_ + l)]; }
  // Rounds the codes and returns the residual energy max(0, |x|^2 - 2 c'b + c'Gc) of the rounded ones.
  double finish(double square_norm, float* codes) const;

 private:
  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

  Index m_, n_ = 0;
  double ridge_;
  bool degenerate_ = false;
  std::vector<double> g_, l_, b_, y_, c_;  // g_ and l_ [m, m] row-major, lower triangles
};

}  // namespace arrowschur::dictionary
