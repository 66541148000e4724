// The arithmetic of row blocks in the kernels of a device, at every depth, against plain loops: the same bits where the
// order of operations is the same, the bound of the error analysis otherwise.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "arrowschur/inner_loop.hpp"
#include "backend/host_queue.hpp"
#include "backend/rows_driver.hpp"
#include "check.hpp"
#include "linalg/blas.hpp"

using namespace arrowschur::kernels;
using stage_driver::plain_cholesky;

namespace {

using Vector = std::vector<double>;
const double kNothing = std::bit_cast<double>(kPoison);
constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// n blocks of depth d and k columns, on host memory.
struct Rows {
  Rows(int depth, std::int64_t count, std::int64_t width, unsigned seed)
      : d(depth),
        n(count),
        k(width),
        a(at(n * d * d)),
        b(at(n * d * k)),
        l(a.size(), kNothing),
        inverse(at(n * d), kNothing),
        w(b.size(), kNothing) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    for (double& x : b) x = normal(engine);
    for (std::int64_t j = 0; j < n; ++j) {
      for (int r = 0; r < d; ++r) {
        for (int c = 0; c < d; ++c) block(j)[r * d + c] = c > r ? kNan : normal(engine) + (r == c ? d + 7.0 : 0.0);
      }
    }
  }
  double* block(std::int64_t j) { return a.data() + j * d * d; }

  void factor(double ridge, Order order = Order::forward, bool in_place = false) {
    HostQueue queue(order);
    ArrowschurDeviceRows rows{d, n, nullptr, nullptr, nullptr};
    System s{};
    s.n = n, s.total = n * d, s.k = k, s.groups = 1, s.rows = &rows, s.a = a.data(), s.b = b.data();
    Factor f{};
    f.l = l.data(), f.inverse_diagonal = inverse.data(), f.w = in_place ? b.data() : w.data(), f.record = &record;
    factor_and_whiten(queue, s, ridge, f);
  }

  int d;
  std::int64_t n, k;
  Vector a, b, l, inverse, w;
  ArrowschurBuildRecord record{};
};

double gamma_of(int m) { return m * 0x1p-53 / (1.0 - m * 0x1p-53); }

// The largest entry of L - L_lapack against the largest of L. The blocks here are so well conditioned that the bound of the
// backward error holds for the factors, too.
double distance_from_lapack(const double* a, int d, double ridge, const double* l) {
  Vector other(a, a + d * d);
  for (int j = 0; j < d; ++j) other[at(j * d + j)] += ridge;
  // The lower triangle of a row-major matrix is the upper one to LAPACK.
  REQUIRE(arrowschur::linalg::blas().f64.potrf('U', d, other.data(), d) == 0);
  double largest = 0.0, distance = 0.0;
  for (int r = 0; r < d; ++r) {
    for (int c = 0; c <= r; ++c) {
      largest = std::max(largest, std::fabs(l[r * d + c]));
      distance = std::max(distance, std::fabs(l[r * d + c] - other[at(r * d + c)]));
    }
  }
  return distance / largest;
}

bool is_nan_block(const double* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isnan(from[i]) || std::bit_cast<std::uint64_t>(from[i]) == kPoison) return false;
  }
  return true;
}

}  // namespace

