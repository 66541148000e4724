// The kernels of the border, each alone: expansion, ridge, verdict, inverted diagonal blocks, the two ways to solve.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backend/host_queue.hpp"
#include "backend/stage_driver.hpp"
#include "check.hpp"

using namespace arrowschur::kernels;

namespace {

using Vector = std::vector<double>;
constexpr Order kOrders[] = {Order::forward, Order::reverse, Order::shuffled};
const double kNothing = std::bit_cast<double>(kPoison);

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
bool untouched(double x) { return std::bit_cast<std::uint64_t>(x) == kPoison; }

// A well conditioned lower triangle [k, lds], column-major, poison elsewhere.
Vector lower_triangle(std::int64_t k, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  Vector l(at(k * padded(k)), kNothing);
  for (std::int64_t c = 0; c < k; ++c) {
    for (std::int64_t r = c; r < k; ++r) {
      const double x = uniform(engine);
      l[at(c * padded(k) + r)] = r == c ? 1.5 + 0.5 * x : x / std::sqrt(static_cast<double>(k));
    }
  }
  return l;
}

Vector random_vector(std::int64_t size, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  Vector x(at(size));
  for (double& value : x) value = normal(engine);
  return x;
}

// x = (L L')^-1 x in long double.
Vector plain_solve(const Vector& l, std::int64_t k, const Vector& b) {
  const std::int64_t lds = padded(k);
  std::vector<long double> x(b.begin(), b.end());
  for (std::int64_t r = 0; r < k; ++r) {
    for (std::int64_t q = 0; q < r; ++q) x[at(r)] -= l[at(q * lds + r)] * x[at(q)];
    x[at(r)] /= l[at(r * lds + r)];
  }
  for (std::int64_t r = k - 1; r >= 0; --r) {
    for (std::int64_t q = r + 1; q < k; ++q) x[at(r)] -= l[at(r * lds + q)] * x[at(q)];
    x[at(r)] /= l[at(r * lds + r)];
  }
  return Vector(x.begin(), x.end());
}

}  // namespace

TEST(EveryFormIsExpandedIntoTheLowerTriangle) {
  struct Case {
    std::int64_t k;
    int form;
    std::int64_t width;
  };
  const Case cases[] = {{1, ARROWSCHUR_BORDER_DENSE, 0},    {31, ARROWSCHUR_BORDER_DENSE, 0},
                        {200, ARROWSCHUR_BORDER_DENSE, 0},  {97, ARROWSCHUR_BORDER_BANDED, 0},
                        {97, ARROWSCHUR_BORDER_BANDED, 7},  {5, ARROWSCHUR_BORDER_BANDED, 9},
                        {96, ARROWSCHUR_BORDER_BLOCKS, 12}, {40, ARROWSCHUR_BORDER_BLOCKS, 40}};
  for (const Case& c : cases) {
    const auto p = stage_driver::random_problem({}, c.k, c.form, c.width, 3);
    const std::int64_t lds = padded(c.k);
    for (const Order order : kOrders) {
      Vector s0(at(c.k * lds), kNothing);
      execute<ExpandBorder>({{c.form, c.k, c.width, p.border.data()}, s0.data(), lds}, order);
      int wrong = 0;
      for (std::int64_t i = 0; i < c.k * lds; ++i) {
        const std::int64_t r = i % lds, column = i / lds;
        wrong += r >= column && r < c.k ? s0[at(i)] != p.border_at(r, column) : !untouched(s0[at(i)]);
      }
      CHECK_EQUAL(wrong, 0);
    }
  }
}

