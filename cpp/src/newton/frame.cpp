#include "arrowschur/frame.hpp"

#include <cmath>
#include <mutex>
#include <utility>

#include "arrowschur/device.hpp"
#include "arrowschur/error.hpp"
#include "arrowschur/profile.hpp"
#include "backend/resident_device.hpp"
#include "newton/resident_shape.hpp"
#include "newton/solver.hpp"
#include "plan/device_mode.hpp"
#include "plan/time_model.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"
#include "telemetry.hpp"

namespace arrowschur {
namespace {

void check_frame_options(const FrameOptions& options) {
  if (const auto c = options.complaint()) throw InvalidArgument(c->field, c->value, c->rule);
}

// Forming the inverse of a factor of order m takes the flops of a second factorization; what it saves per solve is the
// chain of dependent blocks.
bool full_inverse(const FrameOptions& options, Index m) {
  if (options.border_inverse != BorderInverse::automatic) return options.border_inverse == BorderInverse::full;
  const policy::RouteTime chain = policy::dense_factor_time(static_cast<double>(m), policy::reference_profile());
  const MachineProfile device = policy::reference_profile();
  const double saved = 2.0 * std::ceil(static_cast<double>(m) / device.panel) * device.t_launch;
  return static_cast<double>(options.expected_solves) * saved > chain.build;
}

device::Binding binding_of(const FrameOptions& options, Index total_dim, Index k) {
  return {.vectors = device::ResidentDevice::kSolveVectors,
          .memory_limit = options.device_memory_limit,
          .route = options.route,
          .expected_solves = options.expected_solves,
          .full_inverse = {full_inverse(options, k), full_inverse(options, total_dim)},
          .pcg = options.pcg,
          .accept_truncated = options.accept_truncated};
}

}  // namespace

std::optional<Complaint> FrameOptions::complaint() const {
  if (expected_solves < 1) return Complaint{"expected_solves", std::to_string(expected_solves), "an integer >= 1"};
  if (cache_entries < 0) return Complaint{"cache_entries", std::to_string(cache_entries), "an integer >= 0"};
  if (device_memory_limit && *device_memory_limit < 0) {
    return Complaint{"device_memory_limit", std::to_string(*device_memory_limit), "an integer >= 0"};
  }
  if (pcg.float32_storage) return Complaint{"pcg.storage", "'float32'", "'float64': that is what a frame keeps"};
  return check(pcg);
}

// ---- DeviceArrays ----------------------------------------------------------------------------------------------------
struct DeviceArrays::Held {
  Held(std::shared_ptr<device::LaneShare> with, Index rows, Index border)
      : share(std::move(with)), total_dim(rows), k(border) {
    device::Layout layout;
    t_at = layout.add_array<double>(total_dim);
    beta_at = layout.add_array<double>(k);
    memory = device::Memory(share->lane(), layout.bytes());
  }
  ~Held() { share->bury(std::move(memory)); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  double* t() const noexcept { return memory.at<double>(t_at); }
  double* beta() const noexcept { return memory.at<double>(beta_at); }

  std::shared_ptr<device::LaneShare> share;
  device::Memory memory;
  Index total_dim, k;
  std::size_t t_at = 0, beta_at = 0;
};

const double* DeviceArrays::t() const noexcept { return held_->t(); }
const double* DeviceArrays::beta() const noexcept { return held_->beta(); }
Index DeviceArrays::total_dim() const noexcept { return held_->total_dim; }
Index DeviceArrays::k() const noexcept { return held_->k; }
int DeviceArrays::device_ordinal() const noexcept { return device_info().facts->ordinal; }

void DeviceArrays::copy_to_host(std::span<double> t, std::span<double> beta) const {
  const std::pair<std::span<double>, const double*> parts[] = {{t, held_->t()}, {beta, held_->beta()}};
  const Index sizes[] = {held_->total_dim, held_->k};
  const std::lock_guard lock(held_->share->mutex());
  device::require_handles();
  for (int i = 0; i < 2; ++i) {
    const auto& [to, from] = parts[i];
    if (to.empty()) continue;
    newton::require_length(i == 0 ? "t" : "beta", static_cast<Index>(to.size()), sizes[i]);
    held_->share->lane().download(to.data(), from, to.size_bytes());
  }
}

namespace newton {
namespace {

// A system on the device, its gradient, and what its calls have done.
class FrameState {
 public:
  FrameState(const ArrowSystem& s, const FrameOptions& options)
      : device_(s, binding_of(options, s.total_dim(), s.k())), gradient_(gradient_of(s)), n_(s.n()) {
    set_up(options);
  }
  FrameState(const DeviceParts& parts, const FrameOptions& options)
      : device_(parts, binding_of(options, parts.n * parts.d, parts.k)),
        there_(gradient_of(parts)),
        owner_(parts.owner),
        n_(parts.n) {
    set_up(options);
  }

