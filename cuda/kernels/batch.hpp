// Small systems, E1 to V6 in one launch: a block of threads for each, which walks twice over its row blocks.
//
//     down    factors of up to 64 lines at a time, W = L^-1 [B g] in shared memory, and the lower triangle of [W u]'[W u]
//             in registers, a tile of 2 x 2 for each thread
//     border  [ S ; r' ], r = W'u - g_beta below S = M + ridge I - W'W, is factored as one matrix with a line more than it
//             has columns: that line becomes L_S^-1 r; then upwards, dbeta = S^-1 r
//     up      the factors once more (d^3 / 3 against the traffic of keeping them), dt = -L^-T L^-1 (g + B dbeta)
//
// A system of more than 4096 lines is shared by several blocks, in a launch for each of the three; their sums are added in
// the order of the blocks.
#pragma once

#include "factor_and_whiten.hpp"

namespace arrowschur::kernels {

enum class BatchPart { whole, down, border, up };

struct BatchArgs {
  BatchPart part;
  std::int64_t blocks;
  int phases;
  std::int64_t entry;  // of a system by itself
  std::int64_t parts;  // blocks that share it
  const ArrowschurBatchEntry* entries;
  const double* a;
  const double* b;
  const double* m;
  const double* g;
  double ridge_t, ridge_beta;
  double* x;
  double* partial;  // [parts, 6, threads]
  ArrowschurBuildRecord* records;
};

// The row blocks of a group.
struct BatchSource {
  const ArrowschurBatchEntry& entry;
  const double* a;
  std::int64_t first;
  int count;
  double ridge;
  ArrowschurBuildRecord* record;  // null where failures are known already

  ARROWSCHUR_HD const double* block(int slot) const { return a + entry.a + (first + slot) * entry.d * entry.d; }
  ARROWSCHUR_HD void failed(int slot, int pivot) const {
    if (record != nullptr) report_row(record, first + slot, pivot, block(slot), entry.d, ridge);
  }
};

template <int D>
struct BatchSolve {
  using Args = BatchArgs;
  static constexpr int kThreads = kBatchThreads;
  static constexpr int kRows = batch_rows(D);
  static constexpr int kLines = kRows * D;
  static constexpr int kBorder = ARROWSCHUR_BATCH_MAX_BORDER;
  using Factors = BlockFactors<D, kRows>;

  // Shared memory.
  static constexpr int kPitch = kBorder + 2;  // of W and u, and of S and r below it
  static constexpr int kW = (Factors::kShared + 1) / 2 * 2;  // pairs are read from here on
  static constexpr int kS = kW + kLines * kPitch;
  static constexpr int kInverse = kS + (kBorder + 1) * kPitch;  // 1 / L_S[j, j]
  static constexpr int kBeta = kInverse + kBorder;
  static constexpr int kLogs = kBeta + kBorder;
  static constexpr int kLargest = kLogs + kLines;
  static constexpr int kPivot = kLargest + kLines;  // first bad pivot of S; -1
  static constexpr int kFailed = kPivot + 1;  // 1 where there is no solution
  static constexpr int kShared = kFailed + 1;

  struct State {
    std::int64_t high, low;  // tile: lines 2 high, 2 high + 1, columns 2 low, 2 low + 1
    double sum[4];
    double log, largest;  // of the reciprocal pivots of this thread's lines
  };

  static Launch launch(const Args& args) { return {args.blocks, kShared, args.phases}; }

