#include "eliminate/row_lift.hpp"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <limits>

#include "eliminate/row_access.hpp"
#include "linalg/symmetric_eigen.hpp"
#include "system/cross.hpp"
#include "system/scale.hpp"

namespace arrowschur::eliminate {
namespace {

using Matrix = Eigen::MatrixXd;

constexpr double kSqrtEps = 0x1p-26;

// The block with ridge_t and its damping, from the lower triangle.
Matrix block_at(const ArrowSystem& s, const Ridges& ridges, Index row, double ridge) {
  const Index d = s.row_dim(row);
  Matrix a(d, d);
  with_storage(s.dtype(), s.h_tt(), [&](const auto* data) {
    const auto* block = data + s.block_offset(row);
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c <= r; ++c) a(r, c) = a(c, r) = static_cast<double>(block[r * d + c]);
    }
  });
  for (Index r = 0; r < d; ++r) {
    a(r, r) +=
        ridge + (ridges.damping_t.empty() ? 0.0 : ridges.damping_t[static_cast<std::size_t>(s.row_offset(row) + r)]);
  }
  return a;
}

double norm_inf(const Matrix& a) { return a.size() == 0 ? 0.0 : a.cwiseAbs().rowwise().sum().maxCoeff(); }

// sum over the columns with M_jj > 0 of |B_i[:, j]|^2 / M_jj, and the plain squared Frobenius norm.
struct Coupling {
  double weighted = 0.0, frobenius = 0.0, smallest_border = std::numeric_limits<double>::infinity();
};
Coupling coupling_of(const ArrowSystem& s, const Ridges& ridges, Index row) {
  const Index k = s.k();
  std::vector<double> m(static_cast<std::size_t>(k), ridges.beta);
  s.border().diagonal_add(m);
  Coupling c;
  for (Index j = 0; j < k; ++j) {
    auto& entry = m[static_cast<std::size_t>(j)];
    if (!ridges.damping_beta.empty()) entry += ridges.damping_beta[static_cast<std::size_t>(j)];
    if (entry > 0.0) c.smallest_border = std::min(c.smallest_border, entry);
  }
  c.weighted = cross::coupling(s, row, m.data());
  c.frobenius = cross::row_norm_sq(s, row);
  return c;
}

struct Trial {
  bool positive = false;
  double kappa = 0.0, min_pivot = 0.0, scale = 0.0;
};

// One factorization with the policy's condition estimate (relative: 1-norm of the equilibrated block; absolute: squared
// ratio of the factor's diagonal).
Trial try_block(const Matrix& a, Guards guards) {
  Trial t;
  const Eigen::LLT<Matrix> llt(a);
  if (llt.info() != Eigen::Success) return t;
  const Eigen::ArrayXd diagonal = llt.matrixLLT().diagonal().array();
  t.min_pivot = diagonal.minCoeff() * diagonal.minCoeff();
  if (!(t.min_pivot > 0.0) || !std::isfinite(diagonal.maxCoeff())) return t;
  t.positive = true;
  if (guards == Guards::absolute) {
    t.kappa = std::pow(diagonal.maxCoeff() / diagonal.minCoeff(), 2);
    return t;
  }
  const Eigen::ArrayXd scale = a.diagonal().array().abs().sqrt();
  const Matrix inverse = llt.solve(Matrix::Identity(a.rows(), a.cols()));
  const Matrix e = (a.array().colwise() / scale).rowwise() / scale.transpose();
  const Matrix f = (inverse.array().colwise() * scale).rowwise() * scale.transpose();
  t.kappa = a.rows() == 1 ? 1.0 : norm_inf(e) * norm_inf(f);
  return t;
}

double block_scale(const Matrix& h, bool at_least_one) {
  const double s = h.size() == 0 ? 0.0 : h.diagonal().cwiseAbs().maxCoeff();
  return at_least_one ? std::max(1.0, s) : s;
}