  std::mutex& mutex() noexcept { return device_.share()->mutex(); }
  Gradient gradient() {
    const std::lock_guard lock(mutex());
    return gradient_;
  }
  // The frame's own gradient where that is on the device; null: it is the host's.
  const DeviceVector* resident_gradient() const noexcept { return there_ ? &*there_ : nullptr; }
  std::int64_t generation() const noexcept { return generation_; }
  Index n() const noexcept { return n_; }
  Index k() noexcept { return device_.system().k(); }
  Index total_dim() noexcept { return device_.system().total_dim(); }
  Index bytes() noexcept { return static_cast<Index>(device_.bytes()); }
  const FramePlan& plan() const noexcept { return device_.plan(); }
  const Telemetry& telemetry() const noexcept { return total_; }

  void check_gradient(std::span<const double> g_t, std::span<const double> g_beta) {
    check_vector("g_t", g_t, total_dim());
    check_vector("g_beta", g_beta, k());
  }

  // Factors whose last holder has gone, in whatever thread that was. Their memory goes back in the order of the frame's
  // work: at its next call, or with it. Waits for no call, which may be waiting for what that thread holds.
  void bury(std::shared_ptr<device::DeviceFactor> factor) {
    const std::lock_guard lock(graveyard_mutex_);
    graveyard_.push_back(std::move(factor));
  }
  // At the beginning of a call: the process must be the one that has the device.
  void begin() {
    device::require_handles();
    device_.share()->give_back();
    const std::lock_guard lock(graveyard_mutex_);
    graveyard_.clear();
  }

  std::shared_ptr<device::DeviceFactor> factor(double ridge_t, double ridge_beta) {
    device::FactorAnswer answer = device_.factors().get(ridge_t, ridge_beta);
    builds_ += answer.made ? 1 : 0;
    if (answer.failure) {
      settle();
      answer.failure->raise();
    }
    return std::move(answer.factor);
  }

  // Iterations that have failed, and gradients that were refused, are work, too.
  template <class... Arguments>
  std::optional<PcgDiagnostics> solved(device::DeviceFactor& factor, Arguments&&... arguments) {
    try {
      return device_.solve(factor, std::forward<Arguments>(arguments)...);
    } catch (const PcgError&) {
      settle();
      throw;
    } catch (const InvalidArgument&) {
      settle();
      throw;
    }
  }

  FrameStep step(device::DeviceFactor& factor, std::span<const double> g_t, std::span<const double> g_beta,
                 bool certificate, const char* path) {
    FrameStep step;
    step.delta_t.resize(g_t.size());
    step.delta_beta.resize(g_beta.size());
    step.pcg = solved(
        factor, device::ResidentDevice::Column{g_t.data(), g_beta.data(), step.delta_t.data(), step.delta_beta.data()});
    account(step, factor, certificate, path);
    return step;
  }
  FrameStep step(device::DeviceFactor& factor, const DeviceVector& g, bool certificate, const char* path) {
    FrameStep step;
    step.on_device = solve(factor, g, 1.0, "g", &step.pcg);
    account(step, factor, certificate, path);
    return step;
  }
  DeviceArrays solve(device::DeviceFactor& factor, const DeviceVector& w, double sign, const char* name,
                     std::optional<PcgDiagnostics>* pcg) {
    check_there((std::string(name) + "_t").c_str(), w.t, total_dim());
    check_there((std::string(name) + "_beta").c_str(), w.beta, k());
    auto held = std::make_shared<DeviceArrays::Held>(device_.share(), total_dim(), k());
    std::optional<PcgDiagnostics> account = solved(factor, w, sign, name, held->t(), held->beta());
    if (pcg != nullptr) *pcg = std::move(account);
    return DeviceArrays(std::move(held));
  }

  void refresh(const ArrowSystem& s) {
    device_.system().require_same(s);
    Gradient gradient = gradient_of(s);
    ++generation_;
    device_.refresh(s);
    gradient_ = std::move(gradient);
    settle();
  }
  void refresh(const DeviceParts& parts) {
    device_.system().require_same(parts);
    ++generation_;
    device_.refresh(parts);
    there_ = gradient_of(parts);
    owner_ = parts.owner;
    settle();
  }

  // The work since the last call, counted for the process and for the frame.
  Telemetry settle() {
    Telemetry work = device_.lane().take_telemetry();
    work.factorizations = work.frame_builds = std::exchange(builds_, 0);
    Telemetry call;
    telemetry::count(call, work);
    total_ += call;
    return call;
  }