TEST(FactorsAndWhitenedBlocksHaveTheBitsOfPlainLoops) {
  constexpr double kRidge = 0.375;
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    Rows rows(d, 1000, 3, static_cast<unsigned>(d));
    rows.factor(kRidge, Order::shuffled);
    REQUIRE(rows.record.failed == 0);
    int wrong_bits = 0;
    double worst = 0.0, worst_of_lapack = 0.0;
    Vector l, inverse;
    for (std::int64_t j = 0; j < rows.n; ++j) {
      const double* const a = rows.block(j);
      REQUIRE(plain_cholesky(a, d, kRidge, l, inverse) == -1);
      worst_of_lapack = std::max(worst_of_lapack, distance_from_lapack(a, d, kRidge, rows.l.data() + j * d * d));
      for (int r = 0; r < d; ++r) {
        wrong_bits += rows.inverse[at(j * d + r)] != inverse[at(r)];
        for (int c = 0; c <= r; ++c) {
          wrong_bits += rows.l[at(j * d * d + r * d + c)] != l[at(r * d + c)];
          long double residual = a[r * d + c] + (r == c ? kRidge : 0.0);  // of the matrix that is factored: rounded
          for (int q = 0; q <= c; ++q) residual -= static_cast<long double>(l[at(r * d + q)]) * l[at(c * d + q)];
          const double scale = std::sqrt((a[r * d + r] + kRidge) * (a[c * d + c] + kRidge));
          worst = std::max(worst, static_cast<double>(std::fabs(residual)) / scale);
        }
      }
      for (std::int64_t c = 0; c < rows.k; ++c) {
        Vector x(at(d));
        for (int r = 0; r < d; ++r) {
          double sum = rows.b[at((j * d + r) * rows.k + c)];
          for (int q = 0; q < r; ++q) sum = std::fma(-l[at(r * d + q)], x[at(q)], sum);
          x[at(r)] = sum * inverse[at(r)];
          wrong_bits += rows.w[at((j * d + r) * rows.k + c)] != x[at(r)];
        }
      }
    }
    CHECK_EQUAL(wrong_bits, 0);
    CHECK(worst <= d * gamma_of(d + 1));
    CHECK(worst_of_lapack <= d * gamma_of(d + 1));
  }
}

TEST(WhitenedInPlaceOrNotIsTheSame) {
  for (const int d : {1, 2, 7, 8, 9, 16, 17, 32}) {
    for (const std::int64_t k : {0, 1, 2, 255, 256, 257, 600}) {
      Rows apart(d, 5, k, 7), in_place(d, 5, k, 7);
      apart.factor(0.0);
      in_place.factor(0.0, Order::forward, true);
      CHECK(apart.w == in_place.b);
      CHECK(apart.l.size() == at(5 * d * d) && apart.inverse == in_place.inverse);
    }
  }
}

// The first bad pivot of each kind; the rows around it are what they are without it.
TEST(BlocksWithoutAFactorHaveTheDocumentedStatus) {
  constexpr double kDenormal = 0x1p-1060;
  struct Case {
    const char* what;
    double diagonal;  // of the last entry
    bool fails;
  };
  const Case cases[] = {{"indefinite", -1.0, true},         {"zero", 0.0, true},
                        {"not a number", kNan, true},       {"infinite", kInf, true},
                        {"negative infinity", -kInf, true}, {"denormal", kDenormal, false}};
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    for (const Case& c : cases) {
      Rows rows(d, 9, 5, 3);
      Rows healthy = rows;
      healthy.factor(0.0);
      double* const block = rows.block(4);
      for (int q = 0; q < d; ++q) block[(d - 1) * d + q] = q == d - 1 ? c.diagonal : 0.0;
      rows.factor(0.0, Order::reverse);
      const ArrowschurBuildRecord& record = rows.record;
      CHECK_EQUAL(record.failed, c.fails ? unsigned{ARROWSCHUR_ROWS_FAILED} : 0u);
      CHECK_EQUAL(record.failing_rows, std::int64_t{c.fails});
      CHECK_EQUAL(record.first_failure,
                  c.fails ? std::uint64_t{4} << 8 | static_cast<unsigned>(d - 1) : ~std::uint64_t{0});
      if (c.fails) {
        CHECK(is_nan_block(rows.inverse.data() + 4 * d, d));
        CHECK(is_nan_block(rows.w.data() + 4 * d * 5, d * 5));
      } else {
        CHECK_EQUAL(rows.l[at(5 * d * d - 1)], std::sqrt(kDenormal));
      }
      for (std::int64_t i = 0; i < 9 * d * 5; ++i) {
        if (i / (5 * d) != 4) CHECK(rows.w[at(i)] == healthy.w[at(i)]);
      }
    }
  }
}

