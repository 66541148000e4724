#include "newton/kept_factors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "arrowschur/error.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "telemetry.hpp"

namespace arrowschur::newton {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Whether factors made under one set of options are those of the other. The number of threads is not in any result, and
// tolerances of steps are not in any factor.
bool same_factors(const SolveOptions& a, const SolveOptions& b) {
  return a.mode == b.mode && a.precision == b.precision && a.guards == b.guards &&
         a.tolerate_ill_conditioning == b.tolerate_ill_conditioning && a.pcg.max_iterations == b.pcg.max_iterations &&
         a.pcg.relative_tolerance == b.pcg.relative_tolerance && a.pcg.float32_storage == b.pcg.float32_storage &&
         a.preconditioner == b.preconditioner && a.accept_truncated == b.accept_truncated &&
         a.schur_pd_floor == b.schur_pd_floor && a.calibrate == b.calibrate && a.policy == b.policy &&
         a.expected_solves == b.expected_solves && a.memory_limit == b.memory_limit;
}

// Flops and bytes of the stages where S is dense and the cross block a slab; other routes have no count of their own.
class Costs {
 public:
  Costs(const ArrowSystem& s, const SolvePlan& plan)
      : s_(s), known_(plan.route == Route::direct && !plan.sparse_schur && s.h_tb() != nullptr) {}
  telemetry::StageCost factor_rows() const { return stage("factor_rows", t() * d() * d() / 3.0, 16.0 * t() * d()); }
  telemetry::StageCost reduce() const {
    return stage("reduce", t() * k() * (k() + 1.0), 8.0 * (t() * k() + k() * k()));
  }
  telemetry::StageCost factor_border() const { return stage("factor_border", k() * k() * k() / 3.0, 8.0 * k() * k()); }
  telemetry::StageCost solve() const {
    return stage("solve", 4.0 * t() * k() + 2.0 * k() * k(), 8.0 * (2.0 * t() * k() + k() * k()));
  }

 private:
  double t() const { return static_cast<double>(s_.total_dim()); }
  double d() const { return static_cast<double>(s_.max_dim()); }
  double k() const { return static_cast<double>(s_.k()); }
  telemetry::StageCost stage(const char* name, double flops, double bytes) const {
    return {name, s_.n(), s_.max_dim(), s_.k(), known_ ? flops : 0.0, known_ ? bytes : 0.0};
  }

  const ArrowSystem& s_;
  bool known_;
};

double smallest_pivot_of(const backend::Frame& frame) {
  double rows = kNone, border = kNone, unused = 0.0;
  frame.row_pivots(rows, unused);
  frame.border_pivots(border, unused);
  return std::isnan(rows) || std::isnan(border) ? kNone : std::min(rows, border);
}

}  // namespace

void FactorResult::raise() const {
  if (!rows_failed) throw SchurFactorError(border.kind, border.pivot_index, border.kappa, border.suggested_ridge);
  if (rows.ill_conditioned) throw RowIllConditioned(rows.facts, rows.kappa, rows.min_pivot);
  throw RowFactorError(rows.facts);
}

std::string FactorResult::message() const {
  try {
    raise();
  } catch (const ArrowError& error) {
    return error.what();
  }
}

void FactorCache::configure(const SolveOptions& options) {
  if (!configured_ || !same_factors(options, options_)) {
    clear();
    configured_ = false;
    SolveOptions host = options;
    host.device = Device::off;  // who runs this was decided before
    host.row_lift = RowLift::never;
    plan_ = arrowschur::plan(system_, host, PlanPurpose::factor);
    configured_ = true;
  }
  options_ = options;
  options_.device = Device::off;
  options_.row_lift = RowLift::never;
}

void FactorCache::count(const Telemetry& work) { telemetry::count(telemetry_, work); }

const KeptFactor* FactorCache::find(double ridge_t, double ridge_beta) {
  const auto at = std::find_if(factors_.begin(), factors_.end(),
                               [&](const KeptFactor& f) { return f.ridge_t == ridge_t && f.ridge_beta == ridge_beta; });
  if (at == factors_.end()) return nullptr;
  std::rotate(factors_.begin(), at, at + 1);
  return &factors_.front();
}

// Before a factor is built, so that no more are held at any time than may be kept.
void FactorCache::make_room() {
  const auto entries = static_cast<std::size_t>(std::max<Index>(options_.frame_cache_entries, 1));
  if (factors_.size() >= entries) factors_.resize(entries - 1);
  if (!options_.memory_limit) return;
  Index held = plan_.peak_bytes;
  for (const KeptFactor& f : factors_) held += f.frame->nbytes();
  while (!factors_.empty() && held > *options_.memory_limit) {
    held -= factors_.back().frame->nbytes();
    factors_.pop_back();
  }
}

