// The atoms that a row is given: candidates scored exactly and sorted, or all atoms where the candidates are too many.
#pragma once

#include "route.hpp"

namespace arrowschur::kernels {

// Descending |score|, ties by ascending atom; atoms are kept as doubles, which hold 32 bits.
ARROWSCHUR_HD inline bool comes_before(double score, double atom, double other, double other_atom) {
  const double x = std::fabs(score), y = std::fabs(other);
  return x > y || (x == y && atom < other_atom);
}

struct RouteOutput {
  std::uint32_t* index;
  double* score;
  ARROWSCHUR_HD RouteOutput(const RouteArgs& args, std::int64_t row)
      : index(args.index + row * args.wanted), score(args.score + row * args.wanted) {}
  ARROWSCHUR_HD void put(int place, double atom, double value) const {
    index[place] = static_cast<std::uint32_t>(atom), score[place] = value;
  }
  ARROWSCHUR_HD void leave_empty(int place) const { index[place] = 0xffffffffu, score[place] = 0.0; }
};

// Eight threads for each candidate, a lane of its sum each.
struct RouteScore {
  using Args = RouteArgs;
  static constexpr int kThreads = kRouteThreads;
  static constexpr int kMost = route_keep(ARROWSCHUR_ROUTE_MAX);
  static constexpr int kScores = kScoreLanes * kMost, kAtoms = kScores + kMost;  // the lanes at 0
  static_assert(kMost <= kThreads);

  static Launch launch(const Args& args) { return {args.rows, kAtoms + kMost, 3}; }
  ARROWSCHUR_HD static bool idle(std::int64_t block, const Args& args) {
    return args.states[block].count == kRouteWhole;
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t row, int thread, double* shared, const Args& args) {
    const std::int32_t count = args.states[row].count > 0 ? args.states[row].count : 0;
    double *const scores = shared + kScores, *const atoms = shared + kAtoms;
    if (phase == 0) {
      const int lane = thread % kScoreLanes;
      const float* const x = args.x + row * args.width;
      for (int c = thread / kScoreLanes; c < count; c += kThreads / kScoreLanes) {
        const std::uint32_t atom = atom_of(args.lists[row * args.keep() + c]);
        if (lane == 0) atoms[c] = static_cast<double>(atom);
        shared[c * kScoreLanes + lane] = lane_sum(x, args.d + atom * args.width, args.width, lane);
      }
      return;
    }
    if (phase == 1) {
      if (thread < count) scores[thread] = add_lanes(shared + thread * kScoreLanes);
      return;
    }
    const RouteOutput out(args, row);
    int before = 0, found = 0;
    for (int c = 0; c < count; ++c) {
      if (scores[c] == 0.0) continue;
      ++found;
      if (thread < count) before += comes_before(scores[c], atoms[c], scores[thread], atoms[thread]) ? 1 : 0;
    }
    if (thread < count && scores[thread] != 0.0 && before < args.wanted) out.put(before, atoms[thread], scores[thread]);
    if (thread >= found && thread < args.wanted) out.leave_empty(thread);
  }
};

// A block for each row that is scanned whole: 256 atoms at a time, merged with the best so far.
struct RouteScan {
  using Args = RouteArgs;
  static constexpr int kThreads = kRouteThreads;
  static constexpr int kChunk = 256, kGroups = kThreads / kScoreLanes, kTogether = 4;  // atoms of a group at once
  static_assert(kChunk <= kThreads && kChunk % (kGroups * kTogether) == 0);

  // Shared memory, the lanes at 0. The list changes its place with every chunk.
  static constexpr int kBest = ARROWSCHUR_ROUTE_MAX;
  static constexpr int kLists = kScoreLanes * kChunk;  // [2, 2, kBest]: scores and atoms, twice
  static constexpr int kNew = kLists + 4 * kBest;  // [2, kChunk]
  static constexpr int kCounts = kNew + 2 * kChunk;  // of the two lists; of the new ones
  static constexpr int kShared = kCounts + 3;

  ARROWSCHUR_HD static std::int64_t chunks(const Args& args) { return ceil_div(args.atoms, kChunk); }
  static Launch launch(const Args& args) { return {args.rows, kShared, static_cast<int>(3 * chunks(args)) + 2}; }
  ARROWSCHUR_HD static bool idle(std::int64_t block, const Args& args) {
    return args.states[block].count != kRouteWhole;
  }

