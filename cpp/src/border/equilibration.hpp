// What every Cholesky factor of S shares: the scaling of spec E1 and the advice after a failure.
//
// E = D^-1 S D^-1 with d_a = 2^round(log2 sqrt(max(|S_aa|, f_a))), f_a = 8 eps (|M_aa| + |M_aa - S_aa|): powers of two
// scale exactly, so the factor of E is D^-1 L entry by entry and bit by bit. D therefore enters the condition estimate
// only, unless its exponents are so large that squares of entries of L could over- or underflow.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/buffer.hpp"
#include "linalg/lanczos.hpp"

namespace arrowschur::border {

struct Equilibration {
  linalg::Buffer<double> inverse;  // 1 / d_a
  bool needed = false;             // factor E itself
};

// s(a) = S_aa and m(a) = M_aa, both with the shift.
template <class T, class S, class M>
Equilibration equilibrate(Index k, const S& s, const M& m) {
  constexpr int range = std::numeric_limits<T>::max_exponent / 4;
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  Equilibration e{linalg::Buffer<double>(k), false};
  for (Index a = 0; a < k; ++a) {
    const double size = std::max(std::abs(s(a)), 8.0 * eps * (std::abs(m(a)) + std::abs(m(a) - s(a))));
    const int exponent = size > 0.0 && std::isfinite(size) ? static_cast<int>(std::lround(0.5 * std::log2(size))) : 0;
    e.inverse[a] = std::ldexp(1.0, -exponent);
    e.needed = e.needed || std::abs(exponent) > range;
  }
  return e;
}

// The next ridge_beta. Absolute guards: the Gershgorin edge of S; s(a) = S_aa, sums[a] the |S_ab| beside it.
template <class S>
double gershgorin_ridge(Index k, const S& s, const double* sums, double ridge_beta) {
  double edge = std::numeric_limits<double>::infinity(), scale = 0.0;
  for (Index a = 0; a < k; ++a) {
    edge = std::min(edge, s(a) - sums[a]);
    scale = std::max(scale, std::abs(s(a)));
  }
  const double deficit = std::max(0.0, -edge);
  return ridge_beta + deficit + static_cast<double>(k) * 0x1p-25 * (scale + ridge_beta + deficit);
}

// Relative guards: from the extreme eigenvalues, so that the most negative curvature -c becomes about +c. `relative` is
// what the spectral radius is divided by, for a matrix that is singular but not indefinite.
inline double curvature_ridge(linalg::Extremes of_s, double ridge_beta, double relative = 0x1p26) {
  const double radius = std::max(std::abs(of_s.smallest), std::abs(of_s.largest));
  return ridge_beta + 2.0 * std::max(0.0, -of_s.smallest) + radius / relative;
}

}  // namespace arrowschur::border
