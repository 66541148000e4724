// How much ridge a row block lacks, from Gershgorin's discs.
//
// For a symmetric block A (d x d) at ridge_t the discs give
//     lambda_min(A + ridge_t I) >= edge + ridge_t,     edge = min_i (a_ii - sum_{j != i} |a_ij|),
// so that `deficit` = max(0, -(edge + ridge_t)) makes the shifted block semidefinite; computing edge and adding the ridge
// rounds by at most gamma_{d+1} (rowsum + |ridge_t|), which is added to it. Cholesky of a block with unit diagonal scale
// runs to completion when the smallest eigenvalue exceeds c = d gamma_{d+1} / (1 - gamma_{d+1}) times the scale (Higham,
// Accuracy and Stability, theorem 10.7; Demmel); `rel` counts the rounding of the shifted diagonal on top of c, and the
// shift itself enters the scale, hence rel / (1 - rel).
//
// Host and devices evaluate the same expressions in the same order: no multiplication here is fused with an addition.
#pragma once

#include <cmath>

#include "linalg/host_device.hpp"

namespace arrowschur::linalg {

struct Discs {
  double edge;  // min_i (a_ii - sum_{j != i} |a_ij|)
  double rowsum;  // max_i sum_j |a_ij|
  double scale;  // max(1, max_i |a_ii|)
};

// entry(i, j) of the block, in any order that is symmetric. A NaN is overlooked: the bump of a block that has one means
// nothing, but must not hide that of another.
template <class Entry>
ARROWSCHUR_HD inline Discs discs_of(int d, const Entry& entry) {
  Discs discs{HUGE_VAL, 0.0, 1.0};
  for (int i = 0; i < d; ++i) {
    double off = 0.0;
    for (int j = 0; j < d; ++j) {
      if (j != i) off += std::fabs(entry(i, j));
    }
    const double diagonal = entry(i, i), size = std::fabs(diagonal);
    if (diagonal - off < discs.edge) discs.edge = diagonal - off;
    if (size + off > discs.rowsum) discs.rowsum = size + off;
    if (size > discs.scale) discs.scale = size;
  }
  return discs;
}

ARROWSCHUR_HD inline double deficit(const Discs& discs, double ridge_t) {
  const double lacking = -(discs.edge + ridge_t);
  return lacking > 0.0 ? lacking : 0.0;
}

ARROWSCHUR_HD inline double gamma_of(int m) {
  constexpr double kUnit = 0x1p-53;
  return static_cast<double>(m) * kUnit / (1.0 - static_cast<double>(m) * kUnit);
}

// The block at ridge_t + bump factors.
ARROWSCHUR_HD inline double ridge_bump(const Discs& discs, int d, double ridge_t) {
  const double gamma = gamma_of(d + 1), gamma_2 = gamma_of(2), ridge = std::fabs(ridge_t);
  const double lacking = deficit(discs, ridge_t) + gamma * (discs.rowsum + ridge);
  const double c = static_cast<double>(d) * gamma / (1.0 - gamma), rel = c * (1.0 + gamma_2) + gamma_2;
  const double margin = rel / (1.0 - rel) * (discs.scale + ridge + lacking);
  return lacking + margin;
}

// A row that is made barely positive definite has a huge inverse, which would leave the border hopelessly indefinite.
// The advice therefore clears the solver's relative pivot guard (twice over), and `drain` = 2 failing rows / smallest
// border diagonal lets the repaired rows together take at most half of that diagonal.
ARROWSCHUR_HD inline double suggested_bump(const Discs& discs, double ridge_t, double drain,
                                           double cross_norm_squared) {
  constexpr double kPivotGuard = 0x1p-25;
  const double lacking = deficit(discs, ridge_t);
  return lacking + kPivotGuard * (discs.scale + std::fabs(ridge_t) + lacking) + drain * cross_norm_squared;
}

}  // namespace arrowschur::linalg
