// Randomised Nystrom preconditioner (Z. Frangella, J. A. Tropp, M. Udell, Randomized Nystrom preconditioning, SIAM J.
// Matrix Anal. Appl. 44(2), 2023) of S = M - W'W. With M = R R' and N = R^-1 W'W R^-T (0 <= N < 1 for a positive
// definite S), a random basis Q and Y = N Q,
//
//     N ~ Y (Q'Y)^+ Y' = F F',    F'F = V diag(l) V',    P^-1 = R^-T (I + F V diag(1 / (1 - l)) V' F') R^-1
//
// by the identity of Sherman, Morrison and Woodbury for (I - F F')^-1. The approximation never exceeds N, so I - F F'
// is positive definite with S. What is left is I - N on the complement: fine when N decays, as it does for dense cross
// blocks with correlated columns or fewer rows than columns. One step of subspace iteration before the sketch (Q spans
// N Omega) squares the decay; it costs as much as the sketch.
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "border/border_root.hpp"
#include "border/preconditioner.hpp"
#include "evidence/philox.hpp"
#include "linalg/buffer.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/symmetric_eigen.hpp"

namespace arrowschur::border {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Index kMostRank = 96, kRankShare = 8;  // default: k / 8, at most 96
constexpr Index kProductColumns = 32;  // of W at a time: bounds the T x columns workspace
constexpr std::uint64_t kSeed = 0x6e797374726f6dULL;
// Directions of the sketch below this share of the largest carry more rounding than content.
constexpr double kSketchFloor = 1e-12;
// l > 1 proves S indefinite; |1 - l| keeps P positive definite and of the right size, and CG meets the negative
// curvature by itself. The floor is for an S that is singular to working precision.
constexpr double kSmallestGap = 0x1p-44;

// y = N x, x [k, m].
Matrix normal_product(const eliminate::Whitened& w, const BorderFactor& root, const Matrix& x) {
  const Index k = w.cols(), m = x.cols();
  Matrix y(k, m);
  for (Index begin = 0; begin < m; begin += kProductColumns) {
    const Index width = std::min(kProductColumns, m - begin);
    Matrix panel = x.middleCols(begin, width);
    linalg::Buffer<double> rows(w.rows() * width);
    solve_upper(root, k, panel.data(), width);
    w.apply(panel.data(), rows.data(), width);
    w.transpose(rows.data(), panel.data(), width);
    solve_lower(root, k, panel.data(), width);
    y.middleCols(begin, width) = panel;
  }
  return y;
}

Matrix gaussian(Index k, Index m) {
  Matrix x(k, m);
  for (Index j = 0; j < k; ++j) {
    for (Index q = 0; q < m; q += 2) {
      const auto pair = evidence::normal_pair(kSeed, static_cast<std::uint64_t>(j), static_cast<std::uint64_t>(q / 2));
      x(j, q) = pair[0];
      if (q + 1 < m) x(j, q + 1) = pair[1];
    }
  }
  return x;
}

Matrix orthonormal(const Matrix& x) {
  const Eigen::HouseholderQR<Matrix> qr(x);
  return qr.householderQ() * Matrix::Identity(x.rows(), x.cols());
}

class Nystrom final : public Preconditioner {
 public:
  Nystrom(std::unique_ptr<BorderFactor> root, Matrix factor)
      : Preconditioner("nystrom"), root_(std::move(root)), f_(std::move(factor)) {}

  void apply(const double* r, double* z) const override {
    const Index k = f_.rows(), m = f_.cols(), chunks = (k + kChunk - 1) / kChunk;
    const bool parallel = k * m >= linalg::kParallelWork;
    std::copy_n(r, k, z);
    root_->solve_lower(z, 1, 1);
    linalg::Buffer<double> partial(chunks * m), t(m);
    linalg::parallel_for_if(parallel, chunks, [&](Index c) {
      double* sum = partial.data() + c * m;
      std::fill(sum, sum + m, 0.0);
      for (Index j = c * kChunk; j < std::min(k, (c + 1) * kChunk); ++j) {
        const double* row = f_.data() + j * m;
        for (Index q = 0; q < m; ++q) sum[q] += row[q] * z[j];
      }
    });
    linalg::sum_partials(m, chunks, m, partial.data(), t.data());
    linalg::parallel_for_if(parallel, chunks, [&](Index c) {
      const Index begin = c * kChunk, size = std::min(k - begin, kChunk);
      Eigen::Map<Eigen::VectorXd>(z + begin, size) +=
          f_.middleRows(begin, size) * Eigen::Map<const Eigen::VectorXd>(t.data(), m);
    });
    root_->solve_upper(z, 1, 1);
  }

  Index nbytes() const override { return root_->nbytes() + 8 * f_.size(); }

 private:
  static constexpr Index kChunk = 1024;
  std::unique_ptr<BorderFactor> root_;
  Matrix f_;  // F V diag(1 - l)^-1/2, [k, rank]
};

}  // namespace

Built nystrom(const PreconditionerInputs& in, Index rank, std::string& why) {
  const Index k = in.w->cols();
  auto root = border_root(in, why);
  if (root == nullptr) return nullptr;
  rank = std::clamp(rank > 0 ? rank : std::min(k / kRankShare, kMostRank), Index{1}, k);

  const Matrix q = orthonormal(normal_product(*in.w, *root, gaussian(k, rank)));
  const Matrix y = normal_product(*in.w, *root, q);
  Matrix core = q.transpose() * y;
  core = (0.5 * (core + core.transpose())).eval();
  const linalg::SymmetricEigen sketch = linalg::symmetric_eigen(core);
  const Eigen::VectorXd& size = sketch.values;  // ascending
  const double largest = size(rank - 1);
  if (!(largest > 0.0) || !std::isfinite(largest)) {
    why = "the cross block is zero or not finite";
    return nullptr;
  }
  Index kept = 0;
  while (kept < rank && size(rank - 1 - kept) > kSketchFloor * largest) ++kept;
  const Matrix f = y * (sketch.vectors.rightCols(kept) * size.tail(kept).cwiseSqrt().cwiseInverse().asDiagonal());
  const linalg::SymmetricEigen inner = linalg::symmetric_eigen(f.transpose() * f);
  const Eigen::VectorXd gap = (1.0 - inner.values.array()).abs().max(kSmallestGap);
  Matrix scaled = f * (inner.vectors * gap.cwiseSqrt().cwiseInverse().asDiagonal());
  return std::make_unique<Nystrom>(std::move(root), std::move(scaled));
}

}  // namespace arrowschur::border
