#include "backend/device_pcg.hpp"

#include <cmath>
#include <cstring>

#include "arrowschur/error.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::device {
namespace {

constexpr Index kBlock = 8;  // iterations between two looks at the record
constexpr double kAskedTolerance = 1e-4;  // as on the CPU for a route that was asked for by name
constexpr const char* kPreconditioner = "diagonal";

struct PcgLayout : Layout {
  explicit PcgLayout(const DeviceSystem& s)
      : x(add_array<double>(s.k())),
        y(add_array<double>(s.k())),
        vectors(add_array<double>(5 * s.k())),
        record(add(sizeof(ArrowschurPcgRecord))) {}
  std::size_t x, y, vectors, record;
};

double norm(const double* x, Index size) {
  double sum = 0.0;
  for (Index i = 0; i < size; ++i) sum += x[i] * x[i];
  return std::sqrt(sum);
}

[[noreturn]] void raise(const ArrowschurPcgRecord& record) {
  PcgError::Facts facts;
  facts.iterations = record.iterations;
  facts.relative_residual = record.right_side > 0.0 ? record.residual / record.right_side : 1.0;
  facts.value = record.value;
  facts.preconditioner = kPreconditioner;
  facts.suggested_ridge = std::numeric_limits<double>::quiet_NaN();
  switch (record.stop) {
    case ARROWSCHUR_PCG_BUDGET:
      facts.kind = PcgFailure::budget;
      break;
    case ARROWSCHUR_PCG_DIAGONAL:
      facts.kind = PcgFailure::jacobi_diagonal;
      break;
    case ARROWSCHUR_PCG_CURVATURE:
      facts.kind = PcgFailure::not_pd;
      break;
    default:
      throw DeviceError("pcg_iterate", "the iteration has not ended within its budget");
  }
  throw PcgError(facts);
}

}  // namespace

DevicePcg::DevicePcg(DeviceSystem& s) {
  const PcgLayout layout(s);
  memory_ = Memory(s.lane(), layout.bytes());
  x_ = memory_.at<double>(layout.x);
  y_ = memory_.at<double>(layout.y);
  vectors_ = memory_.at<double>(layout.vectors);
  record_ = memory_.at<ArrowschurPcgRecord>(layout.record);
}

std::size_t DevicePcg::bytes(const DeviceSystem& s) { return PcgLayout(s).bytes(); }

ArrowschurPcgRecord DevicePcg::iterate(DeviceSystem& s, DeviceFactor& factor, Index max_iterations) {
  static_assert(sizeof(ArrowschurPcgRecord) == Lane::kRecord);
  Lane& lane = s.lane();
  const Table& table = lane.table();
  ArrowschurPcgRecord seen{};
  for (Index done = 0; done <= max_iterations; done += kBlock) {
    linalg::poll_interrupt();
    factor.loop_graph().run(lane, factor.graph_key(), [&] {
      for (Index i = 0; i < kBlock; ++i) {
        lane.require(table.pcg_iterate(s.view(), factor.ridge_beta(), factor.view(), x_, vectors_, record_,
                                       s.workspace(), lane.stream()),
                     "pcg_iterate");
      }
      lane.require(table.copy_to_host(lane.record(), record_, sizeof seen, lane.stream()), "copy_to_host");
    });
    lane.synchronize();
    std::memcpy(&seen, lane.record(), sizeof seen);
    if (seen.stop != ARROWSCHUR_PCG_RUNNING) break;
  }
  return seen;
}

// |b - S x|_2, from the system rather than from the recurrence.
double DevicePcg::true_residual(DeviceSystem& s, const DeviceFactor& factor, const double* b) {
  Lane& lane = s.lane();
  const Table& table = lane.table();
  lane.require(table.schur_apply(s.view(), factor.ridge_beta(), factor.view(), x_, y_, s.workspace(), lane.stream()),
               "schur_apply");
  const double coefficients[] = {1.0, -1.0};
  const double* const inputs[] = {b, y_};
  lane.require(table.combine(s.k(), 2, coefficients, inputs, y_, lane.stream()), "combine");
  double* const host = lane.vector_in();  // its content has been sent
  lane.require(table.copy_to_host(host, y_, static_cast<std::size_t>(s.k()) * sizeof(double), lane.stream()),
               "copy_to_host");
  lane.synchronize();
  return norm(host, s.k());
}

PcgDiagnostics DevicePcg::solve(DeviceSystem& s, DeviceFactor& factor, const PcgOptions& options, bool accept_truncated,
                                double* b) {
  PcgDiagnostics account;
  account.preconditioner = kPreconditioner;
  account.stopping_reason = "converged";
  if (s.k() == 0) return account;
  Lane& lane = s.lane();
  const Table& table = lane.table();
  lane.require(table.pcg_begin(s.view(), factor.ridge_beta(), factor.view(),
                               options.relative_tolerance.value_or(kAskedTolerance), options.max_iterations, b, x_,
                               vectors_, record_, s.workspace(), lane.stream()),
               "pcg_begin");
  const ArrowschurPcgRecord record = iterate(s, factor, options.max_iterations);
  const bool converged = record.stop == ARROWSCHUR_PCG_CONVERGED;
  if (!converged && !(record.stop == ARROWSCHUR_PCG_BUDGET && accept_truncated)) raise(record);
  account.iterations = account.matvec_calls = record.iterations;
  if (record.right_side > 0.0) {
    account.precond_apply_calls = record.iterations + 1;
    account.stopping_reason = converged ? "converged" : "max_iter";
    account.final_relative_residual = true_residual(s, factor, b) / record.right_side;
    account.residual_gap = std::abs(account.final_relative_residual - record.residual / record.right_side);
  }
  lane.require(table.copy_on_device(b, x_, static_cast<std::size_t>(s.k()) * sizeof(double), lane.stream()),
               "copy_on_device");
  return account;
}

}  // namespace arrowschur::device