  // How many phases a system takes: one to begin, then those of
  struct Phases {
    int down, close, border, up;
    ARROWSCHUR_HD int all() const { return 1 + down + close + border + up; }
  };
  ARROWSCHUR_HD static std::int64_t groups(const ArrowschurBatchEntry& e) { return ceil_div(e.n, kRows); }
  ARROWSCHUR_HD static Phases phases(const ArrowschurBatchEntry& e, BatchPart part) {
    const bool whole = part == BatchPart::whole;
    const std::int64_t walked = whole ? groups(e) : smaller(groups(e), kPartGroups);
    const int walk = static_cast<int>(walked) * (Factors::phases(e.d) + 1);
    return {whole || part == BatchPart::down ? walk : 0, part != BatchPart::up,
            whole || part == BatchPart::border ? 3 * e.k + 1 : 0, whole || part == BatchPart::up ? walk : 0};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, State& state,
                                const Args& args) {
    const bool whole = args.part == BatchPart::whole;
    const std::int64_t index = whole ? block : args.entry;
    const ArrowschurBatchEntry& e = args.entries[index];
    if (whole && (!serves(D, e.d) || e.n * e.d > kBatchLines)) return;
    const std::int64_t first = whole ? 0 : block * kPartGroups;
    const Walk walk{e, first, whole ? groups(e) : smaller(groups(e) - first, kPartGroups), args.records + index};
    if (phase == 0) return begin(thread, shared, state, walk, args);
    const Phases p = phases(e, args.part);
    --phase;
    if (phase < p.down) return down(phase, thread, shared, state, walk, args);
    phase -= p.down;
    if (phase < p.close) return close(block, thread, shared, state, walk, args);
    phase -= p.close;
    if (phase < p.border) return border(phase, thread, shared, walk, args);
    phase -= p.border;
    if (phase < p.up && shared[kFailed] == 0.0) up(phase, thread, shared, walk, args);
  }

 private:
  struct Walk {
    const ArrowschurBatchEntry& e;
    std::int64_t first, count;  // groups
    ArrowschurBuildRecord* record;

    ARROWSCHUR_HD int d() const { return Factors::kInRegisters ? D : e.d; }
    ARROWSCHUR_HD int step() const { return Factors::phases(d()) + 1; }  // phases of a group
    ARROWSCHUR_HD std::int64_t row(std::int64_t group) const { return (first + group) * kRows; }
    ARROWSCHUR_HD int rows(std::int64_t group) const { return static_cast<int>(smaller(kRows, e.n - row(group))); }
    ARROWSCHUR_HD int lines(std::int64_t group) const { return rows(group) * d(); }
    ARROWSCHUR_HD std::int64_t line(std::int64_t group) const { return row(group) * d(); }
  };

  ARROWSCHUR_HD static void begin(int thread, double* shared, State& state, const Walk& walk, const Args& args) {
    int high = 0, first = 0;  // tile `first` is the first of its line of tiles
    while (first + high + 1 <= thread) first += ++high;
    state = {high, thread - first, {0.0, 0.0, 0.0, 0.0}, 0.0, 0.0};
    const ArrowschurBatchEntry& e = walk.e;
    if (args.part == BatchPart::up && thread < e.k) shared[kBeta + thread] = args.x[e.x + e.n * e.d + thread];
    if (thread != 0) return;
    if (args.part == BatchPart::whole) ResetRecord::run(0, 0, 0, nullptr, {walk.record});
    shared[kPivot] = -1.0;
    shared[kFailed] = args.part == BatchPart::up && walk.record->failed != 0 ? 1.0 : 0.0;
  }

  // ---- down -----------------------------------------------------------------------------------------------------------
  ARROWSCHUR_HD static void down(int phase, int thread, double* shared, State& state, const Walk& walk,
                                 const Args& args) {
    const int group = phase / walk.step(), step = phase % walk.step();
    if (group >= walk.count) return;
    if (step == 0 && group > 0) accumulate(walk.lines(group - 1), walk.e.k, shared, state);
    if (step + 1 < walk.step()) {
      const BatchSource source{walk.e, args.a, walk.row(group), walk.rows(group), args.ridge_t, walk.record};
      return Factors::run(step, thread, kThreads, walk.d(), args.ridge_t, shared, source);
    }
    whiten(group, thread, shared, walk, args);
    if (thread < walk.lines(group)) {
      const double inverse = Factors::inverse_of(shared, thread / walk.d())[thread % walk.d()];
      state.log -= std::log(inverse);
      state.largest = worse(state.largest, inverse);
    }
  }

