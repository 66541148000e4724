// Reductions whose order is fixed by the shape, never by the thread schedule.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/pool.hpp"

namespace arrowschur::linalg {

// The larger one; NaN when either is: a maximum that certifies something must not overlook it.
inline double worse(double a, double b) { return b > a || std::isnan(b) ? b : a; }

// max |x_i|, NaN when some entry is. Lanes of their own: a single maximum would wait for itself.
inline double max_abs(const double* x, Index size) {
  constexpr Index kLanes = 8;
  double lanes[kLanes] = {};
  bool nan = false;
  Index i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (Index j = 0; j < kLanes; ++j) {
      const double v = std::abs(x[i + j]);
      lanes[j] = v > lanes[j] ? v : lanes[j];
      nan |= v != v;
    }
  }
  double m = nan ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  for (const double v : lanes) m = worse(m, v);
  for (; i < size; ++i) m = worse(m, std::abs(x[i]));
  return m;
}

// out[j] = sum of groups partials [stride apart] in group order, j < k.
template <class T>
void sum_partials(Index k, Index groups, Index stride, const T* partial, double* out) {
  constexpr Index kBlock = 512;
  parallel_for_if(groups * k >= kParallelWork, (k + kBlock - 1) / kBlock, [&](Index b) {
    const Index begin = b * kBlock, end = std::min(k, begin + kBlock);
    std::fill(out + begin, out + end, 0.0);
    for (Index g = 0; g < groups; ++g) {
      const T* p = partial + g * stride;
      for (Index j = begin; j < end; ++j) out[j] += static_cast<double>(p[j]);
    }
  });
}

}  // namespace arrowschur::linalg
