#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "arrowschur/error.hpp"
#include "border/equilibration.hpp"
#include "border/row_blocks.hpp"
#include "border/solver.hpp"
#include "border/sparse_factor.hpp"
#include "border/sparse_schur.hpp"
#include "linalg/condition.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using backend::Part;
using eliminate::BlockSparseWhitened;
using linalg::Buffer;

constexpr Index kColumns = 64;  // right-hand sides per task

// Block-sparse S with a sparse Cholesky factor P S P' = L L'. S_0 and the symbolic factor are shared by all copies.
class SparseSolver final : public Solver {
 public:
  explicit SparseSolver(SolverInputs inputs)
      : Solver(inputs.system->k()),
        inputs_(std::move(inputs)),
        schur_(std::make_shared<const SparseSchur>(*inputs_.system, *inputs_.w->block_sparse())),
        factor_(std::make_shared<const FactorPattern>(*factor_pattern(schur_->pattern()))),
        shift_(k_) {}

  BorderReport factor(const double* shift, double ridge_beta, Guards guards, bool evidence) override {
    const std::unique_lock lock(*inverse_lock_);
    BorderReport report;
    if (k_ == 0) return report;
    std::copy(shift, shift + k_, shift_.data());
    const auto fail = [&](SchurFailure kind, Index pivot) {
      report.ok = false;
      report.kind = kind;
      report.pivot_index = pivot;
      report.suggested_ridge =
          kind == SchurFailure::non_finite ? std::numeric_limits<double>::quiet_NaN() : suggest(guards, ridge_beta);
      return report;
    };

    Buffer<double> s(k_), m(k_), sums(k_);
    std::copy(shift, shift + k_, m.data());
    inputs_.system->border().diagonal_add({m.data(), static_cast<std::size_t>(k_)});
    diagonal(s.data());
    bool finite = true;
    for (Index a = 0; a < k_; ++a) finite = finite && std::isfinite(s[a]);
    const Equilibration scale = equilibrate<double>(k_, [&](Index a) { return s[a]; }, [&](Index a) { return m[a]; });
    const bool estimate = guards == Guards::relative && !evidence;
    double norm = 0.0;  // of E
    if (estimate) {
      schur_->off_diagonal_sums(scale.inverse.data(), sums.data());
      for (Index a = 0; a < k_; ++a) {
        norm = std::max(norm, sums[a] + std::abs(s[a]) * scale.inverse[a] * scale.inverse[a]);
        finite = finite && std::isfinite(sums[a]);
      }
    }
    if (!finite) return fail(SchurFailure::non_finite, -1);

    const auto bad = factor_.factor([&](const SparseFactor::Panel& panel) { fill(panel, scale); });
    if (bad) return fail(SchurFailure::non_pd, old_column(*bad));
    if (scale.needed) {
      Buffer<double> back(k_);
      permute(scale.inverse.data(), back.data(), 0, 1, 1);
      for (Index a = 0; a < k_; ++a) back[a] = 1.0 / back[a];
      factor_.scale_rows(back.data());
    }

    if (guards == Guards::absolute) {
      double smallest = 0.0, largest = 0.0;
      factor_.pivots(smallest, largest);
      report.kappa = largest / smallest;
      if (!evidence && !(report.kappa <= 0x1p26 / static_cast<double>(k_)))
        return fail(SchurFailure::ill_conditioned, -1);
    } else if (estimate) {
      const double inverse = linalg::estimate_norm1(k_, s.data(), sums.data(), [&](double* x) {
        for (Index a = 0; a < k_; ++a) x[a] /= scale.inverse[a];
        solve(x, 1, nullptr);
        for (Index a = 0; a < k_; ++a) x[a] /= scale.inverse[a];
      });
      report.kappa = norm * inverse;
      if (!(report.kappa <= 1.0 / (64.0 * std::numeric_limits<double>::epsilon())))
        return fail(SchurFailure::ill_conditioned, -1);
    }
    return report;
  }

  std::unique_ptr<Solver> unfactored_copy() const override { return std::unique_ptr<Solver>(new SparseSolver(*this)); }

  void solve(double* x, Index m, BorderAccount*) const override { run(Part::full, x, x, m); }
  void root(const double* x, double* z, Index m) const override { run(Part::lower, x, z, m); }
  void root_transpose(const double* z, double* x, Index m) const override { run(Part::upper, z, x, m); }
  Index root_rows() const override { return k_; }