TEST(ARowThatFailsInPlaceKeepsItsCrossBlock) {
  for (const int d : {2, 12}) {
    Rows rows(d, 3, 4, 3);
    rows.block(1)[0] = -1.0;
    const Vector before = rows.b;
    rows.factor(0.0, Order::forward, true);
    CHECK_EQUAL(rows.record.failing_rows, std::int64_t{1});
    CHECK(std::equal(before.begin() + 4 * d, before.begin() + 8 * d, rows.b.begin() + 4 * d));
    CHECK(before[0] != rows.b[0]);
  }
}

// The blocks of the bump's own test, through the kernel: the bits of the library's function.
TEST(TheBumpIsTheLibrarys) {
  const std::vector<std::pair<int, Vector>> blocks = {
      {2, {1, 2, 2, 1}}, {3, {-2, 0.3, 0.1, 0.3, 0.5, -0.4, 0.1, -0.4, 1}}, {2, {1, -1, -1, 1}}, {1, {-250}}};
  for (const auto& [d, block] : blocks) {
    for (const double ridge : {0.0, 1e-3}) {
      Rows rows(d, 2, 1, 5);
      std::copy(block.begin(), block.end(), rows.block(1));
      rows.factor(ridge);
      if (rows.record.failed == 0) {  // the singular one has a factor at a ridge
        CHECK(ridge > 0.0 && block[1] == -1.0);
        continue;
      }
      CHECK_EQUAL(rows.record.bump, arrowschur::ridge_bump(block, d, ridge));
      Rows again(d, 2, 1, 5);
      std::copy(block.begin(), block.end(), again.block(1));
      again.factor(ridge + rows.record.bump);
      CHECK_EQUAL(again.record.failed, 0u);
    }
  }
  for (const int d : {4, 8, 9, 32}) {
    Rows rows(d, 3, 1, 5);
    Vector block(at(d * d), 0.0);
    for (int r = 0; r < d; ++r) block[at(r * d + r)] = -250.0;
    std::copy(block.begin(), block.end(), rows.block(2));
    rows.block(0)[0] = -1.0;
    rows.factor(0.0);
    CHECK_EQUAL(rows.record.failing_rows, std::int64_t{2});
    CHECK_EQUAL(rows.record.bump, arrowschur::ridge_bump(block, d, 0.0));  // the largest of the two
  }
}

// Substitution in registers and in memory, at every depth, for wide borders and narrow ones.
TEST(ExpansionAgreesWithPlainLoops) {
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    for (const std::int64_t k : {0, 1, 9, 40, 200}) {
      Rows rows(d, 17, k, static_cast<unsigned>(d));
      rows.factor(0.0);
      std::mt19937_64 engine(5);
      std::normal_distribution<double> normal;
      Vector x(at(17 * d + k));
      for (double& value : x) value = normal(engine);
      const Vector start = x;
      ArrowschurDeviceRows group{d, 17, nullptr, nullptr, nullptr};
      System s{};
      s.n = 17, s.total = 17 * d, s.k = k, s.groups = 1, s.rows = &group;
      Factor f{};
      f.l = rows.l.data(), f.inverse_diagonal = rows.inverse.data(), f.w = rows.w.data(), f.record = &rows.record;
      HostQueue queue(Order::shuffled);
      expand(queue, s, f, x.data(), nullptr);
      double worst = 0.0, size = 0.0;
      for (std::int64_t j = 0; j < 17; ++j) {
        std::vector<long double> y(at(d));
        for (int r = d - 1; r >= 0; --r) {
          long double sum = start[at(j * d + r)];
          for (std::int64_t c = 0; c < k; ++c) {
            sum += static_cast<long double>(rows.w[at((j * d + r) * k + c)]) * start[at(17 * d + c)];
          }
          for (int q = r + 1; q < d; ++q) sum -= rows.l[at(j * d * d + q * d + r)] * y[at(q)];
          y[at(r)] = sum / rows.l[at(j * d * d + r * d + r)];
          worst = std::max(worst, static_cast<double>(std::fabs(y[at(r)] + x[at(j * d + r)])));
          size = std::max(size, static_cast<double>(std::fabs(y[at(r)])));
        }
      }
      CHECK(worst <= 1e-13 * size);
    }
  }
}

CHECK_MAIN()