// 7.3: ridge_t, then 10x each time, or 1e-10 s 10^m from zero.
Lift lift_absolute(const ArrowSystem& s, const Ridges& ridges, Index row) {
  const Matrix h = block_at(s, ridges, row, 0.0);
  const double d = static_cast<double>(h.rows());
  const double scale = block_scale(h, true);
  const double cap = 1e12 * std::max(ridges.t, 1e-12 * scale);
  const double safe_kappa = 0x1p26 / std::max(d, 1.0), safe_pivot = kSqrtEps * scale;
  Lift lift;
  lift.last_tried = ridges.t;
  for (int m = ridges.t > 0.0 ? 1 : 0;; ++m) {
    const double ridge = ridges.t > 0.0 ? ridges.t * std::pow(10.0, m) : 1e-10 * scale * std::pow(10.0, m);
    if (!std::isfinite(ridge) || ridge > cap) return lift;
    lift.last_tried = ridge;
    const Trial t = try_block(h + ridge * Matrix::Identity(h.rows(), h.cols()), Guards::absolute);
    lift.kappa = t.kappa;
    lift.min_pivot = t.min_pivot;
    if (t.positive && t.kappa <= safe_kappa && t.min_pivot >= safe_pivot) {
      lift.ok = true;
      lift.ridge = ridge;
      return lift;
    }
  }
}

// One shift: ridge_t + 2 deficit + max(margin, coupling). The doubled deficit turns the most negative curvature -c into
// +c; the coupling keeps what the lifted rows subtract from S within half of its diagonal scale.
Lift lift_relative(const ArrowSystem& s, const Ridges& ridges, double unit, Index row, Index failing_rows) {
  const Matrix a = block_at(s, ridges, row, ridges.t);
  const Matrix h = block_at(s, ridges, row, 0.0);
  const double d = static_cast<double>(a.rows());
  Lift lift;
  lift.last_tried = ridges.t;
  if (!a.allFinite()) return lift;
  const Eigen::VectorXd spectrum = linalg::symmetric_eigenvalues(a);
  if (spectrum.size() == 0) return lift;
  const double deficit = std::max(0.0, -spectrum.minCoeff());
  const double root_eps = 1.0 / safe_condition(unit);
  double size = norm_inf(h) + 2.0 * deficit;
  if (size == 0.0) size = system::max_abs(s);
  double margin = 16.0 * d * size * root_eps;
  const double coupling = 2.0 * static_cast<double>(failing_rows) * coupling_of(s, ridges, row).weighted;
  for (int attempt = 0; attempt <= 4; ++attempt, margin *= 16.0) {
    const double ridge = ridges.t + 2.0 * deficit + std::max(margin, coupling);
    if (!(ridge > 0.0) || !std::isfinite(ridge)) return lift;  // a zero system at ridge 0
    lift.last_tried = ridge;
    const Trial t = try_block(block_at(s, ridges, row, ridge), Guards::relative);
    lift.kappa = t.kappa;
    lift.min_pivot = t.min_pivot;
    if (t.positive && t.kappa <= safe_condition(unit)) {
      lift.ok = true;
      lift.ridge = ridge;
      return lift;
    }
  }
  return lift;
}

}  // namespace

Lift lift_row(const ArrowSystem& s, const Ridges& ridges, Guards guards, double unit, const RowFailure& failure,
              Index failing_rows) {
  return guards == Guards::absolute ? lift_absolute(s, ridges, failure.row)
                                    : lift_relative(s, ridges, unit, failure.row, failing_rows);
}

double suggested_row_ridge(const ArrowSystem& s, const Ridges& ridges, Guards guards,
                           const std::vector<RowFailure>& failures) {
  double bump = 0.0;
  for (const RowFailure& failure : failures) {
    const Matrix h = block_at(s, ridges, failure.row, 0.0);
    double edge = std::numeric_limits<double>::infinity();
    for (Index r = 0; r < h.rows(); ++r) {
      edge = std::min(edge, h(r, r) - (h.row(r).cwiseAbs().sum() - std::abs(h(r, r))));
    }
    const double deficit = std::max(0.0, -(edge + ridges.t));
    const double scale = block_scale(h, guards == Guards::absolute);
    const Coupling c = coupling_of(s, ridges, failure.row);
    const double drain = std::isfinite(c.smallest_border)
                             ? 2.0 * static_cast<double>(failures.size()) * c.frobenius / c.smallest_border
                             : 0.0;
    bump = std::max(bump, deficit + 0x1p-25 * (scale + ridges.t + deficit) + drain);
  }
  // A zero block has no scale: the system's, and no advice when that is zero too.
  if (bump == 0.0) bump = 0x1p-25 * system::max_abs(s);
  return bump == 0.0 ? std::numeric_limits<double>::quiet_NaN() : ridges.t + bump;
}

}  // namespace arrowschur::eliminate
