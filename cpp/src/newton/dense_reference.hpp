// The oracle: the assembled matrix and one LAPACK Cholesky.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arrowschur/telemetry.hpp"
#include "linalg/buffer.hpp"
#include "newton/host_provider.hpp"

namespace arrowschur::newton {

// H + ridges, (T + k) x (T + k) row-major: the factor in the lower triangle, the matrix itself in the strict upper one
// and `diagonal_`.
class DenseMatrix {
 public:
  // Room only. MemoryBudgetExceeded when 8 (T + k)^2 bytes are more than the limit, or than a size can say.
  DenseMatrix(ArrowSystem system, std::optional<Index> memory_limit);

  // Index of the first pivot that is not positive, if there is one.
  std::optional<Index> factor(double ridge_t, double ridge_beta);
  [[noreturn]] void raise(Index pivot) const;  // as RowFactorError or SchurFactorError
  bool in_rows(Index pivot) const noexcept { return pivot < system_.total_dim(); }
  void solve(double* x) const;  // x [T + k] <- (H + ridges)^-1 x
  std::vector<double> step() const;  // [T + k]: -(H + ridges)^-1 g of the system's own gradient
  double log_det() const;
  double smallest_pivot() const;  // squared
  // |g + Hx|_inf / (|H|_inf |x|_inf + |g|_inf) of a step x, H with the ridges
  double backward_error(std::span<const double> x) const;

 private:
  ArrowSystem system_;
  Index size_;
  linalg::Buffer<double> h_;
  std::vector<double> diagonal_, gradient_;
  double ridge_t_ = 0.0, ridge_beta_ = 0.0;
};

// Factors anew at every attempt.
class DenseReferenceProvider final : public HostProvider {
 public:
  DenseReferenceProvider(const ArrowSystem& system, std::optional<Index> memory_limit)
      : HostProvider(system), matrix_(system, memory_limit) {}

  double smallest_pivot() const override { return matrix_.smallest_pivot(); }
  double log_det() const override { return log_det_; }
  std::string last_failure() const override { return last_failure_; }
  Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) override;
  Telemetry take_telemetry() { return std::exchange(telemetry_, {}); }

 protected:
  Attempt::Outcome factor(double ridge_t, double ridge_beta) override;
  Attempt::Outcome solve(const Vector& rhs, Vector& x) override;

 private:
  DenseMatrix matrix_;
  double log_det_ = 0.0;
  std::string last_failure_;
  Telemetry telemetry_;
};

}  // namespace arrowschur::newton
