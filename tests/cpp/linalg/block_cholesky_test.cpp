#include "linalg/block_cholesky.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cmath>

#include "../check.hpp"
#include "linalg/pool.hpp"

namespace {

using namespace arrowschur;
using linalg::Buffer;
using linalg::PackedTriangle;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Problem {
  Matrix a, b;
};
Problem problem(Index n, Index p) {
  Problem y{Matrix(n, n), Matrix(n, p)};
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j)
      y.a(i, j) = std::cos(static_cast<double>(i * 7 + j * 3)) / (1.0 + static_cast<double>(std::abs(i - j)));
    for (Index c = 0; c < p; ++c) y.b(i, c) = std::sin(static_cast<double>(i + 5 * c));
  }
  y.a = (y.a * y.a.transpose() + Matrix::Identity(n, n)).eval();
  return y;
}

Buffer<double> pack(const Matrix& a) {
  const PackedTriangle layout{a.rows()};
  Buffer<double> packed(layout.size());
  std::fill(packed.begin(), packed.end(), 0.0);
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index j = 0; j <= i; ++j) packed[layout.row(i) + j] = a(i, j);
  }
  return packed;
}

constexpr Index kSizes[] = {1, 5, 255, 256, 257, 700, 1100};

}  // namespace

TEST(SolvesWhatEigenSolves) {
  for (const Index n : kSizes) {
    for (const Index p : {1, 40, 300}) {
      Problem y = problem(n, p);
      Buffer<double> a = pack(y.a);
      Matrix x = y.b;
      CHECK(!linalg::solve_packed({n}, a.data(), p, x.data()));
      CHECK((y.a * x - y.b).norm() <= 1e-12 * y.b.norm());
      const Matrix l = y.a.llt().matrixL();
      CHECK_NEAR(a[PackedTriangle{n}.row(n - 1) + n - 1], l(n - 1, n - 1), 1e-12);
    }
  }
}

TEST(ThreadsChangeNoBit) {
  const Problem y = problem(1100, 70);
  Matrix x[3] = {y.b, y.b, y.b};
  for (int threads = 1; threads <= 3; ++threads) {
    const linalg::ThreadScope scope(threads);
    Buffer<double> a = pack(y.a);
    CHECK(!linalg::solve_packed({1100}, a.data(), 70, x[threads - 1].data()));
  }
  CHECK(x[0] == x[1]);
  CHECK(x[0] == x[2]);
}

TEST(FailuresNameThePivotAndPutTheSystemBack) {
  for (const Index n : {5, 300, 900}) {
    for (const Index bad : {Index{0}, n / 3, n - 1}) {
      Problem y = problem(n, 40);
      y.a(bad, bad) = -1.0;
      Buffer<double> a = pack(y.a);
      Matrix x = y.b;
      const auto pivot = linalg::solve_packed({n}, a.data(), 40, x.data());
      REQUIRE(pivot.has_value());
      CHECK_EQUAL(pivot->index, bad);
      CHECK((x - y.b).cwiseAbs().maxCoeff() <= 1e-12 * y.b.cwiseAbs().maxCoeff());
      double gap = 0.0;
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j <= i; ++j) gap = std::max(gap, std::abs(a[PackedTriangle{n}.row(i) + j] - y.a(i, j)));
      }
      CHECK(gap <= 1e-12 * y.a.cwiseAbs().maxCoeff());
    }
  }
}

CHECK_MAIN()
