// The Cholesky factor of a band, M + ridge I = L L', for the dual route. One block: columns follow on each other.
//
// Without roots, from left to right: once column i is complete, u = (d_i, u_1 .. u_b) in it, d_i the pivot,
//
//     m[i + p, i + q] -= u_p u_q / d_i    for 1 <= q <= p <= b,
//
// by all threads at once, so that a column costs one barrier. Roots, l_ii = sqrt(d_i) and l_{i+p,i} = u_p / l_ii, are
// taken when a chunk of columns goes back to memory. A window of a chunk and of the b columns that it reaches is in shared
// memory, where column c has place c mod (chunk + b).
#pragma once

#include "border.hpp"

namespace arrowschur::kernels {

struct BandArgs {
  std::int64_t k, width;
  double ridge;
  const double* values;  // [width + 1, k]: M[c + j, c] at [j, c]
  double* factor;  // likewise
  ArrowschurBuildRecord* record;
};

// A new verdict on the border: none so far.
ARROWSCHUR_HD inline void reset_border(ArrowschurBuildRecord& record) {
  record.failed &= ~static_cast<std::uint32_t>(ARROWSCHUR_BORDER_FAILED | ARROWSCHUR_BAND_FAILED);
  record.border_pivot = -1;
}
ARROWSCHUR_HD inline void report_band(ArrowschurBuildRecord& record, std::int64_t pivot) {
  if ((record.failed & ARROWSCHUR_BAND_FAILED) != 0) return;
  // After failed rows nobody asks for the border's pivot.
  if ((record.failed & ARROWSCHUR_ROWS_FAILED) == 0) record.border_pivot = static_cast<std::int32_t>(pivot);
  record.failed |= ARROWSCHUR_BAND_FAILED;
}

// Width 0: roots of a diagonal.
struct DiagonalFactor {
  using Args = BandArgs;
  static constexpr int kThreads = 1024;
  static Launch launch(const Args&) { return {1, kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      std::int64_t bad = args.k;
      for (std::int64_t c = thread; c < args.k; c += kThreads) {
        const double pivot = args.values[c] + args.ridge;
        args.factor[c] = std::sqrt(pivot);
        if (bad == args.k && !good_pivot(pivot)) bad = c;
      }
      shared[thread] = static_cast<double>(bad);
    } else if (thread == 0) {
      auto bad = static_cast<double>(args.k);
      for (int t = 0; t < kThreads; ++t) bad = shared[t] < bad ? shared[t] : bad;
      reset_border(*args.record);
      if (bad < static_cast<double>(args.k)) report_band(*args.record, static_cast<std::int64_t>(bad));
    }
  }
};

inline constexpr int kNarrowBand = 8;  // up to here a warp is enough

template <int kBlock>  // threads: a square or two of them
struct BandFactor {
  using Args = BandArgs;
  static constexpr int kThreads = kBlock;
  static constexpr int kChunk = 16;  // columns between two transfers
  static constexpr int kPhases = kChunk + 2;  // of a chunk: load, columns, store
  static constexpr int kAlong = kBlock == 32 ? 8 : 16;  // threads along a column, and across columns
  static constexpr int kAcross = kBlock / kAlong;

  static Launch launch(const Args& args) {
    const std::int64_t b = args.width;
    return {1, static_cast<std::size_t>((kChunk + b) * (b + 1)),
            static_cast<int>(larger(1, ceil_div(args.k, kChunk) * kPhases))};
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    const int b = static_cast<int>(args.width), step = phase % kPhases;
    const std::int64_t first = static_cast<std::int64_t>(phase / kPhases) * kChunk;
    if (phase == 0 && thread == 0) reset_border(*args.record);
    if (step == 0) {
      load(first, b, thread, shared, args);
    } else if (step <= kChunk) {
      if (first + step - 1 < args.k) eliminate(first + step - 1, b, thread, shared, args);
    } else {
      store(first, b, thread, shared, args);
    }
  }

 private:
  ARROWSCHUR_HD static double* column(double* shared, std::int64_t c, int b) {
    return shared + static_cast<int>(c % (kChunk + b)) * (b + 1);
  }

  // The columns that this chunk is the first to reach.
  ARROWSCHUR_HD static void load(std::int64_t first, int b, int thread, double* shared, const Args& args) {
    const std::int64_t begin = first == 0 ? 0 : first + b;
    const int count = first == 0 ? kChunk + b : kChunk;
    for (int e = thread; e < count * (b + 1); e += kThreads) {
      const int j = e / count;
      const std::int64_t c = begin + e % count;
      double value = c + j < args.k ? args.values[j * args.k + c] : 0.0;
      if (j == 0) value += args.ridge;
      column(shared, c, b)[j] = value;
    }
  }

  ARROWSCHUR_HD static void eliminate(std::int64_t i, int b, int thread, double* shared, const Args& args) {
    const double* const u = column(shared, i, b);
    if (thread == 0 && !good_pivot(u[0])) report_band(*args.record, i);
    const double inverse = 1.0 / u[0];
    for (int q = 1 + thread / kAlong; q <= b; q += kAcross) {
      double* const to = column(shared, i + q, b);
      const double factor = u[q] * inverse;
      for (int p = q + thread % kAlong; p <= b; p += kAlong) to[p - q] = std::fma(-u[p], factor, to[p - q]);
    }
  }

  ARROWSCHUR_HD static void store(std::int64_t first, int b, int thread, double* shared, const Args& args) {
    for (int e = thread; e < kChunk * (b + 1); e += kThreads) {
      const int j = e / kChunk;
      const std::int64_t c = first + e % kChunk;
      if (c + j >= args.k) continue;
      const double* const u = column(shared, c, b);
      const double root = std::sqrt(u[0]);
      args.factor[j * args.k + c] = j == 0 ? root : u[j] / root;
    }
  }
};

}  // namespace arrowschur::kernels
