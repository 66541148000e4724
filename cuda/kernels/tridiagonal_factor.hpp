// The Cholesky factor of a tridiagonal border, M + ridge I = L L', for the dual route: band_factor.hpp for bands of width 1,
// without a division in the chain of dependences.
//
// The pivots are quotients of leading minors, d_c = q_c / q_{c-1}, and those follow a recurrence of fused products,
//
//     q_c = m_c q_{c-1} - e_c^2 q_{c-2},    e_c = M[c, c-1],
//
// each step of which is exact for entries that are off by a few units in the last place; so is the factor. Minors leave the
// range of numbers soon: every eight columns they start anew from q = 1 and the last pivot, and where eight do not stay
// within 1e-290 and 1e290, not all of them positive for one, these columns are done by d_c = m_c - e_c^2 / d_{c-1} instead.
// The product is e_c (e_c q_{c-2}): what underflows in it is nothing beside such a q_c, while e_c^2 alone could be.
//
// One thread walks, the others load the next chunk of columns and finish the one before it: quotients, roots.
#pragma once

#include "band_factor.hpp"

namespace arrowschur::kernels {

struct TridiagonalFactor {
  using Args = BandArgs;
  static constexpr int kThreads = 256;
  static constexpr int kWorkers = kThreads - 32;
  static constexpr int kChunk = 512;
  static constexpr int kBatch = 8;
  static constexpr double kSmall = 1e-290, kLarge = 1e290;

  // Shared memory: of three chunks the diagonal, replaced by minors, and what is left of it; the pivot before each batch,
  // negative where its columns hold pivots already; the last pivot.
  static constexpr int kBefore = kChunk;
  static constexpr int kStart = 2 * kChunk;
  static constexpr int kBuffer = kStart + kChunk / kBatch;
  static constexpr int kLast = 3 * kBuffer;

  static Launch launch(const Args& args) { return {1, kLast + 1, static_cast<int>(ceil_div(args.k, kChunk)) + 2}; }

  // Phase p loads chunk p, walks along chunk p - 1, finishes chunk p - 2.
  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (thread < 32) {
      if (thread != 0) return;
      if (phase == 0) {
        reset_border(*args.record);
        shared[kLast] = 1.0;
      } else if ((phase - 1) * kChunk < args.k) {
        walk((phase - 1) * std::int64_t{kChunk}, buffer(shared, phase - 1), shared[kLast], args);
      }
      return;
    }
    if (phase >= 2) finish((phase - 2) * std::int64_t{kChunk}, thread - 32, buffer(shared, phase - 2), args);
    load(phase * std::int64_t{kChunk}, thread - 32, buffer(shared, phase), args);
  }

 private:
  ARROWSCHUR_HD static double* buffer(double* shared, int chunk) { return shared + chunk % 3 * kBuffer; }

  // Past the end there are ones, so that a batch is always whole.
  ARROWSCHUR_HD static void load(std::int64_t first, int worker, double* to, const Args& args) {
    for (int i = worker; i < kChunk; i += kWorkers) {
      const std::int64_t c = first + i;
      to[i] = c < args.k ? args.values[c] + args.ridge : 1.0;
      to[kBefore + i] = c > 0 && c < args.k ? args.values[args.k + c - 1] : 0.0;
    }
  }

  ARROWSCHUR_HD static void walk(std::int64_t first, double* chunk, double& last, const Args& args) {
    const int count = static_cast<int>(smaller(kChunk, args.k - first));
    double pivot = last;
    for (int i = 0; i < count; i += kBatch) {
      double q[kBatch + 2] = {1.0, pivot}, before[kBatch];
      bool good = pivot > 0.0;
      ARROWSCHUR_UNROLL
      for (int s = 0; s < kBatch; ++s) q[s + 2] = chunk[i + s], before[s] = chunk[kBefore + i + s];
      ARROWSCHUR_UNROLL
      for (int s = 0; s < kBatch; ++s) {
        q[s + 2] = std::fma(q[s + 2], q[s + 1], -(before[s] * (before[s] * q[s])));
        good = good && q[s + 2] > kSmall && q[s + 2] < kLarge;
      }
      chunk[kStart + i / kBatch] = good ? pivot : -1.0;
      if (good) {
        ARROWSCHUR_UNROLL
        for (int s = 0; s < kBatch; ++s) chunk[i + s] = q[s + 2];
        pivot = q[kBatch + 1] / q[kBatch];
        continue;
      }
      for (int s = i; s < i + kBatch; ++s) {
        pivot = std::fma(-chunk[kBefore + s], chunk[kBefore + s] / pivot, chunk[s]);
        if (!good_pivot(pivot)) report_band(*args.record, first + s);
        chunk[s] = pivot;
      }
    }
    last = pivot;
  }

  ARROWSCHUR_HD static void finish(std::int64_t first, int worker, const double* chunk, const Args& args) {
    for (int i = worker; i < kChunk && first + i < args.k; i += kWorkers) {
      const double start = chunk[kStart + i / kBatch];
      double pivot = chunk[i];
      if (start > 0.0) pivot /= i % kBatch == 0 ? start : chunk[i - 1];
      const double root = std::sqrt(pivot);
      const std::int64_t c = first + i;
      args.factor[c] = root;
      if (c + 1 < args.k) args.factor[args.k + c] = args.values[args.k + c] / root;
    }
  }
};

}  // namespace arrowschur::kernels
