// The border solve in capacitance form (spec 9.6): with M = H_bb + shift = R R' cheap and X = W R^-T (T x k),
//
//     S    = M - W'W = R (I - X'X) R',        C = I - X X' = L_C L_C'   (T x T)
//     S^-1 = R^-T (I + X' C^-1 X) R^-1        (Woodbury),               log|S| = log|M| + log|C|,
//     S^-1 = G G',  G = R^-T [I, X' L_C^-T],  and  (H^-1)_tt = L^-T C^-1 L^-1.
//
// X' = R^-1 W' is kept in the packed panels of the rank-update kernels: panel p holds columns 24 p .. 24 p + 23 of X',
// its k rows one after another, which is the layout of C's update and of the triangular solves alike.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "arrowschur/error.hpp"
#include "border/equilibration.hpp"
#include "border/solver.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/condition.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/products.hpp"
#include "linalg/triangular.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using eliminate::Whitened;
using linalg::Buffer;
using linalg::kStrip;
using linalg::kTile;

constexpr Index kPanel = linalg::kPanel<double>;
constexpr Index kRows = 512;  // rows of X' per task of a product with it
constexpr Index kMostGroups = 16;  // private copies of C that are summed, and tasks worth having
constexpr Index kGroupRows = 1280;  // rows of X' that a copy should sum
constexpr Index kInverseColumns = 512;  // columns of C^-1 at a time
constexpr double kHarmless = 0x1p26;  // condition up to which a bound does
constexpr double kWorst = 1.0 / (64.0 * std::numeric_limits<double>::epsilon());

class LowRankSolver final : public Solver {
 public:
  explicit LowRankSolver(SolverInputs inputs)
      : Solver(inputs.system->k()), system_(*inputs.system), w_(std::move(inputs.w)), t_(w_->rows()) {}

  BorderReport factor(const double* shift, double ridge_beta, Guards guards, bool evidence) override {
    BorderReport report;
    if (k_ == 0) return report;
    shift_ = Buffer<double>(k_);
    std::copy(shift, shift + k_, shift_.data());
    const auto fail = [&](SchurFailure kind, Index pivot, bool of_m = false) {
      report.ok = false;
      report.kind = kind;
      report.pivot_index = pivot;
      report.suggested_ridge = kind == SchurFailure::non_finite ? std::numeric_limits<double>::quiet_NaN()
                                                                : suggest(guards, ridge_beta, of_m);
      return report;
    };

    FactorOutcome outcome = border::factor(system_.border(), shift);
    if (outcome.bad_pivot >= 0) return fail(SchurFailure::non_pd, outcome.bad_pivot, true);
    if (outcome.factor == nullptr) {
      throw UnsupportedConfiguration("a damping_beta that varies inside the identity factor of a Kronecker border",
                                     "low_rank", "use mode='inexact_pcg', or a damping that is constant there");
    }
    m_ = std::move(outcome.factor);
    whiten_columns();
    assemble_capacitance();
    for (Index i = 0; i < t_; ++i) {
      if (!std::isfinite(c_[i * linalg::padded_ld<double>(t_) + i])) return fail(SchurFailure::non_finite, -1);
    }
    if (const auto bad = linalg::cholesky(t_, c_.data())) return fail(SchurFailure::non_pd, bad->index);

    if (guards == Guards::absolute) {
      double smallest = 0.0, largest = 0.0;
      pivots(smallest, largest);
      report.kappa = largest / smallest;
      if (!evidence && !(report.kappa <= 0x1p26 / static_cast<double>(k_))) {
        return fail(SchurFailure::ill_conditioned, -1);
      }
    } else if (!evidence) {
      report.kappa = condition();
      if (!(report.kappa <= kWorst)) return fail(SchurFailure::ill_conditioned, -1);
    }
    return report;
  }

  std::unique_ptr<Solver> unfactored_copy() const override {
    SolverInputs inputs;
    inputs.system = &system_;
    inputs.w = w_;
    return std::make_unique<LowRankSolver>(std::move(inputs));
  }

