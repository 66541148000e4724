// From rows to supports and codes with a frozen decoder: what training passes and encode() share, so that they agree to
// the bit.
//
// Order of the atoms everywhere: descending |score|, ties by ascending index, score = s64(x, d). A zero score, and an
// atom of zeros (dormant), is never selected.
#pragma once

#include <atomic>
#include <vector>

#include "arrowschur/dictionary.hpp"
#include "dictionary/filter.hpp"
#include "dictionary/row_code.hpp"
#include "dictionary/rows.hpp"

namespace arrowschur::dictionary {

struct RouteSettings {
  Index s = 1;  // at most K
  Router router = Router::topk;
  Index refine_factor = 4;
  double code_ridge = 0.0;
  Index score_tile = 4096;
};

struct RouteCounters {
  std::atomic<Index> rescored{0}, rescanned{0}, score_bytes{0}, route_nanoseconds{0}, code_nanoseconds{0};
  std::atomic<double> flops{0.0};
};

// Where the results of a block of rows go: rows s apart.
struct RouteOutput {
  std::uint32_t* indices;  // [rows, s]
  float* codes;  // [rows, s]
  double* energies;  // [rows] of the residuals; null: not wanted
  double* square_norms;  // [rows] |x|^2; null: not wanted
};

class RowRouter {
 public:
  static constexpr Index kBlockRows = 512;

  // d [k, p] is borrowed.
  RowRouter(const float* d, Index k, Index p, const RouteSettings& settings);
  // All rows of the block, in parallel; blocks of kBlockRows rows are the tasks.
  void route(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const;

 private:
  struct Scored {
    double score;
    std::uint32_t atom;
  };
  struct Work;
  void block(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const;
  void correlation(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const;
  void pursuit(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const;
  void pursuit_by_gram(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const;
  // The `want` best atoms of a row by the order above, from its candidates or, when crowded, from all.
  void best(const CandidateLists& lists, Index row, const double* wide, Index want, Work& work,
            RouteCounters& counters) const;
  void finish_row(double square_norm, const RowCode& code, const std::uint32_t* atoms, const RouteOutput& out,
                  Index row) const;

  const float* d_;
  Index k_, p_;
  RouteSettings settings_;
  std::vector<double> square_;  // [k] s64(d, d)
  std::vector<char> live_;
  linalg::Buffer<float> gram_;  // [k, k] for omp, where it pays
};

}  // namespace arrowschur::dictionary
