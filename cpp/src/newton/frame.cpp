#include "arrowschur/frame.hpp"

#include <cmath>
#include <mutex>
#include <utility>

#include "arrowschur/error.hpp"
#include "newton/frame_state.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur {
namespace {

void check_frame_options(const FrameOptions& options) {
  if (const auto c = options.complaint()) throw InvalidArgument(c->field, c->value, c->rule);
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
