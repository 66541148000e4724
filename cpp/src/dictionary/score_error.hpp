// How far a float score may lie from the true one, for the host and for a device (filter.hpp has the derivation).
#pragma once

#include <cmath>
#include <cstdint>

#include "linalg/host_device.hpp"

namespace arrowschur::dictionary {

// eps = gamma |x| (1 + 2^-16) + P 2^-126, gamma = P u / (1 - P u), u = 2^-24, for a row of norm |x|, P columns, and atoms
// of norm up to 1 + 2^-16, which is more than a Model lets pass; the second term is that of underflow. From 2^23 columns on
// the bound says nothing: infinity. 0 for a row of zeros.
ARROWSCHUR_HD inline double score_error(double norm, std::int64_t width) noexcept {
  const auto p = static_cast<double>(width);
  const double pu = p * 0x1p-24;
  const double gamma = pu < 0.5 ? pu / (1.0 - pu) : HUGE_VAL;
  return norm == 0.0 ? 0.0 : gamma * norm * (1.0 + 0x1p-16) + p * 0x1p-126;
}

}  // namespace arrowschur::dictionary
