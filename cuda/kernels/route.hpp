// Atoms of a dictionary for rows of data: which can be among the `wanted` of largest |s64(x, d)|. A float product of a tile
// of rows and atoms, of any order of summation, misses the scores by at most eps (score_error.hpp). With tau the wanted-th
// largest |s'| of a row, every atom that is wanted has |s'| >= tau - 2 eps: these are the candidates, which route_score.hpp
// scores exactly.
//
// A row has a list of at most `keep` candidates, sorted, that is merged with one tile after another. What counts is the
// list at the end, so that neither tiles nor launches reach the result; in between it holds what can still be a candidate.
// Scores up to 2 eps are never taken down, or an atom orthogonal to the row would be one for as long as tau is small. A row
// whose candidates reach down to there in the end, or are too many at any time, is scanned whole.
#pragma once

#include "dictionary/score_error.hpp"
#include "geometry.hpp"

namespace arrowschur::kernels {

// Where a row stands, in the workspace.
struct RouteRow {
  double error;  // eps
  float threshold;  // of |s'|: below it nothing can be a candidate
  std::int32_t count;  // of its list; or one of these
};
inline constexpr std::int32_t kRouteWhole = -1;  // to be scanned whole
inline constexpr std::int32_t kRouteNothing = -2;  // a row of zeros: no atom has a score
static_assert(sizeof(RouteRow) == 2 * sizeof(double));

// |s'| and atom in one number: descending order is that of scores, ties by ascending atom.
ARROWSCHUR_HD inline std::uint64_t route_key(float score, std::uint32_t atom) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return static_cast<std::uint64_t>(bits & 0x7fffffffu) << 32 | (0xffffffffu - atom);
}
ARROWSCHUR_HD inline float score_of(std::uint64_t key) {
  const auto bits = static_cast<std::uint32_t>(key >> 32);
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}
ARROWSCHUR_HD inline std::uint32_t atom_of(std::uint64_t key) { return 0xffffffffu - static_cast<std::uint32_t>(key); }

// Keys and counts in shared memory.
ARROWSCHUR_HD inline std::uint64_t get_bits(const double* at) {
  std::uint64_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}
ARROWSCHUR_HD inline void put_bits(double* at, std::uint64_t bits) { std::memcpy(at, &bits, sizeof bits); }
// The count before this call. Who gets which place depends on the order of the threads: no result may.
ARROWSCHUR_HD inline std::uint64_t take_place(double* count) {
#ifdef __CUDA_ARCH__
  return atomicAdd(reinterpret_cast<unsigned long long*>(count), 1ull);
#else
  const std::uint64_t place = get_bits(count);
  put_bits(count, place + 1);
  return place;
#endif
}

// The largest float that is not above the value; 0 where that is not positive.
ARROWSCHUR_HD inline float float_below(double value) {
  if (!(value > 0.0)) return 0.0f;
  auto f = static_cast<float>(value);
  if (static_cast<double>(f) > value) {
    std::uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    --bits;
    std::memcpy(&f, &bits, sizeof f);
  }
  return f;
}
ARROWSCHUR_HD inline float least_threshold(double error) { return static_cast<float>(2.0 * error); }

