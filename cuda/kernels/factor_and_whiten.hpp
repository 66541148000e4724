// E1 and E2: A_i + ridge_t I = L_i L_i', W_i = L_i^-1 B_i, one kernel for each group of equal depth.
//
// A block has `kRows` row blocks and a tile of columns. It factors its row blocks (again for each tile: d^3 / 3 against
// d^2 x tile), then each of its threads has `kColumns` neighbouring columns and solves forward in registers, with L read
// by all threads at once from shared memory. B is read once, W written once.
#pragma once

#include "geometry.hpp"
#include "linalg/gershgorin.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

struct ResetRecord {
  static constexpr int kThreads = 32;
  struct Args {
    ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args&) { return {1, 0, 1}; }
  ARROWSCHUR_HD static void run(int, std::int64_t, int thread, double*, const Args& args) {
    if (thread != 0) return;
    ArrowschurBuildRecord& record = *args.record;
    record.failed = 0;
    record.border_pivot = -1;
    record.failing_rows = 0;
    record.first_failure = ~std::uint64_t{0};
    record.bump = record.suggested_bump = 0.0;
    record.log_det = record.smallest_pivot = quiet_nan();  // not known yet
    record.reserved = 0.0;
  }
};

struct WhitenArgs {
  ArrowschurDeviceRows rows;
  std::int64_t k;
  double ridge;
  const double* a;
  const double* b;
  double* l;
  double* inverse_diagonal;
  double* w;
  ArrowschurBuildRecord* record;
};

template <int D>
struct FactorAndWhiten {
  using Args = WhitenArgs;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kRows = D <= 16 ? 32 / D : 1;  // row blocks of a block
  static constexpr int kColumns = D <= 16 ? 2 : 1;  // 2 x 32 numbers would be half of all registers
  static constexpr int kResident = D <= 2 ? 5 : D <= 4 || D == 12 || D == 16 ? 4 : 2;
  static constexpr bool kInRegisters = D <= kExactDepths;

  // Shared memory: the factors, row-major with lines of d, their reciprocal diagonals, their first bad pivots (-1: none).
  static constexpr int kInverse = kRows * D * D;
  static constexpr int kPivot = kInverse + kRows * D;
  static constexpr int kShared = kPivot + kRows;

  ARROWSCHUR_HD static constexpr std::int64_t tiles(std::int64_t k) {
    return larger(1, ceil_div(k, kColumns * kThreads));
  }

  static Launch launch(const Args& args) {
    return {ceil_div(args.rows.n, kRows) * tiles(args.k), kShared, kInRegisters ? 2 : 2 * args.rows.d + 2};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const int d = kInRegisters ? D : args.rows.d;
    const std::int64_t count = tiles(args.k), tile = block % count, first = block / count * kRows;
    const int last = kInRegisters ? 1 : 2 * d + 1;
    if (phase == last) {
      if (tile == 0) store(first, thread, d, shared, args);
      return whiten(first, tile, thread, d, shared, args);
    }
    if constexpr (kInRegisters) {
      if (thread < kRows && first + thread < args.rows.n) factor(first, tile, thread, shared, args);
    } else {
      if (phase == 0) return load(first, thread, d, shared, args);
      // A warp for each row block, a lane for each of its lines.
      const int slot = thread / 32;
      if (slot < kRows && first + slot < args.rows.n) column(phase, first, tile, slot, thread % 32, d, shared, args);
    }
  }

 private:
  ARROWSCHUR_HD static void report(std::int64_t row_block, int pivot, int d, const Args& args) {
    ArrowschurBuildRecord* const record = args.record;
    const LowerEntry entry{args.a + entry_of(args.rows, row_block), d};
    atomic_or(&record->failed, ARROWSCHUR_ROWS_FAILED);
    atomic_add(&record->failing_rows, 1);
    atomic_min(&record->first_failure,
               static_cast<std::uint64_t>(row_of(args.rows, row_block)) << 8 | static_cast<std::uint64_t>(pivot));
    atomic_max(&record->bump, linalg::ridge_bump(linalg::discs_of(d, entry), d, args.ridge));
  }

