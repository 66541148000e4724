#include <algorithm>
#include <cmath>
#include <mutex>
#include <string_view>
#include <utility>

#include "arrowschur/inner_loop.hpp"
#include "arrowschur/policy.hpp"
#include "linalg/pool.hpp"
#include "newton/dense_reference.hpp"
#include "newton/inner_loop.hpp"
#include "newton/kept_factors.hpp"
#include "newton/resident_shape.hpp"
#include "newton/solver.hpp"
#include "newton/workspace_device.hpp"
#include "plan/device_mode.hpp"
#include "system/validate.hpp"
#include "telemetry.hpp"

namespace arrowschur {
namespace {

double half_square(std::span<const double> x) {
  constexpr std::size_t kRun = 1024;
  double total = 0.0;
  for (std::size_t begin = 0; begin < x.size(); begin += kRun) {
    double run = 0.0;
    for (std::size_t i = begin; i < std::min(x.size(), begin + kRun); ++i) run += x[i] * x[i];
    total += run;
  }
  return 0.5 * total;
}

void check_loop_options(const InnerOptions& options) {
  newton::check_inner_options(options);
  if (options.solve.trust_region.bounded()) {
    throw UnsupportedConfiguration("a trust-region radius", "", "the inner loop bounds its steps by its ridges");
  }
  if (options.solve.schur_apply) {
    throw UnsupportedConfiguration("schur_apply", "", "a product of the caller's belongs to one pair of ridges");
  }
}

void check_gradients(const ArrowSystem& s, std::span<const BaseGradient> gradients) {
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const std::string entry = "gradients[" + std::to_string(i) + "].";
    newton::check_vector((entry + "g_t").c_str(), gradients[i].g_t, s.total_dim());
    newton::check_vector((entry + "g_beta").c_str(), gradients[i].g_beta, s.k());
  }
}

}  // namespace

struct ResidentWorkspace::Impl {
  Impl(const ResidentShape& s, ArrowSystem slabs, double objective, Index others)
      : shape(s),
        system(std::move(slabs)),
        objective_at_zero(objective),
        other_bytes(others),
        provider(system),
        device(system, shape) {}

  // Whether a production call runs on the device. Decided before any work; a call that wanted a device and goes without
  // is counted. Otherwise the factors of the CPU are planned for.
  bool choose_device(const char* route, Device of_call, const SolveOptions& options) {
    newton::FactorCache& cache = provider.cache();
    cache.take_telemetry();  // of calls that had no outcome to put it in
    if (policy::device_mode(of_call) == Device::required) {
      device.require(options);
      policy::note_decision(route, {true, "required_supported"}, system.n(), system.total_dim(), system.k());
      return true;
    }
    cache.configure(options);
    policy::DeviceQuestion question;
    question.route = route;
    question.n = system.n(), question.total_dim = system.total_dim(), question.k = system.k();
    question.missing = device.obstacle(options);
    question.cpu_seconds = cache.plan().predicted_seconds;
    question.admissible = device.admissible();
    // No measurement in a thread that holds the workspace's lock.
    question.calibrate = options.calibrate == Calibrate::off ? Calibrate::off : Calibrate::cache;
    question.device_seconds = [&](const MachineProfile& profile) { return device.seconds(options, profile); };
    const policy::Decision decision = policy::consider_device(of_call, question);
    if (decision.use_device && newton::device_is_given_up()) {
      count_fallback("device_fault: the device has failed twice");
      return false;
    }
    if (std::string_view(decision.reason) == "runtime_unavailable") count_fallback(decision.reason);
    return decision.use_device;
  }
  void count_fallback(std::string reason) {
    Telemetry work;
    work.cpu_fallbacks = 1;
    work.fallback_reasons.push_back(std::move(reason));
    provider.cache().count(work);
  }
  // on_device(), or, where the mode leaves the choice and the device declines or fails, the CPU: false. Nothing that the
  // CPU reads has been touched.
  template <class OnDevice>
  bool tried_on_device(const char* route, Device of_call, const SolveOptions& options, OnDevice&& on_device) {
    if (!choose_device(route, of_call, options)) return false;
    const bool may_fall_back = policy::device_mode(of_call) != Device::required;
    try {
      on_device();
      return true;
    } catch (const DeviceUnavailableError& error) {
      if (!may_fall_back) throw;
      count_fallback("device_unavailable: " + error.reason);
    } catch (const DeviceError& error) {
      if (!may_fall_back) throw;
      newton::note_device_fault();
      count_fallback(std::string("device_fault: ") + error.what());
    }
    return false;
  }
  InnerFit run(std::span<const double> g_t, std::span<const double> g_beta, const InnerOptions& options) {
    InnerFit fit = newton::run_inner_loop(provider, g_t, g_beta, objective_at_zero, options);
    fit.telemetry = provider.cache().take_telemetry();
    if (fit.accepted_iterations > 0) fit.route = to_string(provider.cache().plan().route);
    return fit;
  }
  // The members share the binding and its factors. Nothing of a sequence that the device has not finished is kept.
  OuterSequence on_device(std::span<const BaseGradient> gradients, const InnerOptions& options) {
    OuterSequence out;
    out.fits.reserve(gradients.size());
    for (const BaseGradient& base : gradients) {
      const newton::Gradient g{{base.g_t.begin(), base.g_t.end()}, {base.g_beta.begin(), base.g_beta.end()}};
      out.fits.push_back(device.fit(g, false, objective_at_zero, options));
    }
    return out;
  }
  void forget_unwanted() noexcept {
    if (provider.cache().options().frame_cache_entries == 0) provider.cache().clear();
  }

