// What validation says: helpers that name the part, the place and the rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>

#include "arrowschur/error.hpp"
#include "system/format.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur::validate {

inline std::string index_text(std::initializer_list<Index> index) {
  std::string text = "[";
  for (const Index i : index) text += (text.size() > 1 ? ", " : "") + std::to_string(i);
  return text + "]";
}

inline void require_buffer(const void* data, Index entries, const char* name) {
  if (data == nullptr && entries > 0) {
    throw InvalidArgument(name, "a null pointer", "a buffer of " + std::to_string(entries) + " entries");
  }
}

inline void require_bytes(Index entries, DType dtype, const char* what) {
  const Index size = static_cast<Index>(size_of(dtype));
  if (entries > std::numeric_limits<Index>::max() / size) throw_overflow(what);
}

[[noreturn]] inline void throw_not_finite(const char* name, double value, const std::string& where) {
  throw InvalidArgument(name, describe(value) + " at " + where, "finite entries");
}

[[noreturn]] inline void throw_asymmetric(const char* name, const std::string& where, double difference, double scale,
                                          double tolerance) {
  throw InvalidArgument(
      name, where + "with max|X - X'| = " + format_number(difference) + " and max|X| = " + format_number(scale),
      "symmetric blocks (max|X - X'| <= " + format_number(tolerance) + " max|X|), or symmetry='average' or 'lower'");
}

template <class T>
bool asymmetric(const SymmetryFacts& f) {
  return f.difference > kSymmetryTolerance<T> * f.scale;
}

// max |X - X'| and max |X| of one small block.
template <class T>
SymmetryFacts examine_block(const T* x, Index d) {
  SymmetryFacts f;
  for (Index r = 0; r < d; ++r) {
    for (Index c = 0; c < r; ++c) {
      const double a = static_cast<double>(x[r * d + c]), b = static_cast<double>(x[c * d + r]);
      f.difference = std::max(f.difference, std::fabs(a - b));
      f.scale = std::max({f.scale, std::fabs(a), std::fabs(b)});
    }
    f.scale = std::max(f.scale, std::fabs(static_cast<double>(x[r * d + r])));
  }
  return f;
}

inline constexpr Index kSmallBlock = 64;  // blocks from this size on take the cache-blocked passes of a matrix

}  // namespace arrowschur::validate
