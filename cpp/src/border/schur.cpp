#include "border/schur.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "border/equilibration.hpp"
#include "linalg/blas.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/condition.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/triangular.hpp"

namespace arrowschur::border {
namespace {

using backend::BorderReport;
using backend::Part;
using linalg::Buffer;
using linalg::kTile;

constexpr Index kParallelFrom = 512;  // columns

template <class T>
constexpr double epsilon() {
  return static_cast<double>(std::numeric_limits<T>::epsilon());
}

Index tiles_of(Index k) { return (k + kTile - 1) / kTile; }

}  // namespace

template <class T>
SchurFactor<T>::SchurFactor(Index k)
    : k_(k), ld_(linalg::padded_ld<T>(k)), s_(linalg::padded_size<T>(k)), diagonal_(k), shift_(k) {}

template <class T>
void SchurFactor<T>::keep_schur() {
  linalg::parallel_for_if(k_ >= kParallelFrom, linalg::lower_tiles(tiles_of(k_)), [&](Index task) {
    const auto [ti, tj] = linalg::lower_tile(task);
    const Index i_end = std::min(k_, (ti + 1) * kTile), j_end = std::min(k_, (tj + 1) * kTile);
    // 8 x 8 blocks: both sides move whole cache lines.
    for (Index i0 = ti * kTile; i0 < i_end; i0 += 8) {
      for (Index j0 = tj * kTile; j0 < j_end; j0 += 8) {
        if (i0 >= j0 + 8 && i0 + 8 <= i_end && j0 + 8 <= j_end) {
          for (Index j = 0; j < 8; ++j) {
            for (Index i = 0; i < 8; ++i) s_[(j0 + j) * ld_ + i0 + i] = s_[(i0 + i) * ld_ + j0 + j];
          }
          continue;
        }
        for (Index i = i0; i < std::min(i_end, i0 + 8); ++i) {
          for (Index j = j0; j < std::min({j_end, j0 + 8, i}); ++j) s_[j * ld_ + i] = s_[i * ld_ + j];
        }
      }
    }
  });
  for (Index a = 0; a < k_; ++a) diagonal_[a] = s_[a * ld_ + a];
  lower_is_schur_ = true;
  inverse_diagonal_ = {};
}

template <class T>
void SchurFactor<T>::restore_lower() {
  if (lower_is_schur_) return;
  linalg::parallel_for_if(k_ >= kParallelFrom, linalg::lower_tiles(tiles_of(k_)), [&](Index task) {
    const auto [ti, tj] = linalg::lower_tile(task);
    for (Index i = ti * kTile; i < std::min(k_, (ti + 1) * kTile); ++i) {
      for (Index j = tj * kTile; j < std::min({k_, (tj + 1) * kTile, i}); ++j) s_[i * ld_ + j] = upper(i, j);
    }
  });
  lower_is_schur_ = true;
}

template <class T>
void SchurFactor<T>::off_diagonal_sums(const double* inverse_scale, double* sums) const {
  // Row j of the upper triangle holds column j of S_0 below the diagonal: one pass, contiguous. Blocks of rows keep
  // private sums for the columns to their right; both are combined in block order.
  const Index block = 64, blocks = (k_ + block - 1) / block;
  const Index groups = std::min<Index>(blocks, 16);
  Buffer<double> partial(groups * k_);
  linalg::parallel_for_if(k_ >= kParallelFrom, groups, [&](Index g) {
    double* own = partial.data() + g * k_;
    std::fill(own, own + k_, 0.0);
    for (Index b = g; b < blocks; b += groups) {  // dealt out in turn: the rows get shorter
      for (Index j = b * block; j < std::min(k_, (b + 1) * block); ++j) {
        const T* row = s_.data() + j * ld_;
        const double scale_j = inverse_scale == nullptr ? 1.0 : inverse_scale[j];
        double sum = 0.0;
        if (inverse_scale == nullptr) {
          for (Index i = j + 1; i < k_; ++i) {
            const double e = std::abs(static_cast<double>(row[i]));
            sum += e;
            own[i] += e;
          }
        } else {
          for (Index i = j + 1; i < k_; ++i) {
            const double e = std::abs(static_cast<double>(row[i])) * (scale_j * inverse_scale[i]);
            sum += e;
            own[i] += e;
          }
        }
        own[j] += sum;
      }
    }
  });
  std::fill(sums, sums + k_, 0.0);
  for (Index g = 0; g < groups; ++g) {
    for (Index a = 0; a < k_; ++a) sums[a] += partial[g * k_ + a];
  }
}

template <class T>
BorderReport SchurFactor<T>::factor(const double* shift, const double* border_diagonal, Guards guards, bool evidence,
                                    double ridge_beta) {
  BorderReport report;
  if (k_ == 0) return report;
  restore_lower();
  std::copy(shift, shift + k_, shift_.data());
  bool finite = true;
  for (Index a = 0; a < k_; ++a) {
    s_[a * ld_ + a] = static_cast<T>(static_cast<double>(diagonal_[a]) + shift[a]);
    finite = finite && std::isfinite(s_[a * ld_ + a]);
  }
  const auto fail = [&](SchurFailure kind, Index pivot) {
    report.ok = false;
    report.kind = kind;
    report.pivot_index = pivot;
    report.suggested_ridge =
        kind == SchurFailure::non_finite ? std::numeric_limits<double>::quiet_NaN() : suggest(guards, ridge_beta);
    return report;
  };

  const Equilibration scale = equilibrate<T>(
      k_, [&](Index a) { return static_cast<double>(s_[a * ld_ + a]); },
      [&](Index a) { return border_diagonal[a] + shift[a]; });
  const Buffer<double>& inverse_scale = scale.inverse;
  Buffer<double> sums(k_);
  double norm = 0.0;  // of E
  const bool estimate = guards == Guards::relative && !evidence;
  if (estimate) {
    off_diagonal_sums(inverse_scale.data(), sums.data());
    for (Index a = 0; a < k_; ++a) {
      const double d = inverse_scale[a];
      norm = std::max(norm, sums[a] + std::abs(static_cast<double>(s_[a * ld_ + a])) * d * d);
      finite = finite && std::isfinite(sums[a]);
    }
  }
  if (!finite) return fail(SchurFailure::non_finite, -1);

  const auto scale_rows = [&](bool forward) {
    for (Index i = 0; i < k_; ++i) {
      for (Index j = 0; j <= i; ++j) {
        const double f = forward ? inverse_scale[i] * inverse_scale[j] : 1.0 / inverse_scale[i];
        s_[i * ld_ + j] = static_cast<T>(static_cast<double>(s_[i * ld_ + j]) * f);
      }
    }
  };
  if (scale.needed) scale_rows(true);
  lower_is_schur_ = false;
  const auto bad = linalg::cholesky(k_, s_.data());
  if (bad) return fail(SchurFailure::non_pd, bad->index);
  if (scale.needed) scale_rows(false);

  if (guards == Guards::absolute) {
    double smallest = 0.0, largest = 0.0;
    pivots(smallest, largest);
    report.kappa = largest / smallest;
    if (!evidence && !(report.kappa <= 0x1p26 / static_cast<double>(k_)))
      return fail(SchurFailure::ill_conditioned, -1);
  } else if (estimate) {
    Buffer<double> work(2 * k_);
    const double inverse = linalg::estimate_norm1(k_, work.data(), work.data() + k_, [&](double* x) {
      for (Index a = 0; a < k_; ++a) x[a] /= inverse_scale[a];
      solve(Part::full, x, 1);
      for (Index a = 0; a < k_; ++a) x[a] /= inverse_scale[a];
    });
    report.kappa = norm * inverse;
    if (!(report.kappa <= 1.0 / (64.0 * epsilon<T>()))) return fail(SchurFailure::ill_conditioned, -1);
  }
  return report;
}

template <class T>
double SchurFactor<T>::suggest(Guards guards, double ridge_beta) const {
  if (guards == Guards::absolute) {
    Buffer<double> sums(k_);
    off_diagonal_sums(nullptr, sums.data());
    return gershgorin_ridge(
        k_, [&](Index a) { return static_cast<double>(diagonal_[a]) + shift_[a]; }, sums.data(), ridge_beta);
  }
  const auto extremes = linalg::extreme_eigenvalues(k_, [this](const double* x, double* y) { apply(x, y, 1); });
  return curvature_ridge(extremes, ridge_beta, epsilon<T>() < 1e-12 ? 0x1p26 : 0x1p11);
}

template <class T>
SchurFactor<T> SchurFactor<T>::unfactored_copy() const {
  SchurFactor copy(k_);
  linalg::parallel_for_if(k_ >= kParallelFrom, tiles_of(k_), [&](Index t) {
    for (Index j = t * kTile; j < std::min(k_, (t + 1) * kTile); ++j) {
      std::copy(s_.data() + j * ld_ + j + 1, s_.data() + j * ld_ + k_, copy.s_.data() + j * ld_ + j + 1);
    }
  });
  std::copy(diagonal_.data(), diagonal_.data() + k_, copy.diagonal_.data());
  copy.lower_is_schur_ = false;
  return copy;
}

template <class T>
void SchurFactor<T>::solve(Part part, double* x, Index m) const {
  if (k_ == 0 || m == 0) return;
  if (m == 1) {
    if (part != Part::upper) linalg::solve_lower_vector<T>(k_, s_.data(), x);
    if (part != Part::lower) linalg::solve_upper_vector<T>(k_, s_.data(), x);
    return;
  }
  const auto run = [&](T* values) {
    if (part != Part::upper) linalg::solve_lower_matrix<T>(k_, s_.data(), values, m);
    if (part != Part::lower) linalg::solve_upper_matrix<T>(k_, s_.data(), values, m);
  };
  if constexpr (sizeof(T) == sizeof(double)) {
    run(x);
  } else {
    Buffer<T> values(k_ * m);
    for (Index i = 0; i < k_ * m; ++i) values[i] = static_cast<T>(x[i]);
    run(values.data());
    for (Index i = 0; i < k_ * m; ++i) x[i] = static_cast<double>(values[i]);
  }
}

// y = S x from the kept upper triangle: row j adds S_0[j, i] x_i to y_j and S_0[j, i] x_j to y_i.
template <class T>
void SchurFactor<T>::apply(const double* x, double* y, Index m) const {
  const Index block = 64, blocks = (k_ + block - 1) / block, groups = std::min<Index>(blocks, 16);
  const auto& data = linalg::kernels().data<T>();
  Buffer<double> partial(groups * k_), in(k_);
  for (Index c = 0; c < m; ++c) {
    for (Index a = 0; a < k_; ++a) in[a] = x[a * m + c];
    linalg::parallel_for_if(k_ >= kParallelFrom, groups, [&](Index g) {
      double* own = partial.data() + g * k_;
      std::fill(own, own + k_, 0.0);
      for (Index b = g; b < blocks; b += groups) {
        for (Index j = b * block; j < std::min(k_, (b + 1) * block); ++j) {
          const T* row = s_.data() + j * ld_ + j + 1;
          double dot = 0.0;
          data.rows_dot(1, k_ - j - 1, row, ld_, in.data() + j + 1, &dot, nullptr);
          own[j] += dot;
          data.rows_axpy(1, k_ - j - 1, row, ld_, in.data() + j, own + j + 1, nullptr);
        }
      }
    });
    for (Index a = 0; a < k_; ++a) {
      double sum = (static_cast<double>(diagonal_[a]) + shift_[a]) * in[a];
      for (Index g = 0; g < groups; ++g) sum += partial[g * k_ + a];
      y[a * m + c] = sum;
    }
  }
}

// In two sweeps over tile columns of the upper triangle, each tile being used for the last time when it is replaced:
//
//     X = L^-T:      column j is the solution of  L[0:j, 0:j]' X[0:j, j] = -L[j, 0:j]' X_jj,  X_jj = L_jj^-T
//     S^-1 = X X':   tile (i, c), i <= c, is  sum over l >= c of X_il X_cl';  columns in ascending order
//
// (LAPACK's trtri and lauum by blocks, with L left in place.) Tiles on the diagonal live in the strict upper triangle
// and inverse_diagonal_.
template <class T>
void SchurFactor<T>::invert() {
  constexpr Index kRows = 2 * kTile;  // rows of a column that one task replaces
  const Index tiles = tiles_of(k_);
  const linalg::BlasTable<T>& blas = linalg::blas_table<T>();
  Buffer<T> diagonal(k_);
  T* s = s_.data();
  const auto load_diagonal_tile = [&](Index begin, Index width, T* tile) {
    for (Index i = 0; i < width; ++i) {
      std::fill(tile + i * width, tile + i * width + i, T(0));
      tile[i * width + i] = diagonal[begin + i];
      for (Index j = i + 1; j < width; ++j) tile[i * width + j] = s[(begin + i) * ld_ + begin + j];
    }
  };
  const auto store_diagonal_tile = [&](Index begin, Index width, const T* tile) {
    for (Index i = 0; i < width; ++i) {
      diagonal[begin + i] = tile[i * width + i];
      for (Index j = i + 1; j < width; ++j) s[(begin + i) * ld_ + begin + j] = tile[i * width + j];
    }
  };

  // BLAS is column-major: it sees X' and L'.
  linalg::parallel_for_if(k_ >= kParallelFrom, tiles, [&](Index task) {
    const Index begin = (tiles - 1 - task) * kTile, width = std::min(k_, begin + kTile) - begin;  // longest first
    Buffer<T> tile(width * width);
    std::fill(tile.begin(), tile.end(), T(0));
    for (Index i = 0; i < width; ++i) tile[i * width + i] = T(1);
    const T* l = s + begin * ld_;
    blas.trsm('R', 'U', 'T', width, width, T(1), l + begin, ld_, tile.data(), width);
    if (begin > 0) {
      blas.gemm('N', 'T', width, begin, width, T(-1), tile.data(), width, l, ld_, T(0), s + begin, ld_);
      blas.trsm('R', 'U', 'T', width, begin, T(1), s, ld_, s + begin, ld_);
    }
    store_diagonal_tile(begin, width, tile.data());
  });

  Buffer<T> pivot(kTile * kTile);
  for (Index c = 0; c < tiles; ++c) {
    linalg::poll_interrupt();
    const Index begin = c * kTile, end = std::min(k_, begin + kTile), width = end - begin;
    load_diagonal_tile(begin, width, pivot.data());
    const Index above = (begin + kRows - 1) / kRows;
    linalg::parallel_for_if(k_ >= kParallelFrom, above + 1, [&](Index task) {
      const bool on_diagonal = task == 0;
      const Index first = on_diagonal ? begin : (task - 1) * kRows;
      const Index rows = on_diagonal ? width : std::min(begin, first + kRows) - first;
      Buffer<T> old(rows * width), own(on_diagonal ? width * width : 0);
      if (on_diagonal) {
        std::copy(pivot.data(), pivot.data() + width * width, old.data());
      } else {
        for (Index i = 0; i < rows; ++i) {
          std::copy_n(s + (first + i) * ld_ + begin, width, old.data() + i * width);
        }
      }
      T* out = on_diagonal ? own.data() : s + first * ld_ + begin;
      const Index ldo = on_diagonal ? width : ld_;
      blas.gemm('T', 'N', width, rows, width, T(1), pivot.data(), width, old.data(), width, T(0), out, ldo);
      if (end < k_) {
        blas.gemm('T', 'N', width, rows, k_ - end, T(1), s + begin * ld_ + end, ld_, s + first * ld_ + end, ld_, T(1),
                  out, ldo);
      }
      if (on_diagonal) store_diagonal_tile(begin, width, own.data());
    });
  }
  inverse_diagonal_ = std::move(diagonal);
}

template <class T>
double SchurFactor<T>::log_det() const {
  double sum = 0.0;
  for (Index a = 0; a < k_; ++a) sum += std::log(static_cast<double>(s_[a * ld_ + a]));
  return 2.0 * sum;
}

template <class T>
void SchurFactor<T>::pivots(double& smallest, double& largest) const {
  smallest = largest = std::numeric_limits<double>::quiet_NaN();
  for (Index a = 0; a < k_; ++a) {
    const double l = static_cast<double>(s_[a * ld_ + a]), square = l * l;
    if (a == 0 || square < smallest) smallest = square;
    if (a == 0 || square > largest) largest = square;
  }
}

template class SchurFactor<double>;
template class SchurFactor<float>;

}  // namespace arrowschur::border
