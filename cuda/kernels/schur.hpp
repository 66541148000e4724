// P1: y = (M + ridge I) x - W'(W x), with W read once.
//
// A block walks along its lines of W, a slab of one to four at a time, and brings each to shared memory by asynchronous
// copies while it works on the one before. A thread has the same columns of every slab, its own share of x and of the sum
// in registers, and reads what it has copied itself; only the products of the lines are added up by all,
//
//     h = W_slab x,    acc += W_slab' h.
//
// The blocks' sums are added in their order by the kernel that multiplies with the border.
#pragma once

#include "apply_h.hpp"

namespace arrowschur::kernels {

ARROWSCHUR_HD inline bool stopped(const ArrowschurBuildRecord* build, const ArrowschurPcgRecord* pcg) {
  return build->failed != 0 || (pcg != nullptr && pcg->stop != ARROWSCHUR_PCG_RUNNING);
}

struct SchurArgs {
  std::int64_t lines, k;
  const double* w;
  const double* x;
  double* partial;  // [blocks, k]
  const ArrowschurBuildRecord* build;
  const ArrowschurPcgRecord* pcg;  // null where nothing is iterated
};

template <int kPairs>
struct SchurProduct {
  using Args = SchurArgs;
  static constexpr int kThreads = kSchurThreads;
  static constexpr int kLines = slab_lines(kPairs);
  static constexpr int kResults = 32, kFold = kThreads / kResults;

  // Shared memory: two slabs, products of the lines [lines, threads], folded [lines, 32].
  static constexpr int kSlab = kLines * kPairs * 2 * kThreads;
  static constexpr int kProducts = 2 * kSlab;
  static constexpr int kFolded = kProducts + kLines * kThreads;
  static constexpr int kShared = kFolded + kLines * kResults;

  struct State {
    Pair x[kPairs], sum[kPairs];
  };

  static Launch launch(const Args& args) {
    const Walk walk = walk_of(args.lines, kPairs);
    return {walk.blocks, kShared, 2 * static_cast<int>(walk.each) + 1};
  }

  // Phase 2 i finishes slab i - 1, asks for slab i + 1 in its place and multiplies slab i; 2 i + 1 folds.
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, State& state,
                                const Args& args) {
    if (stopped(args.build, args.pcg)) return;
    if (phase % 2 == 1) {
      fold(shared + kProducts, shared + kFolded, kLines, kFold, kResults, thread, kThreads);
    } else if (args.k % 2 == 0) {
      slab<true>(phase / 2, block, thread, shared, state, args);
    } else {
      slab<false>(phase / 2, block, thread, shared, state, args);
    }
  }

 private:
  ARROWSCHUR_HD static int place(int i, int line, int pair, int thread) {
    return i % 2 * kSlab + 2 * ((line * kPairs + pair) * kThreads + thread);
  }

  template <bool kEven>
  ARROWSCHUR_HD static void slab(int i, std::int64_t block, int thread, double* shared, State& state,
                                 const Args& args) {
    const Walk walk = walk_of(args.lines, kPairs);
    const std::int64_t first = block * walk.each;
    const int count = static_cast<int>(smaller(walk.each, walk.slabs - first));
    if (i == 0) {
      begin(thread, state, args);
      copy<kEven>(0, first, thread, shared, args);
      commit_copies();
    } else if (i <= count) {
      add(i - 1, (first + i - 1) * kLines, thread, shared, state, args);
    }
    if (i < count) {
      if (i + 1 < count) copy<kEven>(i + 1, first + i + 1, thread, shared, args);
      commit_copies();  // an empty group at the end, so that all but the last are always what is wanted
      wait_for_copies<1>();
      multiply(i, (first + i) * kLines, thread, shared, state, args);
    } else if (i == walk.each) {
      store<kEven>(block, thread, state, args);
    }
  }