  // A step without its vectors.
  InnerStep step_at_zero() const {
    InnerStep step;
    step.objective = objective_at_zero;
    step.gradient_norm = system.gradient_norm();
    return step;
  }

  ResidentShape shape;
  ArrowSystem system;
  double objective_at_zero;
  Index other_bytes;  // of target, basis and gates
  std::mutex mutex;
  newton::KeptFactorProvider provider;
  newton::WorkspaceDevice device;
};

ResidentWorkspace::ResidentWorkspace(const ResidentShape& shape, std::span<const double> target,
                                     std::span<const double> basis, std::span<const double> gates, ArrowSystem slabs) {
  newton::require_dimensions(shape);
  const std::size_t others = target.size() + basis.size() + gates.size();
  newton::require_length("target", static_cast<Index>(target.size()), shape.target());
  newton::require_length("basis", static_cast<Index>(basis.size()), shape.basis());
  newton::require_length("gates", static_cast<Index>(gates.size()), shape.gates());
  newton::require_slabs(shape, slabs);
  const Index bad = validate::first_non_finite(target.data(), static_cast<Index>(target.size()));
  if (bad >= 0) {
    throw InvalidArgument(
        "target", validate::describe(target[static_cast<std::size_t>(bad)]) + " at index " + std::to_string(bad),
        "finite entries");
  }
  impl_ =
      std::make_unique<Impl>(shape, std::move(slabs), half_square(target), static_cast<Index>(others * sizeof(double)));
}

ResidentWorkspace::ResidentWorkspace(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ResidentWorkspace::ResidentWorkspace(ResidentWorkspace&&) noexcept = default;
ResidentWorkspace& ResidentWorkspace::operator=(ResidentWorkspace&&) noexcept = default;
ResidentWorkspace::~ResidentWorkspace() = default;

ResidentWorkspace ResidentWorkspace::from_system(ArrowSystem system, double objective_at_zero) {
  const ResidentShape shape{system.n(), system.k(), 1, system.max_dim()};
  newton::require_dimensions(shape);
  if (system.total_dim() != system.n() * system.max_dim()) {
    throw InvalidArgument("system", "rows of different sizes", "rows of one size");
  }
  if (!std::isfinite(objective_at_zero)) {
    throw InvalidArgument("objective_at_zero", validate::describe(objective_at_zero), "a finite number");
  }
  return ResidentWorkspace(std::make_unique<Impl>(shape, std::move(system), objective_at_zero, 0));
}

const ResidentShape& ResidentWorkspace::shape() const noexcept { return impl_->shape; }
const ArrowSystem& ResidentWorkspace::system() const noexcept { return impl_->system; }
double ResidentWorkspace::objective_at_zero() const noexcept { return impl_->objective_at_zero; }
Index ResidentWorkspace::host_shadow_bytes() const noexcept {
  return newton::slab_bytes(impl_->system) + impl_->other_bytes;
}
Index ResidentWorkspace::frame_upload_bytes() const noexcept { return newton::slab_bytes(impl_->system); }
Index ResidentWorkspace::resident_device_bytes() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  return impl_->device.bytes();
}
bool ResidentWorkspace::device_resident() const noexcept {
  const std::lock_guard lock(impl_->mutex);
  return impl_->device.bound();
}
std::string ResidentWorkspace::device_reason() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->device.bound() ? std::string() : impl_->device.reason();
}

void ResidentWorkspace::release_factors() noexcept {
  const std::lock_guard lock(impl_->mutex);
  impl_->provider.cache().clear();
  impl_->device.release();
}

InnerFit ResidentWorkspace::fit(const InnerOptions& options, Device device) {
  check_loop_options(options);
  const std::lock_guard lock(impl_->mutex);
  const linalg::ThreadScope threads(options.solve.num_threads);
  const Device where = device == Device::automatic ? options.solve.device : device;
  const newton::Gradient g = newton::gradient_of(impl_->system);
  InnerFit fit;
  if (impl_->tried_on_device("fit", where, options.solve,
                             [&] { fit = impl_->device.fit(g, true, impl_->objective_at_zero, options); })) {
    return fit;
  }
  fit = impl_->run(g.t, g.beta, options);
  impl_->forget_unwanted();
  return fit;
}

