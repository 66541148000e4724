#include <cmath>
#include <limits>
#include <vector>

#include "arrowschur/policy.hpp"
#include "system/format.hpp"

namespace arrowschur::policy {
namespace {

double norm(std::span<const double> x) {
  double largest = 0.0;
  for (const double v : x) largest = std::isfinite(v) ? std::max(largest, std::abs(v)) : v * v;
  if (!(largest > 0.0) || !std::isfinite(largest)) return largest;
  double sum = 0.0;
  for (const double v : x) sum += v / largest * (v / largest);
  return largest * std::sqrt(sum);
}

// gamma_m = m u / (1 - m u): the relative rounding of a sum of m terms.
double gamma(double m) {
  const double mu = m * 0x1p-53;
  return mu < 1.0 ? mu / (1.0 - mu) : std::numeric_limits<double>::infinity();
}

}  // namespace

std::string RefinementOutcome::message() const {
  const std::string numbers =
      "relative to |b|: residual " + format_number(residual) + ", tolerance " + format_number(tolerance);
  const std::string made = std::to_string(steps) + (steps == 1 ? " correction" : " corrections");
  switch (end) {
    case RefinementEnd::accepted:
      return "accepted after " + made + "; " + numbers;
    case RefinementEnd::not_reduced:
      return "refused: the residual did not decrease in correction " + std::to_string(steps) + "; " + numbers;
    case RefinementEnd::not_finite:
      return "refused: a number that is not finite after " + made;
    case RefinementEnd::steps_used_up:
      return "refused: " + made + " were not enough; " + numbers;
  }
  return "";
}

RefinementOutcome refine(const RefinementProblem& problem, std::span<double> x) {
  const std::size_t p = problem.b.size();
  std::vector<double> r(problem.b.begin(), problem.b.end()), e(p);
  const double norm_b = norm(problem.b), unit = norm_b > 0.0 ? norm_b : 1.0;
  RefinementOutcome outcome;
  std::fill(x.begin(), x.end(), 0.0);
  double before = std::numeric_limits<double>::infinity();
  for (;; ++outcome.steps) {
    problem.correct(r, e);
    for (std::size_t i = 0; i < p; ++i) x[i] += e[i];
    problem.multiply(x, r);
    for (std::size_t i = 0; i < p; ++i) r[i] = problem.b[i] - r[i];
    const double residual = norm(r);
    const double band = gamma(static_cast<double>(p) + 1.0) * (problem.norm_a * norm(x) + norm_b);
    const double tolerance = std::max(kRefinementTolerance * norm_b, band);
    outcome.residual = residual / unit;
    outcome.tolerance = tolerance / unit;
    if (!std::isfinite(residual) || !std::isfinite(norm(x))) {
      outcome.end = RefinementEnd::not_finite;
      return outcome;
    }
    if (residual <= tolerance) {
      outcome.end = RefinementEnd::accepted;
      return outcome;
    }
    if (outcome.steps > 0 && !(residual < before)) {
      outcome.end = RefinementEnd::not_reduced;
      return outcome;
    }
    if (outcome.steps >= problem.max_steps) {
      outcome.end = RefinementEnd::steps_used_up;
      return outcome;
    }
    before = residual;
  }
}

bool refinement_can_succeed(double kappa, int steps) noexcept {
  return std::pow(kappa * 0x1p-24, steps + 1) <= kRefinementTolerance;
}

}  // namespace arrowschur::policy
