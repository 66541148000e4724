#include "newton/dense_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/inner_loop.hpp"
#include "linalg/blas.hpp"
#include "linalg/ordered.hpp"
#include "newton/solver.hpp"
#include "system/storage.hpp"
#include "telemetry.hpp"

namespace arrowschur {
namespace newton {
namespace {

constexpr const char* kWhat = "the dense reference";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

Index entries_of(const ArrowSystem& s, std::optional<Index> limit) {
  const Index size = checked_sum(s.total_dim(), s.k(), kWhat), entries = checked_product(size, size, kWhat);
  const Index bytes = checked_product(entries, static_cast<Index>(sizeof(double)), kWhat);
  if (limit && bytes > *limit) throw MemoryBudgetExceeded(bytes, *limit, kWhat);
  return entries;
}

}  // namespace

DenseMatrix::DenseMatrix(ArrowSystem system, std::optional<Index> memory_limit)
    : system_(std::move(system)),
      size_(system_.total_dim() + system_.k()),
      h_(entries_of(system_, memory_limit)),
      diagonal_(static_cast<std::size_t>(size_)),
      gradient_(diagonal_.size()) {}

std::optional<Index> DenseMatrix::factor(double ridge_t, double ridge_beta) {
  ridge_t_ = ridge_t;
  ridge_beta_ = ridge_beta;
  system_.to_dense({h_.data(), static_cast<std::size_t>(h_.size())}, gradient_);
  for (Index i = 0; i < size_; ++i) {
    h_[i * size_ + i] += i < system_.total_dim() ? ridge_t : ridge_beta;
    diagonal_[static_cast<std::size_t>(i)] = h_[i * size_ + i];
  }
  const Index info = linalg::blas_table<double>().potrf('U', size_, h_.data(), std::max<Index>(size_, 1));
  if (info != 0) return info - 1;
  return std::nullopt;
}

void DenseMatrix::raise(Index pivot) const {
  if (!in_rows(pivot)) {
    throw SchurFactorError(SchurFailure::non_pd, pivot - system_.total_dim(), kNone, kNone);
  }
  RowFactorError::Facts facts;
  while (facts.row + 1 < system_.n() && system_.row_offset(facts.row + 1) <= pivot) ++facts.row;
  facts.pivot_index = pivot - system_.row_offset(facts.row);
  facts.pivot = kNone;  // LAPACK names the place only
  facts.base_ridge = facts.last_ridge = ridge_t_;
  facts.suggested_ridge = kNone;
  throw RowFactorError(facts);
}

void DenseMatrix::solve(double* x) const {
  if (size_ == 0) return;
  const auto& blas = linalg::blas_table<double>();
  blas.trsm('L', 'U', 'T', size_, 1, 1.0, h_.data(), size_, x, size_);
  blas.trsm('L', 'U', 'N', size_, 1, 1.0, h_.data(), size_, x, size_);
}

std::vector<double> DenseMatrix::step() const {
  std::vector<double> x(gradient_.size());
  std::transform(gradient_.begin(), gradient_.end(), x.begin(), [](double g) { return -g; });
  solve(x.data());
  return x;
}

double DenseMatrix::log_det() const {
  double sum = 0.0;
  for (Index i = 0; i < size_; ++i) sum += std::log(h_[i * size_ + i]);
  return 2.0 * sum;
}

double DenseMatrix::smallest_pivot() const {
  double smallest = std::numeric_limits<double>::infinity();
  for (Index i = 0; i < size_; ++i) smallest = std::min(smallest, h_[i * size_ + i]);
  return smallest * smallest;
}

double DenseMatrix::backward_error(std::span<const double> x) const {
  std::vector<double> product(x.size()), sums(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    product[i] = diagonal_[i] * x[i];
    sums[i] = std::abs(diagonal_[i]);
  }
  for (Index i = 0; i < size_; ++i) {
    const auto r = static_cast<std::size_t>(i);
    for (Index j = i + 1; j < size_; ++j) {
      const auto c = static_cast<std::size_t>(j);
      const double value = h_[i * size_ + j];
      product[r] += value * x[c];
      product[c] += value * x[r];
      sums[r] += std::abs(value);
      sums[c] += std::abs(value);
    }
  }
  double residual = 0.0, norm = 0.0, size_x = 0.0, size_g = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    residual = linalg::worse(residual, std::abs(gradient_[i] + product[i]));
    norm = linalg::worse(norm, sums[i]);
    size_x = linalg::worse(size_x, std::abs(x[i]));
    size_g = linalg::worse(size_g, std::abs(gradient_[i]));
  }
  const double scale = norm * size_x + size_g;
  return scale == 0.0 ? residual : residual / scale;
}

Point DenseReferenceProvider::start(std::span<const double> g_t, std::span<const double> g_beta,
                                    double objective_at_zero) {
  log_det_ = kNone;
  return HostProvider::start(g_t, g_beta, objective_at_zero);
}

Attempt::Outcome DenseReferenceProvider::factor(double ridge_t, double ridge_beta) {
  if (const auto pivot = matrix_.factor(ridge_t, ridge_beta)) {
    try {
      matrix_.raise(*pivot);
    } catch (const ArrowError& error) {
      last_failure_ = error.what();
    }
    return matrix_.in_rows(*pivot) ? Attempt::Outcome::row_failure : Attempt::Outcome::border_failure;
  }
  Telemetry made;
  made.factorizations = 1;
  telemetry::count(telemetry_, made);
  log_det_ = matrix_.log_det();
  return Attempt::Outcome::solved;
}

Attempt::Outcome DenseReferenceProvider::solve(const Vector& rhs, Vector& x) {
  std::transform(rhs.all().begin(), rhs.all().end(), x.all().begin(), [](double v) { return -v; });
  matrix_.solve(x.all().data());
  return Attempt::Outcome::solved;
}

}  // namespace newton

DenseReferenceStep newton_step_dense_reference(const ArrowSystem& s, double ridge_t, double ridge_beta) {
  newton::check_ridges(s, {ridge_t, ridge_beta});
  newton::DenseMatrix matrix(s, std::nullopt);
  if (const auto pivot = matrix.factor(ridge_t, ridge_beta)) matrix.raise(*pivot);
  const std::vector<double> x = matrix.step();
  const auto border = x.begin() + static_cast<std::ptrdiff_t>(s.total_dim());
  return {{x.begin(), border}, {border, x.end()}, matrix.log_det()};
}

}  // namespace arrowschur
