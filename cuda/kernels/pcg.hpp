// Conjugate gradients on S x = b from x = 0, preconditioned by the diagonal of S, with all scalars on the device:
//
//     r = b, z = r / diag, p = z;    q = S p, alpha = r'z / p'q, x += alpha p, r -= alpha q, z = r / diag,
//                                    beta = r'z / (r'z before), p = z + beta p.
//
// One iteration is S p (schur.hpp, which leaves the terms of p'q) and two kernels: one with alpha, one with beta. Each of
// their blocks adds up for itself what it needs from the pieces before it, in a fixed order. The record is written by the
// last kernel only, and read by all the others; what that one needs of it is handed on in `scalars`.
#pragma once

#include "schur.hpp"

namespace arrowschur::kernels {

ARROWSCHUR_HD inline bool positive(double value) { return value > 0.0 && value < HUGE_VAL; }

// Partial sums of the squares of each column of W.
struct ColumnSquares {
  static constexpr int kThreads = kTileThreads;
  struct Args {
    Tiling tiling;
    const double* w;
    double* partial;  // [chunks, k]
    const ArrowschurBuildRecord* build;
  };
  static Launch launch(const Args& args) { return {args.tiling.tiles * args.tiling.chunks, 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const std::int64_t k = args.tiling.k, chunk = block / args.tiling.tiles;
    const std::int64_t c = block % args.tiling.tiles * kTileColumns + 2 * thread;
    if (args.build->failed != 0 || c >= k) return;
    if (k % 2 == 0) {
      columns<true>(chunk, c, args);
    } else {
      columns<false>(chunk, c, args);
    }
  }

 private:
  template <bool kEven>
  ARROWSCHUR_HD static void columns(std::int64_t chunk, std::int64_t c, const Args& args) {
    const std::int64_t k = args.tiling.k, end = args.tiling.end(chunk);
    const bool both = c + 1 < k;
    Pair sum{0.0, 0.0};
    ARROWSCHUR_UNROLL_8
    for (std::int64_t line = args.tiling.begin(chunk); line < end; ++line) {
      const Pair w = load_pair<kEven>(args.w + line * k + c, both);
      sum.x = std::fma(w.x, w.x, sum.x);
      sum.y = std::fma(w.y, w.y, sum.y);
    }
    store_pair<kEven>(args.partial + chunk * k + c, sum, both);
  }
};

struct PcgArgs {
  std::int64_t k;
  Border border;
  double ridge;
  double relative_tolerance;
  std::int64_t max_iterations;
  const double* b;
  double* x;
  double *r, *z, *p, *q, *diagonal;  // [k] each
  std::int64_t parts;  // partial sums of squares, [parts, k]
  const double* partial;
  const double* dots;  // terms of p'q, one for each 8 entries
  double* sums;  // [3, pieces]
  double* scalars;  // [4]
  const ArrowschurBuildRecord* build;
  ArrowschurPcgRecord* record;

