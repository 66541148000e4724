#include "border/schur.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <Eigen/Eigenvalues>

#include "arrowschur/fixtures.hpp"
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
constexpr int kLanczosSteps = 32;

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

  // Exponents of D, and the 1-norm of E.
  Buffer<double> inverse_scale(k_), sums(k_);
  double norm = 0.0;
  int lowest = std::numeric_limits<int>::max(), highest = std::numeric_limits<int>::min();
  for (Index a = 0; a < k_; ++a) {
    const double s = static_cast<double>(s_[a * ld_ + a]), m = border_diagonal[a] + shift[a];
    const double floor = 8.0 * epsilon<T>() * (std::abs(m) + std::abs(m - s));
    const double size = std::max(std::abs(s), floor);
    const int exponent = size > 0.0 && std::isfinite(size) ? static_cast<int>(std::lround(0.5 * std::log2(size))) : 0;
    lowest = std::min(lowest, exponent);
    highest = std::max(highest, exponent);
    inverse_scale[a] = std::ldexp(1.0, -exponent);
  }
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

  // Squares of entries of L beyond the exponent range: factor E itself and scale back.
  const int range = std::numeric_limits<T>::max_exponent / 4;
  const bool scaled = highest > range || lowest < -range;
  const auto scale_rows = [&](bool forward) {
    for (Index i = 0; i < k_; ++i) {
      for (Index j = 0; j <= i; ++j) {
        const double f = forward ? inverse_scale[i] * inverse_scale[j] : 1.0 / inverse_scale[i];
        s_[i * ld_ + j] = static_cast<T>(static_cast<double>(s_[i * ld_ + j]) * f);
      }
    }
  };
  if (scaled) scale_rows(true);
  lower_is_schur_ = false;
  const auto bad = linalg::cholesky(k_, s_.data());
  if (bad) return fail(SchurFailure::non_pd, bad->index);
  if (scaled) scale_rows(false);

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

// Advice for the next ridge_beta. Absolute: the Gershgorin edge of S. Relative: from its extreme eigenvalues, so that
// the most negative curvature -c becomes about +c.
template <class T>
double SchurFactor<T>::suggest(Guards guards, double ridge_beta) const {
  if (guards == Guards::absolute) {
    Buffer<double> sums(k_);
    off_diagonal_sums(nullptr, sums.data());
    double edge = std::numeric_limits<double>::infinity(), scale = 0.0;
    for (Index a = 0; a < k_; ++a) {
      const double s = static_cast<double>(diagonal_[a]) + shift_[a];
      edge = std::min(edge, s - sums[a]);
      scale = std::max(scale, std::abs(s));
    }
    const double deficit = std::max(0.0, -edge);
    return ridge_beta + deficit + static_cast<double>(k_) * 0x1p-25 * (scale + ridge_beta + deficit);
  }
  double smallest = 0.0, largest = 0.0;
  extreme_eigenvalues(smallest, largest);
  const double radius = std::max(std::abs(smallest), std::abs(largest));
  return ridge_beta + 2.0 * std::max(0.0, -smallest) + radius / (epsilon<T>() < 1e-12 ? 0x1p26 : 0x1p11);
}

// Lanczos with full reorthogonalisation from a fixed start vector.
template <class T>
void SchurFactor<T>::extreme_eigenvalues(double& smallest, double& largest) const {
  const int steps = static_cast<int>(std::min<Index>(kLanczosSteps, k_));
  Buffer<double> basis((steps + 1) * k_);
  fixtures::SplitMix64 random(1);
  double norm = 0.0;
  for (Index a = 0; a < k_; ++a) {
    basis[a] = random.signed_unit();
    norm += basis[a] * basis[a];
  }
  for (Index a = 0; a < k_; ++a) basis[a] /= std::sqrt(norm);
  Eigen::VectorXd alpha(steps), beta(steps);
  int done = 0;
  for (int j = 0; j < steps; ++j) {
    const double* q = basis.data() + j * k_;
    double* w = basis.data() + (j + 1) * k_;
    apply(q, w, 1);
    double size = 0.0, rest = 0.0;
    for (Index a = 0; a < k_; ++a) size += w[a] * w[a];
    for (int pass = 0; pass < 2; ++pass) {
      for (int i = j; i >= 0; --i) {
        const double* v = basis.data() + i * k_;
        double dot = 0.0;
        for (Index a = 0; a < k_; ++a) dot += v[a] * w[a];
        for (Index a = 0; a < k_; ++a) w[a] -= dot * v[a];
        if (i == j) alpha[j] = pass == 0 ? dot : alpha[j] + dot;
      }
    }
    for (Index a = 0; a < k_; ++a) rest += w[a] * w[a];
    done = j + 1;
    if (!(rest > 1e-28 * size)) break;  // an invariant subspace
    beta[j] = std::sqrt(rest);
    for (Index a = 0; a < k_; ++a) w[a] /= beta[j];
  }
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen;
  eigen.computeFromTridiagonal(alpha.head(done), beta.head(std::max(done - 1, 0)), Eigen::EigenvaluesOnly);
  smallest = eigen.eigenvalues().minCoeff();
  largest = eigen.eigenvalues().maxCoeff();
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
