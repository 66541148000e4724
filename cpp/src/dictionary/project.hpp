// Rows of norm 1: from float64 to float, rounded once.
#pragma once

#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur::dictionary {

// d [k, p] = the rows of x [k, p] with `wanted`, divided by their norm, the first component beyond 1e-9 made positive; a
// row of norm <= 1e-12 times the largest of the wanted becomes zeros (dormant). Other rows of d are left alone. False
// when a norm is not finite.
[[nodiscard]] bool project(const double* x, Index k, Index p, const std::vector<char>& wanted, float* d);

// The same for one row, whose norm decides nothing.
void project_row(const double* x, Index p, double norm, float* d);

}  // namespace arrowschur::dictionary
