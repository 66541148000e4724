// Solves with the factor of a band for the lines of a row-major matrix, each on its own: out_t = L^-1 in_t or L^-T in_t.
//
// A block has 32 lines and walks along the columns in tiles of 32, downwards with L, upwards with L'. While one warp, a
// thread for each line, substitutes in one tile,
//
//     z_c = in_c / l_cc - sum_{j <= b} (l_{c,c-j} / l_cc) z_{c-j}        (upwards: l_{c+j,c} and z_{c+j}),
//
// the others store the tile before it and load the next, with the coefficients of its columns. Global memory is read and
// written along lines, shared memory along columns. Tiles lie in a ring that keeps the last b columns.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

struct SweepArgs {
  std::int64_t lines, k, width;
  const double* factor;  // [width + 1, k]
  const double* in;  // [lines, k]
  double* out;  // may be `in`
  const ArrowschurBuildRecord* record;
};

// The same with a diagonal, for all entries at once; `both` with L and L'.
struct DiagonalSweep {
  static constexpr int kThreads = kTileThreads;
  static constexpr int kLines = 8;  // of a block
  struct Args {
    SweepArgs sweep;
    bool both;
  };
  static Launch launch(const Args& args) {
    return {ceil_div(args.sweep.k, kThreads) * ceil_div(args.sweep.lines, kLines), 0, 1};
  }

  ARROWSCHUR_HD static void run(int, std::int64_t block, int thread, double*, const Args& args) {
    const SweepArgs& s = args.sweep;
    const std::int64_t tiles = ceil_div(s.k, kThreads), c = block % tiles * kThreads + thread;
    if (s.record->failed != 0 || c >= s.k) return;
    const double root = 1.0 / s.factor[c], inverse = args.both ? root * root : root;
    const std::int64_t begin = block / tiles * kLines, end = smaller(s.lines, begin + kLines);
    ARROWSCHUR_UNROLL_8
    for (std::int64_t line = begin; line < end; ++line) s.out[line * s.k + c] = s.in[line * s.k + c] * inverse;
  }
};

template <bool kDown, bool kTridiagonal>
struct BandSweep {
  using Args = SweepArgs;
  static constexpr int kThreads = 256;
  static constexpr int kTile = 32;  // lines, and columns
  static constexpr int kPitch = kTile + 1;
  static constexpr int kBatch = 8;  // columns whose numbers are read together

  ARROWSCHUR_HD static int ring(std::int64_t width) {  // columns: the last `width`, this tile and the next
    return static_cast<int>(larger(1, ceil_div(width, kTile)) + 2) * kTile;
  }
  static Launch launch(const Args& args) {
    return {args.k > 0 ? ceil_div(args.lines, kTile) : 0,
            static_cast<std::size_t>(ring(args.width) * kPitch + 2 * kTile * (args.width + 1)),
            static_cast<int>(ceil_div(args.k, kTile)) + 2};
  }

  // Phase p loads tile p, substitutes in tile p - 1, stores tile p - 2.
  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    const std::int64_t tiles = ceil_div(args.k, kTile), line = block * kTile;
    double* const coefficients = shared + ring(args.width) * kPitch;
    if (thread < kTile) {
      if (phase >= 1 && phase <= tiles) substitute((phase - 1) * kTile, thread, shared, coefficients, args);
      return;
    }
    const int worker = thread - kTile;
    if (phase >= 2) store(line, (phase - 2) * kTile, worker, shared, args);
    if (phase < tiles) {
      load(line, phase * kTile, worker, shared, args);
      load_coefficients(phase * kTile, worker, coefficients, args);
    }
  }

 private:
  static constexpr int kWorkers = kThreads - kTile;

  // Columns are counted in the order of the walk.
  ARROWSCHUR_HD static std::int64_t column(std::int64_t at, const Args& args) { return kDown ? at : args.k - 1 - at; }
  ARROWSCHUR_HD static double* place(double* shared, std::int64_t at, const Args& args) {
    return shared + static_cast<int>(at % ring(args.width)) * kPitch;
  }

  ARROWSCHUR_HD static void load(std::int64_t line, std::int64_t first, int worker, double* shared, const Args& args) {
    const std::int64_t at = first + worker % kTile;
    if (at >= args.k) return;
    double* const to = place(shared, at, args);
    for (int i = worker / kTile; i < kTile; i += kWorkers / kTile) {
      to[i] = line + i < args.lines ? args.in[(line + i) * args.k + column(at, args)] : 0.0;
    }
  }

  ARROWSCHUR_HD static void store(std::int64_t line, std::int64_t first, int worker, double* shared, const Args& args) {
    const std::int64_t at = first + worker % kTile;
    if (at >= args.k) return;
    const double* const from = place(shared, at, args);
    for (int i = worker / kTile; i < kTile && line + i < args.lines; i += kWorkers / kTile) {
      args.out[(line + i) * args.k + column(at, args)] = from[i];
    }
  }

  // Two tiles of [width + 1, 32]: 1 / l_cc, then l_{c,c-j} / l_cc.
  ARROWSCHUR_HD static double* coefficients_of(double* coefficients, std::int64_t first, const Args& args) {
    return coefficients + first / kTile % 2 * kTile * (args.width + 1);
  }
  ARROWSCHUR_HD static void load_coefficients(std::int64_t first, int worker, double* coefficients, const Args& args) {
    const std::int64_t at = first + worker % kTile, c = column(at, args);
    if (at >= args.k) return;
    double* const to = coefficients_of(coefficients, first, args) + worker % kTile;
    const double inverse = 1.0 / args.factor[c];
    for (int j = worker / kTile; j <= args.width; j += kWorkers / kTile) {
      const std::int64_t from = kDown ? c - j : c;  // column of the entry below the diagonal
      double value = inverse;
      if (j > 0) value = from >= 0 && from + j < args.k ? args.factor[j * args.k + from] * inverse : 0.0;
      to[j * kTile] = value;
    }
  }

  ARROWSCHUR_HD static void substitute(std::int64_t first, int lane, double* shared, double* coefficients,
                                       const Args& args) {
    const double* const c = coefficients_of(coefficients, first, args);
    const int count = static_cast<int>(smaller(kTile, args.k - first));
    if constexpr (kTridiagonal) {
      // In batches: a number that was stored would have to be waited for before the next is read.
      double* const z = place(shared, first, args) + lane;
      double last = first > 0 ? place(shared, first - 1, args)[lane] : 0.0;
      for (int i = 0; i < kTile; i += kBatch) {
        double x[kBatch], scale[kBatch], factor[kBatch];
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) {
          const bool inside = i + s < count;
          x[s] = inside ? z[(i + s) * kPitch] : 0.0;
          scale[s] = inside ? c[i + s] : 0.0, factor[s] = inside ? c[kTile + i + s] : 0.0;
        }
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) x[s] = last = std::fma(-factor[s], last, x[s] * scale[s]);
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) {
          if (i + s < count) z[(i + s) * kPitch] = x[s];
        }
      }
    } else {
      // From the farthest column to the nearest, which is the one just found.
      for (int i = 0; i < count; ++i) {
        double* const z = place(shared, first + i, args) + lane;
        double value = *z * c[i];
        for (std::int64_t j = smaller(args.width, first + i); j > 0; --j) {
          value = std::fma(-c[j * kTile + i], place(shared, first + i - j, args)[lane], value);
        }
        *z = value;
      }
    }
  }
};

}  // namespace arrowschur::kernels