  void apply(const double* x, double* y, Index m) const override { schur_->apply(shift_.data(), x, y, m); }
  double log_det() const override { return factor_.log_det(); }
  void pivots(double& smallest, double& largest) const override { factor_.pivots(smallest, largest); }
  Index nbytes() const override { return schur_->nbytes() + factor_.nbytes() + shift_.nbytes(); }

  bool latent_blocks(const eliminate::RowFactors<double>& rows, std::span<const Index> which,
                     double* out) const override {
    if (!inverse_pays(listed_dim(*inputs_.system, which))) return false;
    {
      const std::unique_lock lock(*inverse_lock_);
      if (!factor_.inverted()) factor_.invert();
    }
    const std::shared_lock lock(*inverse_lock_);
    const FactorPattern& f = factor_.pattern();
    const BlockPattern& s = schur_->pattern();
    const auto place = [&](Index b) { return f.place[static_cast<std::size_t>(b)]; };
    const auto gather = [&](std::span<const Index> blocks, double* q, Index ld) {
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        const Index height = s.width(blocks[i]);
        double* to = q;
        for (std::size_t j = i; j < blocks.size(); ++j) {
          const Index a = place(blocks[i]), b = place(blocks[j]), width = s.width(blocks[j]);
          const auto block = factor_.inverse_block(std::max(a, b), std::min(a, b));
          for (Index r = 0; r < height; ++r) {
            for (Index t = j == i ? r : 0; t < width; ++t) {
              to[r * ld + t] = a >= b ? block.data[r * block.ld + t] : block.data[t * block.ld + r];
            }
          }
          to += width;
        }
        q += height * (ld + 1);
      }
    };
    latent_blocks_on_support(*inputs_.system, rows, *inputs_.w->block_sparse(), which, out, gather);
    return true;
  }
  bool latent_blocks_cheap() const noexcept override { return inverse_pays(inputs_.system->total_dim()); }

 private:
  SparseSolver(const SparseSolver& other)
      : Solver(other.k_),
        inputs_(other.inputs_),
        schur_(other.schur_),
        factor_(other.factor_.shared_pattern()),
        shift_(k_) {}

  // The selected inverse costs about two factorizations, a right-hand side one pass over L.
  bool inverse_pays(Index t) const noexcept {
    const FactorPattern& f = factor_.pattern();
    return k_ > 0 && (factor_.inverted() || static_cast<double>(t) * f.entries >= f.flops);
  }

  // Of S.
  void diagonal(double* out) const {
    const BlockPattern& s = schur_->pattern();
    for (Index b = 0; b < s.blocks(); ++b) {
      const auto block = schur_->diagonal(b);
      const Index first = s.offsets[static_cast<std::size_t>(b)];
      for (Index r = 0; r < s.width(b); ++r) out[first + r] = block.data[r * block.ld + r] + shift_[first + r];
    }
  }

  double suggest(Guards guards, double ridge_beta) const {
    if (guards == Guards::absolute) {
      Buffer<double> s(k_), sums(k_);
      diagonal(s.data());
      schur_->off_diagonal_sums(nullptr, sums.data());
      return gershgorin_ridge(k_, [&](Index a) { return s[a]; }, sums.data(), ridge_beta);
    }
    return curvature_ridge(linalg::extreme_eigenvalues(k_, [this](const double* x, double* y) { apply(x, y, 1); }),
                           ridge_beta);
  }

  Index old_column(Index column) const {
    const FactorPattern& f = factor_.pattern();
    const auto block = std::upper_bound(f.offsets.begin(), f.offsets.end(), column) - f.offsets.begin() - 1;
    const Index old = f.order[static_cast<std::size_t>(block)];
    return schur_->pattern().offsets[static_cast<std::size_t>(old)] + column -
           f.offsets[static_cast<std::size_t>(block)];
  }

  // The lower triangle of (scaled) S + shift into one panel.
  void fill(const SparseFactor::Panel& panel, const Equilibration& scale) const {
    const FactorPattern& f = factor_.pattern();
    const BlockPattern& s = schur_->pattern();
    const Index begin = f.panel_ptr[static_cast<std::size_t>(panel.index)];
    const Index end = f.panel_ptr[static_cast<std::size_t>(panel.index) + 1];
    const Index left = f.offsets[static_cast<std::size_t>(begin)];
    for (Index q = begin; q < end; ++q) {
      const Index old = f.order[static_cast<std::size_t>(q)];
      const Index first = s.offsets[static_cast<std::size_t>(old)], width = s.width(old);
      const Index column = f.offsets[static_cast<std::size_t>(q)] - left;
      schur_->for_each_in(old, [&](Index other, SparseSchur::Block block, bool transposed) {
        const Index place = f.place[static_cast<std::size_t>(other)];
        if (place < q) return;
        const Index other_first = s.offsets[static_cast<std::size_t>(other)];
        const Index step = transposed ? 1 : block.ld, stride = transposed ? block.ld : 1;
        for (Index r = 0; r < s.width(other); ++r) {
          double* to = panel.values + (panel.position[place] + r) * panel.width + column;
          const Index columns = other == old ? r + 1 : width;
          for (Index c = 0; c < columns; ++c) to[c] = block.data[r * step + c * stride];
          if (other == old) to[r] += shift_[first + r];
          if (scale.needed) {
            for (Index c = 0; c < columns; ++c) to[c] *= scale.inverse[other_first + r] * scale.inverse[first + c];
          }
        }
      });
    }
  }

  // out [k, cols] in the new order from columns of x [k, m] in the old one, and back.
  void permute(const double* x, double* out, Index column, Index cols, Index m) const {
    each_block([&](Index from, Index to, Index width) {
      for (Index r = 0; r < width; ++r) std::copy_n(x + (from + r) * m + column, cols, out + (to + r) * cols);
    });
  }
  void permute_back(const double* x, double* out, Index column, Index cols, Index m) const {
    each_block([&](Index to, Index from, Index width) {
      for (Index r = 0; r < width; ++r) std::copy_n(x + (from + r) * cols, cols, out + (to + r) * m + column);
    });
  }
  template <class F>
  void each_block(F&& f) const {
    const FactorPattern& p = factor_.pattern();
    const BlockPattern& s = schur_->pattern();
    for (Index b = 0; b < s.blocks(); ++b) {
      const auto place = static_cast<std::size_t>(p.place[static_cast<std::size_t>(b)]);
      f(s.offsets[static_cast<std::size_t>(b)], p.offsets[place], s.width(b));
    }
  }

  // L^-1 P x, P' L^-T x or S^-1 x. In the middle, vectors are in the new order.
  void run(Part part, const double* x, double* out, Index m) const {
    const double work = factor_.pattern().entries * static_cast<double>(m);
    linalg::parallel_for_if(work >= static_cast<double>(linalg::kParallelWork), (m + kColumns - 1) / kColumns,
                            [&](Index task) {
                              const Index column = task * kColumns, cols = std::min(kColumns, m - column);
                              Buffer<double> own(k_ * cols);
                              if (part == Part::upper) {
                                copy_columns(x + column, m, own.data(), cols, cols);
                              } else {
                                permute(x, own.data(), column, cols, m);
                              }
                              factor_.solve(part, own.data(), cols);
                              if (part == Part::lower) {
                                copy_columns(own.data(), cols, out + column, m, cols);
                              } else {
                                permute_back(own.data(), out, column, cols, m);
                              }
                            });
  }
  void copy_columns(const double* from, Index ld_from, double* to, Index ld_to, Index cols) const {
    for (Index r = 0; r < k_; ++r) std::copy_n(from + r * ld_from, cols, to + r * ld_to);
  }

  SolverInputs inputs_;
  std::shared_ptr<const SparseSchur> schur_;
  mutable SparseFactor factor_;  // its inverse is made under inverse_lock_
  Buffer<double> shift_;
  std::unique_ptr<std::shared_mutex> inverse_lock_ = std::make_unique<std::shared_mutex>();
};

}  // namespace

std::unique_ptr<Solver> make_sparse(const SolverInputs& inputs) {
  const BlockSparseWhitened* w = inputs.w->block_sparse();
  if (w == nullptr || w->values() == nullptr || !has_dense(inputs.system->border())) {
    throw UnsupportedConfiguration("a sparse Schur complement", to_string(inputs.plan.route),
                                   "it needs a block-sparse cross block and the entries of h_bb");
  }
  return std::make_unique<SparseSolver>(inputs);
}

}  // namespace arrowschur::border
