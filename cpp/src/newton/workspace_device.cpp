#include "newton/workspace_device.hpp"

#include <atomic>
#include <utility>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/policy.hpp"
#include "backend/device_loader.hpp"
#include "newton/inner_loop.hpp"
#include "newton/reupload_provider.hpp"
#include "plan/time_model.hpp"
#include "telemetry.hpp"

namespace arrowschur::newton {
namespace {

std::atomic<int> g_faults{0};

constexpr const char* kUnbound = "not bound yet: the first call that runs on a device binds it";
constexpr const char* kBelowGates = "too few rows for small_batched_potrf and too small for gemm, under every policy";

void fill_account(InnerFit& fit, const device::Table& table, const char* path, FrameRoute route) {
  // The path is that of the accepted work: a fit that began at its minimum has done none.
  if (fit.accepted_iterations == 0) return;
  fit.route = to_string(route);
  const device::Account account = device::account_of(table, path);
  fit.execution_path = account.execution_path;
  fit.backend = account.backend;
  fit.unproven_path = account.unproven_path;
}

}  // namespace

FrameRoute predicted_route(const ArrowSystem& s, const SolveOptions& options, const MachineProfile& profile) {
  const FrameRoute wanted = route_of(options.mode);
  if (wanted != FrameRoute::automatic) return wanted;
  const char* const obstacle = device::dual_obstacle(device::border_form(s.border()), s.total_dim(), s.k());
  return device::faster_route(device::cost_shape(s), obstacle, options.expected_solves, profile);
}

void note_device_fault() noexcept { g_faults.fetch_add(1, std::memory_order_relaxed); }
bool device_is_given_up() noexcept { return g_faults.load(std::memory_order_relaxed) >= 2; }

// Blocks and one factor (W as large as B, S_0 and S or V and C, L, inverses of the diagonal blocks), and what a lane takes.
Index device_bytes_of_a_fit(const ArrowSystem& s, const SolveOptions& options) {
  constexpr Index kLane = Index{40} << 20;  // the libraries' workspaces
  const Index t = s.total_dim(), k = s.k();
  const bool dual = predicted_route(s, options, policy::reference_profile()) == FrameRoute::dual;
  const Index m = dual ? t : k, slabs = dual ? 2 : 1, squares = dual ? 1 : 2;
  const Index numbers = slabs * t * k + squares * m * (m + 15) + 8 * (t + k) + t * (s.max_dim() + 1) + 128 * (m + 127);
  return device::system_bytes(s) + static_cast<Index>(sizeof(double)) * numbers + kLane;
}

void make_lanes(Index count) {
  if (device::table_if_available() == nullptr) return;
  std::vector<device::LaneLease> lanes;  // held together, so that they are as many
  try {
    while (static_cast<Index>(lanes.size()) < count) lanes.push_back(device::lease_lane());
  } catch (const DeviceError&) {
    return;  // the fits will meet it, and say so
  }
}

Index device_budget(const SolveOptions& options) {
  const device::Table* table = device::table_if_available();
  return table == nullptr ? 0 : static_cast<Index>(device::byte_budget(*table, options.device_memory_limit, 0));
}

std::string WorkspaceDevice::reason() const {
  if (!reason_.empty()) return reason_;
  if (!device::backend_is_there()) return device::kNoBackend;
  if (const auto no = device::unsupported(system_)) return no->what;
  return kUnbound;
}

void WorkspaceDevice::release() noexcept {
  if (!provider_) return;
  if (device::handles_are_valid()) {
    Telemetry ignored;
    count(ignored);
  }
  provider_.reset();
  own_gradient_there_ = false;
}

const char* WorkspaceDevice::obstacle(const SolveOptions& options) const {
  if (const auto no = device::unsupported(system_)) return no->what;
  if (options.mode == Mode::inexact_pcg) return "mode='inexact_pcg' (of frames only)";
  if (options.mode == Mode::low_rank) {
    const char* why = device::dual_obstacle(device::border_form(system_.border()), system_.total_dim(), system_.k());
    if (why != nullptr) return why;
  }
  if (options.precision != Precision::float64) return "only precision='float64' runs on a device";
  return nullptr;
}

bool WorkspaceDevice::admissible() const {
  const auto size = [](Index i) { return static_cast<policy::Size>(i); };
  const policy::Operation rows{policy::OperationKind::small_batched_potrf, {size(shape_.d), size(shape_.n)}};
  const policy::Operation product{policy::OperationKind::gemm, {size(shape_.p), size(shape_.p), size(shape_.basis())}};
  return policy::admissible_under_any_policy(rows) || policy::admissible_under_any_policy(product);
}

double WorkspaceDevice::seconds(const SolveOptions& options, const MachineProfile& profile) const {
  const policy::CostShape shape = device::cost_shape(system_);
  const bool dual = predicted_route(system_, options, profile) == FrameRoute::dual;
  policy::RouteTime time = dual ? policy::low_rank_time(shape, profile) : policy::direct_time(shape, profile);
  if (bound()) time.up = 0.0;  // the data are there
  return time.total(static_cast<double>(options.expected_solves));
}

void WorkspaceDevice::require(const SolveOptions& options) const {
  device::table();
  if (const auto no = device::unsupported(system_)) no->raise();
  if (const char* why = obstacle(options)) throw UnsupportedConfiguration(why, "device", "use device='off'");
  if (!admissible()) throw DeviceUnavailableError(std::string("below_threshold: ") + kBelowGates);
}

DeviceProvider& WorkspaceDevice::bind(const SolveOptions& options) {
  if (!device::handles_are_valid()) release();  // bound in the parent of this process
  if (!provider_) {
    try {
      provider_.emplace(system_, options);
      reason_.clear();
    } catch (const ArrowError& error) {
      reason_ = error.what();
      throw;
    }
  }
  device::ResidentDevice& resident = provider_->resident();
  resident.factors().configure(options.frame_cache_entries, options.device_memory_limit);
  resident.choose_route(route_of(options.mode), options.expected_solves, options.device_memory_limit);
  return *provider_;
}

void WorkspaceDevice::count(Telemetry& call) {
  Telemetry work = provider_->resident().lane().take_telemetry();
  work.factorizations = work.frame_builds = provider_->take_builds();
  telemetry::count(call, work);
}

// The counters belong to the call, however it ends. After a fault nothing on the device is trusted.
template <class Work>
void WorkspaceDevice::guarded(Telemetry& call, Work&& work) {
  try {
    work();
  } catch (const DeviceError& error) {
    if (provider_) count(call);
    release();
    reason_ = error.what();
    throw;
  } catch (...) {
    if (provider_) count(call);
    throw;
  }
  count(call);
}

InnerFit WorkspaceDevice::fit(const Gradient& g, bool own, double objective_at_zero, const InnerOptions& options) {
  InnerFit fit;
  Telemetry call;
  guarded(call, [&] {
    DeviceProvider& provider = bind(options.solve);
    if (own && std::exchange(own_gradient_there_, own)) provider.keep_gradient();
    own_gradient_there_ = own;
    fit = run_inner_loop(provider, g.t, g.beta, objective_at_zero, options);
    fill_account(fit, provider.resident().table(), "gpu-resident-full", provider.route());
    if (options.solve.frame_cache_entries == 0) provider.resident().factors().clear();
  });
  fit.telemetry = std::move(call);
  return fit;
}

InnerFit WorkspaceDevice::reupload_fit(const Gradient& g, double objective_at_zero, const InnerOptions& options) {
  ReuploadProvider provider(system_, options.solve);
  InnerFit fit;
  Telemetry call;
  try {
    fit = run_inner_loop(provider, g.t, g.beta, objective_at_zero, options);
  } catch (...) {
    telemetry::count(call, provider.take_telemetry());
    throw;
  }
  fill_account(fit, device::table(), "gpu-reupload", provider.route());
  telemetry::count(fit.telemetry, provider.take_telemetry());
  return fit;
}

void WorkspaceDevice::step(const Gradient& own, double ridge_t, double ridge_beta, InnerStep& step) {
  Telemetry call;
  guarded(call, [&] {
    DeviceProvider& provider = bind({});
    const device::FactorAnswer answer = provider.factor(ridge_t, ridge_beta);
    if (answer.failure) answer.failure->raise();
    step.delta_t.resize(own.t.size());
    step.delta_beta.resize(own.beta.size());
    provider.resident().solve(*answer.factor,
                              {own.t.data(), own.beta.data(), step.delta_t.data(), step.delta_beta.data()});
    step.certificate = provider.resident().certificate(*answer.factor);
    step.log_det_hessian = answer.factor->log_det();
    step.route = to_string(provider.route());
    const device::Account account = device::account_of(provider.resident().table(), "gpu-resident-linearization");
    step.execution_path = account.execution_path;
    step.backend = account.backend;
    step.unproven_path = account.unproven_path;
  });
  step.telemetry = std::move(call);
}

}  // namespace arrowschur::newton
