// M + diag(shift) = R R' for the preconditioners that split S = M - W'W: the cheap factor of the border's structure, or
// a dense Cholesky factor where that is small beside everything else.
#pragma once

#include <memory>
#include <string>

#include "border/preconditioner.hpp"
#include "system/border.hpp"

namespace arrowschur::border {

// Null with the reason in `why`.
std::unique_ptr<BorderFactor> border_root(const PreconditionerInputs&, std::string& why);

// x <- R^-1 x and x <- R^-T x, x [k, m], columns on all threads.
void solve_lower(const BorderFactor&, Index k, double* x, Index m);
void solve_upper(const BorderFactor&, Index k, double* x, Index m);

}  // namespace arrowschur::border
