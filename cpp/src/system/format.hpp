// Numbers in messages.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <limits>
#include <string>

#include "arrowschur/types.hpp"

namespace arrowschur {

inline std::string format_number(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", x);
  return text;
}

// A byte count that does not fit is stored as the largest Index.
inline std::string format_bytes(Index bytes) {
  if (bytes == std::numeric_limits<Index>::max()) return "more than 9.2e18 bytes";
  char text[64];
  if (bytes < 10'000'000) {
    std::snprintf(text, sizeof text, "%" PRId64 " bytes", bytes);
  } else {
    std::snprintf(text, sizeof text, "%" PRId64 " bytes (%.3g GB)", bytes, static_cast<double>(bytes) * 1e-9);
  }
  return text;
}

}  // namespace arrowschur