  ARROWSCHUR_HD static void run(int phase, std::int64_t row, int thread, double* shared, const Args& args) {
    if (phase == 0) {
      if (thread < 3) put_bits(shared + kCounts + thread, 0);
      return;
    }
    const std::int64_t chunk = (phase - 1) / 3;
    if (chunk == chunks(args)) return write(chunk, row, thread, shared, args);
    switch ((phase - 1) % 3) {
      case 0:
        return sums(chunk, row, thread, shared, args);
      case 1:
        return offer(chunk, thread, shared, args);
      default:
        return merge(chunk, thread, shared, args);
    }
  }

 private:
  struct List {
    double *scores, *atoms;
    int count;
  };
  ARROWSCHUR_HD static List list(double* shared, std::int64_t which) {
    double* const at = shared + kLists + which * 2 * kBest;
    return {at, at + kBest, static_cast<int>(get_bits(shared + kCounts + which))};
  }

  // Four atoms at once: one would wait for its own additions.
  ARROWSCHUR_HD static void sums(std::int64_t chunk, std::int64_t row, int thread, double* shared, const Args& args) {
    if (thread == 0) put_bits(shared + kCounts + 2, 0);
    const int group = thread / kScoreLanes, lane = thread % kScoreLanes;
    const float* const x = args.x + row * args.width;
    for (int begin = group; begin < kChunk; begin += kGroups * kTogether) {
      const float* d[kTogether];
      double sum[kTogether];
      ARROWSCHUR_UNROLL
      for (int q = 0; q < kTogether; ++q) {  // the last atom again beyond the end: not looked at
        const std::int64_t atom = smaller(chunk * kChunk + begin + q * kGroups, args.atoms - 1);
        d[q] = args.d + atom * args.width;
        sum[q] = 0.0;
      }
      for (std::int64_t c = lane; c < args.width; c += kScoreLanes) {
        const float value = x[c];
        ARROWSCHUR_UNROLL
        for (int q = 0; q < kTogether; ++q) sum[q] = add_product(sum[q], value, d[q][c]);
      }
      ARROWSCHUR_UNROLL
      for (int q = 0; q < kTogether; ++q) shared[(begin + q * kGroups) * kScoreLanes + lane] = sum[q];
    }
  }

  // What a full list has no place for is not taken down.
  ARROWSCHUR_HD static void offer(std::int64_t chunk, int thread, double* shared, const Args& args) {
    const std::int64_t atom = chunk * kChunk + thread;
    if (thread >= kChunk || atom >= args.atoms) return;
    const double score = add_lanes(shared + thread * kScoreLanes), at = static_cast<double>(atom);
    if (score == 0.0) return;
    const List best = list(shared, chunk % 2);
    const int last = args.wanted - 1;
    if (best.count > last && !comes_before(score, at, best.scores[last], best.atoms[last])) return;
    const std::uint64_t place = take_place(shared + kCounts + 2);
    shared[kNew + place] = score, shared[kNew + kChunk + place] = at;
  }

  ARROWSCHUR_HD static void merge(std::int64_t chunk, int thread, double* shared, const Args& args) {
    const List from = list(shared, chunk % 2), to = list(shared, (chunk + 1) % 2);
    const int found = static_cast<int>(get_bits(shared + kCounts + 2)), all = from.count + found;
    const double *const scores = shared + kNew, *const atoms = scores + kChunk;
    const auto score = [&](int e) { return e < from.count ? from.scores[e] : scores[e - from.count]; };
    const auto atom = [&](int e) { return e < from.count ? from.atoms[e] : atoms[e - from.count]; };
    for (int e = thread; e < all; e += kThreads) {
      int before = 0;
      for (int other = 0; other < all; ++other)
        before += comes_before(score(other), atom(other), score(e), atom(e)) ? 1 : 0;
      if (before < args.wanted) to.scores[before] = score(e), to.atoms[before] = atom(e);
    }
    if (thread == 0)
      put_bits(shared + kCounts + (chunk + 1) % 2, static_cast<std::uint64_t>(smaller(all, args.wanted)));
  }

  ARROWSCHUR_HD static void write(std::int64_t chunk, std::int64_t row, int thread, double* shared, const Args& args) {
    if (thread == 0) atomic_add(args.rescanned, 1);
    if (thread >= args.wanted) return;
    const RouteOutput out(args, row);
    const List best = list(shared, chunk % 2);
    if (thread < best.count) return out.put(thread, best.atoms[thread], best.scores[thread]);
    out.leave_empty(thread);
  }
};

}  // namespace arrowschur::kernels
