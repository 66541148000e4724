// Cholesky factors of `kRows` row blocks of depth d <= D, by one block of threads, into shared memory.
//
// Up to depth 8 a thread has a row block in registers: one phase. Above, a warp has one, a lane for each line: the lower
// triangle is loaded, then each column takes two phases. Where the row blocks lie, and who hears of a bad pivot, is said by
//
//     struct Source {
//       int count;                                   // row blocks that are there, of kRows
//       const double* block(int slot) const;         // row-major, lower triangle
//       void failed(int slot, int pivot) const;      // the first pivot that is not positive and finite
//     };
#pragma once

#include "geometry.hpp"
#include "linalg/gershgorin.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

// A row without a factor, in the record of its build.
ARROWSCHUR_HD inline void report_row(ArrowschurBuildRecord* record, std::int64_t row, int pivot, const double* a, int d,
                                     double ridge) {
  atomic_or(&record->failed, ARROWSCHUR_ROWS_FAILED);
  atomic_add(&record->failing_rows, 1);
  atomic_min(&record->first_failure, static_cast<std::uint64_t>(row) << 8 | static_cast<std::uint64_t>(pivot));
  const LowerEntry entry{a, d};
  atomic_max(&record->bump, linalg::ridge_bump(linalg::discs_of(d, entry), d, ridge));
}

template <int D, int kBlocks>
struct BlockFactors {
  static constexpr int kRows = kBlocks;
  static constexpr bool kInRegisters = D <= kExactDepths;

  // Shared memory: the factors, row-major with lines of d, their reciprocal diagonals, their first bad pivots (-1: none).
  // Above depth 8 the diagonal of a factor holds the squared pivots.
  static constexpr int kInverse = kRows * D * D;
  static constexpr int kPivot = kInverse + kRows * D;
  static constexpr int kShared = kPivot + kRows;

  ARROWSCHUR_HD static constexpr int phases(int d) { return kInRegisters ? 1 : 2 * d + 1; }

  ARROWSCHUR_HD static const double* factor_of(const double* shared, int slot) { return shared + slot * D * D; }
  ARROWSCHUR_HD static const double* inverse_of(const double* shared, int slot) { return shared + kInverse + slot * D; }
  ARROWSCHUR_HD static bool failed(const double* shared, int slot) { return shared[kPivot + slot] >= 0.0; }

  template <class Source>
  ARROWSCHUR_HD static void run(int phase, int thread, int threads, int d, double ridge, double* shared,
                                const Source& source) {
    if constexpr (kInRegisters) {
      if (thread < source.count) whole(thread, ridge, shared, source);
    } else {
      if (phase == 0) return load(thread, threads, d, shared, source);
      const int slot = thread / 32;
      if (slot < source.count) column(phase, slot, thread % 32, d, ridge, shared, source);
    }
  }

 private:
  // One thread, one block, in registers.
  template <class Source>
  ARROWSCHUR_HD static void whole(int slot, double ridge, double* shared, const Source& source) {
    if constexpr (kInRegisters) {
      const double* const a = source.block(slot);
      double l[D * (D + 1) / 2], inverse[D];
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        ARROWSCHUR_UNROLL
        for (int c = 0; c < D; ++c) {
          if (c <= r) l[packed_at(r, c)] = a[r * D + c];
        }
      }
      const int pivot = cholesky<D>(l, ridge, inverse);
      shared[kPivot + slot] = pivot;
      if (pivot >= 0) source.failed(slot, pivot);
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        shared[kInverse + slot * D + r] = pivot < 0 ? inverse[r] : quiet_nan();
        ARROWSCHUR_UNROLL
        for (int c = 0; c < D; ++c) {
          if (c <= r) shared[slot * D * D + r * D + c] = pivot < 0 ? l[packed_at(r, c)] : quiet_nan();
        }
      }
    } else {
      (void)slot, (void)ridge, (void)shared, (void)source;
    }
  }

  // Lower triangles to shared memory.
  template <class Source>
  ARROWSCHUR_HD static void load(int thread, int threads, int d, double* shared, const Source& source) {
    for (int e = thread; e < source.count * d * d; e += threads) {
      const int slot = e / (d * d), r = e % (d * d) / d, c = e % d;
      if (c <= r) shared[slot * D * D + r * d + c] = source.block(slot)[r * d + c];
    }
    if (thread < kRows) shared[kPivot + thread] = -1.0;
  }

  // Column j in two phases. First every line r >= j subtracts its products with the columns before j; then the lines below
  // are divided. The diagonal entry stays the pivot itself, since all of them read it.
  template <class Source>
  ARROWSCHUR_HD static void column(int phase, int slot, int r, int d, double ridge, double* shared,
                                   const Source& source) {
    const int j = (phase - 1) / 2;
    if (r < j || r >= d) return;
    double* const l = shared + slot * D * D;
    if (phase % 2 == 1) {
      const double start = r == j ? l[j * d + j] + ridge : l[r * d + j];
      l[r * d + j] = minus_products(start, l + r * d, l + j * d, j);
      return;
    }
    const double pivot = l[j * d + j], inverse = 1.0 / std::sqrt(pivot);
    if (r > j) {
      l[r * d + j] *= inverse;
      return;
    }
    shared[kInverse + slot * D + j] = inverse;
    double& bad = shared[kPivot + slot];
    if (!good_pivot(pivot) && bad < 0.0) {
      bad = j;
      source.failed(slot, j);
    }
  }
};

}  // namespace arrowschur::kernels
