#include "newton/inner_loop.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/pool.hpp"
#include "system/format.hpp"

namespace arrowschur {
namespace newton {
namespace {

constexpr double kNoise = 1e-14;          // of |phi|: changes below it are rounding
constexpr int kIdleSteps = 3;             // accepted or not, inside the noise: nothing more is to be had
constexpr int kRefreshEvery = 8;          // accepted steps between two residuals from scratch
constexpr double kHealthyGap = 1e-6;      // between the two forms of the predicted reduction
constexpr double kFirstRidge = 1e-6;      // what a ridge of 0 grows to
constexpr double kRelevantRidge = 1e-3;   // of the smallest pivot: below, a ridge hardly changes the step
constexpr double kGoodReduction = 10.0;   // of the gradient by one step

double grow(double ridge, const InnerOptions& o) { return ridge == 0.0 ? kFirstRidge : ridge * o.lm_grow; }

class Loop {
 public:
  Loop(StepProvider& provider, const InnerOptions& options, double start_norm, Point start)
      : provider_(provider),
        options_(options),
        start_norm_(start_norm),
        point_(start),
        ridge_t_(options.initial_ridge_t),
        ridge_beta_(options.initial_ridge_beta) {
    const auto expected = static_cast<std::size_t>(std::min(options.max_iterations, 64)) + 1;
    ridges_t_.reserve(expected);
    ridges_beta_.reserve(expected);
    note_ridges();
  }

  void run() {
    while (!ended_) {
      linalg::poll_interrupt();
      if (converged()) {
        end(InnerStatus::converged);
      } else if (idle_ >= kIdleSteps) {
        end(InnerStatus::no_progress);
      } else if (iterations_ >= options_.max_iterations) {
        end(InnerStatus::max_iterations);
      } else {
        iterate();
      }
    }
    // What is returned belongs to the returned z, whatever the residual has been through.
    refresh();
    if (small()) status_ = InnerStatus::converged;
    if (status_ != InnerStatus::converged && accepted_ == 0) throw InnerLoopError(facts());
  }

  InnerFit fit() const {
    InnerFit fit;
    fit.objective = point_.objective;
    fit.gradient_norm = point_.gradient_norm;
    fit.step_gradient_norm = iterations_solved_ > 0 ? step_gradient_norm_ : point_.gradient_norm;
    fit.log_det_hessian = provider_.log_det();
    fit.iterations = iterations_;
    fit.accepted_iterations = accepted_;
    fit.status = status_;
    fit.ridge_t = ridge_t_;
    fit.ridge_beta = ridge_beta_;
    return fit;
  }

 private:
  void end(InnerStatus status) {
    status_ = status;
    ended_ = true;
  }

  // The stopping test on the residual as it stands.
  bool small() const {
    if (options_.convergence == Convergence::absolute) {
      return point_.gradient_norm / (1.0 + norm_) < options_.convergence_tolerance;
    }
    return point_.gradient_norm < options_.convergence_tolerance * start_norm_ || point_.gradient_norm == 0.0;
  }
  // Reported on a residual that was computed from z.
  bool converged() {
    if (!small()) return false;
    refresh();
    return small();
  }
  void refresh() {
    if (updates_ == 0) return;
    point_ = provider_.recompute_residual();
    updates_ = 0;
  }

  void iterate() {
    ++iterations_;
    Attempt attempt = provider_.attempt(ridge_t_, ridge_beta_);
    if (attempt.outcome != Attempt::Outcome::solved) return failed(attempt);
    if (!healthy(attempt)) {
      const Attempt refined = provider_.refine();
      if (refined.outcome == Attempt::Outcome::solved) attempt = refined;
    }
    ++iterations_solved_;
    step_gradient_norm_ = point_.gradient_norm;
    decide(attempt);
  }

  static double predicted(const Attempt& a) { return -(a.r_delta + 0.5 * a.delta_q); }

  // For an exact solve of (H + R) delta = -r the prediction has a second form, without q.
  bool healthy(const Attempt& a) const {
    const double bare = predicted(a);
    const double damped = 0.5 * (ridge_t_ * a.delta_t_squared + ridge_beta_ * a.delta_beta_squared - a.r_delta);
    return !(std::abs(bare - damped) > kHealthyGap * std::max(std::abs(bare), std::abs(damped)));
  }

  void decide(const Attempt& a) {
    const double expected = predicted(a), reduction = point_.objective - a.next.objective;
    const double floor = kNoise * std::abs(point_.objective);
    rho_ = expected > floor ? reduction / expected : (reduction >= -floor ? 1.0 : -1.0);
    idle_ = expected <= floor && std::abs(reduction) <= floor ? idle_ + 1 : 0;
    if (rho_ > 0.0 && std::isfinite(a.next.objective)) {
      accept(a);
    } else {
      raise_ridges(0.0);
    }
  }

  void accept(const Attempt& a) {
    provider_.accept();
    shrink_ridges(a.next.gradient_norm > point_.gradient_norm / kGoodReduction);
    point_ = a.next;
    norm_ = a.next_norm;
    ++accepted_;
    if (++updates_ >= kRefreshEvery) refresh();
    note_ridges();
  }

  // A ridge far below the curvature changes nothing but costs a factor at every new value; a pivot that is not known
  // (NaN) does not hold it back.
  void shrink_ridges(bool slow) {
    const double irrelevant = kRelevantRidge * provider_.smallest_pivot();
    const bool always = slow || options_.shrink_rule == ShrinkRule::always;
    for (double* ridge : {&ridge_t_, &ridge_beta_}) {
      if (always || !(*ridge <= irrelevant)) *ridge *= options_.lm_shrink;
    }
  }

