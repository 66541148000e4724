#include "arrowschur/frame.hpp"

#include <cmath>
#include <mutex>
#include <utility>

#include "arrowschur/error.hpp"
#include "arrowschur/profile.hpp"
#include "backend/resident_device.hpp"
#include "newton/solver.hpp"
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

namespace newton {
namespace {

// A system on the device, its gradient, and what its calls have done.
class FrameState {
 public:
  FrameState(const ArrowSystem& s, const FrameOptions& options)
      : device_(s, binding_of(options, s.total_dim(), s.k())),
        gradient_(gradient_of(s)),
        n_(s.n()) {
    device_.factors().configure(options.cache_entries, options.device_memory_limit);
  }

  std::mutex& mutex() noexcept { return mutex_; }
  Gradient gradient() {
    const std::lock_guard lock(mutex_);
    return gradient_;
  }
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

  // Iterations that have failed are work, too.
  std::optional<PcgDiagnostics> solved(device::DeviceFactor& factor, const device::ResidentDevice::Column& column) {
    try {
      return device_.solve(factor, column);
    } catch (const PcgError&) {
      settle();
      throw;
    }
  }

  FrameStep step(device::DeviceFactor& factor, std::span<const double> g_t, std::span<const double> g_beta,
                 bool certificate, const char* path) {
    FrameStep step;
    step.delta_t.resize(g_t.size());
    step.delta_beta.resize(g_beta.size());
    step.pcg = solved(factor, {g_t.data(), g_beta.data(), step.delta_t.data(), step.delta_beta.data()});
    if (certificate) step.certificate = device_.certificate(factor);
    step.log_det_hessian = factor.log_det();
    step.ridge_t = factor.ridge_t();
    step.ridge_beta = factor.ridge_beta();
    step.route = device::frame_route(factor.route());
    const device::Account account = device::account_of(device_.table(), path);
    step.execution_path = account.execution_path;
    step.backend = account.backend;
    step.unproven_path = account.unproven_path;
    step.telemetry = settle();
    return step;
  }

  void refresh(const ArrowSystem& s) {
    device_.system().require_same(s);
    Gradient gradient = gradient_of(s);
    ++generation_;
    device_.refresh(s);
    gradient_ = std::move(gradient);
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
  std::mutex mutex_;
  device::ResidentDevice device_;
  Gradient gradient_;
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
  Impl(const ArrowSystem& s, double ridge_t, double ridge_beta, const FrameOptions& options)
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

FrameStep ArrowFrame::step(bool certificate) const {
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
    impl_->state->solved(*impl_->factor,
                         {w_t.data() + c, w_beta.data() + c, x_t.data() + c, x_beta.data() + c, m, -1.0});
  }
  impl_->state->settle();
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
  Impl(const ArrowSystem& s, const FrameOptions& options) : state(std::make_shared<newton::FrameState>(s, options)) {
    state->settle();
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
  const FrameFactors::Held& held = *factors.held_;
  if (held.state != impl_->state || held.generation != impl_->state->generation()) {
    throw InvalidArgument("factors", "factors of another frame, or of before its refresh()", "factors of this frame");
  }
  return impl_->state->step(*held.factor, g_t, g_beta, certificate, newton::kResident);
}

FrameStep BaseArrowFrame::solve_with(const FrameFactors& factors, bool certificate) {
  const newton::Gradient g = impl_->state->gradient();
  return solve_with(factors, g.t, g.beta, certificate);
}

FrameStep BaseArrowFrame::refactor_and_solve(double ridge_t, double ridge_beta, bool certificate) {
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
