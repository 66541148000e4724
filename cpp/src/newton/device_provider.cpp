#include "newton/device_provider.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/device_stage.hpp"

namespace arrowschur::newton {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
// One solve, and the product with H.
telemetry::StageCost attempt_cost(const device::DeviceSystem& s) {
  const auto t = static_cast<double>(s.total_dim()), k = static_cast<double>(s.k());
  return {"attempt", s.n(), s.max_dim(), s.k(), 8.0 * t * k + 4.0 * k * k, 8.0 * (3.0 * t * k + 2.0 * k * k)};
}

constexpr double kSum[] = {1.0, 1.0}, kDifference[] = {1.0, -1.0}, kNegative[] = {-1.0};

}  // namespace

FrameRoute route_of(Mode mode) noexcept {
  if (mode == Mode::automatic) return FrameRoute::automatic;
  return mode == Mode::low_rank ? FrameRoute::dual : FrameRoute::direct;
}

DeviceProvider::DeviceProvider(const ArrowSystem& s, const SolveOptions& options)
    : device_(s, {.vectors = kVectors,
                  .memory_limit = options.device_memory_limit,
                  .route = route_of(options.mode),
                  .expected_solves = options.expected_solves}) {}

Point DeviceProvider::start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) {
  device::Lane& lane = device_.lane();
  factor_.reset();
  log_det_ = kNone;
  objective_at_zero_ = objective_at_zero;
  double* const g = at(kGradient);
  if (!std::exchange(gradient_kept_, false)) {
    gradient_there_ = false;
    lane.upload(g, g_t.data(), g_t.size_bytes());
    lane.upload(device_.border_part(g), g_beta.data(), g_beta.size_bytes());
    gradient_there_ = true;
  }
  const double* const gradient[] = {g};
  device_.queue_sum(kNegative, gradient, at(kResidual));
  for (const Vector zero : {kPoint, kStep, kProduct}) {
    lane.require(lane.table().fill(at(zero), 0, static_cast<std::size_t>(device_.size()), lane.stream()), "fill");
  }
  queue_measure(nullptr);
  return {objective_at_zero, std::sqrt(read_record().gradient_squared)};
}

device::FactorAnswer DeviceProvider::factor(double ridge_t, double ridge_beta) {
  device::FactorAnswer answer = device_.factors().get(ridge_t, ridge_beta);
  if (answer.made) ++builds_;
  if (answer.factor) route_ = device::frame_route(answer.factor->route());
  return answer;
}

Attempt DeviceProvider::attempt(double ridge_t, double ridge_beta) {
  factor_.reset();  // so that its memory may be used again
  device::FactorAnswer answer = factor(ridge_t, ridge_beta);
  factor_ = std::move(answer.factor);
  if (factor_ == nullptr) {
    const device::BuildFailure& why = *answer.failure;
    last_failure_ = why.message();
    Attempt failed;
    failed.outcome = why.rows_failed ? Attempt::Outcome::row_failure : Attempt::Outcome::border_failure;
    failed.suggested_bump = why.rows_failed ? why.record.suggested_bump : 0.0;
    return failed;
  }
  log_det_ = factor_->log_det();
  device::DeviceStage stage(device_.lane(), attempt_cost(device_.system()));
  factor_->loop_graph().run(device_.lane(), factor_->graph_key(), [&] {
    device_.queue_step(*factor_, at(kResidual), at(kStep));
    device_.queue_product(at(kStep), at(kProduct));
    queue_measure(factor_->view());
  });
  stage.end();
  return judged(read_record());
}

