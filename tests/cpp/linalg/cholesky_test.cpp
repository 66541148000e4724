#include "linalg/cholesky.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"
#include "linalg/pool.hpp"
#include "linalg/triangular.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::linalg;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// A diagonally dominant matrix in the storage of cholesky(): its strict upper triangle holds large numbers.
template <class T>
std::vector<T> make_matrix(Index k) {
  const Index ld = padded_ld<T>(k);
  std::vector<T> s(at(padded_size<T>(k)), T(1e6));
  const std::vector<double> values = support::random_vector(k * (k + 1) / 2, static_cast<std::uint64_t>(k));
  std::size_t next = 0;
  for (Index r = 0; r < k; ++r) {
    for (Index c = 0; c <= r; ++c) {
      s[at(r * ld + c)] =
          static_cast<T>(values[next++] + (r == c ? 2.0 * std::sqrt(static_cast<double>(k)) + 1.0 : 0.0));
    }
  }
  return s;
}

// Around a panel (24, 48), a tile (192), four tiles (768).
const std::vector<Index> kSizes = {1, 2, 7, 8, 9, 23, 24, 25, 48, 100, 191, 192, 193, 384, 400, 767, 769, 1000};

}  // namespace

template <class T>
void check_product(double tolerance) {
  for (const Index k : kSizes) {
    const Index ld = padded_ld<T>(k);
    const std::vector<T> s = make_matrix<T>(k);
    std::vector<T> l = s;
    CHECK(!cholesky<T>(k, l.data()));
    double worst = 0.0;
    // A sample of entries: the last row, the diagonal, and a stride through the rest.
    for (Index r = 0; r < k; ++r) {
      for (Index c = 0; c <= r; c += (r == k - 1 || k < 100) ? 1 : std::max<Index>(1, r)) {
        double sum = 0.0;
        for (Index q = 0; q <= c; ++q)
          sum += static_cast<double>(l[at(r * ld + q)]) * static_cast<double>(l[at(c * ld + q)]);
        worst = std::max(worst, std::abs(sum - static_cast<double>(s[at(r * ld + c)])));
      }
      if (r + 1 < k) CHECK_EQUAL(l[at(r * ld + r + 1)], T(1e6));  // the upper triangle is not written
    }
    CHECK(worst <= tolerance * (2.0 * std::sqrt(static_cast<double>(k)) + 2.0));
  }
}

TEST(TheFactorReproducesTheMatrix) { check_product<double>(1e-14); }
TEST(TheFactorReproducesTheMatrixInFloat32) { check_product<float>(1e-5); }

TEST(TheFirstBadPivotIsReported) {
  for (const Index k : kSizes) {
    const Index ld = padded_ld<double>(k);
    for (const Index bad : {Index{0}, k / 3, k - 1}) {
      for (const double value : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
        std::vector<double> s = make_matrix<double>(k);
        s[at(bad * ld + bad)] = value;
        const auto pivot = cholesky<double>(k, s.data());
        REQUIRE(pivot.has_value());
        CHECK_EQUAL(pivot->index, bad);
      }
    }
  }
}

TEST(TheFactorDoesNotDependOnTheThreads) {
  for (const Index k : {100, 400, 1000}) {
    std::vector<std::vector<double>> factors;
    for (const int threads : {1, 2, 3, 4}) {
      const ThreadScope scope(threads);
      factors.push_back(make_matrix<double>(k));
      CHECK(!cholesky<double>(k, factors.back().data()));
      CHECK(factors.front() == factors.back());
    }
  }
}

TEST(SolvesInvertTheFactor) {
  for (const Index k : kSizes) {
    const Index ld = padded_ld<double>(k);
    std::vector<double> l = make_matrix<double>(k);
    CHECK(!cholesky<double>(k, l.data()));
    for (const Index m : {1, 3, 40}) {
      const std::vector<double> x = support::random_vector(k * m, 3);
      std::vector<double> lower(x.size()), upper(x.size());  // L x and L' x
      for (Index r = 0; r < k; ++r) {
        for (Index c = 0; c <= r; ++c) {
          for (Index q = 0; q < m; ++q) {
            lower[at(r * m + q)] += l[at(r * ld + c)] * x[at(c * m + q)];
            upper[at(c * m + q)] += l[at(r * ld + c)] * x[at(r * m + q)];
          }
        }
      }
      std::vector<double> y = lower, z = upper;
      solve_lower_matrix<double>(k, l.data(), y.data(), m);
      solve_upper_matrix<double>(k, l.data(), z.data(), m);
      CHECK_NEAR(y, x, 1e-12);
      CHECK_NEAR(z, x, 1e-12);
      if (m == 1) {
        for (const int threads : {1, 2, 3}) {
          const ThreadScope scope(threads);
          std::vector<double> v = lower, w = upper;
          solve_lower_vector<double>(k, l.data(), v.data());
          solve_upper_vector<double>(k, l.data(), w.data());
          CHECK_NEAR(v, x, 1e-12);
          CHECK_NEAR(w, x, 1e-12);
        }
      }
    }
  }
}

CHECK_MAIN()
