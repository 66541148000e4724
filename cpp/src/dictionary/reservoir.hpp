// The rows of largest residual energy of one pass, and the directions that dead atoms take from them.
#pragma once

#include <functional>
#include <vector>

#include "dictionary/rows.hpp"

namespace arrowschur::dictionary {

// The `capacity` worst rows, ties to the lowest row number. With `keep_rows` the rows and their codes are kept too
// (streams, which cannot come back to a row).
class Reservoir {
 public:
  struct Entry {
    double energy;
    Index row;
    Index slot;  // in the payload
  };
  Reservoir(Index capacity, Index p, Index s, bool keep_rows) : capacity_(capacity), p_(p), s_(s), keep_(keep_rows) {}

  void clear();
  // `codes` and `indices` [count, s] of rows x, the first of which is row `first` of the pass.
  void add(const RowBlock& x, Index first, const double* energies, const std::uint32_t* indices, const float* codes);
  std::vector<Entry> worst_first() const;
  const float* row(const Entry& e) const { return rows_.data() + e.slot * p_; }
  const std::uint32_t* indices(const Entry& e) const { return indices_.data() + e.slot * s_; }
  const float* codes(const Entry& e) const { return codes_.data() + e.slot * s_; }

 private:
  friend struct StreamFile;
  Index capacity_, p_, s_;
  bool keep_;
  std::vector<Entry> heap_;  // the weakest on top
  std::vector<float> rows_;
  std::vector<std::uint32_t> indices_;
  std::vector<float> codes_;
};

// One row of the pass again: its packed values and its codes.
struct CodedRow {
  const float* x;
  const std::uint32_t* indices;
  const float* codes;
};

// Walks the rows from the worst on and the dead atoms ascending: a dead atom takes the unit residual x - D'c of a row,
// unless |cos| > 0.9 with one installed before; ends at the first row of energy <= floor. `next` [k, p] receives the
// directions, projected. Returns the atoms that were revived.
std::vector<Index> revive(const std::vector<Reservoir::Entry>& worst_first,
                          const std::function<CodedRow(const Reservoir::Entry&)>& look_up, const float* d, Index p,
                          Index s, double floor, const std::vector<Index>& dead, float* next);

}  // namespace arrowschur::dictionary
