// What a pass leaves for the refresh: A = C'C, B = C'X, and how often each atom fired.
#pragma once

#include <vector>

#include "dictionary/normal_matrix.hpp"
#include "dictionary/rows.hpp"

namespace arrowschur::dictionary {

class Statistics {
 public:
  Statistics(Index k, Index p, Index budget);
  Statistics(const Statistics& other);
  void clear();
  void forget(Index atom);  // its row and column of A, its row of B
  // Adds (sign 1) or takes away (sign -1) the terms of some rows, in their order: each entry of A and B is owned by
  // one task, which walks the posting list (row, slot) of its atom. indices, codes [rows, s]; codes of 0 do not count.
  void add(const RowBlock& x, const std::uint32_t* indices, const float* codes, Index s, double sign = 1.0);

  NormalMatrix a;
  linalg::Buffer<double> b;  // [k, p]
  std::vector<std::uint64_t> fires;  // [k]

 private:
  struct Posting {
    std::uint32_t row, slot;
  };
  void add_pairs(Index atom, const Posting* begin, const Posting* end, const std::uint32_t* indices, const float* codes,
                 Index s, double sign);

  Index k_, p_;
  std::vector<std::uint32_t> offsets_;  // [k + 1]
  std::vector<Posting> postings_;
};

}  // namespace arrowschur::dictionary
