#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "arrowschur/error.hpp"
#include "border/assemble.hpp"
#include "border/row_blocks.hpp"
#include "border/schur.hpp"
#include "border/solver.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using backend::Part;
using eliminate::BlockSparseWhitened;
using eliminate::Whitened;
using linalg::Buffer;
using linalg::kTile;

// S_0 = H_bb - W'W assembled once, in the buffer that its factor takes. With a block-sparse W the same buffer also
// takes S^-1, when row blocks of the inverse are asked for: what stood there, S_0, is assembled anew from W when
// another ridge wants it, and products with S go through M and W from the start.
class DenseSolver final : public Solver {
 public:
  explicit DenseSolver(SolverInputs inputs) : Solver(inputs.system->k()), inputs_(std::move(inputs)) {
    const Whitened& w = *inputs_.w;
    sparse_ = w.block_sparse();
    if (sparse_ != nullptr && sparse_->values() == nullptr) sparse_ = nullptr;
    schur_ = SchurFactor<double>(k_);
    assemble();
  }

  BorderReport factor(const double* shift, double ridge_beta, Guards guards, bool evidence) override {
    const std::unique_lock lock(*inverse_lock_);
    if (schur_.inverted()) assemble();
    Buffer<double> diagonal(k_);
    std::fill(diagonal.begin(), diagonal.end(), 0.0);
    inputs_.system->border().diagonal_add({diagonal.data(), static_cast<std::size_t>(k_)});
    shift_ = Buffer<double>(k_);
    std::copy(shift, shift + k_, shift_.data());
    return schur_.factor(shift, diagonal.data(), guards, evidence, ridge_beta);
  }

  std::unique_ptr<Solver> unfactored_copy() const override {
    const std::shared_lock lock(*inverse_lock_);
    return std::unique_ptr<Solver>(schur_.inverted() ? new DenseSolver(inputs_)
                                                     : new DenseSolver(inputs_, schur_.unfactored_copy()));
  }

  void solve(double* x, Index m, BorderAccount*) const override { schur_.solve(Part::full, x, m); }

  void apply(const double* x, double* y, Index m) const override {
    if (sparse_ == nullptr) return schur_.apply(x, y, m);
    Buffer<double> wx(sparse_->rows() * m);
    sparse_->apply(x, wx.data(), m);
    sparse_->transpose(wx.data(), y, m);
    for (Index a = 0; a < k_; ++a) {
      for (Index c = 0; c < m; ++c) y[a * m + c] = shift_[a] * x[a * m + c] - y[a * m + c];
    }
    const auto size = static_cast<std::size_t>(k_ * m);
    inputs_.system->border().matvec_add({x, size}, {y, size}, m);
  }

  double log_det() const override { return schur_.log_det(); }
  void pivots(double& smallest, double& largest) const override { schur_.pivots(smallest, largest); }
  Index nbytes() const override { return schur_.nbytes() + shift_.nbytes(); }

  Index root_rows() const override { return k_; }
  bool root_is_lower() const noexcept override { return true; }
  void root(const double* x, double* z, Index m) const override {
    if (z != x) std::copy(x, x + k_ * m, z);
    schur_.solve(Part::lower, z, m);
  }
  void root_transpose(const double* z, double* x, Index m) const override {
    if (x != z) std::copy(z, z + k_ * m, x);
    schur_.solve(Part::upper, x, m);
  }

  bool latent_blocks(const eliminate::RowFactors<double>& rows, std::span<const Index> which,
                     double* out) const override {
    if (!inverse_pays(listed_dim(*inputs_.system, which))) return false;
    {
      const std::unique_lock lock(*inverse_lock_);
      if (!schur_.inverted()) schur_.invert();
    }
    const std::shared_lock lock(*inverse_lock_);
    const std::span<const Index> offsets = sparse_->offsets();
    const auto column = [&](Index b) { return offsets[static_cast<std::size_t>(b)]; };
    const auto gather = [&](std::span<const Index> blocks, double* q, Index ld) {
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        for (Index row = column(blocks[i]); row < column(blocks[i] + 1); ++row, q += ld + 1) {
          const double* inverse = schur_.inverse_row(row);
          double* to = q;
          *to++ = schur_.inverse_diagonal(row);
          for (Index j = row + 1; j < column(blocks[i] + 1); ++j) *to++ = inverse[j];
          for (std::size_t other = i + 1; other < blocks.size(); ++other) {
            for (Index j = column(blocks[other]); j < column(blocks[other] + 1); ++j) *to++ = inverse[j];
          }
        }
      }
    };
    latent_blocks_on_support(*inputs_.system, rows, *sparse_, which, out, gather);
    return true;
  }
  bool latent_blocks_cheap() const noexcept override { return inverse_pays(inputs_.system->total_dim()); }

 private:
  DenseSolver(const SolverInputs& inputs, SchurFactor<double> schur)
      : Solver(inputs.system->k()), inputs_(inputs), sparse_(inputs.w->block_sparse()), schur_(std::move(schur)) {
    if (sparse_ != nullptr && sparse_->values() == nullptr) sparse_ = nullptr;
  }

  // 2/3 k^3 flops for all of S^-1 (and nothing, once it is there) against `t` right-hand sides of k^2.
  bool inverse_pays(Index t) const noexcept {
    return sparse_ != nullptr && k_ > 0 && (schur_.inverted() || 3 * t >= 2 * k_);
  }

  void assemble() {
    const Border& border = inputs_.system->border();
    const Index tiles = (k_ + kTile - 1) / kTile, ld = linalg::padded_ld<double>(k_);
    double* s = schur_.matrix();
    // Forms with few entries are scattered; the others are written tile by tile.
    const bool scatter = stored_entries(border) < k_ * k_ / 8;
    linalg::parallel_for_if(k_ * k_ >= linalg::kParallelWork, linalg::lower_tiles(tiles), [&](Index task) {
      const auto [ti, tj] = linalg::lower_tile(task);
      const Index i_begin = ti * kTile, i_end = std::min(k_, i_begin + kTile);
      const Index j_begin = tj * kTile, j_end = std::min(k_, j_begin + kTile);
      if (!scatter) return assemble_tile(border, i_begin, i_end, j_begin, j_end, s, ld);
      for (Index i = i_begin; i < i_end; ++i) std::fill(s + i * ld + j_begin, s + i * ld + j_end, 0.0);
    });
    if (scatter) for_each_lower(border, [&](Index row, Index col, double value) { s[row * ld + col] += value; });
    inputs_.w->subtract_gram(s, ld);
    schur_.keep_schur();
  }

  SolverInputs inputs_;
  const BlockSparseWhitened* sparse_ = nullptr;  // null: W has another form
  mutable SchurFactor<double> schur_;            // its upper triangle is replaced under inverse_lock_
  Buffer<double> shift_;
  std::unique_ptr<std::shared_mutex> inverse_lock_ = std::make_unique<std::shared_mutex>();
};

}  // namespace

std::unique_ptr<Solver> make_dense(const SolverInputs& inputs) {
  if (!has_dense(inputs.system->border())) {
    throw UnsupportedConfiguration(
        "a border given by callbacks", to_string(inputs.plan.route),
        "the direct routes need the entries of h_bb: use mode='inexact_pcg', or hand the border "
        "over as an array or a structured form");
  }
  return std::make_unique<DenseSolver>(inputs);
}

}  // namespace arrowschur::border
