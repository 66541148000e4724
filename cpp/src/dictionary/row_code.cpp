#include "dictionary/row_code.hpp"

#include <Eigen/Core>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <limits>

namespace arrowschur::dictionary {
namespace {

constexpr double kPivotFloor = 1e-10;

// Rank tolerance eps max(P + m, m) |R_11|, as Eigen's threshold times its largest pivot.
void minimum_norm(const float* x, const float* const* rows, Index p, Index m, double ridge, double* c) {
  Eigen::MatrixXd stacked = Eigen::MatrixXd::Zero(p + m, m);
  Eigen::VectorXd rhs = Eigen::VectorXd::Zero(p + m);
  for (Index i = 0; i < p; ++i) rhs[i] = static_cast<double>(x[i]);
  for (Index j = 0; j < m; ++j) {
    for (Index i = 0; i < p; ++i) stacked(i, j) = static_cast<double>(rows[j][i]);
    stacked(p + j, j) = std::sqrt(ridge);
  }
  Eigen::CompleteOrthogonalDecomposition<Eigen::MatrixXd> qr(p + m, m);
  qr.setThreshold(std::numeric_limits<double>::epsilon() * static_cast<double>(p + m));
  qr.compute(stacked);
  Eigen::Map<Eigen::VectorXd>(c, m) = qr.solve(rhs);
}

}  // namespace

void RowCode::append(double b, const double* g) {
  const Index n = n_++;
  double* l = l_.data() + n * m_;
  std::copy_n(g, n + 1, g_.data() + n * m_);
  b_[size(n)] = b;
  if (degenerate_) return;
  for (Index q = 0; q < n; ++q) {
    const double* lq = l_.data() + q * m_;
    double t = g[q];
    for (Index r = 0; r < q; ++r) t -= l[r] * lq[r];
    l[q] = t / lq[q];
  }
  double pivot = g[n] + ridge_;
  for (Index r = 0; r < n; ++r) pivot -= l[r] * l[r];
  if (!(pivot > kPivotFloor * (g[n] + ridge_))) {
    degenerate_ = true;
    return;
  }
  l[n] = std::sqrt(pivot);
  double t = b;
  for (Index r = 0; r < n; ++r) t -= l[r] * y_[size(r)];
  y_[size(n)] = t / l[n];
}

void RowCode::solve(const float* x, const float* const* rows, Index p) {
  if (n_ == 0) return;
  if (n_ == 1 && !degenerate_) {
    c_[0] = b_[0] / (g_[0] + ridge_);
    return;
  }
  if (degenerate_) {
    minimum_norm(x, rows, p, n_, ridge_, c_.data());
    return;
  }
  std::copy_n(y_.data(), n_, c_.data());
  for (Index j = n_; j-- > 0;) {
    const double* l = l_.data() + j * m_;
    c_[size(j)] /= l[j];
    const double c = c_[size(j)];
    for (Index r = 0; r < j; ++r) c_[size(r)] -= l[r] * c;
  }
}

double RowCode::finish(double square_norm, float* codes) const {
  double cb = 0.0, cgc = 0.0;
  for (Index j = 0; j < n_; ++j) codes[j] = static_cast<float>(c_[size(j)]);
  for (Index j = 0; j < n_; ++j) {
    const double c = static_cast<double>(codes[j]);
    const double* g = g_.data() + j * m_;
    double t = 0.0;
    for (Index l = 0; l < j; ++l) t += g[l] * static_cast<double>(codes[l]);
    cb += c * b_[size(j)];
    cgc += c * (2.0 * t + g[j] * c);
  }
  return std::max(0.0, square_norm - 2.0 * cb + cgc);
}

}  // namespace arrowschur::dictionary