 private:
  void set_up(const FrameOptions& options) {
    device_.factors().configure(options.cache_entries, options.device_memory_limit);
    policy::note_decision("frame", {true, "required_supported"}, n_, total_dim(), k());
  }
  static DeviceVector gradient_of(const DeviceParts& parts) { return {parts.g_t, parts.g_beta, parts.streams}; }
  static Gradient gradient_of(const ArrowSystem& s) { return newton::gradient_of(s); }
  void check_there(const char* name, const double* memory, Index entries) {
    device::require_on_device(device_.table(), name, memory, entries);
  }
  void account(FrameStep& step, const device::DeviceFactor& factor, bool certificate, const char* path) {
    if (certificate) step.certificate = device_.certificate(factor);
    step.log_det_hessian = factor.log_det();
    step.ridge_t = factor.ridge_t();
    step.ridge_beta = factor.ridge_beta();
    step.route = device::frame_route(factor.route());
    const device::Account told = device::account_of(device_.table(), path);
    step.execution_path = told.execution_path;
    step.backend = told.backend;
    step.unproven_path = told.unproven_path;
    step.telemetry = settle();
  }

  device::ResidentDevice device_;
  Gradient gradient_;
  std::optional<DeviceVector> there_;
  std::shared_ptr<const void> owner_;  // of what is there
  Index n_;
  std::int64_t generation_ = 0;  // counts refreshes
  std::int64_t builds_ = 0;
  Telemetry total_;
  std::mutex graveyard_mutex_;
  std::vector<std::shared_ptr<device::DeviceFactor>> graveyard_;  // destroyed before the device that they live on
};

void require_ridge(const char* name, double value) {
  if (!(value >= 0.0) || !std::isfinite(value)) {
    throw InvalidArgument(name, validate::describe(value), "a finite number >= 0");
  }
}

void require_ridges(double ridge_t, double ridge_beta) {
  require_ridge("ridge_t", ridge_t);
  require_ridge("ridge_beta", ridge_beta);
}

constexpr const char* kResident = "gpu-resident-linearization";

}  // namespace
}  // namespace newton

// ---- ArrowFrame -----------------------------------------------------------------------------------------------------
struct ArrowFrame::Impl {
  template <class System>
  Impl(const System& s, double ridge_t, double ridge_beta, const FrameOptions& options)
      : state(std::make_unique<newton::FrameState>(s, options)), factor(state->factor(ridge_t, ridge_beta)) {
    state->settle();
    bytes = state->bytes();
  }
  std::unique_ptr<newton::FrameState> state;
  std::shared_ptr<device::DeviceFactor> factor;
  Index bytes = 0;
};

ArrowFrame::ArrowFrame(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ArrowFrame::ArrowFrame(ArrowFrame&&) noexcept = default;
ArrowFrame& ArrowFrame::operator=(ArrowFrame&&) noexcept = default;
ArrowFrame::~ArrowFrame() = default;

ArrowFrame ArrowFrame::build(const ArrowSystem& s, double ridge_t, double ridge_beta, const FrameOptions& options) {
  newton::require_ridges(ridge_t, ridge_beta);
  check_frame_options(options);
  return ArrowFrame(std::make_unique<Impl>(s, ridge_t, ridge_beta, options));
}

ArrowFrame ArrowFrame::build(const DeviceParts& parts, double ridge_t, double ridge_beta, const FrameOptions& options) {
  newton::require_ridges(ridge_t, ridge_beta);
  check_frame_options(options);
  check(parts);
  return ArrowFrame(std::make_unique<Impl>(parts, ridge_t, ridge_beta, options));
}

Index ArrowFrame::n() const noexcept { return impl_->state->n(); }
Index ArrowFrame::k() const noexcept { return impl_->state->k(); }
Index ArrowFrame::total_dim() const noexcept { return impl_->state->total_dim(); }
double ArrowFrame::ridge_t() const noexcept { return impl_->factor->ridge_t(); }
double ArrowFrame::ridge_beta() const noexcept { return impl_->factor->ridge_beta(); }
bool ArrowFrame::matches_ridge(double ridge_t, double ridge_beta) const noexcept {
  return impl_->factor->at(ridge_t, ridge_beta);
}
double ArrowFrame::log_det_hessian() const noexcept { return impl_->factor->log_det(); }
FrameRoute ArrowFrame::route() const noexcept { return device::frame_route(impl_->factor->route()); }
const FramePlan& ArrowFrame::plan() const noexcept { return impl_->state->plan(); }
Index ArrowFrame::device_bytes() const noexcept { return impl_->bytes; }
Telemetry ArrowFrame::telemetry() const {
  const std::lock_guard lock(impl_->state->mutex());
  return impl_->state->telemetry();
}

FrameStep ArrowFrame::step(std::span<const double> g_t, std::span<const double> g_beta, bool certificate) const {
  impl_->state->check_gradient(g_t, g_beta);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  return impl_->state->step(*impl_->factor, g_t, g_beta, certificate, newton::kResident);
}

FrameStep ArrowFrame::step(const DeviceVector& g, bool certificate) const {
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  return impl_->state->step(*impl_->factor, g, certificate, newton::kResident);
}

FrameStep ArrowFrame::step(bool certificate) const {
  if (const DeviceVector* g = impl_->state->resident_gradient()) return step(*g, certificate);
  const newton::Gradient g = impl_->state->gradient();
  return step(g.t, g.beta, certificate);
}

void ArrowFrame::solve(std::span<const double> w_t, std::span<const double> w_beta, std::span<double> x_t,
                       std::span<double> x_beta, Index m) const {
  if (m < 1) throw InvalidArgument("m", std::to_string(m), "an integer >= 1");
  const Index rows = checked_product(total_dim(), m, "w_t"), border = checked_product(k(), m, "w_beta");
  newton::check_vector("w_t", w_t, rows);
  newton::check_vector("w_beta", w_beta, border);
  if (static_cast<Index>(x_t.size()) != rows || static_cast<Index>(x_beta.size()) != border) {
    throw InvalidArgument("x", std::to_string(x_t.size()) + " and " + std::to_string(x_beta.size()) + " entries",
                          std::to_string(rows) + " and " + std::to_string(border));
  }
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  for (Index c = 0; c < m; ++c) {
    impl_->state->solved(*impl_->factor, device::ResidentDevice::Column{w_t.data() + c, w_beta.data() + c,
                                                                        x_t.data() + c, x_beta.data() + c, m, -1.0});
  }
  impl_->state->settle();
}

DeviceArrays ArrowFrame::solve(const DeviceVector& w) const {
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  DeviceArrays x = impl_->state->solve(*impl_->factor, w, -1.0, "w", nullptr);
  impl_->state->settle();
  return x;
}

// ---- BaseArrowFrame -------------------------------------------------------------------------------------------------
struct FrameFactors::Held {
  std::shared_ptr<newton::FrameState> state;
  std::shared_ptr<device::DeviceFactor> factor;
  std::int64_t generation = 0;

  ~Held() { state->bury(std::move(factor)); }
};

double FrameFactors::ridge_t() const noexcept { return held_->factor->ridge_t(); }
double FrameFactors::ridge_beta() const noexcept { return held_->factor->ridge_beta(); }
FrameRoute FrameFactors::route() const noexcept { return device::frame_route(held_->factor->route()); }
double FrameFactors::log_det_hessian() const noexcept { return held_->factor->log_det(); }

struct BaseArrowFrame::Impl {
  template <class System>
  Impl(const System& s, const FrameOptions& options) : state(std::make_shared<newton::FrameState>(s, options)) {
    state->settle();
  }
  // The factor of handed-out factors, if they are of this frame as it is now.
  device::DeviceFactor& factor_of(const FrameFactors::Held& held) const {
    if (held.state != state || held.generation != state->generation()) {
      throw InvalidArgument("factors", "factors of another frame, or of before its refresh()", "factors of this frame");
    }
    return *held.factor;
  }
  // work(g) where the frame's own gradient is on the device. A refresh() does not come between.
  template <class Work>
  std::optional<FrameStep> with_resident_gradient(Work&& work) const {
    const std::lock_guard lock(state->mutex());
    const DeviceVector* const g = state->resident_gradient();
    if (g == nullptr) return std::nullopt;
    state->begin();
    return work(*g);
  }
  std::shared_ptr<newton::FrameState> state;
};

BaseArrowFrame::BaseArrowFrame(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BaseArrowFrame::BaseArrowFrame(BaseArrowFrame&&) noexcept = default;
BaseArrowFrame& BaseArrowFrame::operator=(BaseArrowFrame&&) noexcept = default;
BaseArrowFrame::~BaseArrowFrame() = default;

BaseArrowFrame BaseArrowFrame::build(const ArrowSystem& s, const FrameOptions& options) {
  check_frame_options(options);
  return BaseArrowFrame(std::make_unique<Impl>(s, options));
}

BaseArrowFrame BaseArrowFrame::build(const DeviceParts& parts, const FrameOptions& options) {
  check_frame_options(options);
  check(parts);
  return BaseArrowFrame(std::make_unique<Impl>(parts, options));
}

Index BaseArrowFrame::n() const noexcept { return impl_->state->n(); }
Index BaseArrowFrame::k() const noexcept { return impl_->state->k(); }
Index BaseArrowFrame::total_dim() const noexcept { return impl_->state->total_dim(); }
const FramePlan& BaseArrowFrame::plan() const noexcept { return impl_->state->plan(); }
Index BaseArrowFrame::device_bytes() const noexcept {
  const std::lock_guard lock(impl_->state->mutex());
  return impl_->state->bytes();
}
Telemetry BaseArrowFrame::telemetry() const {
  const std::lock_guard lock(impl_->state->mutex());
  return impl_->state->telemetry();
}

FrameFactors BaseArrowFrame::factor_at(double ridge_t, double ridge_beta) {
  newton::require_ridges(ridge_t, ridge_beta);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  auto factor = impl_->state->factor(ridge_t, ridge_beta);
  impl_->state->settle();
  return FrameFactors(
      std::make_shared<FrameFactors::Held>(impl_->state, std::move(factor), impl_->state->generation()));
}

FrameStep BaseArrowFrame::solve_with(const FrameFactors& factors, std::span<const double> g_t,
                                     std::span<const double> g_beta, bool certificate) {
  impl_->state->check_gradient(g_t, g_beta);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  return impl_->state->step(impl_->factor_of(*factors.held_), g_t, g_beta, certificate, newton::kResident);
}

FrameStep BaseArrowFrame::solve_with(const FrameFactors& factors, const DeviceVector& g, bool certificate) {
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  return impl_->state->step(impl_->factor_of(*factors.held_), g, certificate, newton::kResident);
}

FrameStep BaseArrowFrame::solve_with(const FrameFactors& factors, bool certificate) {
  if (auto step = impl_->with_resident_gradient([&](const DeviceVector& g) {
        return impl_->state->step(impl_->factor_of(*factors.held_), g, certificate, newton::kResident);
      })) {
    return *std::move(step);
  }
  const newton::Gradient g = impl_->state->gradient();
  return solve_with(factors, g.t, g.beta, certificate);
}

FrameStep BaseArrowFrame::refactor_and_solve(double ridge_t, double ridge_beta, const DeviceVector& g,
                                             bool certificate) {
  newton::require_ridges(ridge_t, ridge_beta);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  const auto factor = impl_->state->factor(ridge_t, ridge_beta);
  return impl_->state->step(*factor, g, certificate, newton::kResident);
}

FrameStep BaseArrowFrame::refactor_and_solve(double ridge_t, double ridge_beta, bool certificate) {
  newton::require_ridges(ridge_t, ridge_beta);
  if (auto step = impl_->with_resident_gradient([&](const DeviceVector& g) {
        const auto factor = impl_->state->factor(ridge_t, ridge_beta);
        return impl_->state->step(*factor, g, certificate, newton::kResident);
      })) {
    return *std::move(step);
  }
  const newton::Gradient g = impl_->state->gradient();
  return refactor_and_solve(ridge_t, ridge_beta, g.t, g.beta, certificate);
}

FrameStep BaseArrowFrame::refactor_and_solve(double ridge_t, double ridge_beta, std::span<const double> g_t,
                                             std::span<const double> g_beta, bool certificate) {
  newton::require_ridges(ridge_t, ridge_beta);
  impl_->state->check_gradient(g_t, g_beta);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  const auto factor = impl_->state->factor(ridge_t, ridge_beta);
  return impl_->state->step(*factor, g_t, g_beta, certificate, newton::kResident);
}

void BaseArrowFrame::refresh(const ArrowSystem& s) {
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  impl_->state->refresh(s);
}

void BaseArrowFrame::refresh(const DeviceParts& parts) {
  check(parts);
  const std::lock_guard lock(impl_->state->mutex());
  impl_->state->begin();
  impl_->state->refresh(parts);
}

FrameStep newton_step_reupload(const ArrowSystem& s, double ridge_t, double ridge_beta, bool certificate,
                               const FrameOptions& options) {
  newton::require_ridges(ridge_t, ridge_beta);
  check_frame_options(options);
  const newton::Gradient g = newton::gradient_of(s);
  newton::check_vector("g_t", g.t, s.total_dim());
  newton::check_vector("g_beta", g.beta, s.k());
  newton::FrameState state(s, options);
  const auto factor = state.factor(ridge_t, ridge_beta);
  return state.step(*factor, g.t, g.beta, certificate, "gpu-reupload");
}

}  // namespace arrowschur