  ARROWSCHUR_HD std::int64_t dot_count() const { return ceil_div(k, kSchurEntries); }
};

// The start of a piece, and its first entry whose diagonal is of no use (k where there is none): sums of r'z, b'b.
struct PcgStart {
  using Args = PcgArgs;
  static constexpr int kThreads = kVectorThreads;
  static constexpr int kResults = 16;
  static Launch launch(const Args& args) { return {pieces_of(args.k).count, 3 * kThreads + 2 * kResults, 3}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.build->failed != 0) return;
    const Pieces pieces = pieces_of(args.k);
    double* const bad = shared + 2 * kThreads;
    double* const folded = bad + kThreads;
    if (phase == 0) {
      double rz = 0.0, bb = 0.0;
      std::int64_t first = args.k;
      const std::int64_t end = smaller(args.k, (block + 1) * pieces.length);
      for (std::int64_t c = block * pieces.length + thread; c < end; c += kThreads) {
        double sum = args.border.lower(c, c) + args.ridge;
        for (std::int64_t part = 0; part < args.parts; ++part) sum -= args.partial[part * args.k + c];
        const double r = args.b[c], z = r / sum;
        if (first == args.k && !positive(sum)) first = c;
        args.diagonal[c] = sum;
        args.x[c] = 0.0, args.r[c] = r, args.z[c] = args.p[c] = z;
        rz = std::fma(r, z, rz), bb = std::fma(r, r, bb);
      }
      shared[thread] = rz, shared[kThreads + thread] = bb, bad[thread] = static_cast<double>(first);
    } else if (phase == 1) {
      fold(shared, folded, 2, kThreads / kResults, kResults, thread, kThreads);
    } else if (thread < 2) {
      fold(folded + thread * kResults, args.sums + thread * pieces.count + block, 1, kResults, 1, 0, 1);
    } else if (thread == 2) {
      double first = bad[0];
      for (int t = 1; t < kThreads; ++t) first = bad[t] < first ? bad[t] : first;
      args.sums[2 * pieces.count + block] = first;
    }
  }
};

// The record, before the first iteration.
struct PcgFirstRecord {
  using Args = PcgArgs;
  static constexpr int kThreads = 32;
  static Launch launch(const Args&) { return {1, 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t, int thread, double*, const Args& args) {
    if (thread != 0) return;
    ArrowschurPcgRecord& record = *args.record;
    record = {ARROWSCHUR_PCG_RUNNING, 0, 0.0, 0.0, 0.0, 0.0, 0.0, args.max_iterations, 0.0};
    if (args.build->failed != 0) {  // of S nothing is known
      record.stop = ARROWSCHUR_PCG_DIAGONAL, record.value = quiet_nan();
      return;
    }
    const std::int64_t count = pieces_of(args.k).count;
    double rz = args.sums[0], bb = args.sums[count], bad = args.sums[2 * count];
    for (std::int64_t piece = 1; piece < count; ++piece) {
      rz += args.sums[piece], bb += args.sums[count + piece];
      const double other = args.sums[2 * count + piece];
      bad = other < bad ? other : bad;
    }
    // gamma_k = k u / (1 - k u): no residual is known better.
    const double ku = static_cast<double>(args.k) * 0x1p-53, gamma = ku / (1.0 - ku);
    record.rz = rz;
    record.residual = record.right_side = std::sqrt(bb);
    record.tolerance = (args.relative_tolerance > gamma ? args.relative_tolerance : gamma) * record.right_side;
    if (bb == 0.0) {
      record.stop = ARROWSCHUR_PCG_CONVERGED;
    } else if (bad < static_cast<double>(args.k)) {
      record.stop = ARROWSCHUR_PCG_DIAGONAL, record.value = args.diagonal[static_cast<std::int64_t>(bad)];
    } else if (!positive(rz)) {
      record.stop = ARROWSCHUR_PCG_CURVATURE, record.value = rz;
    } else if (record.residual <= record.tolerance) {
      record.stop = ARROWSCHUR_PCG_CONVERGED;
    } else if (args.max_iterations <= 0) {
      record.stop = ARROWSCHUR_PCG_BUDGET;
    }
  }
};

inline constexpr double kStep = 0.0, kNoStep = 1.0, kNoCurvature = 2.0;  // scalars[0]

// x += alpha p, r -= alpha q, z = r / diag; sums of r'z, r'r. scalars: what became of it, p'q, r'z before.
struct PcgAdvance {
  using Args = PcgArgs;
  static constexpr int kThreads = kVectorThreads;
  static constexpr int kResults = 16;
  static Launch launch(const Args& args) { return {pieces_of(args.k).count, 3 * kThreads + 3 * kResults, 5}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const Pieces pieces = pieces_of(args.k);
    double* const sums = shared + kThreads;
    double* const dots = sums + 2 * kThreads;
    double* const folded = dots + kResults;
    if (stopped(args.build, args.record)) {
      if (phase == 0 && block == 0 && thread == 0) args.scalars[0] = kNoStep;
      return;
    }
    switch (phase) {
      case 0: {
        double sum = 0.0;
        for (std::int64_t i = thread; i < args.dot_count(); i += kThreads) sum += args.dots[i];
        shared[thread] = sum;
        return;
      }
      case 1:
        return fold(shared, dots, 1, kThreads / kResults, kResults, thread, kThreads);
      case 2:
        return advance(block, pieces, thread, dots, sums, args);
      case 3:
        return fold(sums, folded, 2, kThreads / kResults, kResults, thread, kThreads);
      default:
        if (thread < 2) {
          fold(folded + thread * kResults, args.sums + thread * pieces.count + block, 1, kResults, 1, 0, 1);
        }
    }
  }

