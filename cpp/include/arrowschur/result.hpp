// What a solve returns: the step and an account of how it was computed.
#pragma once

#include <array>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

enum class Stage { factor_rows, reduce, factor_border, solve_border, expand, certificate };
inline constexpr int kStages = 6;
const char* to_string(Stage) noexcept;

// Account of the conjugate gradients of a step.
struct PcgDiagnostics {
  Index iterations = 0, matvec_calls = 0, precond_apply_calls = 0;  // over all tiers
  std::string stopping_reason;  // converged, max_iter, trust_region, indefinite, stagnation, attainable_floor
  double final_relative_residual = 0.0;  // true |r - S db| / |r|; 0 only when r = 0
  double residual_gap = 0.0;  // bound D / |r| on its distance from the recursive residual (E7)
  std::string preconditioner;  // the tier that produced the step
  std::vector<std::string> tiers;  // what the ladder tried, "block: max_iter after 200", in order
};

enum class SchurConditioning { none, pd_floor, unit_deflated, curvature_ridge };
const char* to_string(SchurConditioning) noexcept;

struct SolveDiagnostics {
  SolvePlan plan;
  const char* execution_path = "cpu";  // where the arithmetic ran, set after the work
  Precision precision = Precision::float64;
  double ridge_t = 0.0, ridge_beta = 0.0;  // the ridges the step was solved with, escalation included
  // Normwise backward error |b - Hx|_inf / (|H|_inf |x|_inf + |b|_inf), b = -g, in float64:
  double backward_error = std::numeric_limits<double>::quiet_NaN();  // H with the requested ridges
  double backward_error_effective = std::numeric_limits<double>::quiet_NaN();  // H that was really solved (lifts added)
  bool norm_is_bound =
      false;  // |H|_inf is an upper bound (several border terms overlap): the errors are underestimates
  int refinement_steps = 0;
  int ridge_escalations = 0;
  Index rows_lifted = 0;  // rows with a ridge of their own
  double row_ridge_max = 0.0;  // the largest such ridge; 0 when none was lifted
  double kappa_rows_max = 0.0;  // largest row condition estimate that the guard used
  double kappa_schur = 0.0;  // condition estimate of S (equilibrated under Guards::relative); 0 when k = 0
  SchurConditioning schur_conditioning = SchurConditioning::none;
  std::optional<PcgDiagnostics> pcg;  // when conjugate gradients ran (inexact_pcg, or a trust-region boundary)
  std::vector<std::string> structure;  // what structure detection recognised in the system
  std::array<double, kStages> seconds{};  // per Stage
  Index peak_bytes = 0;  // workspace and factor bytes held at the peak
};

// Border factorizations of this process by what factored them, for tests that a named route is the one that ran.
struct RouteCounters {
  std::int64_t dense = 0, sparse = 0, low_rank = 0, inexact_pcg = 0;
};
RouteCounters route_counters() noexcept;

struct NewtonStep {
  std::vector<double> delta_t;  // [T]
  std::vector<double> delta_beta;  // [k]
  SolveDiagnostics diagnostics;
};

}  // namespace arrowschur
