// Arithmetic of one row block, every product fused with its sum (std::fma), so that host and device agree in each bit.
//
//     A + ridge I = L L'      l_jj = sqrt(a_jj + ridge - sum_{q<j} l_jq^2)      l_rj = (a_rj - sum_{q<j} l_rq l_jq) / l_jj
//
// Divisions are products with the reciprocals 1 / l_jj, which are kept. Sums run over q upwards.
#pragma once

#include "backend/device_api.h"
#include "kernel.hpp"

namespace arrowschur::kernels {

// Where a block of a group lies.
ARROWSCHUR_HD inline std::int64_t line_of(const ArrowschurDeviceRows& rows, std::int64_t j) {
  return rows.line != nullptr ? rows.line[j] : j * rows.d;
}
ARROWSCHUR_HD inline std::int64_t entry_of(const ArrowschurDeviceRows& rows, std::int64_t j) {
  return rows.entry != nullptr ? rows.entry[j] : j * rows.d * rows.d;
}
ARROWSCHUR_HD inline std::int64_t row_of(const ArrowschurDeviceRows& rows, std::int64_t j) {
  return rows.row != nullptr ? rows.row[j] : j;
}

// Entry (i, j) of a symmetric block, from its lower triangle.
struct LowerEntry {
  const double* a;  // row-major, d x d
  int d;
  ARROWSCHUR_HD double operator()(int i, int j) const { return i >= j ? a[i * d + j] : a[j * d + i]; }
};

ARROWSCHUR_HD inline bool good_pivot(double pivot) { return pivot > 0.0 && pivot < HUGE_VAL; }

// start - sum_{q < count} a_q b_q
ARROWSCHUR_HD inline double minus_products(double start, const double* a, const double* b, int count) {
  for (int q = 0; q < count; ++q) start = std::fma(-a[q], b[q], start);
  return start;
}

// ---- in registers -------------------------------------------------------------------------------------------------------
// Arrays stay in registers where every index is known to the compiler: all loops below run to D, whatever part of it is
// meant, and are unrolled from the inside out; the conditions are decided then.

// The lower triangle by rows, without gaps.
ARROWSCHUR_HD constexpr int packed_at(int r, int c) { return r * (r + 1) / 2 + c; }

// Lower triangle of A in, L out; 1 / l_jj to `inverse`. The first pivot that is not positive and finite, or -1. Goes on
// after it, with numbers that mean nothing.
template <int D>
ARROWSCHUR_HD inline int cholesky(double (&l)[D * (D + 1) / 2], double ridge, double (&inverse)[D]) {
  int bad = -1;
  ARROWSCHUR_UNROLL
  for (int j = 0; j < D; ++j) {
    double pivot = l[packed_at(j, j)] + ridge;
    ARROWSCHUR_UNROLL
    for (int q = 0; q < D; ++q) {
      if (q < j) pivot = std::fma(-l[packed_at(j, q)], l[packed_at(j, q)], pivot);
    }
    if (bad < 0 && !good_pivot(pivot)) bad = j;
    l[packed_at(j, j)] = std::sqrt(pivot);
    inverse[j] = 1.0 / l[packed_at(j, j)];
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r > j) {
        double sum = l[packed_at(r, j)];
        ARROWSCHUR_UNROLL
        for (int q = 0; q < D; ++q) {
          if (q < j) sum = std::fma(-l[packed_at(r, q)], l[packed_at(j, q)], sum);
        }
        l[packed_at(r, j)] = sum * inverse[j];
      }
    }
  }
  return bad;
}

// x = L^-1 x for the first d <= D entries; L row-major with lines of d entries.
template <int D>
ARROWSCHUR_HD inline void forward(const double* l, const double* inverse, int d, double (&x)[D]) {
  ARROWSCHUR_UNROLL
  for (int r = 0; r < D; ++r) {
    if (r < d) {
      ARROWSCHUR_UNROLL
      for (int q = 0; q < D; ++q) {
        if (q < r) x[r] = std::fma(-l[r * d + q], x[q], x[r]);
      }
      x[r] *= inverse[r];
    }
  }
}

// x = L^-T x: from the last entry up.
template <int D>
ARROWSCHUR_HD inline void backward(const double* l, const double* inverse, int d, double (&x)[D]) {
  ARROWSCHUR_UNROLL
  for (int from_last = 0; from_last < D; ++from_last) {
    const int r = D - 1 - from_last;
    if (r < d) {
      ARROWSCHUR_UNROLL
      for (int q = 0; q < D; ++q) {
        if (q > r && q < d) x[r] = std::fma(-l[q * d + r], x[q], x[r]);
      }
      x[r] *= inverse[r];
    }
  }
}

// The same in the same order, where x has too many entries for registers; they lie `stride` apart.
ARROWSCHUR_HD inline void backward(const double* l, const double* inverse, int d, double* x, int stride) {
  for (int r = d - 1; r >= 0; --r) {
    double value = x[r * stride];
    for (int q = r + 1; q < d; ++q) value = std::fma(-l[q * d + r], x[q * stride], value);
    x[r * stride] = value * inverse[r];
  }
}

}  // namespace arrowschur::kernels
