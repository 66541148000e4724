#include "arrowschur/newton.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "arrowschur/error.hpp"
#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "newton/solver.hpp"
#include "system/scale.hpp"

namespace arrowschur {
namespace {

// A scale for the first ridge of one part: its own, else the whole system's; 0 when everything is 0.
double first_scale(double own, const ArrowSystem& s) { return own > 0.0 ? own : system::max_abs(s); }

Ridges raised(const Ridges& r, double t, double beta) {
  Ridges out = r;
  out.t += t;
  out.beta += beta;
  return out;
}

bool has_exact_route(const ArrowSystem& s, const SolveOptions& options) {
  try {
    return plan(s, options, PlanPurpose::factor).route != Route::inexact_pcg;
  } catch (const ArrowError&) {
    return false;
  }
}

}  // namespace

NewtonStep newton_step(const ArrowSystem& s, const Ridges& ridges, const SolveOptions& options) {
  newton::check_options(options);
  newton::check_ridges(s, ridges);
  const linalg::ThreadScope threads(options.num_threads);
  const Index before = linalg::live_bytes();
  linalg::reset_peak();
  const auto start = std::chrono::steady_clock::now();
  const auto solve = [&](PlanPurpose purpose) {
    SolveDiagnostics diagnostics;
    const auto frame = newton::eliminate_rows(s, ridges, options, diagnostics, purpose);
    newton::factor_border(*frame, ridges, options, diagnostics);
    return newton::step_on(*frame, ridges, ridges, options, newton::gradient_of(s), true, diagnostics);
  };
  NewtonStep step;
  try {
    step = solve(PlanPurpose::step);
  } catch (const PcgError& error) {
    // The plan took the iteration for cheaper than it is: an exact route, where one fits.
    const bool ran_out = error.facts.kind == PcgFailure::budget || error.facts.kind == PcgFailure::stagnation;
    if (options.mode != Mode::automatic || !ran_out || !has_exact_route(s, options)) throw;
    step = solve(PlanPurpose::factor);
  }
  step.diagnostics.plan.measured_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  step.diagnostics.peak_bytes = linalg::peak_bytes() - before;
  return step;
}

// Absolute guards: one shift mu for both blocks, 0, then initial 10^m. Relative guards: the rows are raised only
// after a row failure, from initial_ridge max|h_tt|; the border only after a border or certificate failure, from the
// advice that the failure carries; what a failed attempt has computed (row factors, S_0) is kept.
NewtonStep newton_step_escalated(const ArrowSystem& s, const Ridges& ridges, const SolveOptions& options,
                                 const EscalationOptions& escalation) {
  newton::check_options(options);
  if (const auto complaint = check(escalation))
    throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
  newton::check_ridges(s, ridges);
  const linalg::ThreadScope threads(options.num_threads);
  const Index before = linalg::live_bytes();
  linalg::reset_peak();
  const newton::Gradient g = newton::gradient_of(s);
  const bool together = options.guards == Guards::absolute;

  double shift_t = 0.0, shift_beta = 0.0;
  int raised_t = 0, raised_beta = 0;
  std::unique_ptr<backend::Frame> frame;
  SolveDiagnostics diagnostics;
  double frame_shift_t = 0.0;
  const auto raise = [&](double& shift, int& count, double first) {
    if (!(first > 0.0)) return false;  // a zero system: no scale to start from
    shift = count == 0 ? std::max(first, 0.0) : shift * escalation.ridge_growth;
    ++count;
    return std::isfinite(shift);
  };
  for (int attempt = 0;; ++attempt) {
    const Ridges now = raised(ridges, shift_t, shift_beta);
    try {
      if (!frame || frame_shift_t != shift_t) {
        frame.reset();
        diagnostics = {};
        frame = newton::eliminate_rows(s, now, options, diagnostics);
        frame_shift_t = shift_t;
      }
      newton::factor_border(*frame, now, options, diagnostics);
      diagnostics.ridge_escalations = attempt;
      NewtonStep step = newton::step_on(*frame, now, ridges, options, g, true, diagnostics);
      step.diagnostics.peak_bytes = linalg::peak_bytes() - before;
      return step;
    } catch (const ArrowError& error) {
      if (!error.cured_by_ridge() || attempt >= escalation.max_escalations) throw;
      // A product of the caller belongs to one ridge_t: only the border can be raised beside it.
      const bool rows_failed = dynamic_cast<const RowFactorError*>(&error) != nullptr;
      if (options.schur_apply && (together || rows_failed)) throw;
      if (together) {
        // initial 10^m as a power: the products of a running sum would drift.
        shift_t = shift_beta = escalation.initial_ridge * std::pow(escalation.ridge_growth, attempt);
        continue;
      }
      if (rows_failed) {
        if (!raise(shift_t, raised_t, escalation.initial_ridge * first_scale(system::max_abs_rows(s), s))) throw;
        continue;
      }
      double first = escalation.initial_ridge * first_scale(system::max_abs_border(s), s);
      if (const auto* schur = dynamic_cast<const SchurFactorError*>(&error)) {
        const double advice = schur->suggested_ridge - now.beta;
        if (std::isfinite(advice) && advice > 0.0) first = advice;
      } else if (const auto* pcg = dynamic_cast<const PcgError*>(&error)) {
        const double advice = pcg->facts.suggested_ridge - now.beta;
        if (std::isfinite(advice) && advice > 0.0) first = advice;
      }
      if (!raise(shift_beta, raised_beta, first)) throw;
    }
  }
}

double model_reduction(const ArrowSystem& s, std::span<const double> delta_t, std::span<const double> delta_beta,
                       const Ridges& ridges, bool damped) {
  newton::check_ridges(s, ridges);
  newton::check_vector("delta_t", delta_t, s.total_dim());
  newton::check_vector("delta_beta", delta_beta, s.k());
  std::vector<double> y_t(delta_t.size()), y_beta(delta_beta.size());
  s.apply(delta_t, delta_beta, y_t, y_beta, damped ? ridges : Ridges{});
  double curvature = 0.0;
  for (std::size_t i = 0; i < y_t.size(); ++i) curvature += delta_t[i] * y_t[i];
  for (std::size_t j = 0; j < y_beta.size(); ++j) curvature += delta_beta[j] * y_beta[j];
  return -(s.gradient_dot(delta_t, delta_beta) + 0.5 * curvature);
}

NewtonStep solve_reduced(Index k, const double* schur, const double* rhs, const SolveOptions& options,
                         const EscalationOptions& escalation) {
  if (k < 0) throw InvalidArgument("schur", "a negative size", "a square matrix");
  std::vector<double> g(static_cast<std::size_t>(k));
  for (std::size_t j = 0; j < g.size(); ++j) g[j] = -rhs[j];
  SystemParts parts;
  parts.k = k;
  parts.border.k = k;
  parts.border.terms.push_back(DenseBorder{schur});
  parts.g_beta = g.data();
  ValidationOptions validation;
  validation.symmetry = Symmetry::average;
  return newton_step_escalated(ArrowSystem::make(std::move(parts), validation), {}, options, escalation);
}

}  // namespace arrowschur