TEST(ARidgeGoesOnTheDiagonalOfACopyOrInPlace) {
  for (const std::int64_t k : {0, 1, 2, 129, 1100}) {
    const std::int64_t lds = padded(k);
    const Vector s0 = lower_triangle(k, 5);
    Vector copy(s0.size(), kNothing), in_place = s0;
    ArrowschurBuildRecord record{};
    record.failed = ARROWSCHUR_ROWS_FAILED | ARROWSCHUR_BORDER_FAILED, record.border_pivot = 7;
    execute<AddRidge>({k, lds, 0.75, s0.data(), copy.data(), &record}, Order::shuffled);
    CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_ROWS_FAILED});
    CHECK_EQUAL(record.border_pivot, -1);
    execute<AddRidge>({k, lds, 0.75, in_place.data(), in_place.data(), &record}, Order::reverse);
    int wrong = 0;
    for (std::int64_t c = 0; c < k; ++c) {
      for (std::int64_t r = c; r < k; ++r) {
        const double expected = s0[at(c * lds + r)] + (r == c ? 0.75 : 0.0);
        wrong += (copy[at(c * lds + r)] != expected) + (in_place[at(c * lds + r)] != expected);
      }
      for (std::int64_t r = 0; r < c; ++r) wrong += !untouched(copy[at(c * lds + r)]);
    }
    CHECK_EQUAL(wrong, 0);
  }
}

TEST(TheVerdictIsTheLibrarysOrTheDiagonals) {
  constexpr std::int64_t k = 300;
  const Vector good = lower_triangle(k, 5);
  const auto verdict = [&](int info, std::int64_t bad, double value, std::uint32_t before = 0) {
    Vector s = good;
    if (bad >= 0) s[at(bad * padded(k) + bad)] = value;
    ArrowschurBuildRecord record{};
    record.failed = before, record.border_pivot = -1;
    execute<CheckBorder>({k, padded(k), s.data(), &info, &record}, Order::shuffled);
    return std::pair(record.failed, record.border_pivot);
  };
  using Verdict = std::pair<std::uint32_t, std::int32_t>;
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  constexpr std::uint32_t kRows = ARROWSCHUR_ROWS_FAILED, kBorder = ARROWSCHUR_BORDER_FAILED;
  CHECK(verdict(0, -1, 0.0) == Verdict(0u, -1));
  CHECK(verdict(18, -1, 0.0) == Verdict(kBorder, 17));
  CHECK(verdict(0, 299, nan) == Verdict(kBorder, 299));
  CHECK(verdict(0, 3, inf) == Verdict(kBorder, 3));
  CHECK(verdict(0, 0, -1.0) == Verdict(kBorder, 0));
  CHECK(verdict(-2, -1, 0.0) == Verdict(kBorder, -1));
  CHECK(verdict(0, 5, nan, kRows) == Verdict(kRows | kBorder, -1));
}

TEST(DiagonalBlocksAreInverted) {
  for (const std::int64_t k : {1, 15, 127, 128, 129, 300}) {
    const std::int64_t lds = padded(k);
    const Vector l = lower_triangle(k, 11);
    const ArrowschurBuildRecord record{};
    for (const Order order : kOrders) {
      Vector inverses(at(inverse_doubles(k, false)), kNothing);
      execute<InvertDiagonalBlocks>({k, lds, l.data(), inverses.data(), &record}, order);
      double worst = 0.0;
      for (std::int64_t b = 0; b < diagonal_blocks(k); ++b) {
        const auto entry = [&](std::int64_t r, std::int64_t c) {  // of the block of L, with the identity behind it
          const std::int64_t line = b * kDiagonal + r, column = b * kDiagonal + c;
          if (line >= k || column > line) return r == c ? 1.0 : 0.0;
          return l[at(column * lds + line)];
        };
        const double* const x = inverses.data() + b * kDiagonal * kDiagonal;
        for (std::int64_t r = 0; r < kDiagonal; ++r) {
          for (std::int64_t c = 0; c < kDiagonal; ++c) {
            long double product = r == c ? -1.0L : 0.0L;
            for (std::int64_t q = 0; q <= r; ++q)
              product += static_cast<long double>(entry(r, q)) * x[c * kDiagonal + q];
            worst = std::max(worst, static_cast<double>(std::fabs(product)));
          }
        }
      }
      CHECK(worst <= 1e-14);
    }
  }
}