// ---- s64 of two float vectors: kernels.hpp of the dictionary ------------------------------------------------------------
inline constexpr int kScoreLanes = 8;
// Products are exact: fused or not, the sum has the same bits, and a host without fused products need not imitate them.
ARROWSCHUR_HD inline double add_product(double sum, float a, float b) {
#ifdef __CUDA_ARCH__
  return std::fma(static_cast<double>(a), static_cast<double>(b), sum);
#else
  return sum + static_cast<double>(a) * static_cast<double>(b);
#endif
}
ARROWSCHUR_HD inline double lane_sum(const float* a, const float* b, std::int64_t width, int lane) {
  double sum = 0.0;
  ARROWSCHUR_UNROLL_8
  for (std::int64_t c = lane; c < width; c += kScoreLanes) sum = add_product(sum, a[c], b[c]);
  return sum;
}
ARROWSCHUR_HD inline double add_lanes(const double* l) {
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

// ---- the rows of a tile ---------------------------------------------------------------------------------------------------
struct RouteArgs {
  std::int64_t rows;  // of this tile of rows
  std::int64_t atoms, width;  // K, P
  int wanted;
  const float* d;
  const float* x;
  std::uint64_t* lists;  // [rows, keep]
  RouteRow* states;
  std::uint32_t* index;
  double* score;
  std::int64_t* rescanned;
  // of the tile of atoms
  std::int64_t first, count, pitch;
  const float* scores;  // [rows, pitch]

  ARROWSCHUR_HD int keep() const { return route_keep(wanted); }
  ARROWSCHUR_HD bool all_are_candidates() const { return atoms <= keep(); }
};

// eps, and an empty list; or all atoms, where the list has room for them.
struct RouteBegin {
  using Args = RouteArgs;
  static constexpr int kThreads = kRouteThreads;
  static constexpr int kRows = kThreads / kScoreLanes;
  static Launch launch(const Args& args) { return {ceil_div(args.rows, kRows), kThreads, 2}; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args& args) {
    const int slot = thread / kScoreLanes, lane = thread % kScoreLanes;
    const std::int64_t row = block * kRows + slot;
    if (row >= args.rows) return;
    if (phase == 0) {
      const float* const x = args.x + row * args.width;
      shared[thread] = lane_sum(x, x, args.width, lane);
      return;
    }
    if (args.all_are_candidates()) {
      for (std::int64_t a = lane; a < args.atoms; a += kScoreLanes) {
        args.lists[row * args.keep() + a] = route_key(0.0f, static_cast<std::uint32_t>(a));
      }
    }
    if (lane != 0) return;
    const double norm = std::sqrt(add_lanes(shared + slot * kScoreLanes));
    RouteRow state{dictionary::score_error(norm, args.width), 0.0f, 0};
    state.threshold = least_threshold(state.error);
    if (norm == 0.0) {
      state.count = kRouteNothing;
    } else if (args.all_are_candidates()) {
      state.count = static_cast<std::int32_t>(args.atoms);
    } else if (!(norm < 0x1p126 && state.error < 0x1p126)) {  // float products may overflow, or say nothing
      state.count = kRouteWhole;
    }
    args.states[row] = state;
  }
};

// The list of a row and the scores of a tile: the list of both.
struct RouteFold {
  using Args = RouteArgs;
  static constexpr int kThreads = kRouteThreads;
  static constexpr int kFound = 1024;  // scores of a tile that may have to be looked at; more: the row is scanned whole

  // Shared memory.
  static constexpr int kOld = 0, kNew = route_keep(ARROWSCHUR_ROUTE_MAX);
  static constexpr int kRanks = kNew + kFound;  // first the threads' maxima
  static constexpr int kThreshold = kRanks + kNew + kFound;
  static constexpr int kCount = kThreshold + 1;  // of new ones
  static constexpr int kCut = kCount + 1;  // tau; 0 where there are fewer than wanted
  static constexpr int kKept = kCut + 1;
  static constexpr int kShared = kKept + 1;
  static_assert(ARROWSCHUR_ROUTE_MAX <= kThreads);

  static Launch launch(const Args& args) { return {args.rows, kShared, 6}; }
  ARROWSCHUR_HD static bool idle(std::int64_t block, const Args& args) { return args.states[block].count < 0; }

  ARROWSCHUR_HD static void run(int phase, std::int64_t row, int thread, double* shared, const Args& args) {
    switch (phase) {
      case 0:
        return begin(row, thread, shared, args);
      case 1:
        return guess(row, thread, shared, args);
      case 2:
        return find(row, thread, shared, args);
      case 3:
        return rank(row, thread, shared, args);
      case 4:
        return keep(row, thread, shared, args);
      default:
        if (thread == 0) close(row, shared, args);
    }
  }

 private:
  // Of the first tile, the largest score of each thread.
  ARROWSCHUR_HD static void begin(std::int64_t row, int thread, double* shared, const Args& args) {
    if (thread == 0) {
      shared[kThreshold] = static_cast<double>(args.states[row].threshold);
      put_bits(shared + kCount, 0), put_bits(shared + kKept, 0);
      shared[kCut] = 0.0;
    }
    if (args.first != 0) return;
    const float* const scores = args.scores + row * args.pitch;
    float most = 0.0f;
    ARROWSCHUR_UNROLL_8
    for (std::int64_t a = thread; a < args.count; a += kThreads) {
      const float value = std::fabs(scores[a]);
      if (value > most) most = value;
    }
    shared[kRanks + thread] = static_cast<double>(most);
  }

  // The wanted-th largest of these is a lower bound of that of all.
  ARROWSCHUR_HD static void guess(std::int64_t row, int thread, double* shared, const Args& args) {
    if (args.first != 0) return;
    const double* const maxima = shared + kRanks;
    const double mine = maxima[thread];
    int before = 0;
    for (int t = 0; t < kThreads; ++t) before += maxima[t] > mine || (maxima[t] == mine && t < thread) ? 1 : 0;
    if (before != args.wanted - 1) return;
    const RouteRow& state = args.states[row];
    const float bound = float_below(mine - 2.0 * state.error);
    if (bound > state.threshold) shared[kThreshold] = static_cast<double>(bound);
  }

  ARROWSCHUR_HD static void find(std::int64_t row, int thread, double* shared, const Args& args) {
    const std::uint64_t* const list = args.lists + row * args.keep();
    if (thread < args.states[row].count) put_bits(shared + kOld + thread, list[thread]);
    const float* const scores = args.scores + row * args.pitch;
    const auto threshold = static_cast<float>(shared[kThreshold]);
    for (std::int64_t a = thread; a < args.count; a += kThreads) {
      const float value = scores[a];
      if (!(std::fabs(value) >= threshold)) continue;
      const std::uint64_t place = take_place(shared + kCount);
      if (place >= kFound) continue;
      put_bits(shared + kNew + place, route_key(value, static_cast<std::uint32_t>(args.first + a)));
    }
  }

  struct Merged {
    int old, found;  // old ones from kOld on, new ones from kNew on
    ARROWSCHUR_HD int all() const { return old + found; }
    ARROWSCHUR_HD int at(int e) const { return e < old ? kOld + e : kNew + e - old; }
  };
  ARROWSCHUR_HD static Merged merged(std::int64_t row, const double* shared, const Args& args) {
    return {args.states[row].count,
            static_cast<int>(smaller(static_cast<std::int64_t>(get_bits(shared + kCount)), kFound))};
  }

  // Keys are distinct: so are ranks.
  ARROWSCHUR_HD static void rank(std::int64_t row, int thread, double* shared, const Args& args) {
    const Merged m = merged(row, shared, args);
    if (m.found == 0) return;
    for (int e = thread; e < m.all(); e += kThreads) {
      const std::uint64_t mine = get_bits(shared + m.at(e));
      int before = 0;
      for (int old = 0; old < m.old; ++old) before += get_bits(shared + kOld + old) > mine ? 1 : 0;
      for (int found = 0; found < m.found; ++found) before += get_bits(shared + kNew + found) > mine ? 1 : 0;
      shared[kRanks + e] = static_cast<double>(before);
      if (before == args.wanted - 1) shared[kCut] = static_cast<double>(score_of(mine));
    }
  }

  ARROWSCHUR_HD static float threshold_of(std::int64_t row, const double* shared, const Args& args) {
    const float before = static_cast<float>(shared[kThreshold]);
    const float now = float_below(shared[kCut] - 2.0 * args.states[row].error);
    return now > before ? now : before;
  }

  ARROWSCHUR_HD static void keep(std::int64_t row, int thread, double* shared, const Args& args) {
    const Merged m = merged(row, shared, args);
    if (m.found == 0) return;
    const float threshold = threshold_of(row, shared, args);
    for (int e = thread; e < m.all(); e += kThreads) {
      const std::uint64_t key = get_bits(shared + m.at(e));
      if (score_of(key) < threshold) continue;
      take_place(shared + kKept);
      const auto at = static_cast<std::int64_t>(shared[kRanks + e]);
      if (at < args.keep()) args.lists[row * args.keep() + at] = key;
    }
  }

  ARROWSCHUR_HD static void close(std::int64_t row, const double* shared, const Args& args) {
    RouteRow state = args.states[row];
    const auto found = get_bits(shared + kCount), kept = get_bits(shared + kKept);
    if (found > 0) {
      state.threshold = threshold_of(row, shared, args);
      const bool too_many = found > kFound || kept > static_cast<std::uint64_t>(args.keep());
      state.count = too_many ? kRouteWhole : static_cast<std::int32_t>(kept);
    }
    const bool last = args.first + args.count == args.atoms;
    const bool certain = state.count >= args.wanted && state.threshold > least_threshold(state.error);
    if (last && !certain) state.count = kRouteWhole;
    args.states[row] = state;
  }
};

}  // namespace arrowschur::kernels
