#include "backend/backend.hpp"

#include <array>
#include <atomic>

#include "backend/counters.hpp"
#include "backend/cpu_frame.hpp"
#include "backend/structured_frame.hpp"
#include "plan/device_mode.hpp"
#include "system/cross.hpp"

namespace arrowschur {
namespace backend {
namespace {

enum Counter { kDense, kSparse, kLowRank, kPcg, kCounters };
std::array<std::atomic<std::int64_t>, kCounters> counters{};

class CpuBackend final : public Backend {
 public:
  std::string_view name() const noexcept override { return "cpu"; }
  std::unique_ptr<Frame> make_frame(const ArrowSystem& system, const SolveOptions& options,
                                    const SolvePlan& plan) const override {
    if (plan.materialize) {
      SolvePlan dense = plan;
      dense.materialize = false;
      return make_frame(cross::densified(system), options, dense);
    }
    const bool direct = plan.route == Route::direct || plan.route == Route::sqrt_ba;
    const bool empty = system.total_dim() == 0 || system.k() == 0;  // no cross block to speak of
    if (direct && !plan.sparse_schur && (system.h_tb() != nullptr || empty)) {
      if (options.precision == Precision::float32) return std::make_unique<CpuFrame<float>>(system);
      return std::make_unique<CpuFrame<double>>(system);
    }
    return std::make_unique<StructuredFrame>(system, options, plan);
  }
};

}  // namespace

void count_route(Route route, bool sparse_schur) noexcept {
  Counter counter = sparse_schur ? kSparse : kDense;
  if (route == Route::low_rank) counter = kLowRank;
  if (route == Route::inexact_pcg) counter = kPcg;
  counters[counter].fetch_add(1, std::memory_order_relaxed);
}

const Backend& choose_backend(Device device) {
  static const CpuBackend cpu;
  if (device == Device::required) {
    throw DeviceUnavailableError(policy::kHostOnly);
  }
  return cpu;
}

}  // namespace backend

RouteCounters route_counters() noexcept {
  const auto value = [](backend::Counter c) { return backend::counters[c].load(std::memory_order_relaxed); };
  return {value(backend::kDense), value(backend::kSparse), value(backend::kLowRank), value(backend::kPcg)};
}

}  // namespace arrowschur
