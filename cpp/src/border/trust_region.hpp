// The border step of an exact factor within a trust region (arrow_schur 9.5).
#pragma once

#include <functional>

#include "arrowschur/options.hpp"
#include "backend/backend.hpp"

namespace arrowschur::border {

// x [k] <- S^-1 x when that lies inside the radius; else truncated CG on S without preconditioner, which ends on the
// boundary (account.boundary, account.pcg). One solve, and at most trust.max_iterations products.
void step_within(Index k, double* x, const TrustRegionOptions& trust, backend::BorderAccount& account,
                 const std::function<void(double*)>& solve, const std::function<void(const double*, double*)>& apply);

}  // namespace arrowschur::border
