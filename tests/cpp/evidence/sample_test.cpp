#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "evidence/philox.hpp"
#include "support.hpp"

using namespace support;
using arrowschur::InvalidArgument;
using arrowschur::SolveOptions;
using arrowschur::evidence::philox4x32;

namespace {

using Words = std::array<std::uint32_t, 4>;

struct Draws {
  Vector t, beta;
  Draws(const Problem& p, const ArrowFactor& f, Index m, std::uint64_t seed, FactorSet set = FactorSet::step)
      : t(at(p.total * m)), beta(at(p.k * m)) {
    f.sample(m, seed, t, beta, set);
  }
  bool operator==(const Draws&) const = default;
  double operator()(const Problem& p, Index m, Index u, Index s) const {
    return u < p.total ? t[at(u * m + s)] : beta[at((u - p.total) * m + s)];
  }
};

}  // namespace

// The known answers that the authors distribute with Random123 (kat_vectors).
TEST(PhiloxGivesItsKnownAnswers) {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) == (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(DrawsHaveTheCovarianceOfTheInverse) {
  const Problem p = hand();
  const ArrowFactor f = p.factor(0.5, 0.25);
  const Index m = 100000, size = p.size();
  for (const SetCase& c : kSets) {
    const Vector covariance = Dense(p.dense(c.ridge_t, c.ridge_beta), size).inverse();

    const Draws x(p, f, m, 42, c.set);

    for (Index a = 0; a < size; ++a) {
      const double variance = covariance[at(a * size + a)];
      double mean = 0.0, fourth = 0.0;
      for (Index s = 0; s < m; ++s) {
        const double v = x(p, m, a, s);
        mean += v / m;
        fourth += v * v * v * v / m;
      }
      CHECK(std::fabs(mean) < 5 * std::sqrt(variance / m));
      CHECK(std::fabs(fourth / (3 * variance * variance) - 1) < 5 * std::sqrt(96.0 / 9.0 / m));
      for (Index b = 0; b <= a; ++b) {
        double sum = 0.0;
        for (Index s = 0; s < m; ++s) sum += x(p, m, a, s) * x(p, m, b, s) / m;
        const double cov = covariance[at(a * size + b)];
        const double error = std::sqrt((variance * covariance[at(b * size + b)] + cov * cov) / m);
        CHECK(std::fabs(sum - cov) < 5 * error);
      }
    }
  }
}

TEST(SameSeedSameBitsForAnyThreadCount) {
  const Problem p(uniform(700, 3), 130, 2);
  for (const Index m : {1, 6}) {
    SolveOptions options;
    options.num_threads = 1;
    const Draws first(p, p.factor(0.0, 0.0, options), m, 7);
    for (const int count : {1, 2, 4}) {
      options.num_threads = count;
      CHECK(Draws(p, p.factor(0.0, 0.0, options), m, 7) == first);
    }
    CHECK(!(Draws(p, p.factor(), m, 8) == first));
  }
}

TEST(FewerDrawsAreTheFirstOfMore) {
  const Problem p = ragged(5);
  const ArrowFactor f = p.factor();

  const Draws three(p, f, 3, 11), seven(p, f, 7, 11);

  for (Index u = 0; u < p.size(); ++u) {
    for (Index s = 0; s < 3; ++s) CHECK_NEAR(three(p, 3, u, s), seven(p, 7, u, s), 1e-10);
  }
}

TEST(SamplesOfRowsWithoutBorderAndBorderWithoutRows) {
  const Problem rows({1, 0, 2}, 0, 7), border({}, 2, 8);
  const Index m = 20000;

  const Draws of_rows(rows, rows.factor(), m, 1), of_border(border, border.factor(), m, 1);

  const Vector inverse = Dense(rows.dense(), 3).inverse();
  for (Index u = 0; u < 3; ++u) {
    double variance = 0.0;
    for (Index s = 0; s < m; ++s) variance += of_rows(rows, m, u, s) * of_rows(rows, m, u, s) / m;
    CHECK(std::fabs(variance / inverse[at(u * 3 + u)] - 1) < 5 * std::sqrt(2.0 / m));
  }
  for (Index u = 0; u < 2; ++u) {
    double variance = 0.0;
    for (Index s = 0; s < m; ++s) variance += of_border(border, m, u, s) * of_border(border, m, u, s) / m;
    CHECK(std::fabs(variance / 10.0 - 1) < 5 * std::sqrt(2.0 / m));
  }
}

// -A^-1 (B delta_beta + delta_g) is what makes the rows of H (delta_t, delta_beta) + (delta_g, .) vanish.
TEST(PredictionsKeepTheRowsStationary) {
  for (const Problem& p : {hand(), ragged(5), wide_rows(6)}) {
    const ArrowFactor f = p.factor(0.5, 0.25);  // predict uses the undamped rows
    const Vector delta_beta = random_vector(p.k, 1), delta_g = random_vector(p.total, 2);
    Vector delta_t(at(p.total)), y_t(at(p.total)), y_beta(at(p.k));
    for (const bool with_gradient : {true, false}) {
      f.predict(delta_beta, with_gradient ? std::span<const double>(delta_g) : std::span<const double>(), delta_t);

      p.system().apply(delta_t, delta_beta, y_t, y_beta);
      double largest = 0.0, size = 0.0;
      for (Index i = 0; i < p.total; ++i) {
        largest = std::max(largest, std::fabs(y_t[at(i)] + (with_gradient ? delta_g[at(i)] : 0.0)));
        size = std::max(size, std::fabs(delta_t[at(i)]));
      }
      CHECK(size > 0.01);
      CHECK(largest < 1e-11 * size);
    }
  }
}

TEST(PredictionsMayOverwriteTheGradientChange) {
  const Problem p = ragged(5);
  const ArrowFactor f = p.factor();
  const Vector delta_beta = random_vector(p.k, 1);
  Vector in_place = random_vector(p.total, 2), apart(at(p.total));

  f.predict(delta_beta, in_place, apart);
  f.predict(delta_beta, in_place, in_place);

  CHECK(in_place == apart);
}

TEST(WrongArgumentsAreNamed) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor();
  Vector t(at(p.total), 0.0), beta(at(p.k), 0.0), none;
  Vector infinite = beta;
  infinite[2] = std::numeric_limits<double>::infinity();
  Vector nan = t;
  nan[3] = std::numeric_limits<double>::quiet_NaN();

  CHECK_THROWS_WITH(InvalidArgument, "delta_beta", f.predict(t, none, t));
  CHECK_THROWS_WITH(InvalidArgument, "delta_g_t", f.predict(beta, beta, t));
  CHECK_THROWS_WITH(InvalidArgument, "delta_t", f.predict(beta, t, beta));
  CHECK_THROWS_WITH(InvalidArgument, "index 2", f.predict(infinite, t, t));
  CHECK_THROWS_WITH(InvalidArgument, "index 3", f.predict(beta, nan, t));
  CHECK_THROWS_WITH(InvalidArgument, "m", f.sample(0, 1, none, none));
  CHECK_THROWS_WITH(InvalidArgument, "x_t", f.sample(1, 1, beta, beta));
  CHECK_THROWS_WITH(InvalidArgument, "x_beta", f.sample(1, 1, t, t));
}

CHECK_MAIN()