  // [B g] of a group, a thread for each column of a row block.
  ARROWSCHUR_HD static void whiten(std::int64_t group, int thread, double* shared, const Walk& walk, const Args& args) {
    const ArrowschurBatchEntry& e = walk.e;
    const int d = walk.d(), k = e.k;
    for (int at = thread; at < walk.rows(group) * (k + 1); at += kThreads) {
      const int slot = at / (k + 1), c = at % (k + 1);
      const std::int64_t line = walk.line(group) + slot * d;
      double x[D];
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        if (r < d) x[r] = c < k ? args.b[e.b + (line + r) * k + c] : args.g[e.x + line + r];
      }
      forward<D>(Factors::factor_of(shared, slot), Factors::inverse_of(shared, slot), d, x);
      ARROWSCHUR_UNROLL
      for (int r = 0; r < D; ++r) {
        if (r < d) shared[kW + (slot * d + r) * kPitch + c] = x[r];
      }
    }
  }

  // What a tile adds up beyond column k is never looked at.
  ARROWSCHUR_HD static void accumulate(int lines, int k, const double* shared, State& state) {
    if (2 * state.high > k) return;
    for (int line = 0; line < lines; ++line) {
      const double* const w = shared + kW + line * kPitch;
      const Pair high = load_pair<true>(w + 2 * state.high), low = load_pair<true>(w + 2 * state.low);
      state.sum[0] = std::fma(high.x, low.x, state.sum[0]);
      state.sum[1] = std::fma(high.x, low.y, state.sum[1]);
      state.sum[2] = std::fma(high.y, low.x, state.sum[2]);
      state.sum[3] = std::fma(high.y, low.y, state.sum[3]);
    }
  }

