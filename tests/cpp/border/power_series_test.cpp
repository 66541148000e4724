#include "border/street.hpp"
#include "check.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::at;
using street::Problem;

// S z = r - (I - S M^-1)^(order + 1) r for z = P^-1 r: the residual of the series, with M block by block.
TEST(SumsTheSeries) {
  const Problem problem(street::chain(5, 3), 5, 2, 0.5, 1);
  const Index k = problem.k;
  const std::vector<double> r = support::random_vector(k, 2);
  const auto inverse_of_m = [&](std::vector<double> x) {
    for (Index c = 0; c < k; c += 2) {
      const double* m = problem.h_bb.data() + 2 * c;
      const double determinant = m[0] * m[3] - m[1] * m[2], u = x[at(c)], v = x[at(c + 1)];
      x[at(c)] = (m[3] * u - m[1] * v) / determinant;
      x[at(c + 1)] = (m[0] * v - m[2] * u) / determinant;
    }
    return x;
  };
  for (const Index order : {1, 3, 8}) {
    std::string why;
    const Built p = power_series(problem.inputs(), order, why);
    REQUIRE(p != nullptr);
    CHECK_EQUAL(p->name(), "power_series");
    CHECK(p->nbytes() > 0);
    std::vector<double> z(at(k)), residual = r, expected = r;
    p->apply(r.data(), z.data());
    for (Index i = 0; i <= order; ++i) {
      const std::vector<double> s_m_e = support::multiply(problem.s, inverse_of_m(expected), k);
      for (std::size_t j = 0; j < at(k); ++j) expected[j] -= s_m_e[j];
    }
    const std::vector<double> sz = support::multiply(problem.s, z, k);
    for (std::size_t j = 0; j < at(k); ++j) residual[j] -= sz[j];
    CHECK_NEAR(residual, expected, 1e-11);
    CHECK(street::asymmetry(*p, k, 3) <= 1e-13);
  }
}

TEST(HigherOrdersNeedFewerIterations) {
  const Problem problem(street::chain(60, 2), 60, 2, 1e-4, 4);
  const std::vector<double> rhs = support::random_vector(problem.k, 5);
  std::string why;
  const Built first = power_series(problem.inputs(), 1, why), usual = power_series(problem.inputs(), 0, why);
  REQUIRE(first != nullptr && usual != nullptr);
  const Index one = street::cg_iterations(problem, *first, rhs, 1e-10);
  const Index several = street::cg_iterations(problem, *usual, rhs, 1e-10);
  CHECK(several < one);
  CHECK(2 * several < street::jacobi_iterations(problem, rhs, 1e-10));
}

TEST(IndefiniteBordersAreRefused) {
  Problem problem(street::chain(3, 2), 3, 2, 0.5, 6);
  problem.shift[3] = -1e3;
  std::string why;
  CHECK(power_series(problem.inputs(), 2, why) == nullptr);
  CHECK(why.find("not positive definite at column") != std::string::npos);
}

CHECK_MAIN()