  void failed(const Attempt& a) {
    rho_ = std::numeric_limits<double>::quiet_NaN();
    last_failure_ = provider_.last_failure();
    raise_ridges(a.outcome == Attempt::Outcome::row_failure ? a.suggested_bump : 0.0);
  }

  void raise_ridges(double bump) {
    const double repaired = ridge_t_ + bump;
    ridge_t_ = grow(ridge_t_, options_);
    if (std::isfinite(repaired)) ridge_t_ = std::max(ridge_t_, repaired);
    ridge_beta_ = grow(ridge_beta_, options_);
    note_ridges();
    if (std::max(ridge_t_, ridge_beta_) > options_.max_ridge) end(InnerStatus::ridge_exhausted);
  }

  void note_ridges() {
    ridges_t_.push_back(ridge_t_);
    ridges_beta_.push_back(ridge_beta_);
  }

  InnerLoopError::Facts facts() {
    return {status_, iterations_, rho_, std::move(ridges_t_), std::move(ridges_beta_), std::move(last_failure_)};
  }

  StepProvider& provider_;
  const InnerOptions& options_;
  double start_norm_;
  Point point_;
  double norm_ = 0.0;  // |z|
  double ridge_t_, ridge_beta_;
  double rho_ = std::numeric_limits<double>::quiet_NaN();
  double step_gradient_norm_ = 0.0;
  int iterations_ = 0, iterations_solved_ = 0, accepted_ = 0;
  int updates_ = 0;  // of r since it was computed from z
  int idle_ = 0;
  bool ended_ = false;
  InnerStatus status_ = InnerStatus::max_iterations;
  std::vector<double> ridges_t_, ridges_beta_;  // the schedule, for the error
  std::string last_failure_;
};

}  // namespace

void check_inner_options(const InnerOptions& options) {
  if (const auto c = options.complaint()) throw InvalidArgument(c->field, c->value, c->rule);
}

InnerFit run_inner_loop(StepProvider& provider, std::span<const double> g_t, std::span<const double> g_beta,
                        double objective_at_zero, const InnerOptions& options) {
  const Point start = provider.start(g_t, g_beta, objective_at_zero);
  Loop loop(provider, options, start.gradient_norm, start);
  loop.run();
  InnerFit fit = loop.fit();
  fit.t.resize(g_t.size());
  fit.beta.resize(g_beta.size());
  provider.read(fit.t, fit.beta);
  return fit;
}

}  // namespace newton

// Comparisons are written so that NaN breaks every rule.
std::optional<Complaint> InnerOptions::complaint() const {
  const auto finite_at_least_zero = [](double x) { return x >= 0.0 && std::isfinite(x); };
  if (max_iterations < 1) return Complaint{"max_iterations", std::to_string(max_iterations), "an integer >= 1"};
  if (!(convergence_tolerance > 0.0 && std::isfinite(convergence_tolerance))) {
    return Complaint{"convergence_tolerance", format_number(convergence_tolerance), "a finite number > 0"};
  }
  if (!finite_at_least_zero(initial_ridge_t)) {
    return Complaint{"initial_ridge_t", format_number(initial_ridge_t), "a finite number >= 0"};
  }
  if (!finite_at_least_zero(initial_ridge_beta)) {
    return Complaint{"initial_ridge_beta", format_number(initial_ridge_beta), "a finite number >= 0"};
  }
  if (!(lm_grow > 1.0 && std::isfinite(lm_grow))) {
    return Complaint{"lm_grow", format_number(lm_grow), "a finite number > 1"};
  }
  if (!(lm_shrink > 0.0 && lm_shrink <= 1.0)) return Complaint{"lm_shrink", format_number(lm_shrink), "in (0, 1]"};
  if (!(max_ridge > 0.0 && std::isfinite(max_ridge))) {
    return Complaint{"max_ridge", format_number(max_ridge), "a finite number > 0"};
  }
  if (convergence != Convergence::absolute && convergence != Convergence::relative) {
    return Complaint{"convergence", std::to_string(static_cast<int>(convergence)), "one of 'absolute', 'relative'"};
  }
  if (shrink_rule != ShrinkRule::relevant && shrink_rule != ShrinkRule::always) {
    return Complaint{"shrink_rule", std::to_string(static_cast<int>(shrink_rule)), "one of 'relevant', 'always'"};
  }
  return check(solve);
}

const char* to_string(InnerStatus status) noexcept {
  switch (status) {
    case InnerStatus::converged:
      return "converged";
    case InnerStatus::max_iterations:
      return "max_iterations";
    case InnerStatus::ridge_exhausted:
      return "ridge_exhausted";
    case InnerStatus::no_progress:
      return "no_progress";
  }
  return "unknown";
}

namespace {

std::string loop_message(const InnerLoopError::Facts& f) {
  std::string text = std::string("the inner loop ended as '") + to_string(f.status) + "' after " +
                     std::to_string(f.iterations) + " iterations without an accepted step";
  if (!f.ridges_t.empty() && !f.ridges_beta.empty()) {
    text += ", at ridge_t = " + format_number(f.ridges_t.back()) +
            " and ridge_beta = " + format_number(f.ridges_beta.back());
  }
  return text + (f.last_failure.empty() ? "." : "; the last failure: " + f.last_failure);
}

}  // namespace

InnerLoopError::InnerLoopError(Facts facts) : ArrowError(loop_message(facts)), facts_(std::move(facts)) {}

}  // namespace arrowschur