  // The last group; then the sums go to S and r, or to where those of all blocks are collected.
  ARROWSCHUR_HD static void close(std::int64_t block, int thread, double* shared, State& state, const Walk& walk,
                                  const Args& args) {
    if (args.part != BatchPart::border && walk.count > 0) {
      accumulate(walk.lines(walk.count - 1), walk.e.k, shared, state);
    }
    if (args.part == BatchPart::down) {
      double* const to = args.partial + block * kPartNumbers * kThreads + thread;
      ARROWSCHUR_UNROLL
      for (int i = 0; i < 4; ++i) to[i * kThreads] = state.sum[i];
      to[4 * kThreads] = state.log, to[5 * kThreads] = state.largest;
      return;
    }
    if (args.part == BatchPart::border) {
      for (std::int64_t part = 0; part < args.parts; ++part) {
        const double* const from = args.partial + part * kPartNumbers * kThreads + thread;
        ARROWSCHUR_UNROLL
        for (int i = 0; i < 4; ++i) state.sum[i] += from[i * kThreads];
        state.log += from[4 * kThreads], state.largest = worse(state.largest, from[5 * kThreads]);
      }
    }
    if (thread < kLines) shared[kLogs + thread] = state.log, shared[kLargest + thread] = state.largest;
    const ArrowschurBatchEntry& e = walk.e;
    ARROWSCHUR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int r = static_cast<int>(2 * state.high) + i / 2, c = static_cast<int>(2 * state.low) + i % 2;
      if (r > e.k || c > r || c >= e.k) continue;
      double value;
      if (r == e.k) {
        value = state.sum[i] - args.g[e.x + e.n * e.d + c];
      } else {
        value = args.m[e.m + r * e.k + c] + (r == c ? args.ridge_beta : 0.0) - state.sum[i];
      }
      shared[kS + r * kPitch + c] = value;
    }
  }

  // ---- border ---------------------------------------------------------------------------------------------------------
  // Columns as in BlockFactors, for k + 1 lines; then one phase for each entry of dbeta, from the last.
  ARROWSCHUR_HD static void border(int phase, int thread, double* shared, const Walk& walk, const Args& args) {
    const int k = walk.e.k;
    double* const s = shared + kS;
    if (phase == 3 * k) return finish(thread, shared, walk, args);
    if (phase >= 2 * k) {
      const int j = 3 * k - 1 - phase;
      double* const y = s + k * kPitch;
      const double value = y[j] * shared[kInverse + j];
      if (thread == j) shared[kBeta + j] = value;
      if (thread < j) y[thread] = std::fma(-s[j * kPitch + thread], value, y[thread]);
      return;
    }
    const int j = phase / 2, r = thread;
    if (r < j || r > k) return;
    double& entry = s[r * kPitch + j];
    if (phase % 2 == 0) {
      entry = minus_products(entry, s + r * kPitch, s + j * kPitch, j);
      return;
    }
    const double pivot = s[j * kPitch + j], inverse = 1.0 / std::sqrt(pivot);
    if (r > j) {
      entry *= inverse;
      return;
    }
    shared[kInverse + j] = inverse;
    if (!good_pivot(pivot) && shared[kPivot] < 0.0) shared[kPivot] = j;
  }

  ARROWSCHUR_HD static void finish(int thread, double* shared, const Walk& walk, const Args& args) {
    const ArrowschurBatchEntry& e = walk.e;
    ArrowschurBuildRecord& record = *walk.record;
    const std::int64_t total = e.n * e.d;
    const bool rows = (record.failed & ARROWSCHUR_ROWS_FAILED) != 0, failed = rows || shared[kPivot] >= 0.0;
    if (thread < e.k) args.x[e.x + total + thread] = failed ? quiet_nan() : shared[kBeta + thread];
    if (failed) {
      for (std::int64_t i = thread; i < total; i += kThreads) args.x[e.x + i] = quiet_nan();
    }
    if (thread != 0) return;
    shared[kFailed] = failed ? 1.0 : 0.0;
    if (failed) {
      if (rows) return;  // after failed rows the border is meaningless
      record.failed |= ARROWSCHUR_BORDER_FAILED;
      record.border_pivot = static_cast<std::int32_t>(shared[kPivot]);
      return;
    }
    double log = 0.0, largest = 0.0, smallest = HUGE_VAL;
    for (int i = 0; i < kLines; ++i) {
      log += shared[kLogs + i];
      largest = worse(largest, shared[kLargest + i]);
    }
    log *= 2.0;
    if (total > 0) smallest = 1.0 / (largest * largest);
    for (int j = 0; j < e.k; ++j) {
      const double pivot = shared[kS + j * kPitch + j];
      log += std::log(pivot);
      if (pivot < smallest) smallest = pivot;
    }
    record.log_det = log;
    record.smallest_pivot = smallest;
  }

  // ---- up -------------------------------------------------------------------------------------------------------------
  ARROWSCHUR_HD static void up(int phase, int thread, double* shared, const Walk& walk, const Args& args) {
    const int group = phase / walk.step(), step = phase % walk.step(), d = walk.d();
    if (group >= walk.count) return;
    const ArrowschurBatchEntry& e = walk.e;
    const std::int64_t line = walk.line(group);
    if (step == 0 && thread < walk.lines(group)) {
      const double* const b = args.b + e.b + (line + thread) * e.k;
      double sum = args.g[e.x + line + thread];
      for (int c = 0; c < e.k; ++c) sum = std::fma(b[c], shared[kBeta + c], sum);
      shared[kW + thread] = sum;
    }
    if (step + 1 < walk.step()) {
      const BatchSource source{e, args.a, walk.row(group), walk.rows(group), args.ridge_t, nullptr};
      return Factors::run(step, thread, kThreads, d, args.ridge_t, shared, source);
    }
    if (thread >= walk.rows(group)) return;
    const double* const l = Factors::factor_of(shared, thread);
    const double* const inverse = Factors::inverse_of(shared, thread);
    double* const v = shared + kW + thread * d;
    double* const t = args.x + e.x + line + thread * d;
    double x[D];
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r < d) x[r] = v[r];
    }
    forward<D>(l, inverse, d, x);
    if constexpr (D <= 16) backward<D>(l, inverse, d, x);
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r < d) (D <= 16 ? t : v)[r] = D <= 16 ? -x[r] : x[r];
    }
    if constexpr (D > 16) {
      backward(l, inverse, d, v, 1);
      for (int r = 0; r < d; ++r) t[r] = -v[r];
    }
  }
};

}  // namespace arrowschur::kernels
