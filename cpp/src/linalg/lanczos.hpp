// Extreme eigenvalues of a symmetric operator known by its products.
#pragma once

#include <functional>
#include <span>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

inline constexpr int kLanczosSteps = 32;

struct Extremes {
  double smallest = 0.0, largest = 0.0;
};

// Of the symmetric tridiagonal matrix with this diagonal and off_diagonal (one entry less, the rest is ignored).
Extremes tridiagonal_extremes(std::span<const double> diagonal, std::span<const double> off_diagonal);

// Ritz values of Lanczos with full reorthogonalisation from a fixed start vector; inside the spectrum, and the ends of it
// when k <= steps. apply: y = F x. Scratch: (steps + 1) k. k >= 1.
Extremes extreme_eigenvalues(Index k, const std::function<void(const double* x, double* y)>& apply,
                             int steps = kLanczosSteps);

}  // namespace arrowschur::linalg
