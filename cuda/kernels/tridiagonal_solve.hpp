// m = (L L')^-1 g for one vector and the factor of a tridiagonal border: both triangles in one launch of one block.
//
// A sweep is a chain of z_c = (g_c - l_{c,c-1} z_{c-1}) / l_cc, and a stretch of it is z_last = a z_before + b, where b is
// its own solution from zero and a an entry of the inverse of its part of L, times a diagonal entry: neither is larger than
// those of L^-1. Every thread has a stretch; stretches are joined in pairs, in fours and so on, and then each is walked along
// once more with the z before it.
#pragma once

#include "geometry.hpp"

namespace arrowschur::kernels {

struct TridiagonalSolve {
  static constexpr int kThreads = 1024;
  static constexpr int kJoins = 10;  // that 1024 stretches take
  static constexpr int kSweep = kJoins + 2;  // phases: stretches, joins, once more
  struct Args {
    std::int64_t k;
    const double* factor;  // [2, k]
    const double* g;
    double* m;  // may be `g`
    const ArrowschurBuildRecord* record;
  };
  static Launch launch(const Args& args) { return {args.k > 0 ? 1 : 0, 4 * kThreads, 2 * kSweep}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (args.record->failed != 0) return;
    if (phase < kSweep) {
      step<true>(phase, thread, shared, args.g, args);
    } else {
      step<false>(phase - kSweep, thread, shared, args.m, args);
    }
  }

 private:
  // What was joined in `round` rounds: a and b of each thread's stretch with those before it. Two sets by turns.
  ARROWSCHUR_HD static double* joined(double* shared, int round) { return shared + round % 2 * 2 * kThreads; }

  template <bool kDown>
  ARROWSCHUR_HD static void step(int phase, int thread, double* shared, const double* in, const Args& args) {
    if (phase == 0) {
      double a = 1.0, b = 0.0;
      walk<kDown>(thread, args, [&](std::int64_t c, double inverse, double factor) {
        a *= -factor;
        b = std::fma(-factor, b, in[c] * inverse);
      });
      double* const to = joined(shared, 0);
      to[thread] = a, to[kThreads + thread] = b;
    } else if (phase <= kJoins) {
      const double* const from = joined(shared, phase - 1);
      double* const to = joined(shared, phase);
      const int before = thread - (1 << (phase - 1));
      const double a = from[thread], b = from[kThreads + thread];
      to[thread] = before < 0 ? a : a * from[before];
      to[kThreads + thread] = before < 0 ? b : std::fma(a, from[kThreads + before], b);
    } else {
      double z = thread > 0 ? joined(shared, kJoins)[kThreads + thread - 1] : 0.0;
      walk<kDown>(thread, args, [&](std::int64_t c, double inverse, double factor) {
        args.m[c] = z = std::fma(-factor, z, in[c] * inverse);
      });
    }
  }

  // visit(column, 1 / l_cc, l_{c,c-1} / l_cc) along a thread's stretch; upwards l_{c+1,c}.
  template <bool kDown, class Visit>
  ARROWSCHUR_HD static void walk(int thread, const Args& args, const Visit& visit) {
    const std::int64_t length = ceil_div(args.k, kThreads), end = smaller(args.k, (thread + 1) * length);
    for (std::int64_t at = thread * length; at < end; ++at) {
      const std::int64_t c = kDown ? at : args.k - 1 - at, below = kDown ? c - 1 : c;  // column of the entry below
      const double inverse = 1.0 / args.factor[c];
      visit(c, inverse, at > 0 ? args.factor[args.k + below] * inverse : 0.0);
    }
  }
};

}  // namespace arrowschur::kernels
