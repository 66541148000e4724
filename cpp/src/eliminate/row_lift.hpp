// Rows that fail: how much ridge each of them needs, and what is advised to the caller.
#pragma once

#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "backend/backend.hpp"

namespace arrowschur::eliminate {

struct RowFailure {
  Index row = 0;
  Index pivot_index = -1;  // -1: positive definite, but the guard is missed
  double pivot = 0.0;
  double kappa = 0.0;
};

struct Lift {
  bool ok = false;
  double ridge = 0.0;  // the row's whole ridge: what replaces ridge_t
  double last_tried = 0.0;
  double kappa = 0.0, min_pivot = 0.0;
};

// Exact factorization test of one block in float64 at a ridge, with the guard of the policy; `unit` is the unit
// roundoff of the arithmetic that will factor the row (2^-53 or 2^-24).
Lift lift_row(const ArrowSystem&, const Ridges&, Guards, double unit, const RowFailure&, Index failing_rows);

// ridge_t + suggested_bump: Gershgorin deficit, a rounding margin, and what keeps the repaired rows from draining S:
//   max over failing i of deficit_i + 2^-25 (scale_i + ridge_t + deficit_i) + 2 n_fail |B_i|_F^2 / min_j M_jj
double suggested_row_ridge(const ArrowSystem&, const Ridges&, Guards, const std::vector<RowFailure>&);

// Trusted condition of an equilibrated block: 2^26 in float64, 2^11 in float32 (1 / sqrt(eps)).
constexpr double safe_condition(double unit) { return unit < 1e-12 ? 0x1p26 : 0x1p11; }

}  // namespace arrowschur::eliminate