  void solve(double* x, Index m, BorderAccount*) const override {
    solve_border(true, x, m);
    Buffer<double> z(t_ * m);
    x_times(x, z.data(), m);
    capacitance_solve(true, z.data(), m);
    capacitance_solve(false, z.data(), m);
    x_transposed_add(z.data(), x, m);
    solve_border(false, x, m);
  }

  // y = M x - W'(W x)
  void apply(const double* x, double* y, Index m) const override {
    const auto size = static_cast<std::size_t>(k_ * m);
    if (m == 1) {
      for (Index a = 0; a < k_; ++a) y[a] = shift_[a] * x[a];
      system_.border().matvec_add({x, size}, {y, size});
      return w_->subtract_gram_apply(x, y);
    }
    Buffer<double> wx(t_ * m);
    w_->apply(x, wx.data(), m);
    w_->transpose(wx.data(), y, m);
    for (Index a = 0; a < k_; ++a) {
      for (Index c = 0; c < m; ++c) y[a * m + c] = shift_[a] * x[a * m + c] - y[a * m + c];
    }
    system_.border().matvec_add({x, size}, {y, size}, m);
  }

  double log_det() const override {
    double sum = 0.0;
    for_capacitance_pivots([&](double l) { sum += std::log(l); });
    return m_->log_det() + 2.0 * sum;
  }