  // One thread, one block, in registers.
  ARROWSCHUR_HD static void factor(std::int64_t first, std::int64_t tile, int slot, double* shared, const Args& args) {
    if constexpr (kInRegisters) {
      const double* a = args.a + entry_of(args.rows, first + slot);
      double l[D * (D + 1) / 2], inverse[D];
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        ARROWSCHUR_UNROLL
        for (int c = 0; c < D; ++c) {
          if (c <= r) l[packed_at(r, c)] = a[r * D + c];
        }
      }
      const int pivot = cholesky<D>(l, args.ridge, inverse);
      shared[kPivot + slot] = pivot;
      if (pivot >= 0 && tile == 0) report(first + slot, pivot, D, args);
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        shared[kInverse + slot * D + r] = pivot < 0 ? inverse[r] : quiet_nan();
        ARROWSCHUR_UNROLL
        for (int c = 0; c < D; ++c) {
          if (c <= r) shared[slot * D * D + r * D + c] = pivot < 0 ? l[packed_at(r, c)] : quiet_nan();
        }
      }
    } else {
      (void)first, (void)tile, (void)slot, (void)shared, (void)args;
    }
  }

  // Lower triangles to shared memory.
  ARROWSCHUR_HD static void load(std::int64_t first, int thread, int d, double* shared, const Args& args) {
    for (int e = thread; e < kRows * d * d; e += kThreads) {
      const int slot = e / (d * d), r = e % (d * d) / d, c = e % d;
      if (first + slot >= args.rows.n || c > r) continue;
      shared[slot * D * D + r * d + c] = args.a[entry_of(args.rows, first + slot) + r * d + c];
    }
    if (thread < kRows) shared[kPivot + thread] = -1.0;
  }

  // Column j in two phases. First every line r >= j subtracts its products with the columns before j; then the lines below
  // are divided. The diagonal entry stays the pivot itself, since all of them read it; its root is taken by store().
  ARROWSCHUR_HD static void column(int phase, std::int64_t first, std::int64_t tile, int slot, int r, int d,
                                   double* shared, const Args& args) {
    const int j = (phase - 1) / 2;
    if (r < j || r >= d) return;
    double* const l = shared + slot * D * D;
    if (phase % 2 == 1) {
      const double start = r == j ? l[j * d + j] + args.ridge : l[r * d + j];
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
      if (tile == 0) report(first + slot, j, d, args);
    }
  }

  ARROWSCHUR_HD static bool failed(const double* shared, int slot) { return shared[kPivot + slot] >= 0.0; }

  ARROWSCHUR_HD static void store(std::int64_t first, int thread, int d, const double* shared, const Args& args) {
    for (int e = thread; e < kRows * d * d; e += kThreads) {
      const int slot = e / (d * d), r = e % (d * d) / d, c = e % d;
      if (first + slot >= args.rows.n || c > r) continue;
      double value = shared[slot * D * D + r * d + c];
      if (!kInRegisters && r == c) value = std::sqrt(value);
      if (failed(shared, slot)) value = quiet_nan();
      args.l[entry_of(args.rows, first + slot) + r * d + c] = value;
    }
    for (int e = thread; e < kRows * d; e += kThreads) {
      const int slot = e / d, r = e % d;
      if (first + slot >= args.rows.n) continue;
      args.inverse_diagonal[line_of(args.rows, first + slot) + r] =
          failed(shared, slot) ? quiet_nan() : shared[kInverse + slot * D + r];
    }
  }

  // A row without a factor has no W: it is poisoned, but where it lies over B, which its bump is still to be taken from.
  ARROWSCHUR_HD static void whiten(std::int64_t first, std::int64_t tile, int thread, int d, const double* shared,
                                   const Args& args) {
    const std::int64_t c = (tile * kThreads + thread) * kColumns;
    if (c >= args.k) return;
    const bool even = kColumns == 2 && args.k % 2 == 0, both = kColumns == 2 && c + 1 < args.k;
    for (int slot = 0; slot < kRows && first + slot < args.rows.n; ++slot) {
      const bool bad = failed(shared, slot);
      if (bad && args.w == args.b) continue;
      const std::int64_t at = line_of(args.rows, first + slot) * args.k + c;
      const double* const l = shared + slot * D * D;
      const double* const inverse = shared + kInverse + slot * D;
      if (even) {
        solve<true>(l, inverse, d, bad, true, at, args);
      } else {
        solve<false>(l, inverse, d, bad, both, at, args);
      }
    }
  }

  template <bool kEven>
  ARROWSCHUR_HD static void solve(const double* l, const double* inverse, int d, bool bad, bool both, std::int64_t at,
                                  const Args& args) {
    double x[D], y[D];
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      const Pair b = r < d ? load_pair<kEven>(args.b + at + r * args.k, both) : Pair{0.0, 0.0};
      x[r] = b.x, y[r] = b.y;
    }
    forward<D>(l, inverse, d, x);
    if constexpr (kColumns == 2) forward<D>(l, inverse, d, y);
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r < d) {
        const Pair value = bad ? Pair{quiet_nan(), quiet_nan()} : Pair{x[r], y[r]};
        store_pair<kEven>(args.w + at + r * args.k, value, both);
      }
    }
  }
};

}  // namespace arrowschur::kernels
