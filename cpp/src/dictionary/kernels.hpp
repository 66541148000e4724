// The inner loops of the dictionary trainer, compiled once per instruction set (dictionary/kernels_*.cpp).
//
// s64(a, b), the exact-order dot of two float vectors: eight float64 lanes, lane l sums the products at positions l,
// l + 8, l + 16, ... in ascending order, and the result is ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)). A product of
// two floats is exact in float64, so that fused and unfused arithmetic, and padding by zeros, give the same bits: every
// instruction set returns the same number.
#pragma once

#include <cstdint>

#include "arrowschur/types.hpp"

namespace arrowschur::dictionary {

inline constexpr Index kLanes = 8;
constexpr Index padded(Index n) noexcept { return (n + kLanes - 1) / kLanes * kLanes; }

struct Kernels {
  const char* name;
  double (*s64)(const float* a, const float* b, Index n);
  // out[0, padded(n)): x, then zeros.
  void (*widen)(const float* x, Index n, double* out);
  // out[j] = s64(x, row index[j] of d), x widened, rows n apart; index null: rows 0 .. count - 1.
  void (*dots)(const double* x, const float* d, Index n, const std::uint32_t* index, Index count, double* out);
  // out[j] = s64(x, w_j), both widened; w_j at w + j padded(n).
  void (*dots_wide)(const double* x, const double* w, Index n, Index count, double* out);
  // The lanes of s64 on float64 values, products rounded.
  double (*square_norm)(const double* x, Index n);
  // b += sum_j c_j x_j, the terms of an entry added in ascending j; c_j a float widened, so that products are exact.
  void (*add_rows)(double* b, Index n, const float* const* x, const double* c, Index count);
  // A lower bound of the `want`-th largest |s[i]|: that of the maxima of 16 vectors interleaved lanes (equal ones count as
  // one), 0 when there are fewer. want <= 16 vectors, vectors <= 8.
  float (*nth_magnitude)(const float* s, Index n, Index vectors, Index want);
  // Appends first + i and |s[i]| of the entries with |s[i]| >= threshold, ascending; returns how many.
  Index (*at_least)(const float* s, Index n, float threshold, std::uint32_t first, std::uint32_t* index, float* value);
  // out = b - sum_j c_j g_j in float, for scores that only discard.
  void (*subtract_rows)(const float* b, Index n, const float* const* g, const float* c, Index count, float* out);
};

const Kernels& kernels() noexcept;  // of the instruction set in use (linalg::instruction_set)

}  // namespace arrowschur::dictionary