OuterSequence ResidentWorkspace::fit_outer_sequence(std::span<const BaseGradient> gradients,
                                                    const InnerOptions& options, Device device) {
  check_loop_options(options);
  check_gradients(impl_->system, gradients);
  const std::lock_guard lock(impl_->mutex);
  const linalg::ThreadScope threads(options.solve.num_threads);
  const Device where = device == Device::automatic ? options.solve.device : device;
  OuterSequence out;
  if (!impl_->tried_on_device("fit_outer_sequence", where, options.solve,
                              [&] { out = impl_->on_device(gradients, options); })) {
    out.fits.reserve(gradients.size());
    for (const BaseGradient& g : gradients) out.fits.push_back(impl_->run(g.g_t, g.g_beta, options));
    impl_->forget_unwanted();
  }
  for (const InnerFit& fit : out.fits) {
    out.factorizations += fit.telemetry.factorizations;
    out.frame_builds += fit.telemetry.frame_builds;
  }
  return out;
}

InnerStep ResidentWorkspace::inner_iteration(double ridge_t, double ridge_beta, Device device) {
  const Ridges ridges{ridge_t, ridge_beta};
  newton::check_ridges(impl_->system, ridges);
  const std::lock_guard lock(impl_->mutex);
  const newton::Gradient g = newton::gradient_of(impl_->system);
  InnerStep step = impl_->step_at_zero();
  if (impl_->tried_on_device("inner_iteration", device, {}, [&] { impl_->device.step(g, ridge_t, ridge_beta, step); }))
    return step;
  newton::FactorCache& cache = impl_->provider.cache();
  const newton::FactorResult result = cache.get(ridge_t, ridge_beta);
  if (result.factor == nullptr) result.raise();
  SolveDiagnostics diagnostics;
  diagnostics.plan = cache.plan();
  diagnostics.kappa_schur = result.factor->kappa_schur;
  NewtonStep newton =
      newton::step_on(*result.factor->frame, ridges, ridges, cache.options(), g, true, std::move(diagnostics));
  step.delta_t = std::move(newton.delta_t);
  step.delta_beta = std::move(newton.delta_beta);
  step.log_det_hessian = result.factor->log_det;
  step.certificate = newton.diagnostics.backward_error;
  step.route = to_string(cache.plan().route);
  step.telemetry = cache.take_telemetry();
  return step;
}

InnerStep ResidentWorkspace::one_inner_iteration(double ridge_t, double ridge_beta) {
  return inner_iteration(ridge_t, ridge_beta, Device::required);
}

InnerFit ResidentWorkspace::device_fit(const InnerOptions& options) { return fit(options, Device::required); }

InnerFit ResidentWorkspace::device_reupload_fit(const InnerOptions& options) {
  check_loop_options(options);
  const std::lock_guard lock(impl_->mutex);
  const linalg::ThreadScope threads(options.solve.num_threads);
  impl_->device.require(options.solve);
  return impl_->device.reupload_fit(newton::gradient_of(impl_->system), impl_->objective_at_zero, options);
}

OuterSequence ResidentWorkspace::device_fit_outer_sequence(std::span<const BaseGradient> gradients,
                                                           const InnerOptions& options) {
  return fit_outer_sequence(gradients, options, Device::required);
}

InnerFit ResidentWorkspace::cpu_reference_fit(const InnerOptions& options) const {
  const newton::Gradient g = newton::gradient_of(impl_->system);
  const BaseGradient own{g.t, g.beta};
  return std::move(cpu_reference_fit_outer_sequence({&own, 1}, options).fits.front());
}

OuterSequence ResidentWorkspace::cpu_reference_fit_outer_sequence(std::span<const BaseGradient> gradients,
                                                                  const InnerOptions& options) const {
  check_loop_options(options);
  check_gradients(impl_->system, gradients);
  const linalg::ThreadScope threads(options.solve.num_threads);
  newton::DenseReferenceProvider provider(impl_->system, options.solve.memory_limit);
  OuterSequence out;
  out.fits.reserve(gradients.size());
  for (const BaseGradient& g : gradients) {
    InnerFit fit = newton::run_inner_loop(provider, g.g_t, g.g_beta, impl_->objective_at_zero, options);
    fit.telemetry = provider.take_telemetry();
    out.factorizations += fit.telemetry.factorizations;
    out.fits.push_back(std::move(fit));
  }
  return out;
}

InnerStep ResidentWorkspace::cpu_reference_step(double ridge_t, double ridge_beta) const {
  newton::check_ridges(impl_->system, {ridge_t, ridge_beta});
  newton::DenseMatrix matrix(impl_->system, std::nullopt);
  if (const auto pivot = matrix.factor(ridge_t, ridge_beta)) matrix.raise(*pivot);
  const std::vector<double> x = matrix.step();
  const auto border = x.begin() + static_cast<std::ptrdiff_t>(impl_->system.total_dim());
  InnerStep step = impl_->step_at_zero();
  step.delta_t.assign(x.begin(), border);
  step.delta_beta.assign(border, x.end());
  step.log_det_hessian = matrix.log_det();
  step.certificate = matrix.backward_error(x);
  return step;
}

}  // namespace arrowschur
