#include "border/trust_region.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "border/pcg.hpp"

namespace arrowschur::border {

void step_within(Index k, double* x, const TrustRegionOptions& trust, backend::BorderAccount& account,
                 const std::function<void(double*)>& solve, const std::function<void(const double*, double*)>& apply) {
  if (!trust.bounded()) return solve(x);
  const std::vector<double> rhs(x, x + k);
  solve(x);
  double norm_sq = 0.0;
  for (Index j = 0; j < k; ++j) norm_sq += x[j] * x[j];
  if (std::sqrt(norm_sq) <= *trust.radius) return;

  PcgProblem problem;
  problem.k = k;
  problem.apply = apply;
  problem.rhs = rhs.data();
  problem.relative_tolerance = trust.relative_tolerance;
  problem.max_iterations = trust.max_iterations;
  problem.radius = *trust.radius;
  PcgWorkspace workspace(k);
  const PcgOutcome outcome = pcg(problem, x, workspace);
  account.pcg = diagnostics_of(outcome, "none");
  account.boundary =
      true;  // also where the budget or the tolerance ended it inside: a refinement would leave the region
  account.truncated = outcome.stop == PcgStop::max_iter;
}

}  // namespace arrowschur::border
