#include "arrowschur/factor.hpp"

#include <algorithm>
#include <cmath>

#include "arrowschur/error.hpp"
#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "newton/factor_impl.hpp"
#include "newton/solver.hpp"

namespace arrowschur {
namespace {

using backend::Part;
using linalg::Buffer;

bool all_zero(const std::vector<double>& x) {
  return std::all_of(x.begin(), x.end(), [](double v) { return v == 0.0; });
}
bool same(std::span<const double> a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace

ArrowFactor::Impl::Impl(ArrowSystem s, const Ridges& r, const SolveOptions& o)
    : system(std::move(s)),
      options(o),
      ridge_t(r.t),
      ridge_beta(r.beta),
      damping_t(r.damping_t.begin(), r.damping_t.end()),
      damping_beta(r.damping_beta.begin(), r.damping_beta.end()) {}

bool ArrowFactor::Impl::evidence_is_step() const {
  return ridge_t == 0.0 && ridge_beta == 0.0 && all_zero(damping_t) && all_zero(damping_beta) &&
         diagnostics.rows_lifted == 0;
}

const backend::Frame& ArrowFactor::Impl::frame(FactorSet set) const {
  if (set == FactorSet::step || evidence_is_step()) return *step_frame;
  const std::lock_guard<std::mutex> lock(evidence_mutex_);
  if (!evidence_frame_) {
    SolveOptions evidence = options;
    evidence.tolerate_ill_conditioning = true;
    SolveDiagnostics unused;
    auto frame = newton::eliminate_rows(system, {}, evidence, unused, PlanPurpose::factor);
    newton::factor_border(*frame, {}, evidence, unused);
    evidence_frame_ = std::move(frame);
  }
  return *evidence_frame_;
}

const backend::Frame& ArrowFactor::Impl::exact_frame(FactorSet set, const char* feature) const {
  if (!step_frame->exact_border()) {
    throw UnsupportedConfiguration(
        feature, to_string(diagnostics.plan.route),
        "the border has no factor on this route; factorize with mode='direct' or 'low_rank'");
  }
  return frame(set);
}

ArrowFactor factorize(const ArrowSystem& s, const Ridges& ridges, const SolveOptions& options) {
  newton::check_options(options);
  newton::check_ridges(s, ridges);
  const linalg::ThreadScope threads(options.num_threads);
  const Index before = linalg::live_bytes();
  linalg::reset_peak();
  auto impl = std::make_shared<ArrowFactor::Impl>(s, ridges, options);
  impl->step_frame = newton::eliminate_rows(s, ridges, options, impl->diagnostics, PlanPurpose::factor);
  newton::factor_border(*impl->step_frame, ridges, options, impl->diagnostics);
  impl->diagnostics.peak_bytes = linalg::peak_bytes() - before;
  return ArrowFactor(std::move(impl));
}

const ArrowSystem& ArrowFactor::system() const noexcept { return impl_->system; }
Ridges ArrowFactor::ridges() const noexcept { return impl_->ridges(); }
const SolveDiagnostics& ArrowFactor::diagnostics() const noexcept { return impl_->diagnostics; }
Route ArrowFactor::route() const noexcept { return impl_->diagnostics.plan.route; }
Index ArrowFactor::nbytes() const noexcept { return impl_->step_frame->nbytes(); }
std::uint64_t ArrowFactor::fingerprint() const { return impl_->system.fingerprint(); }
bool ArrowFactor::matches(const ArrowSystem& other) const { return other.fingerprint() == fingerprint(); }

// x_b = S^-1 (w_b - sum B_i' A_i^-1 w_i),  x_i = A_i^-1 (w_i - B_i x_b): two passes over h_tb at memory speed for one
// right-hand side, two matrix products for several.
void ArrowFactor::solve(std::span<const double> w_t, std::span<const double> w_beta, std::span<double> x_t,
                        std::span<double> x_beta, Index m, FactorSet set) const {
  const Index t = impl_->system.total_dim(), k = impl_->system.k();
  if (m < 0) throw InvalidArgument("m", std::to_string(m), "a number of right-hand sides >= 0");
  newton::check_vector("w_t", w_t, t * m);
  newton::check_vector("w_beta", w_beta, k * m);
  if (x_t.size() != w_t.size())
    throw InvalidArgument("x_t", std::to_string(x_t.size()) + " entries", "the size of w_t");
  if (x_beta.size() != w_beta.size()) {
    throw InvalidArgument("x_beta", std::to_string(x_beta.size()) + " entries", "the size of w_beta");
  }
  if (m == 0) return;
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->frame(set);
  Buffer<double> y(t * m), border(k * m);
  std::copy(w_t.begin(), w_t.end(), y.data());
  frame.solve_rows(Part::full, 0, impl_->system.n(), y.data(), m);
  frame.cross_transpose(y.data(), border.data(), m);
  for (Index j = 0; j < k * m; ++j) border[j] = w_beta[static_cast<std::size_t>(j)] - border[j];
  frame.solve_border(border.data(), m);
  frame.cross_apply(0, impl_->system.n(), border.data(), y.data(), m);
  for (Index i = 0; i < t * m; ++i) x_t[static_cast<std::size_t>(i)] = w_t[static_cast<std::size_t>(i)] - y[i];
  frame.solve_rows(Part::full, 0, impl_->system.n(), x_t.data(), m);
  std::copy(border.data(), border.data() + k * m, x_beta.data());
}

NewtonStep ArrowFactor::step() const {
  const linalg::ThreadScope threads(impl_->options.num_threads);
  return newton::step_on(*impl_->step_frame, impl_->ridges(), impl_->ridges(), impl_->options,
                         newton::gradient_of(impl_->system), true, impl_->diagnostics);
}

NewtonStep ArrowFactor::step(std::span<const double> g_t, std::span<const double> g_beta) const {
  newton::check_vector("g_t", g_t, impl_->system.total_dim());
  newton::check_vector("g_beta", g_beta, impl_->system.k());
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const newton::Gradient g{{g_t.begin(), g_t.end()}, {g_beta.begin(), g_beta.end()}};
  return newton::step_on(*impl_->step_frame, impl_->ridges(), impl_->ridges(), impl_->options, g, false,
                         impl_->diagnostics);
}

ConditionEstimate ArrowFactor::condition_estimate(FactorSet set) const {
  if (set == FactorSet::step || impl_->evidence_is_step()) {
    return {impl_->diagnostics.kappa_rows_max, impl_->diagnostics.kappa_schur};
  }
  // The evidence set is built without guards: measure it as the guards would.
  SolveDiagnostics measured;
  SolveOptions options = impl_->options;
  options.tolerate_ill_conditioning = false;
  options.row_lift = RowLift::never;
  auto frame = newton::eliminate_rows(impl_->system, {}, options, measured, PlanPurpose::factor);
  const auto border = frame->factor_border({}, options.guards, false);
  if (!border.ok && border.kind != SchurFailure::ill_conditioned) {
    throw SchurFactorError(border.kind, border.pivot_index, border.kappa, border.suggested_ridge);
  }
  return {measured.kappa_rows_max, border.kappa};
}

ArrowFactor ArrowFactor::update_ridges(const Ridges& ridges) const {
  newton::check_ridges(impl_->system, ridges);
  const bool same_rows = ridges.t == impl_->ridge_t && same(ridges.damping_t, impl_->damping_t);
  if (!same_rows) return factorize(impl_->system, ridges, impl_->options);
  if (ridges.beta == impl_->ridge_beta && same(ridges.damping_beta, impl_->damping_beta)) return *this;
  const linalg::ThreadScope threads(impl_->options.num_threads);
  auto impl = std::make_shared<Impl>(impl_->system, ridges, impl_->options);
  impl->diagnostics = impl_->diagnostics;
  impl->diagnostics.seconds = {};
  impl->step_frame = impl_->step_frame->with_rows_of_this();
  newton::factor_border(*impl->step_frame, ridges, impl->options, impl->diagnostics);
  return ArrowFactor(std::move(impl));
}

}  // namespace arrowschur
