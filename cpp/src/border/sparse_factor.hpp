// Sparse Cholesky by panels: P S P' = L L', left-looking over supernodes (E. G. Ng and B. W. Peyton, Block sparse
// Cholesky algorithms on advanced uniprocessor computers, SIAM J. Sci. Comput. 14(5), 1993).
//
//     panel p = [ L_pp ]   own columns, lower triangle        for every q < p with rows in p:  panel -= L_q L_q[p]'
//               [ L_rp ]   the rows below that it touches     L_pp = chol(panel_pp),  L_rp = panel_rp L_pp^-T
//
// A task owns a panel and waits for the panels that update it, in ascending order: independent subtrees and the
// pipeline of a wide supernode run in parallel, with the same bits for every number of threads. Vectors are in the new
// order.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.hpp"
#include "linalg/buffer.hpp"
#include "plan/schur_pattern.hpp"

namespace arrowschur::border {

class SparseFactor {
 public:
  explicit SparseFactor(std::shared_ptr<const FactorPattern> pattern);
  const FactorPattern& pattern() const noexcept { return *pattern_; }
  const std::shared_ptr<const FactorPattern>& shared_pattern() const noexcept { return pattern_; }

  // Where S goes: row r of new block b at values + (position[b] + r) * width, for the blocks of the panel's rows only.
  struct Panel {
    Index index = 0, width = 0;
    double* values = nullptr;
    const Index* position = nullptr;
  };
  // fill(panel) adds the lower triangle of S to a panel of zeros, from several threads. Returns the first column (in
  // the new order) whose pivot is not positive and finite.
  [[nodiscard]] std::optional<Index> factor(const std::function<void(const Panel&)>& fill);
  // Row c of L times scale[c], for a factor of a scaled matrix; [k] in the new order.
  void scale_rows(const double* scale);

  void solve(backend::Part, double* x, Index m) const;  // x [k, m] in place, in the calling thread
  double log_det() const;
  void pivots(double& smallest, double& largest) const;
  Index nbytes() const noexcept;

  // The entries of S^-1 on the pattern of L, from the last panel up (K. Takahashi, J. Fagan, M.-S. Chin, Formation of a
  // sparse bus impedance matrix, PICA 1973). With Y = L_rp L_pp^-1:
  //     Z_rp = -Z_rr Y,    Z_pp = L_pp^-T L_pp^-1 - Y' Z_rp
  void invert();
  bool inverted() const noexcept { return inverse_.size() > 0; }
  // Block (row, col), row >= col, of S^-1, in the new order: rows `ld` apart; both triangles of diagonal blocks.
  struct Block {
    const double* data;
    Index ld;
  };
  Block inverse_block(Index row, Index col) const;

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Index panels() const { return pattern_->panels(); }
  Index first(Index p) const { return pattern_->offsets[at(pattern_->panel_ptr[at(p)])]; }
  Index width(Index p) const { return first(p + 1) - first(p); }
  Index height(Index p) const { return height_[at(p)]; }
  Index block_width(Index b) const { return pattern_->offsets[at(b) + 1] - pattern_->offsets[at(b)]; }
  double* panel(Index p) { return values_.data() + pattern_->value_ptr[at(p)]; }
  const double* panel(Index p) const { return values_.data() + pattern_->value_ptr[at(p)]; }

  bool factor_panel(Index p, const std::function<void(const Panel&)>& fill, Index& bad);
  void update(Index p, Index from, Index row_begin, Index row_end, const Index* position);
  void forward(double* x, Index m, double* scratch) const;
  void backward(double* x, Index m, double* scratch) const;
  void invert_panel(Index p, double* corner);

  std::shared_ptr<const FactorPattern> pattern_;
  std::vector<Index> panel_of_;  // by new block
  std::vector<Index> row_at_;  // first scalar row of an entry of pattern().rows inside its panel
  std::vector<Index> height_;  // scalar rows of a panel, its own included
  std::vector<char> contiguous_;  // the rows below follow one another
  // What updates a panel: entries [row_begin, row_end) of pattern().rows of panel `from` lie in its columns.
  struct Update {
    Index from, row_begin, row_end;
  };
  std::vector<Index> update_ptr_;
  std::vector<Update> updates_;
  Index most_below_ = 0, widest_ = 0;
  linalg::Buffer<double> values_, inverse_;
};

}  // namespace arrowschur::border
