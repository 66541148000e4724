// Scalar and index types shared by every public header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrowschur {

// Sizes, offsets and indices: signed, so that differences and reversed loops are safe.
using Index = std::int64_t;

// Storage type of the five parts of a system. All parts of one system have the same type; arithmetic is chosen
// separately (SolveOptions::precision).
enum class DType { float64, float32 };

constexpr std::size_t size_of(DType t) noexcept { return t == DType::float64 ? sizeof(double) : sizeof(float); }

// How h_tt and dense border blocks that are not exactly symmetric are treated (section 2.2 of the guide).
//   check:   a block with max|X - X'| > 1e-10 max|X| (float32: 64 eps, 7.6e-6) is InvalidArgument; afterwards the lower
//            triangle is the matrix
//   average: (X + X')/2, in a copy
//   lower:   the lower triangle is the matrix, nothing is checked
enum class Symmetry { check, average, lower };

}  // namespace arrowschur