  ARROWSCHUR_HD static void begin(int thread, State& state, const Args& args) {
    ARROWSCHUR_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      const std::int64_t c = 2 * (j * kThreads + thread);
      state.x[j] = {c < args.k ? args.x[c] : 0.0, c + 1 < args.k ? args.x[c + 1] : 0.0};
      state.sum[j] = {0.0, 0.0};
    }
  }

  template <bool kEven>
  ARROWSCHUR_HD static void copy(int i, std::int64_t slab, int thread, double* shared, const Args& args) {
    for (int r = 0; r < kLines; ++r) {
      const std::int64_t line = slab * kLines + r;
      if (line >= args.lines) break;
      ARROWSCHUR_UNROLL
      for (int j = 0; j < kPairs; ++j) {
        const std::int64_t c = 2 * (j * kThreads + thread);
        if (c < args.k) copy_pair<kEven>(shared + place(i, r, j, thread), args.w + line * args.k + c, c + 1 < args.k);
      }
    }
  }

  ARROWSCHUR_HD static void multiply(int i, std::int64_t line, int thread, double* shared, const State& state,
                                     const Args& args) {
    ARROWSCHUR_UNROLL
    for (int r = 0; r < kLines; ++r) {
      double sum = 0.0;
      if (line + r < args.lines) {
        ARROWSCHUR_UNROLL
        for (int j = 0; j < kPairs; ++j) {
          if (2 * (j * kThreads + thread) >= args.k) continue;
          const Pair w = load_pair<true>(shared + place(i, r, j, thread));
          sum = std::fma(w.y, state.x[j].y, std::fma(w.x, state.x[j].x, sum));
        }
      }
      shared[kProducts + r * kThreads + thread] = sum;
    }
  }

  // Every thread adds up the line's product for itself: four sums of every fourth term.
  ARROWSCHUR_HD static void add(int i, std::int64_t line, int thread, const double* shared, State& state,
                                const Args& args) {
    ARROWSCHUR_UNROLL
    for (int r = 0; r < kLines; ++r) {
      if (line + r >= args.lines) continue;
      const double* const terms = shared + kFolded + r * kResults;
      double part[4] = {terms[0], terms[1], terms[2], terms[3]};
      ARROWSCHUR_UNROLL
      for (int t = 4; t < kResults; ++t) part[t % 4] += terms[t];
      const double h = (part[0] + part[1]) + (part[2] + part[3]);
      ARROWSCHUR_UNROLL
      for (int j = 0; j < kPairs; ++j) {
        if (2 * (j * kThreads + thread) >= args.k) continue;
        const Pair w = load_pair<true>(shared + place(i, r, j, thread));
        state.sum[j].x = std::fma(w.x, h, state.sum[j].x);
        state.sum[j].y = std::fma(w.y, h, state.sum[j].y);
      }
    }
  }

  template <bool kEven>
  ARROWSCHUR_HD static void store(std::int64_t block, int thread, const State& state, const Args& args) {
    ARROWSCHUR_UNROLL
    for (int j = 0; j < kPairs; ++j) {
      const std::int64_t c = 2 * (j * kThreads + thread);
      if (c < args.k) store_pair<kEven>(args.partial + block * args.k + c, state.sum[j], c + 1 < args.k);
    }
  }
};

// y = (M + ridge I) x - the partial sums, and, where asked for, the sum of x_c y_c over each block's entries. A block has
// 8 entries, 32 threads share the terms of each.
struct SchurSum {
  struct Args {
    Border border;
    std::int64_t parts, chunks, tiles;  // chunks, tiles: of a dense border
    double ridge;
    const double* x;
    const double* partial;  // [parts, k]
    const double* columns;  // [chunks, k] and
    const double* lines;  // [tiles, k]: a dense border times x (CrossProducts)
    double* y;
    double* dots;  // [blocks], or null
    const ArrowschurBuildRecord* build;
    const ArrowschurPcgRecord* pcg;
  };
  static constexpr int kShare = 32;
  static constexpr int kThreads = kSchurEntries * kShare;
  static Launch launch(const Args& args) {
    return {ceil_div(args.border.k, kSchurEntries), kThreads + 2 * kSchurEntries, 4};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (stopped(args.build, args.pcg)) return;
    const std::int64_t first = block * kSchurEntries;
    double* const folded = shared + kThreads;
    double* const products = folded + kSchurEntries;
    if (phase == 0) {
      shared[thread] = share(first + thread % kSchurEntries, thread / kSchurEntries, args);
    } else if (phase == 1) {
      fold(shared, folded, 1, kShare, kSchurEntries, thread, kThreads);
    } else if (phase == 2) {
      const std::int64_t c = first + thread;
      if (thread >= kSchurEntries) return;
      const bool inside = c < args.border.k;
      const double x = inside ? args.x[c] : 0.0, y = std::fma(args.ridge, x, folded[thread]);
      if (inside) args.y[c] = y;
      products[thread] = inside ? x * y : 0.0;
    } else if (thread == 0 && args.dots != nullptr) {
      fold(products, args.dots + block, 1, kSchurEntries, 1, 0, 1);
    }
  }

 private:
  ARROWSCHUR_HD static double share(std::int64_t c, int part, const Args& args) {
    const std::int64_t k = args.border.k;
    if (c >= k) return 0.0;
    double sum = 0.0;
    if (args.border.form == ARROWSCHUR_BORDER_DENSE) {
      for (std::int64_t p = part; p < args.chunks; p += kShare) sum += args.columns[p * k + c];
      for (std::int64_t p = part; p < args.tiles; p += kShare) sum += args.lines[p * k + c];
    } else {
      const Border::Line entries = args.border.line(c);
      for (std::int64_t q = entries.begin + part; q < entries.end; q += kShare) {
        sum = std::fma(args.border.in_line(entries, c, q), args.x[q], sum);
      }
    }
    for (std::int64_t p = part; p < args.parts; p += kShare) sum -= args.partial[p * k + c];
    return sum;
  }
};

}  // namespace arrowschur::kernels
