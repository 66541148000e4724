// E1 and E2: A_i + ridge_t I = L_i L_i', W_i = L_i^-1 B_i, one kernel for each group of equal depth.
//
// A block has `kRows` row blocks and a tile of columns. It factors its row blocks (again for each tile: d^3 / 3 against
// d^2 x tile), then each of its threads has `kColumns` neighbouring columns and solves forward in registers, with L read
// by all threads at once from shared memory. B is read once, W written once.
#pragma once

#include "block_factors.hpp"

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

// The row blocks of a block, `report` where their failures are to be recorded: once, not for each tile of columns.
struct WhitenSource {
  const WhitenArgs& args;
  std::int64_t first;
  int count;
  bool report;

  ARROWSCHUR_HD const double* block(int slot) const { return args.a + entry_of(args.rows, first + slot); }
  ARROWSCHUR_HD void failed(int slot, int pivot) const {
    if (report) report_row(args.record, row_of(args.rows, first + slot), pivot, block(slot), args.rows.d, args.ridge);
  }
};

template <int D>
struct FactorAndWhiten {
  using Args = WhitenArgs;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kRows = D <= 16 ? 32 / D : 1;  // row blocks of a block
  static constexpr int kColumns = D <= 16 ? 2 : 1;  // 2 x 32 numbers would be half of all registers
  static constexpr int kResident = D <= 2 ? 5 : D <= 4 || D == 12 || D == 16 ? 4 : 2;
  using Factors = BlockFactors<D, kRows>;

  ARROWSCHUR_HD static constexpr std::int64_t tiles(std::int64_t k) {
    return larger(1, ceil_div(k, kColumns * kThreads));
  }

  static Launch launch(const Args& args) {
    return {ceil_div(args.rows.n, kRows) * tiles(args.k), Factors::kShared, Factors::phases(args.rows.d) + 1};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const int d = Factors::kInRegisters ? D : args.rows.d;
    const std::int64_t count = tiles(args.k), tile = block % count, first = block / count * kRows;
    if (phase < Factors::phases(d)) {
      const auto present = static_cast<int>(smaller(kRows, args.rows.n - first));
      return Factors::run(phase, thread, kThreads, d, args.ridge, shared,
                          WhitenSource{args, first, present, tile == 0});
    }
    if (tile == 0) store(first, thread, d, shared, args);
    whiten(first, tile, thread, d, shared, args);
  }

 private:
  ARROWSCHUR_HD static void store(std::int64_t first, int thread, int d, const double* shared, const Args& args) {
    for (int e = thread; e < kRows * d * d; e += kThreads) {
      const int slot = e / (d * d), r = e % (d * d) / d, c = e % d;
      if (first + slot >= args.rows.n || c > r) continue;
      double value = Factors::factor_of(shared, slot)[r * d + c];
      if (!Factors::kInRegisters && r == c) value = std::sqrt(value);
      if (Factors::failed(shared, slot)) value = quiet_nan();
      args.l[entry_of(args.rows, first + slot) + r * d + c] = value;
    }
    for (int e = thread; e < kRows * d; e += kThreads) {
      const int slot = e / d, r = e % d;
      if (first + slot >= args.rows.n) continue;
      args.inverse_diagonal[line_of(args.rows, first + slot) + r] =
          Factors::failed(shared, slot) ? quiet_nan() : Factors::inverse_of(shared, slot)[r];
    }
  }

  // A row without a factor has no W: it is poisoned, but where it lies over B, which its bump is still to be taken from.
  ARROWSCHUR_HD static void whiten(std::int64_t first, std::int64_t tile, int thread, int d, const double* shared,
                                   const Args& args) {
    const std::int64_t c = (tile * kThreads + thread) * kColumns;
    if (c >= args.k) return;
    const bool even = kColumns == 2 && args.k % 2 == 0, both = kColumns == 2 && c + 1 < args.k;
    for (int slot = 0; slot < kRows && first + slot < args.rows.n; ++slot) {
      const bool bad = Factors::failed(shared, slot);
      if (bad && args.w == args.b) continue;
      const std::int64_t at = line_of(args.rows, first + slot) * args.k + c;
      const double* const l = Factors::factor_of(shared, slot);
      const double* const inverse = Factors::inverse_of(shared, slot);
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
