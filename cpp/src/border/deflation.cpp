// Recycled directions: V holds approximate eigenvectors of D^-1/2 S D^-1/2 for its smallest eigenvalues, found in the
// directions of earlier CG runs and normalised to V'SV = I, so that the coarse solve V (V'SV)^-1 V' is V V'. Added to a
// preconditioner it keeps it symmetric positive definite and lifts what V captures from near zero to about one; no
// eigenvalue of P^-1 S grows by more than one. (Y. Saad, M. Yeung, J. Erhel, F. Guyomarc'h, A deflated version of the
// conjugate gradient algorithm, SIAM J. Sci. Comput. 21(5), 2000; additive form: R. Nabben, C. Vuik, A comparison of
// deflation and coarse grid correction, SIAM J. Numer. Anal. 42(4), 2004.)
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <utility>

#include "border/preconditioner.hpp"
#include "linalg/symmetric_eigen.hpp"

namespace arrowschur::border {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const Matrix>;
using Vector = Eigen::Map<Eigen::VectorXd>;
using ConstVector = Eigen::Map<const Eigen::VectorXd>;

// Combinations of unit directions with less of S than this are the same direction twice, up to rounding.
constexpr double kIndependent = 1e-8;

}  // namespace

Deflation::Deflation(Index k, Index most, std::vector<double> scale) : k_(k), most_(most), scale_(std::move(scale)) {}

bool Deflation::empty() const noexcept { return size_ == 0; }
Index Deflation::size() const noexcept { return size_; }

// With Y = [V, P] scaled to unit diagonal of Y'SY, T whitens Y'SY (nearly the identity already: CG directions are
// conjugate), and the eigenvectors c of T'Y'D Y T with the largest eigenvalues 1/theta give V = Y T c. Rayleigh-Ritz
// this way round finds the smallest theta to full accuracy: they are the dominant eigenvalues.
void Deflation::absorb(Index count, const double* directions, const double* images) {
  if (count <= 0 || most_ <= 0) return;
  const Index all = size_ + count;
  Matrix y(all, k_), sy(all, k_);
  y.topRows(size_) = Rows(v_.data(), size_, k_);
  sy.topRows(size_) = Rows(sv_.data(), size_, k_);
  y.bottomRows(count) = Rows(directions, count, k_);
  sy.bottomRows(count) = Rows(images, count, k_);
  Index kept = 0;
  for (Index i = 0; i < all; ++i) {
    const double curvature = y.row(i).dot(sy.row(i));
    if (!(curvature > 0.0) || !std::isfinite(curvature)) continue;  // negative curvature is nothing to recycle
    const double unit = 1.0 / std::sqrt(curvature);
    y.row(kept) = (unit * y.row(i)).eval();
    sy.row(kept) = (unit * sy.row(i)).eval();
    ++kept;
  }
  if (kept == 0) return;
  y.conservativeResize(kept, k_);
  sy.conservativeResize(kept, k_);

  Matrix energy = y * sy.transpose();
  energy = (0.5 * (energy + energy.transpose())).eval();
  const linalg::SymmetricEigen conjugate = linalg::symmetric_eigen(energy);
  Index rank = 0;
  while (rank < kept && conjugate.values(kept - 1 - rank) > kIndependent) ++rank;
  if (rank == 0) return;
  const Matrix whiten =
      conjugate.vectors.rightCols(rank) * conjugate.values.tail(rank).cwiseSqrt().cwiseInverse().asDiagonal();

  Matrix scaled = y;
  if (!scale_.empty()) scaled *= ConstVector(scale_.data(), k_).cwiseSqrt().asDiagonal();
  const Matrix size = whiten.transpose() * (scaled * scaled.transpose()) * whiten;
  const linalg::SymmetricEigen ritz = linalg::symmetric_eigen(0.5 * (size + size.transpose()));
  const Index most = std::min(most_, rank);
  const Matrix combine = (whiten * ritz.vectors.rightCols(most)).transpose();
  v_.resize(static_cast<std::size_t>(most * k_));
  sv_.resize(v_.size());
  Eigen::Map<Matrix>(v_.data(), most, k_) = combine * y;
  Eigen::Map<Matrix>(sv_.data(), most, k_) = combine * sy;
  size_ = most;
}

void Deflation::initial(const double* rhs, double* x) const {
  std::fill(x, x + k_, 0.0);
  correct(rhs, x);
}

void Deflation::correct(const double* r, double* z) const {
  const Rows v(v_.data(), size_, k_);
  const Eigen::VectorXd coarse = v * ConstVector(r, k_);
  Vector(z, k_) += v.transpose() * coarse;
}

Index Deflation::nbytes() const noexcept { return static_cast<Index>(8 * (v_.size() + sv_.size() + scale_.size())); }

}  // namespace arrowschur::border
