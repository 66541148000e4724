// 1-norm of a symmetric operator known by its products: N. J. Higham, FORTRAN codes for estimating the one-norm of a
// real or complex matrix, ACM Trans. Math. Softw. 14(4), 1988 (Algorithm 674), for F = F'. A lower bound, almost always
// within a factor of 3.
#pragma once

#include <cmath>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

// apply(x): x <- F x in place, n entries. x, sign are scratch of n doubles each. At most 2 + 2 iterations products.
template <class Apply>
double estimate_norm1(Index n, double* x, double* sign, Apply&& apply, int iterations = 2) {
  if (n == 0) return 0.0;
  const auto norm1 = [&] {
    double s = 0.0;
    for (Index i = 0; i < n; ++i) s += std::abs(x[i]);
    return s;
  };
  for (Index i = 0; i < n; ++i) x[i] = 1.0 / static_cast<double>(n);
  apply(x);
  double estimate = norm1();
  if (n == 1) return estimate;
  Index previous = -1;
  for (int it = 0; it < iterations; ++it) {
    for (Index i = 0; i < n; ++i) x[i] = sign[i] = x[i] >= 0.0 ? 1.0 : -1.0;
    apply(x);  // the gradient of |F x|_1
    Index best = 0;
    for (Index i = 1; i < n; ++i) {
      if (std::abs(x[i]) > std::abs(x[best])) best = i;
    }
    if (best == previous) break;
    previous = best;
    for (Index i = 0; i < n; ++i) x[i] = 0.0;
    x[best] = 1.0;
    apply(x);
    const double next = norm1();
    bool same = true;
    for (Index i = 0; i < n && same; ++i) same = (x[i] >= 0.0 ? 1.0 : -1.0) == sign[i];
    if (!(next > estimate)) break;
    estimate = next;
    if (same) break;
  }
  // A vector that the iteration cannot be fooled on.
  for (Index i = 0; i < n; ++i) {
    x[i] = (i % 2 == 0 ? 1.0 : -1.0) * (1.0 + static_cast<double>(i) / static_cast<double>(n - 1));
  }
  apply(x);
  const double other = 2.0 * norm1() / (3.0 * static_cast<double>(n));
  return other > estimate ? other : estimate;
}

}  // namespace arrowschur::linalg
