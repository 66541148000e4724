// V2 and V3: u = L^-1 g_t, r = W'u - g_beta.
//
// u by one thread for each row block; W'u in blocks of a tile of columns and a chunk of lines, whose partial sums are then
// added in the order of the chunks.
#pragma once

#include "geometry.hpp"
#include "row_block.hpp"

namespace arrowschur::kernels {

struct RowVectorArgs {
  ArrowschurDeviceRows rows;
  const double* l;
  const double* inverse_diagonal;
  const double* g;
  double* u;
  const ArrowschurBuildRecord* record;
};

template <int D>
struct WhitenVector {
  using Args = RowVectorArgs;
  static constexpr int kThreads = 64;
  static Launch launch(const Args& args) { return {ceil_div(args.rows.n, kThreads), 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const std::int64_t j = block * kThreads + thread;
    if (args.record->failed != 0 || j >= args.rows.n) return;
    const int d = D <= kExactDepths ? D : args.rows.d;
    const std::int64_t line = line_of(args.rows, j);
    double x[D];
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r < d) x[r] = args.g[line + r];
    }
    forward<D>(args.l + entry_of(args.rows, j), args.inverse_diagonal + line, d, x);
    ARROWSCHUR_UNROLL
    for (int r = 0; r < D; ++r) {
      if (r < d) args.u[line + r] = x[r];
    }
  }
};

struct TransposedProduct {
  static constexpr int kThreads = kTileThreads;
  struct Args {
    Tiling tiling;
    const double* w;
    const double* u;
    double* partial;  // [chunks, k]
    const ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) { return {args.tiling.tiles * args.tiling.chunks, 0, 1}; }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const std::int64_t k = args.tiling.k, chunk = block / args.tiling.tiles;
    const std::int64_t c = block % args.tiling.tiles * kTileColumns + 2 * thread;
    if (args.record->failed != 0 || c >= k) return;
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
      const double u = args.u[line];
      sum.x = std::fma(w.x, u, sum.x);
      sum.y = std::fma(w.y, u, sum.y);
    }
    store_pair<kEven>(args.partial + chunk * k + c, sum, both);
  }
};

// out = sum of the partials - g. 32 columns of a block; 8 threads share a column's chunks.
struct AddPartials {
  static constexpr int kParts = 8;
  static constexpr int kThreads = 32 * kParts;
  struct Args {
    std::int64_t k, chunks;
    const double* partial;
    const double* g;
    double* out;
    const ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) { return {ceil_div(args.k, 32), kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const int column = thread % 32, part = thread / 32;
    const std::int64_t c = block * 32 + column;
    if (phase == 0) {
      double sum = 0.0;
      if (c < args.k) {
        ARROWSCHUR_UNROLL_8
        for (std::int64_t p = part; p < args.chunks; p += kParts) sum += args.partial[p * args.k + c];
      }
      shared[thread] = sum;
    } else if (part == 0 && c < args.k) {
      double sum = shared[column];
      for (int p = 1; p < kParts; ++p) sum += shared[p * 32 + column];
      args.out[c] = sum - args.g[c];
    }
  }
};

}  // namespace arrowschur::kernels
