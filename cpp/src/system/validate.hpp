// What an input must be: finiteness, symmetry, ridges.
//
// Finiteness and symmetry are one pass over the data at memory bandwidth; the index of a bad entry is looked for only
// after the pass has found that there is one.
#pragma once

#include <optional>
#include <string>

#include "arrowschur/options.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur::validate {

// Throws InvalidArgument for a broken rule of an option struct.
void require(const std::optional<Complaint>&);

// Ridges finite and >= 0; dampings empty or of the right length, finite and >= 0. Throws InvalidArgument.
void require_ridges(const Ridges&, Index total_dim, Index k);

// Largest relative asymmetry that Symmetry::check accepts: 1e-10, in float32 64 epsilons (7.6e-6).
template <class T>
inline constexpr double kSymmetryTolerance = sizeof(T) == 8 ? 1e-10 : 64 * 0x1p-23;

// First entry that is not finite, or -1. Parallel when x is large.
template <class T>
Index first_non_finite(const T* x, Index size);

struct SymmetryFacts {
  bool finite = true;
  double difference = 0.0;  // max |X - X'|
  double scale = 0.0;       // max |X|
};

// One cache-blocked pass over a square matrix; entries that are not finite are skipped in the maxima.
template <class T>
SymmetryFacts examine_square(const T* x, Index k);

// out = (x + x')/2, exactly symmetric.
template <class T>
void average_square(const T* x, Index k, T* out);

// "nan", "inf", "-inf" or digits.
std::string describe(double value);

}  // namespace arrowschur::validate
