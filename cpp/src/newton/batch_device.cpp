#include "newton/batch_device.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "backend/device_batch.hpp"
#include "backend/device_status.hpp"
#include "linalg/pool.hpp"
#include "newton/backward_error.hpp"
#include "newton/ridge_bump.hpp"
#include "newton/solver.hpp"
#include "newton/workspace_device.hpp"
#include "plan/device_mode.hpp"
#include "plan/time_model.hpp"
#include "telemetry.hpp"

namespace arrowschur::newton {
namespace {

constexpr const char* kRoute = "solve_batch";
constexpr const char* kPath = "gpu-reupload";  // everything is sent, nothing kept
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
// Below either, a batch is not worth a launch.
constexpr std::size_t kFewestSystems = 8;
constexpr double kLeastWork = 1e6;
constexpr double kWorkingLevel = 1e-12;  // at which an exact route is expected to arrive

// Options that a batch on the device does not carry out; null: none.
const char* obstacle(const SolveOptions& o) {
  if (o.mode == Mode::low_rank || o.mode == Mode::inexact_pcg) return "only mode='direct' is batched";
  if (o.precision != Precision::float64) return "only precision='float64' runs on a device";
  if (o.trust_region.bounded()) return "a trust-region radius";
  if (o.guards == Guards::absolute || o.row_lift == RowLift::guard) return "row guards by condition";
  return nullptr;
}

// The time model of a batch: everything over the link, one pass.
double device_seconds(const device::BatchCost& cost, const MachineProfile& p) {
  const double bytes = 8.0 * (cost.numbers + 2.0 * cost.unknowns);
  return bytes / p.link_bw + std::max(cost.flops / p.rate_vec, bytes / p.mem_bw) + p.t_launch + 2.0 * p.t_sync;
}

double cpu_seconds(const ArrowSystem& s, const MachineProfile& p) {
  const auto k = static_cast<double>(s.k());
  return policy::direct_time(
             policy::dense_shape(static_cast<double>(s.n()), static_cast<double>(s.max_dim()), k, k * k), p)
      .total(1.0);
}

struct Member {
  std::size_t index = 0;
  const ArrowSystem* system = nullptr;
};

// Writes the outcome of one member; false: the CPU solves it.
class Outcome {
 public:
  Outcome(const device::BatchSolution& solution, const device::Account& account, double ridge_t, double ridge_beta,
          const SolveOptions& options, bool required)
      : solution_(solution), account_(account), ridges_{ridge_t, ridge_beta}, options_(options), required_(required) {}

  bool write(std::size_t i, const ArrowSystem& s, BatchResult& result) const {
    const ArrowschurBuildRecord& record = solution_.records[i];
    if ((record.failed & ARROWSCHUR_ROWS_FAILED) != 0) return row_failure(record, s, result);
    if (record.failed != 0) {
      result.error = std::make_exception_ptr(SchurFactorError(SchurFailure::non_pd, record.border_pivot, kNone, kNone));
      return true;
    }
    NewtonStep step = step_of(i, s);
    const double error = step.diagnostics.backward_error;
    // The CPU refines, or says why not.
    if (!required_ && error > std::min(kWorkingLevel, options_.certificate_tolerance.value_or(kWorkingLevel))) {
      return false;
    }
    if (options_.certificate_tolerance && !(error <= *options_.certificate_tolerance)) {
      result.error = std::make_exception_ptr(CertificateError(error, *options_.certificate_tolerance));
      return true;
    }
    result.step = std::move(step);
    result.log_det_hessian = record.log_det;
    result.backend = account_.backend;
    result.unproven_path = account_.unproven_path;
    return true;
  }

 private:
  // Lifts are the CPU's: there every row has a ridge of its own.
  bool row_failure(const ArrowschurBuildRecord& record, const ArrowSystem& s, BatchResult& result) const {
    if (!required_ && options_.row_lift != RowLift::never) return false;
    RowFactorError::Facts facts;
    facts.row = static_cast<Index>(record.first_failure >> 8);
    facts.pivot_index = static_cast<Index>(record.first_failure & 0xff);
    facts.pivot = kNone;
    facts.base_ridge = facts.last_ridge = ridges_.t;
    facts.suggested_ridge = ridges_.t + examine_rows(s, ridges_.t, ridges_.beta).suggested_bump;
    result.error = std::make_exception_ptr(RowFactorError(facts));
    return true;
  }

  NewtonStep step_of(std::size_t i, const ArrowSystem& s) const {
    const double* const x = solution_.x.data() + solution_.first[i];
    NewtonStep step;
    step.delta_t.assign(x, x + s.total_dim());
    step.delta_beta.assign(x + s.total_dim(), x + s.total_dim() + s.k());
    SolveDiagnostics& d = step.diagnostics;
    d.plan.route = Route::direct;
    d.plan.backend = account_.backend;
    d.plan.facts.n = s.n();
    d.plan.facts.k = s.k();
    d.plan.facts.total_dim = s.total_dim();
    d.execution_path = account_.execution_path;
    d.ridge_t = ridges_.t;
    d.ridge_beta = ridges_.beta;
    d.kappa_schur = kNone;  // not estimated there
    d.structure = s.detected();
    if (options_.certificate || options_.certificate_tolerance) {
      d.backward_error = d.backward_error_effective = backward_error(s, ridges_, step.delta_t, step.delta_beta);
    }
    return step;
  }