// delta += -(H + ridges)^-1 ((H + ridges) delta + r)
Attempt DeviceProvider::refine() {
  double* const error = at(kError);
  double* const correction = device_.vector(0);  // of a single solve: free inside a loop
  const double* const rows[] = {at(kProduct), at(kStep), at(kResidual)};
  const double* const border[] = {device_.border_part(at(kProduct)), device_.border_part(at(kStep)),
                                  device_.border_part(at(kResidual))};
  const double row_coefficients[] = {1.0, factor_->ridge_t(), 1.0};
  const double border_coefficients[] = {1.0, factor_->ridge_beta(), 1.0};
  device_.queue_sum(device_.system().total_dim(), row_coefficients, rows, error);
  device_.queue_sum(device_.system().k(), border_coefficients, border, device_.border_part(error));
  device_.queue_step(*factor_, error, correction);
  const double* const parts[] = {at(kStep), correction};
  device_.queue_sum(kSum, parts, at(kStep));
  device_.queue_product(at(kStep), at(kProduct));
  queue_measure(factor_->view());
  return judged(read_record());
}

void DeviceProvider::accept() {
  const double* const point[] = {at(kPoint), at(kStep)};
  const double* const residual[] = {at(kResidual), at(kProduct)};
  device_.queue_sum(kSum, point, at(kPoint));
  device_.queue_sum(kSum, residual, at(kResidual));
}

Point DeviceProvider::recompute_residual() {
  device::Lane& lane = device_.lane();
  device_.queue_product(at(kPoint), at(kResidual));
  const double* const parts[] = {at(kResidual), at(kGradient)};
  device_.queue_sum(kDifference, parts, at(kResidual));
  for (const Vector zero : {kStep, kProduct}) {
    lane.require(lane.table().fill(at(zero), 0, static_cast<std::size_t>(device_.size()), lane.stream()), "fill");
  }
  queue_measure(nullptr);
  const ArrowschurLoopRecord sums = read_record();
  return {objective_at_zero_ + 0.5 * sums.objective, std::sqrt(sums.gradient_squared)};
}

void DeviceProvider::read(std::span<double> t, std::span<double> beta) const {
  std::vector<double> z(static_cast<std::size_t>(device_.size()));
  device_.lane().download(z.data(), at(kPoint), z.size() * sizeof(double));
  const auto border = z.begin() + static_cast<std::ptrdiff_t>(t.size());
  std::copy(z.begin(), border, t.begin());
  std::copy(border, z.end(), beta.begin());
}

double DeviceProvider::smallest_pivot() const { return factor_ == nullptr ? kNone : factor_->smallest_pivot(); }

void DeviceProvider::queue_measure(const ArrowschurDeviceFactor* factor) {
  device::Lane& lane = device_.lane();
  auto* const record = static_cast<ArrowschurLoopRecord*>(device_.record());
  lane.require(lane.table().measure(device_.system().view(), factor, at(kGradient), at(kPoint), at(kResidual),
                                    at(kStep), at(kProduct), record, device_.system().workspace(), lane.stream()),
               "measure");
  lane.require(lane.table().copy_to_host(lane.record(), record, sizeof *record, lane.stream()), "copy_to_host");
}

ArrowschurLoopRecord DeviceProvider::read_record() {
  static_assert(sizeof(ArrowschurLoopRecord) == device::Lane::kRecord);
  device_.lane().synchronize();
  ArrowschurLoopRecord record;
  std::memcpy(&record, device_.lane().record(), sizeof record);
  return record;
}

Attempt DeviceProvider::judged(const ArrowschurLoopRecord& sums) {
  // Only a factor that is sound is ever solved with; a flag here is a fault of the device, not a matter of ridges.
  if (sums.failed != 0) throw DeviceError("measure", "the factor of the step is marked as failed");
  Attempt a;
  a.r_delta = sums.r_delta;
  a.delta_q = sums.delta_q;
  a.delta_t_squared = sums.delta_t_squared;
  a.delta_beta_squared = sums.delta_beta_squared;
  a.next = {objective_at_zero_ + 0.5 * sums.objective, std::sqrt(sums.gradient_squared)};
  a.next_norm = std::sqrt(sums.point_squared);
  return a;
}

}  // namespace arrowschur::newton
