// Peak memory of a route as one formula, for plan, limit and test alike.
#pragma once

#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"

namespace arrowschur {

// Bytes of workspace and factor that the direct route holds at its peak, beyond the caller's data. An upper estimate:
// it assumes one bucket of rows of the largest size. Saturates at the largest Index.
Index direct_peak_bytes(const ProblemShape&, const SolveOptions&) noexcept;

}  // namespace arrowschur
