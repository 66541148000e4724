// The function table on Eigen alone (ARROWSCHUR_BLAS=eigen): no library to find, slower, same results to rounding.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <string>

#include "linalg/blas.hpp"

namespace arrowschur::linalg {
namespace {

template <class T, int kOrder = Eigen::ColMajor>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, kOrder>;
template <class T, int kOrder = Eigen::ColMajor>
using MatrixMap = Eigen::Map<Matrix<T, kOrder>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
void gemm(char transa, char transb, Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb,
          T beta, T* c, Index ldc) {
  if (m <= 0 || n <= 0) return;
  MatrixMap<T> cc(c, m, n, Eigen::OuterStride<>(ldc));
  // As in BLAS, beta = 0 means that C is not read: it may hold anything.
  if (beta == T(0)) {
    cc.setZero();
  } else if (beta != T(1)) {
    cc *= beta;
  }
  if (k <= 0 || alpha == T(0)) return;
  const bool ta = transa != 'N', tb = transb != 'N';
  const ConstMap<T> aa(a, ta ? k : m, ta ? m : k, Eigen::OuterStride<>(lda));
  const ConstMap<T> bb(b, tb ? n : k, tb ? k : n, Eigen::OuterStride<>(ldb));
  if (!ta && !tb) {
    cc.noalias() += alpha * aa * bb;
  } else if (ta && !tb) {
    cc.noalias() += alpha * aa.transpose() * bb;
  } else if (!ta) {
    cc.noalias() += alpha * aa * bb.transpose();
  } else {
    cc.noalias() += alpha * aa.transpose() * bb.transpose();
  }
}

// B = op(A)^-1 B with A lower when kLower; op is a transpose when `trans`.
template <unsigned kMode, class A, class B>
void solve_left(const A& a, B&& b, bool trans) {
  constexpr unsigned kOther = kMode == Eigen::Lower ? Eigen::Upper : Eigen::Lower;
  if (trans) {
    a.transpose().template triangularView<kOther>().solveInPlace(b);
  } else {
    a.template triangularView<kMode>().solveInPlace(b);
  }
}

template <class T>
void trsm(char side, char uplo, char trans, Index m, Index n, T alpha, const T* a, Index lda, T* b, Index ldb) {
  if (m <= 0 || n <= 0) return;
  const bool left = side == 'L', transposed = trans != 'N';
  const Index order = left ? m : n;
  const ConstMap<T> aa(a, order, order, Eigen::OuterStride<>(lda));
  MatrixMap<T> bb(b, m, n, Eigen::OuterStride<>(ldb));
  if (alpha != T(1)) bb *= alpha;
  // X op(A) = B is op(A)' X' = B'.
  if (uplo == 'L') {
    left ? solve_left<Eigen::Lower>(aa, bb, transposed) : solve_left<Eigen::Lower>(aa, bb.transpose(), !transposed);
  } else {
    left ? solve_left<Eigen::Upper>(aa, bb, transposed) : solve_left<Eigen::Upper>(aa, bb.transpose(), !transposed);
  }
}

// Lower factor in place, left-looking inside a block; returns 0 or the order of the first minor that is not PD.
template <class Block>
Index factor_unblocked(Block& a) {
  using T = typename Block::Scalar;
  const Index n = a.rows();
  for (Index j = 0; j < n; ++j) {
    const T pivot = a(j, j) - a.row(j).head(j).squaredNorm();
    if (!(pivot > T(0))) return j + 1;
    a(j, j) = std::sqrt(pivot);
    const Index rest = n - j - 1;
    if (rest == 0) continue;
    a.col(j).tail(rest).noalias() -= a.bottomLeftCorner(rest, j) * a.row(j).head(j).transpose();
    a.col(j).tail(rest) /= a(j, j);
  }
  return 0;
}

// Right-looking blocked Cholesky. Eigen's own LLT does not say which minor failed.
template <class Map>
Index factor_blocked(Map& a) {
  constexpr Index kBlock = 96;
  const Index n = a.rows();
  for (Index j = 0; j < n; j += kBlock) {
    const Index width = std::min(kBlock, n - j), rest = n - j - width;
    auto diagonal = a.block(j, j, width, width);
    if (const Index minor = factor_unblocked(diagonal); minor != 0) return j + minor;
    if (rest == 0) continue;
    auto panel = a.block(j + width, j, rest, width);
    auto panel_transposed = panel.transpose();
    diagonal.template triangularView<Eigen::Lower>().solveInPlace(panel_transposed);  // panel <- panel L^-T
    a.bottomRightCorner(rest, rest).template selfadjointView<Eigen::Lower>().rankUpdate(panel, -1);
  }
  return 0;
}

template <class T>
Index potrf(char uplo, Index n, T* a, Index lda) {
  if (uplo == 'L') {
    MatrixMap<T> lower(a, n, n, Eigen::OuterStride<>(lda));
    return factor_blocked(lower);
  }
  // A column-major upper triangle is a row-major lower one: U = L'.
  MatrixMap<T, Eigen::RowMajor> lower(a, n, n, Eigen::OuterStride<>(lda));
  return factor_blocked(lower);
}

template <class T>
BlasTable<T> table() {
  return {&gemm<T>, &trsm<T>, &potrf<T>};
}

}  // namespace

const Blas& blas() {
  static const Blas blas{table<double>(),
                         table<float>(),
                         "eigen " + std::to_string(EIGEN_WORLD_VERSION) + '.' + std::to_string(EIGEN_MAJOR_VERSION) +
                             '.' + std::to_string(EIGEN_MINOR_VERSION),
                         {},
                         Eigen::SimdInstructionSetsInUse()};
  return blas;
}

}  // namespace arrowschur::linalg
