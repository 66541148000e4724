#include "linalg/block_cholesky.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/pool.hpp"
#include "linalg/spin.hpp"

namespace arrowschur::linalg {
namespace {

// BLAS is column-major: a row-major matrix is its transpose there. Each call is written under its row-major meaning.
class Solver {
 public:
  Solver(const PackedTriangle& layout, double* a, Index p, double* b)
      : t_(layout),
        a_(a),
        p_(p),
        b_(b),
        blas_(blas().f64),
        blocks_(layout.blocks()),
        panels_(p == 0 ? 0 : std::max((p + 255) / 256, std::min<Index>(8, (p + 95) / 96))),
        width_(panels_ == 0 ? 0 : ((p + panels_ - 1) / panels_ + 7) / 8 * 8),
        done_(static_cast<std::size_t>(blocks_ * (blocks_ + panels_))) {
    if (width_ > 0) panels_ = (p + width_ - 1) / width_;  // the rounded width may need fewer
    for (Index j = 0; j < blocks_; ++j) {
      for (Index i = j; i < blocks_ + panels_; ++i) tasks_.push_back({i, j});
    }
  }

  std::optional<BadPivot> run() {
    parallel_for(static_cast<Index>(tasks_.size()), [&](Index task) {
      const auto [i, j] = tasks_[static_cast<std::size_t>(task)];
      if (i == j) {
        factor(j);
      } else if (i < blocks_) {
        below(i, j);
      } else {
        forward(i - blocks_, j);
      }
      done(i, j).store(1, std::memory_order_release);
    });
    if (failed_.load() < blocks_) {
      restore(failed_.load());
      return BadPivot{pivot_};
    }
    parallel_for(panels_, [&](Index panel) { backward(panel); });
    return std::nullopt;
  }

 private:
  struct Task {
    Index i, j;  // i >= blocks: panel i - blocks of the right-hand sides
  };

  std::atomic<int>& done(Index i, Index j) { return done_[static_cast<std::size_t>(i * blocks_ + j)]; }
  void wait(Index i, Index j) {
    static const std::atomic<int> never{0};
    (void)wait_for(done(i, j), 1, never);  // after a failure tasks end early, but they end
  }
  double* tile(Index i, Index j) const { return a_ + t_.offset(i) + t_.begin(j); }
  double* rows(Index j, Index panel) const { return b_ + t_.begin(j) * p_ + panel * width_; }
  Index width(Index panel) const { return std::min(width_, p_ - panel * width_); }
  bool stopped_before(Index j) const { return failed_.load(std::memory_order_acquire) < j; }

  // A_ij -= L_i L_j' over the columns before block j.
  void update(Index i, Index j, double sign) {
    if (j == 0) return;
    blas_.gemm('T', 'N', t_.height(j), t_.height(i), t_.begin(j), sign, tile(j, 0), t_.ld(j), tile(i, 0), t_.ld(i), 1.0,
               tile(i, j), t_.ld(i));
  }

  void factor(Index j) {
    if (j > 0) wait(j, j - 1);
    if (stopped_before(j)) return;
    update(j, j, -1.0);
    // The other triangle keeps a copy, for restore(): it is not referenced.
    double* block = tile(j, j);
    const Index h = t_.height(j), ld = t_.ld(j);
    for (Index r = 0; r < h; ++r) {
      for (Index c = 0; c < r; ++c) block[c * ld + r] = block[r * ld + c];
    }
    for (Index r = 0; r < h; ++r) diagonal_[static_cast<std::size_t>(r)] = block[r * ld + r];
    const Index info = blas_.potrf('U', h, block, ld);
    if (info > 0) {
      pivot_ = t_.begin(j) + info - 1;
      failed_.store(j, std::memory_order_release);
    }
  }

  // L_ij = (A_ij - L_i L_j') L_jj^-T
  void below(Index i, Index j) {
    if (j > 0) {
      wait(i, j - 1);
      wait(j, j - 1);
    }
    if (stopped_before(j)) return;
    update(i, j, -1.0);
    wait(j, j);
    if (stopped_before(j + 1)) return;
    blas_.trsm('L', 'U', 'T', t_.height(j), t_.height(i), 1.0, tile(j, j), t_.ld(j), tile(i, j), t_.ld(i));
  }