// Bands against the definition, in long double: entry by entry.
TEST(BandsHaveTheirFactors) {
  std::mt19937_64 engine(23);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  for (const std::int64_t width : {0, 1, 2, 8, 9, 64}) {
    for (const std::int64_t k : {1, 2, 15, 16, 17, 511, 512, 513, 1100}) {
      // Diagonals of one size, and of sizes whose products leave the range of numbers at once.
      for (const double spread : {0.0, 60.0, 120.0}) {
        Vector values(at((width + 1) * k), kNothing);
        std::vector<double> scale(at(k));
        for (double& x : scale) x = std::pow(10.0, spread * uniform(engine));
        for (std::int64_t j = 0; j <= width; ++j) {
          for (std::int64_t c = 0; c + j < k; ++c) {
            const double entry = j == 0 ? 2.0 + uniform(engine) : uniform(engine) / static_cast<double>(width + 1);
            values[at(j * k + c)] = entry * scale[at(c)] * scale[at(c + j)];
          }
        }
        std::vector<long double> l(values.begin(), values.end());
        for (std::int64_t c = 0; c < k; ++c) {
          for (std::int64_t r = c; r < std::min(k, c + width + 1); ++r) {
            long double sum = values[at((r - c) * k + c)];
            for (std::int64_t q = std::max<std::int64_t>(0, r - width); q < c; ++q) {
              sum -= l[at((r - q) * k + q)] * l[at((c - q) * k + q)];
            }
            l[at((r - c) * k + c)] = r == c ? std::sqrt(sum) : sum / l[at(c)];
          }
        }
        for (const Order order : kOrders) {
          Vector factor(values.size(), kNothing);
          ArrowschurBuildRecord record{};
          const BandArgs args{k, width, 0.0, values.data(), factor.data(), &record};
          if (width == 0) execute<DiagonalFactor>(args, order);
          if (width == 1) execute<TridiagonalFactor>(args, order);
          if (width > 0) {
            Vector other(values.size(), kNothing);
            BandArgs general = args;
            if (width == 1) general.factor = other.data();
            width <= kNarrowBand ? execute<BandFactor<32>>(general, order) : execute<BandFactor<256>>(general, order);
          }
          CHECK_EQUAL(record.failed, 0u);
          double worst = 0.0;
          for (std::int64_t j = 0; j <= width; ++j) {
            for (std::int64_t c = 0; c + j < k; ++c) {
              const long double exact = l[at(j * k + c)], size = std::fabs(l[at(c + j)]);
              worst = std::max(worst, static_cast<double>(std::fabs(factor[at(j * k + c)] - exact) / size));
            }
          }
          CHECK(worst < 1e-14);
        }
      }
    }
  }
}

// One vector through both triangles, in stretches of one column and of several; ill conditioned ones, too, whose rows of L
// are not dominated by their diagonal: as near as substitution comes.
TEST(TridiagonalSolvesAgreeWithSubstitution) {
  std::mt19937_64 engine(29);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  for (const std::int64_t k : {1, 2, 3, 700, 1024, 1025, 3000}) {
    for (const double off : {0.3, 2.5}) {  // the entries below the diagonal, which is from 1 to 2
      Vector l(at(2 * k)), b = random_vector(k, 31);
      for (std::int64_t c = 0; c < k; ++c) {
        l[at(c)] = 1.5 + 0.5 * uniform(engine);
        l[at(k + c)] = c + 1 < k ? (c % 7 < 3 ? off : 0.2) * uniform(engine) : kNothing;
      }
      std::vector<long double> exact(b.begin(), b.end());
      Vector plain = b;
      const auto substitute = [&](auto& x) {
        for (std::int64_t c = 0; c < k; ++c) {
          if (c > 0) x[at(c)] -= l[at(k + c - 1)] * x[at(c - 1)];
          x[at(c)] /= l[at(c)];
        }
        for (std::int64_t c = k - 1; c >= 0; --c) {
          if (c + 1 < k) x[at(c)] -= l[at(k + c)] * x[at(c + 1)];
          x[at(c)] /= l[at(c)];
        }
      };
      substitute(exact), substitute(plain);
      double size = 0.0, distance = 0.0;
      for (std::int64_t c = 0; c < k; ++c) {
        size = std::max(size, static_cast<double>(std::fabs(exact[at(c)])));
        distance = std::max(distance, static_cast<double>(std::fabs(exact[at(c)] - plain[at(c)])));
      }
      for (const Order order : kOrders) {
        for (const bool in_place : {false, true}) {
          ArrowschurBuildRecord record{};
          Vector x = in_place ? b : Vector(b.size(), kNothing);
          execute<TridiagonalSolve>({k, l.data(), in_place ? x.data() : b.data(), x.data(), &record}, order);
          double found = 0.0;
          for (std::int64_t c = 0; c < k; ++c) {
            found = std::max(found, static_cast<double>(std::fabs(exact[at(c)] - x[at(c)])));
          }
          CHECK(found <= 8.0 * distance + 4e-16 * size);
        }
      }
    }
  }
}

