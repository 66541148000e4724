#include "border/solver.hpp"

#include "border/trust_region.hpp"

namespace arrowschur::border {
void Solver::step(double* x, const TrustRegionOptions& trust, BorderAccount& account) const {
  BorderAccount* const own = &account;
  step_within(
      k_, x, trust, account, [&](double* y) { solve(y, 1, own); }, [&](const double* v, double* y) { apply(v, y, 1); });
}
bool Solver::latent_blocks(const eliminate::RowFactors<double>&, std::span<const Index>, double*) const {
  return false;
}
}  // namespace arrowschur::border