 private:
  ARROWSCHUR_HD static void advance(std::int64_t block, const Pieces& pieces, int thread, const double* dots,
                                    double* sums, const Args& args) {
    double pq;
    fold(dots, &pq, 1, kResults, 1, 0, 1);
    const double before = args.record->rz, alpha = before / pq;
    const bool good = positive(pq);
    if (block == 0 && thread == 0) {
      args.scalars[0] = good ? kStep : kNoCurvature;
      args.scalars[1] = pq, args.scalars[2] = before;
    }
    double rz = 0.0, rr = 0.0;
    const std::int64_t end = good ? smaller(args.k, (block + 1) * pieces.length) : 0;
    for (std::int64_t c = block * pieces.length + thread; c < end; c += kThreads) {
      args.x[c] = std::fma(alpha, args.p[c], args.x[c]);
      const double r = std::fma(-alpha, args.q[c], args.r[c]), z = r / args.diagonal[c];
      args.r[c] = r, args.z[c] = z;
      rz = std::fma(r, z, rz), rr = std::fma(r, r, rr);
    }
    sums[thread] = rz, sums[kThreads + thread] = rr;
  }
};

// p = z + beta p, and the record.
struct PcgTurn {
  using Args = PcgArgs;
  static constexpr int kThreads = kVectorThreads;  // not less than there are pieces
  static constexpr int kResults = 16;
  static Launch launch(const Args& args) { return {pieces_of(args.k).count, 2 * kThreads + 2 * kResults, 3}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.scalars[0] == kNoStep) return;
    const Pieces pieces = pieces_of(args.k);
    double* const folded = shared + 2 * kThreads;
    if (phase == 0) {
      for (int v = 0; v < 2; ++v) {
        shared[v * kThreads + thread] = thread < pieces.count ? args.sums[v * pieces.count + thread] : 0.0;
      }
      return;
    }
    if (phase == 1) return fold(shared, folded, 2, kThreads / kResults, kResults, thread, kThreads);
    double rz, rr;
    fold(folded, &rz, 1, kResults, 1, 0, 1);
    fold(folded + kResults, &rr, 1, kResults, 1, 0, 1);
    const bool good = args.scalars[0] == kStep;
    if (block == 0 && thread == 0) record(good, rz, rr, args);
    if (!good) return;
    const double beta = rz / args.scalars[2];
    const std::int64_t end = smaller(args.k, (block + 1) * pieces.length);
    for (std::int64_t c = block * pieces.length + thread; c < end; c += kThreads) {
      args.p[c] = std::fma(beta, args.p[c], args.z[c]);
    }
  }

 private:
  ARROWSCHUR_HD static void record(bool good, double rz, double rr, const Args& args) {
    ArrowschurPcgRecord& record = *args.record;
    if (!good) {
      record.stop = ARROWSCHUR_PCG_CURVATURE, record.value = args.scalars[1];
      return;
    }
    ++record.iterations;
    record.rz = rz;
    record.residual = std::sqrt(rr);
    if (record.residual <= record.tolerance) {
      record.stop = ARROWSCHUR_PCG_CONVERGED;
    } else if (record.iterations >= record.max_iterations) {
      record.stop = ARROWSCHUR_PCG_BUDGET;
    } else if (!positive(rz)) {
      record.stop = ARROWSCHUR_PCG_CURVATURE, record.value = rz;
    }
  }
};

}  // namespace arrowschur::kernels