  // Bounds on those of S: the smallest and the largest of M times those of I - X'X, which has ones beside the
  // eigenvalues of C.
  void pivots(double& smallest, double& largest) const override {
    if (k_ == 0) {
      smallest = largest = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    double low = 1.0, high = 1.0;
    for_capacitance_pivots([&](double l) {
      low = std::min(low, l * l);
      high = std::max(high, l * l);
    });
    smallest = std::numeric_limits<double>::infinity();
    largest = 0.0;
    m_->pivots(smallest, largest);
    smallest *= low;
    largest *= high;
  }

  Index nbytes() const override {
    return x_.nbytes() + c_.nbytes() + shift_.nbytes() + (m_ == nullptr ? 0 : m_->nbytes());
  }

  Index root_rows() const override { return k_ + t_; }
  void root(const double* x, double* z, Index m) const override {
    std::copy(x, x + k_ * m, z);
    solve_border(true, z, m);
    x_times(z, z + k_ * m, m);
    capacitance_solve(true, z + k_ * m, m);
  }
  void root_transpose(const double* z, double* x, Index m) const override {
    std::copy(z, z + k_ * m, x);
    Buffer<double> tail(t_ * m);
    std::copy(z + k_ * m, z + (k_ + t_) * m, tail.data());
    capacitance_solve(false, tail.data(), m);
    x_transposed_add(tail.data(), x, m);
    solve_border(false, x, m);
  }

  // With Z = L_C^-1 E_i: (C^-1)_ii = Z'Z, then L_i^-T (.) L_i^-1.
  bool latent_blocks(const eliminate::RowFactors<double>& rows, std::span<const Index> which,
                     double* out) const override {
    const Index count = which.empty() ? system_.n() : static_cast<Index>(which.size());
    const auto row_at = [&](Index i) { return which.empty() ? i : which[static_cast<std::size_t>(i)]; };
    const std::vector<Place> places = places_of_rows();
    for (Index begin = 0; begin < count;) {
      Index end = begin, columns = 0;
      std::vector<std::pair<Index, double*>> blocks;  // first column of Z, where the block goes
      for (; end < count && (end == begin || columns + system_.row_dim(row_at(end)) <= kInverseColumns); ++end) {
        const Index d = system_.row_dim(row_at(end));
        blocks.emplace_back(columns, out);
        columns += d;
        out += d * d;
      }
      Buffer<double> z(t_ * columns);
      std::fill(z.begin(), z.end(), 0.0);
      for (Index i = begin; i < end; ++i) {
        const Index row = row_at(i), t = system_.row_offset(row);
        for (Index r = 0; r < system_.row_dim(row); ++r) {
          z[(t + r) * columns + blocks[static_cast<std::size_t>(i - begin)].first + r] = 1.0;
        }
      }
      linalg::solve_lower_matrix<double>(t_, c_.data(), z.data(), columns);
      linalg::parallel_for_if(t_ * columns >= linalg::kParallelWork, end - begin, [&](Index i) {
        const auto [column, block] = blocks[static_cast<std::size_t>(i)];
        latent_block(rows, places[static_cast<std::size_t>(row_at(begin + i))], row_at(begin + i), z.data() + column,
                     columns, block);
      });
      begin = end;
    }
    return true;
  }
  bool latent_blocks_cheap() const noexcept override { return true; }

 private:
  struct Place {
    Index bucket = 0, position = 0;
  };
  std::vector<Place> places_of_rows() const {
    std::vector<Place> places(static_cast<std::size_t>(system_.n()));
    for (std::size_t b = 0; b < system_.buckets().size(); ++b) {
      const RowBucket& bucket = system_.buckets()[b];
      for (Index p = 0; p < bucket.count; ++p) {
        const Index row = bucket.rows.empty() ? p : bucket.rows[static_cast<std::size_t>(p)];
        places[static_cast<std::size_t>(row)] = {static_cast<Index>(b), p};
      }
    }
    return places;
  }

  // out [d, d] from the columns of Z at `z` (leading dimension ld); rows above the block's own are zero.
  void latent_block(const eliminate::RowFactors<double>& rows, Place place, Index row, const double* z, Index ld,
                    double* out) const {
    const Index d = system_.row_dim(row);
    if (d == 0) return;
    std::fill(out, out + d * d, 0.0);
    for (Index t = system_.row_offset(row); t < t_; ++t) {
      for (Index r = 0; r < d; ++r) {
        for (Index c = 0; c < d; ++c) out[r * d + c] += z[t * ld + r] * z[t * ld + c];
      }
    }
    const auto& bucket = rows.buckets[static_cast<std::size_t>(place.bucket)];
    Buffer<double> half(d * d);
    eliminate::solve_blocks(backend::Part::upper, bucket, place.position, 1, out, d);
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c < d; ++c) half[c * d + r] = out[r * d + c];
    }
    eliminate::solve_blocks(backend::Part::upper, bucket, place.position, 1, half.data(), d);
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c <= r; ++c) out[r * d + c] = out[c * d + r] = half[r * d + c];
    }
  }

  Index panels() const { return (t_ + kPanel - 1) / kPanel; }
  double* panel(Index p) { return x_.data() + p * k_ * kPanel; }
  const double* panel(Index p) const { return x_.data() + p * k_ * kPanel; }

  // X' = R^-1 W', panel by panel.
  void whiten_columns() {
    const double* w = w_->dense64();
    Buffer<double> dense(w == nullptr ? t_ * k_ : 0);
    if (w == nullptr && t_ > 0) {
      w_->to_dense(dense.data(), k_);
      w = dense.data();
    }
    x_ = Buffer<double>((panels() * k_ + kStrip) * kPanel);  // the last strip of rows may be read beyond the end
    linalg::parallel_for_if(t_ * k_ >= linalg::kParallelWork, panels(), [&](Index p) {
      const Index first = p * kPanel, columns = std::min(kPanel, t_ - first);
      const double* from = w + first * k_;
      double* to = panel(p);
      // A cache line of each row of W at a time: at many widths the rows lie in the same sets of the cache.
      constexpr Index kLine = 8;
      for (Index j = 0; j < k_; j += kLine) {
        const Index length = std::min(kLine, k_ - j);
        for (Index c = 0; c < columns; ++c) {
          for (Index q = 0; q < length; ++q) to[(j + q) * kPanel + c] = from[c * k_ + j + q];
        }
        for (Index q = 0; q < length; ++q) std::fill(to + (j + q) * kPanel + columns, to + (j + q + 1) * kPanel, 0.0);
      }
      m_->solve_lower(to, kPanel, kPanel);
    });
  }

  // C = I - X X'. Where C has few tiles, groups of rows of X' have copies of their own, added in order.
  void assemble_capacitance() {
    const Index ld = linalg::padded_ld<double>(t_), size = linalg::padded_size<double>(t_);
    const Index tiles = linalg::lower_tiles((t_ + kTile - 1) / kTile);
    const Index groups =
        std::clamp<Index>(kMostGroups / std::max<Index>(tiles, 1), 1, std::max<Index>(1, k_ / kGroupRows));
    c_ = Buffer<double>(size);
    Buffer<double> others((groups - 1) * size);
    const auto& kernel = linalg::kernels().table<double>();
    const linalg::PackedPanels<double> packed{x_.data(), k_ * kPanel};
    const auto first_row = [&](Index g) {
      return g == groups ? k_ : k_ * g / groups / linalg::kDepth * linalg::kDepth;
    };
    const bool parallel = t_ * k_ >= linalg::kParallelWork;
    linalg::parallel_for_if(parallel, tiles * groups, [&](Index task) {
      const Index g = task / tiles;
      const auto [ti, tj] = linalg::lower_tile(task % tiles);
      const Index i_begin = ti * kTile, i_end = linalg::round_up(std::min(t_, i_begin + kTile), kStrip);
      const Index j_begin = tj * kTile, j_end = std::min(ld, j_begin + kTile);
      double* c = g == 0 ? c_.data() : others.data() + (g - 1) * size;
      for (Index i = i_begin; i < i_end; ++i) std::fill(c + i * ld + j_begin, c + i * ld + j_end, 0.0);
      if (g == 0 && ti == tj) {
        for (Index i = i_begin; i < std::min(t_, i_end); ++i) c[i * ld + i] = 1.0;
      }
      linalg::rank_update_tile(kernel, packed, first_row(g), first_row(g + 1), i_begin, i_end, j_begin,
                               std::min(t_, j_end), -1.0, c, ld, false);
    });
    if (groups == 1) return;
    linalg::parallel_for_if(parallel, (t_ + kStrip - 1) / kStrip, [&](Index strip) {
      for (Index i = strip * kStrip; i < std::min(t_, (strip + 1) * kStrip); ++i) {
        double* to = c_.data() + i * ld;
        for (Index g = 0; g + 1 < groups; ++g) {
          const double* from = others.data() + g * size + i * ld;
          for (Index j = 0; j <= i; ++j) to[j] += from[j];
        }
      }
    });
  }

  // x <- R^-1 x or R^-T x, [k, m]: columns go to the threads.
  void solve_border(bool lower, double* x, Index m) const {
    linalg::parallel_for_if(k_ * m >= linalg::kParallelWork, (m + kPanel - 1) / kPanel, [&](Index p) {
      const Index columns = std::min(kPanel, m - p * kPanel);
      if (lower) {
        m_->solve_lower(x + p * kPanel, m, columns);
      } else {
        m_->solve_upper(x + p * kPanel, m, columns);
      }
    });
  }

  void capacitance_solve(bool lower, double* z, Index m) const {
    if (m == 1) {
      if (lower) return linalg::solve_lower_vector<double>(t_, c_.data(), z);
      return linalg::solve_upper_vector<double>(t_, c_.data(), z);
    }
    if (lower) return linalg::solve_lower_matrix<double>(t_, c_.data(), z, m);
    linalg::solve_upper_matrix<double>(t_, c_.data(), z, m);
  }

  // z [T, m] = X y, y [k, m].
  void x_times(const double* y, double* z, Index m) const {
    const bool parallel = t_ * k_ * m >= linalg::kParallelWork;
    if (m == 1) {
      const auto& kernel = linalg::kernels().data<double>();
      linalg::parallel_for_if(parallel, panels(), [&](Index p) {
        double sum[kPanel] = {};
        kernel.rows_axpy(k_, kPanel, panel(p), kPanel, y, sum, nullptr);
        std::copy(sum, sum + std::min(kPanel, t_ - p * kPanel), z + p * kPanel);
      });
      return;
    }
    const auto& kernel = linalg::kernels().table<double>();
    const linalg::PackedStrips strips(k_, m, y);
    linalg::parallel_for_if(parallel, panels() * strips.strips(), [&](Index task) {
      const Index p = task % panels(), s = task / panels();
      double sum[kStrip * kPanel] = {};
      kernel.multiply(k_, panel(p), kPanel, strips.strip(s), kStrip, 1, sum, kPanel);
      for (Index c = 0; c < std::min(kPanel, t_ - p * kPanel); ++c) {
        for (Index q = 0; q < std::min(kStrip, m - s * kStrip); ++q) {
          z[(p * kPanel + c) * m + s * kStrip + q] = sum[q * kPanel + c];
        }
      }
    });
  }

  // y [k, m] += X' z, z [T, m].
  void x_transposed_add(const double* z, double* y, Index m) const {
    const bool parallel = t_ * k_ * m >= linalg::kParallelWork;
    const Index tasks = (k_ + kRows - 1) / kRows;
    if (m == 1) {
      const auto& kernel = linalg::kernels().data<double>();
      Buffer<double> padded(panels() * kPanel);
      std::copy(z, z + t_, padded.data());
      std::fill(padded.data() + t_, padded.end(), 0.0);
      linalg::parallel_for_if(parallel, tasks, [&](Index task) {
        const Index begin = task * kRows, rows = std::min(kRows, k_ - begin);
        double dot[kRows];
        for (Index p = 0; p < panels(); ++p) {
          kernel.rows_dot(rows, kPanel, panel(p) + begin * kPanel, kPanel, padded.data() + p * kPanel, dot, nullptr);
          for (Index r = 0; r < rows; ++r) y[begin + r] += dot[r];
        }
      });
      return;
    }
    const auto& kernel = linalg::kernels().table<double>();
    const linalg::PackedColumns packed(t_, m, z);
    linalg::parallel_for_if(parallel, tasks, [&](Index task) {
      for (Index j = task * kRows; j < std::min(k_, (task + 1) * kRows); j += kStrip) {
        for (Index c = 0; c < packed.panels(); ++c) {
          double sum[kStrip * kPanel] = {};
          for (Index p = 0; p < panels(); ++p) {
            kernel.multiply(std::min(kPanel, t_ - p * kPanel), packed.panel(c) + p * kPanel * kPanel, kPanel,
                            panel(p) + j * kPanel, 1, kPanel, sum, kPanel);
          }
          for (Index r = 0; r < std::min(kStrip, k_ - j); ++r) {
            double* to = y + (j + r) * m + c * kPanel;
            for (Index q = 0; q < std::min(kPanel, m - c * kPanel); ++q) to[q] += sum[r * kPanel + q];
          }
        }
      }
    });
  }

  template <class F>
  void for_capacitance_pivots(F&& f) const {
    const Index ld = linalg::padded_ld<double>(t_);
    for (Index i = 0; i < t_; ++i) f(c_[i * ld + i]);
  }

  // The diagonal of M.
  Buffer<double> border_diagonal() const {
    Buffer<double> m(k_);
    std::copy(shift_.data(), shift_.data() + k_, m.data());
    system_.border().diagonal_add({m.data(), static_cast<std::size_t>(k_)});
    return m;
  }

  // Condition of the equilibrated S in the 1-norm. With D^2 = diag(M) it is at most about cond(D^-1 M D^-1) |C^-1|, for
  // I - X'X has its eigenvalues in (0, 1], those below 1 being those of C: as long as that is harmless it does, at the
  // cost of k + T^2. Beyond, applications of S and S^-1 estimate both norms.
  double condition() const {
    const Buffer<double> m = border_diagonal();
    Buffer<double> work(2 * std::max(k_, t_)), image(k_);
    const auto size = static_cast<std::size_t>(k_);
    // |D F D|_1, F applied in place.
    const auto norm1 = [&](const Buffer<double>& d, auto&& f) {
      return linalg::estimate_norm1(k_, work.data(), work.data() + k_, [&](double* x) {
        for (Index a = 0; a < k_; ++a) x[a] *= d[a];
        f(x);
        for (Index a = 0; a < k_; ++a) x[a] *= d[a];
      });
    };
    const auto condition_of = [&](const Buffer<double>& inverse_scale, auto&& product, auto&& inverse) {
      Buffer<double> scale(k_);
      for (Index a = 0; a < k_; ++a) scale[a] = 1.0 / inverse_scale[a];
      return norm1(inverse_scale,
                   [&](double* x) {
                     product(x, image.data());
                     std::copy(image.data(), image.data() + k_, x);
                   }) *
             norm1(scale, inverse);
    };
    const auto own = [&](Index a) { return m[a]; };
    const double of_m = condition_of(
        equilibrate<double>(k_, own, own).inverse,
        [&](const double* x, double* y) {
          for (Index a = 0; a < k_; ++a) y[a] = shift_[a] * x[a];
          system_.border().matvec_add({x, size}, {y, size});
        },
        [&](double* x) {
          m_->solve_lower(x, 1, 1);
          m_->solve_upper(x, 1, 1);
        });
    const double of_c = linalg::estimate_norm1(t_, work.data(), work.data() + std::max(k_, t_), [&](double* z) {
      capacitance_solve(true, z, 1);
      capacitance_solve(false, z, 1);
    });
    const double bound = of_m * std::max(1.0, of_c);
    if (bound <= kHarmless) return bound;

    Buffer<double> squares(k_);
    w_->column_squares(squares.data());
    return condition_of(
        equilibrate<double>(
            k_, [&](Index a) { return m[a] - squares[a]; }, own)
            .inverse,
        [&](const double* x, double* y) { apply(x, y, 1); }, [&](double* x) { solve(x, 1, nullptr); });
  }

  // Absolute guards and a bad pivot of M: the Gershgorin edge of M. Otherwise the spectrum of S, whose smallest
  // eigenvalue is below that of M.
  double suggest(Guards guards, double ridge_beta, bool of_m) const {
    if (guards == Guards::absolute && of_m) {
      const Buffer<double> m = border_diagonal();
      Buffer<double> sums(k_);
      std::fill(sums.begin(), sums.end(), 0.0);
      (void)system_.border().off_diagonal_abs_sums_add({sums.data(), static_cast<std::size_t>(k_)});
      return gershgorin_ridge(k_, [&](Index a) { return m[a]; }, sums.data(), ridge_beta);
    }
    return curvature_ridge(linalg::extreme_eigenvalues(k_, [&](const double* x, double* y) { apply(x, y, 1); }),
                           ridge_beta);
  }

  ArrowSystem system_;
  std::shared_ptr<const Whitened> w_;
  Index t_;
  std::unique_ptr<BorderFactor> m_;
  Buffer<double> shift_, x_, c_;  // X' in panels; L_C in padded storage
};

}  // namespace

std::unique_ptr<Solver> make_low_rank(const SolverInputs& inputs) {
  if (!cheap_to_factor(inputs.system->border())) {
    throw UnsupportedConfiguration("this border", "low_rank",
                                   "low_rank needs a border that is diagonal, banded, block-diagonal, or a Kronecker "
                                   "product with an identity; use "
                                   "mode='direct' or 'inexact_pcg'");
  }
  return std::make_unique<LowRankSolver>(inputs);
}

}  // namespace arrowschur::border
