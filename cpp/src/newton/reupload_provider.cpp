#include "newton/reupload_provider.hpp"

#include <limits>
#include <utility>

#include "newton/device_provider.hpp"

namespace arrowschur::newton {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

}  // namespace

Point ReuploadProvider::start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) {
  log_det_ = smallest_pivot_ = kNone;
  return HostProvider::start(g_t, g_beta, objective_at_zero);
}

double ReuploadProvider::smallest_pivot() const { return smallest_pivot_; }

void ReuploadProvider::drop() {
  factor_.reset();
  if (device_) telemetry_ += device_->lane().take_telemetry();
  device_.reset();
}

Attempt::Outcome ReuploadProvider::factor(double ridge_t, double ridge_beta) {
  drop();
  device_.emplace(system(), device::Binding{.vectors = device::ResidentDevice::kSolveVectors,
                                            .memory_limit = options_.device_memory_limit,
                                            .route = route_of(options_.mode),
                                            .expected_solves = options_.expected_solves});
  device::FactorAnswer answer = device_->factors().get(ridge_t, ridge_beta);
  factor_ = std::move(answer.factor);
  if (factor_ == nullptr) {
    last_failure_ = answer.failure->message();
    smallest_pivot_ = kNone;
    const bool rows = answer.failure->rows_failed;
    drop();
    return rows ? Attempt::Outcome::row_failure : Attempt::Outcome::border_failure;
  }
  ++telemetry_.factorizations;
  ++telemetry_.frame_builds;
  route_ = device::frame_route(factor_->route());
  log_det_ = factor_->log_det();
  smallest_pivot_ = factor_->smallest_pivot();
  return Attempt::Outcome::solved;
}

Attempt::Outcome ReuploadProvider::solve(const Vector& rhs, Vector& x) {
  device_->solve(*factor_, {rhs.t().data(), rhs.beta().data(), x.t().data(), x.beta().data()});
  return Attempt::Outcome::solved;
}

Telemetry ReuploadProvider::take_telemetry() {
  drop();
  return std::exchange(telemetry_, {});
}

}  // namespace arrowschur::newton
