// Which atoms can be among the s of largest |s64(x, d)|: a tiled float product discards the rest.
//
// A float score s' misses the true one by at most eps = gamma |x|, gamma = P u / (1 - P u), u = 2^-24, for atoms of norm
// at most 1 + 2^-16 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, section 3.1: any order of
// summation). With tau the s-th largest |s'| of a row, every true winner has |s'| >= tau - 2 eps. So the supports do not
// depend on the order in which a BLAS sums, on the tile, the minibatch, the threads or the instruction set.
#pragma once

#include <vector>

#include "arrowschur/types.hpp"
#include "dictionary/kernels.hpp"
#include "dictionary/score_error.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::dictionary {

// The candidates of a block of rows, at most keep() of each; more than that sets `crowded`, and the row must be scanned
// whole. Memory: rows (16 keep + 32) bytes and one score tile.
class CandidateLists {
 public:
  // For supports of s atoms; `max_rows` rows at a time, score tiles of at most `tile` atoms.
  CandidateLists(Index max_rows, Index s, Index tile);
  static constexpr Index kTileAtoms = 256;

  // Scores of x [rows, p] (stride apart) against d [k, p]. live[a] false: never a candidate. `chosen` (optional): entry
  // i n_chosen + j is an atom that is not wanted any more for row i.
  void collect(const float* x, Index stride, Index rows, const float* d, Index k, Index p, const double* eps,
               const char* live, const std::uint32_t* chosen = nullptr, Index chosen_stride = 0, Index n_chosen = 0);

  Index count(Index row) const { return count_[at(row)]; }
  bool crowded(Index row) const { return crowded_[at(row)] != 0; }
  const std::uint32_t* atoms(Index row) const { return index_.data() + row * capacity_; }
  Index keep() const noexcept { return s_ + spare_; }
  Index score_bytes() const noexcept { return scores_.nbytes(); }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  void append(Index row, Index found, double eps, const char* live);
  void prune(Index row, double eps);

  Index s_, spare_, capacity_, tile_, vectors_;
  linalg::Buffer<float> scores_;
  linalg::Buffer<std::uint32_t> index_, new_index_;
  linalg::Buffer<float> value_, new_value_, scratch_;
  std::vector<Index> count_;
  std::vector<char> crowded_;
  std::vector<float> threshold_;
};

}  // namespace arrowschur::dictionary