  const device::BatchSolution& solution_;
  const device::Account& account_;
  Ridges ridges_;
  const SolveOptions& options_;
  bool required_;
};

void solve_members(const std::vector<Member>& members, double ridge_t, double ridge_beta, const SolveOptions& options,
                   bool required, std::vector<BatchResult>& results, std::vector<char>& done) {
  std::vector<const ArrowSystem*> systems;
  for (const Member& member : members) systems.push_back(member.system);
  const device::LaneLease lane = device::lease_lane();
  const device::BatchSolution solution =
      device::solve_batch(*lane, systems, ridge_t, ridge_beta, options.device_memory_limit);
  const device::Account account = device::account_of(lane->table(), kPath);
  const Outcome outcome(solution, account, ridge_t, ridge_beta, options, required);
  linalg::parallel_for(static_cast<Index>(members.size()), [&](Index i) {
    const auto at = static_cast<std::size_t>(i);
    done[members[at].index] = outcome.write(at, *members[at].system, results[members[at].index]) ? 1 : 0;
  });
}

// Counted every time, told once.
void count_fallback(const char* kind, const std::string& why) {
  const std::string reason = std::string(kind) + ": " + why;
  policy::note_once(kRoute, kind, true, [&] { return std::string(kRoute) + " ran on the CPU: " + reason; });
  Telemetry call, work;
  work.cpu_fallbacks = 1;
  work.fallback_reasons.push_back(reason);
  telemetry::count(call, work);
}

}  // namespace

std::vector<char> solve_on_device(std::span<const ArrowSystem> systems, double ridge_t, double ridge_beta,
                                  const SolveOptions& options, std::vector<BatchResult>& results) {
  std::vector<char> done(systems.size(), 0);
  const Device mode = policy::device_mode(options.device);
  if (mode == Device::off) return done;
  const bool required = mode == Device::required;
  const char* const in_the_way = obstacle(options);
  if (required) device::table();  // that there is none is no system's fault
  if (required && in_the_way != nullptr) {
    throw UnsupportedConfiguration(in_the_way, "a batch on a device", "use device='off'");
  }
  std::vector<Member> members;
  device::BatchCost cost;
  double cpu = 0.0, work = 0.0;
  Index rows = 0, total_dim = 0, widest = 0;
  const auto profile = policy::profile_in_force(options.calibrate);
  for (std::size_t i = 0; i < systems.size(); ++i) {
    const ArrowSystem& s = systems[i];
    if (const char* why = device::batch_obstacle(s)) {
      if (!required) continue;
      results[i].error = std::make_exception_ptr(UnsupportedConfiguration(
          why, "a batch on a device", "use device='auto', which solves such a system on the CPU"));
      done[i] = 1;
      continue;
    }
    members.push_back({i, &s});
    rows += s.n();
    total_dim += s.total_dim();
    widest = std::max(widest, s.k());
    const device::BatchCost own = device::batch_cost(s);
    cost.numbers += own.numbers;
    cost.unknowns += own.unknowns;
    cost.flops += own.flops;
    cpu += cpu_seconds(s, *profile);
    const auto d = static_cast<double>(s.max_dim());
    work += static_cast<double>(s.n()) * (2.0 * d * static_cast<double>(s.k()) + d * d);
  }
  if (members.empty()) return done;
  if (!required) {
    if (members.size() < kFewestSystems || work < kLeastWork) return done;
    policy::DeviceQuestion question;
    question.route = kRoute;
    question.n = rows, question.total_dim = total_dim, question.k = widest;
    question.missing = in_the_way;
    question.cpu_seconds = cpu;
    question.admissible = true;  // by the gate above
    question.calibrate = options.calibrate;
    question.device_seconds = [&](const MachineProfile& p) { return device_seconds(cost, p); };
    if (!policy::consider_device(options.device, question).use_device) return done;
    if (device_is_given_up()) {
      count_fallback("device_fault", "the device has failed twice");
      return done;
    }
  }
  if (required) policy::note_decision(kRoute, {true, "required_supported"}, rows, total_dim, widest);
  try {
    solve_members(members, ridge_t, ridge_beta, options, required, results, done);
  } catch (const DeviceUnavailableError& error) {
    if (required) throw;
    count_fallback("device_unavailable", error.reason);
  } catch (const DeviceError& error) {
    if (required) throw;
    note_device_fault();
    count_fallback("device_fault", error.what());
  }
  return done;
}

}  // namespace arrowschur::newton