// The first bad pivot of a band: in its first columns, in the middle of eight, where a chunk ends.
TEST(BandsNameTheirBadPivot) {
  constexpr std::int64_t k = 700;
  for (const std::int64_t width : {0, 1, 3, 20}) {
    for (const std::int64_t bad : {0, 5, 15, 16, 350, 511, 512, 699}) {
      for (const double value :
           {-1.0, 0.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        Vector values(at((width + 1) * k), 0.0), factor(values.size(), kNothing);
        for (std::int64_t c = 0; c < k; ++c) {
          values[at(c)] = c == bad ? value : 3.0;
          for (std::int64_t j = 1; j <= width && c + j < k; ++j) {
            values[at(j * k + c)] = c + j == bad || c == bad ? 0.0 : 1.0 / static_cast<double>(width + 1);
          }
        }
        ArrowschurBuildRecord record{};
        record.failed = ARROWSCHUR_BORDER_FAILED;  // of a build before
        const BandArgs args{k, width, 0.0, values.data(), factor.data(), &record};
        switch (width) {
          case 0:
            execute<DiagonalFactor>(args);
            break;
          case 1:
            execute<TridiagonalFactor>(args);
            break;
          case 3:
            execute<BandFactor<32>>(args);
            break;
          default:
            execute<BandFactor<256>>(args);
        }
        CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_BAND_FAILED});
        CHECK_EQUAL(record.border_pivot, static_cast<int>(bad));
      }
    }
  }
}

TEST(BothWaysToSolveAgreeWithSubstitution) {
  for (const std::int64_t k : {0, 1, 2, 33, 127, 128, 129, 255, 256, 257, 700}) {
    const Vector l = lower_triangle(k, 17), b = random_vector(k, 19), expected = plain_solve(l, k, b);
    for (const bool full_inverse : {false, true}) {
      for (const Order order : kOrders) {
        Vector s = l, inverses(at(inverse_doubles(k, full_inverse)), kNothing), x = b;
        Vector workspace(at(workspace_doubles(0, k, k)), kNothing);
        ArrowschurBuildRecord record{};
        System system{};
        system.k = k;
        Factor f{};
        f.s = s.data(), f.lds = padded(k), f.border_inverses = inverses.data(), f.full_inverse = full_inverse;
        f.record = &record;
        HostQueue queue(order);
        CHECK_EQUAL(prepare_border_solve(queue, system, f), 0);
        CHECK_EQUAL(border_solve(queue, system, f, x.data(), workspace.data()), 0);
        CHECK_NEAR(std::span<const double>(x), std::span<const double>(expected), 1e-13);
        CHECK(same_bits(s, l));
      }
    }
  }
}

TEST(AfterAFailureNothingIsWritten) {
  constexpr std::int64_t k = 140;
  const Vector l = lower_triangle(k, 17), b = random_vector(k, 19);
  for (const bool full_inverse : {false, true}) {
    Vector s = l, x = b, inverses(at(inverse_doubles(k, full_inverse)), 1.0),
           workspace(at(workspace_doubles(0, k, k)), 1.0);
    ArrowschurBuildRecord record{};
    record.failed = ARROWSCHUR_BORDER_FAILED, record.log_det = 5.0;
    System system{};
    system.k = k;
    Factor f{};
    f.s = s.data(), f.lds = padded(k), f.border_inverses = inverses.data(), f.full_inverse = full_inverse;
    f.record = &record;
    HostQueue queue;
    log_det(queue, system, f, workspace.data());
    border_solve(queue, system, f, x.data(), workspace.data());
    CHECK(x == b);
    CHECK_EQUAL(record.log_det, 5.0);
  }
}

CHECK_MAIN()