// A frame with the rows and S_0 of a factor that has them; null: there is none.
std::unique_ptr<backend::Frame> FactorCache::frame_sharing_rows(double ridge_t) const {
  for (const KeptFactor& f : factors_) {
    if (f.ridge_t == ridge_t) return f.frame->with_rows_of_this();
  }
  return nullptr;
}

// The same from the blocks; null: a row has failed.
std::unique_ptr<backend::Frame> FactorCache::eliminate(double ridge_t, FactorResult& result) const {
  const Costs costs(system_, plan_);
  auto frame = backend::choose_backend(Device::off).make_frame(system_, options_, plan_);
  {
    const telemetry::StageClock clock(costs.factor_rows());
    result.rows =
        frame->factor_rows({ridge_t, 0.0}, {options_.guards, RowLift::never, options_.tolerate_ill_conditioning});
  }
  result.rows_failed = !result.rows.ok;
  if (result.rows_failed) return nullptr;
  linalg::poll_interrupt();
  {
    const telemetry::StageClock clock(costs.reduce());
    frame->reduce();
  }
  linalg::poll_interrupt();
  return frame;
}

FactorResult FactorCache::get(double ridge_t, double ridge_beta) {
  FactorResult result;
  if (options_.frame_cache_entries == 0) clear();
  if ((result.factor = find(ridge_t, ridge_beta)) != nullptr) return result;
  std::unique_ptr<backend::Frame> frame = frame_sharing_rows(ridge_t);
  make_room();
  if (!frame) frame = eliminate(ridge_t, result);
  if (!frame) return result;
  {
    const telemetry::StageClock clock(Costs(system_, plan_).factor_border());
    result.border = frame->factor_border({ridge_t, ridge_beta}, options_.guards, options_.tolerate_ill_conditioning);
  }
  if (!result.border.ok) return result;
  Telemetry made;
  made.factorizations = 1;
  count(made);
  const bool exact = frame->exact_border();
  KeptFactor factor{ridge_t, ridge_beta, nullptr, kNone, kNone, result.border.kappa};
  if (exact) {
    factor.log_det = frame->log_det_rows() + frame->log_det_border();
    factor.smallest_pivot = smallest_pivot_of(*frame);
  }
  factor.frame = std::move(frame);
  factors_.insert(factors_.begin(), std::move(factor));
  result.factor = &factors_.front();
  return result;
}

Point KeptFactorProvider::start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) {
  factor_ = nullptr;
  log_det_ = kNone;
  return HostProvider::start(g_t, g_beta, objective_at_zero);
}

double KeptFactorProvider::smallest_pivot() const { return factor_ == nullptr ? kNone : factor_->smallest_pivot; }

Attempt::Outcome KeptFactorProvider::factor(double ridge_t, double ridge_beta) {
  const FactorResult result = cache_.get(ridge_t, ridge_beta);
  factor_ = result.factor;
  if (factor_ == nullptr) {
    last_failure_ = result.message();
    return result.rows_failed ? Attempt::Outcome::row_failure : Attempt::Outcome::border_failure;
  }
  log_det_ = factor_->log_det;
  // An iterative border learns from its solves. Each attempt gets a new one, so that a fit does not depend on what was
  // solved before it.
  iterative_.reset();
  if (!factor_->frame->exact_border()) {
    const SolveOptions& options = cache_.options();
    iterative_ = factor_->frame->with_rows_of_this();
    const backend::BorderReport again =
        iterative_->factor_border({ridge_t, ridge_beta}, options.guards, options.tolerate_ill_conditioning);
    if (!again.ok) {
      last_failure_ = FactorResult{nullptr, false, {}, again}.message();
      return Attempt::Outcome::border_failure;
    }
  }
  return Attempt::Outcome::solved;
}

// The elimination: x_beta = S^-1 (-rhs_beta + W'u), then the rows.
Attempt::Outcome KeptFactorProvider::solve(const Vector& rhs, Vector& x) {
  const backend::Frame& frame = iterative_ ? *iterative_ : *factor_->frame;
  const telemetry::StageClock clock(Costs(system(), cache_.plan()).solve());
  const std::span<double> border = x.beta();
  frame.reduce_rhs(rhs.t().data(), border.data());
  for (std::size_t j = 0; j < border.size(); ++j) border[j] -= rhs.beta()[j];
  try {
    frame.solve_border(border.data(), 1);
  } catch (const PcgError& error) {
    last_failure_ = error.what();
    return Attempt::Outcome::border_failure;
  }
  frame.expand(rhs.t().data(), border.data(), x.t().data(), nullptr);
  return Attempt::Outcome::solved;
}

}  // namespace arrowschur::newton