  // Y_j = L_jj^-1 (B_j - L_j Y)
  void forward(Index panel, Index j) {
    if (j > 0) {
      wait(blocks_ + panel, j - 1);
      wait(j, j - 1);
    }
    if (stopped_before(j)) return;
    if (j > 0) {
      blas_.gemm('N', 'N', width(panel), t_.height(j), t_.begin(j), -1.0, rows(0, panel), p_, tile(j, 0), t_.ld(j), 1.0,
                 rows(j, panel), p_);
    }
    wait(j, j);
    if (stopped_before(j + 1)) return;
    blas_.trsm('R', 'U', 'N', width(panel), t_.height(j), 1.0, tile(j, j), t_.ld(j), rows(j, panel), p_);
  }

  // X_j = L_jj^-T Y_j, then Y before block j -= L_j' X_j, j descending.
  void backward(Index panel) {
    for (Index j = blocks_; j-- > 0;) {
      blas_.trsm('R', 'U', 'T', width(panel), t_.height(j), 1.0, tile(j, j), t_.ld(j), rows(j, panel), p_);
      if (j > 0) {
        blas_.gemm('N', 'T', width(panel), t_.begin(j), t_.height(j), -1.0, rows(j, panel), p_, tile(j, 0), t_.ld(j),
                   1.0, rows(0, panel), p_);
      }
    }
  }

  // Multiplies out: block rows descending, because a row needs the factor of those above it. Column `failed` has had its
  // update only, later ones nothing.
  void restore(Index failed) {
    double* bad = tile(failed, failed);
    const Index ld = t_.ld(failed);
    for (Index r = 0; r < t_.height(failed); ++r) {
      for (Index c = 0; c < r; ++c) bad[r * ld + c] = bad[c * ld + r];
      bad[r * ld + r] = diagonal_[static_cast<std::size_t>(r)];
    }
    for (Index i = blocks_; i-- > failed;) update(i, failed, 1.0);
    if (failed > 0) {
      for (Index panel = 0; panel < panels_; ++panel) {
        blas_.gemm('N', 'N', width(panel), t_.height(failed), t_.begin(failed), 1.0, rows(0, panel), p_,
                   tile(failed, 0), t_.ld(failed), 1.0, rows(failed, panel), p_);
        for (Index j = failed; j-- > 0;) multiply_rows(j, panel);
      }
    }
    for (Index i = blocks_; i-- > 0;) {
      for (Index j = std::min(i + 1, failed); j-- > 0;) multiply_tile(i, j);
    }
  }

  // B_j = L_jj Y_j + L_j Y
  void multiply_rows(Index j, Index panel) {
    const Index h = t_.height(j), w = width(panel), ld = t_.ld(j);
    double* y = rows(j, panel);
    for (Index r = h; r-- > 0;) {
      for (Index c = 0; c < w; ++c) {
        double sum = 0.0;
        for (Index q = 0; q <= r; ++q) sum += tile(j, j)[r * ld + q] * y[q * p_ + c];
        y[r * p_ + c] = sum;
      }
    }
    if (j > 0) {
      blas_.gemm('N', 'N', w, h, t_.begin(j), 1.0, rows(0, panel), p_, tile(j, 0), ld, 1.0, y, p_);
    }
  }

  // A_ij = L_ij L_jj' + L_i L_j'
  void multiply_tile(Index i, Index j) {
    const Index h = t_.height(i), w = t_.height(j), ld = t_.ld(i), ldj = t_.ld(j);
    double* c = tile(i, j);
    const double* l = tile(j, j);
    for (Index r = h; r-- > 0;) {
      for (Index q = (i == j ? r : w - 1) + 1; q-- > 0;) {
        double sum = 0.0;
        for (Index k = 0; k <= q; ++k) sum += c[r * ld + k] * l[q * ldj + k];
        c[r * ld + q] = sum;
      }
    }
    update(i, j, 1.0);
  }

  const PackedTriangle t_;
  double* a_;
  Index p_;
  double* b_;
  const BlasTable<double>& blas_;
  Index blocks_, panels_, width_;
  std::vector<std::atomic<int>> done_;
  std::vector<Task> tasks_;
  std::atomic<Index> failed_{std::numeric_limits<Index>::max()};
  Index pivot_ = 0;
  std::vector<double> diagonal_ = std::vector<double>(
      PackedTriangle::kBlock);  // of the block in factor(): one at a time, each after the one before
};

}  // namespace

std::optional<BadPivot> solve_packed(const PackedTriangle& layout, double* a, Index p, double* b) {
  if (layout.n == 0) return std::nullopt;
  return Solver(layout, a, p, b).run();
}

}  // namespace arrowschur::linalg
