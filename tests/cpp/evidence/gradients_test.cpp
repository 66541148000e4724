#include <functional>
#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "support.hpp"

using namespace support;
using arrowschur::InvalidArgument;
using arrowschur::SystemGradient;

namespace {

// Directions of change of the parts of a problem; row blocks and border are symmetric.
struct Direction {
  Vector h_tt, h_tb, h_bb;
  double ridge_t = 0.3, ridge_beta = -0.2;

  Direction(const Problem& p, std::uint64_t seed)
      : h_tt(random_vector(static_cast<Index>(p.h_tt.size()), seed)),
        h_tb(random_vector(p.total * p.k, seed + 1)),
        h_bb(random_vector(p.k * p.k, seed + 2)) {
    Index block = 0;
    for (const Index d : p.dims) {
      mirror(h_tt, block, d);
      block += d * d;
    }
    mirror(h_bb, 0, p.k);
  }
  static void mirror(Vector& a, Index begin, Index size) {
    for (Index i = 0; i < size; ++i) {
      for (Index j = 0; j < i; ++j) a[at(begin + j * size + i)] = a[at(begin + i * size + j)];
    }
  }
};

enum class What { h_tt, h_tb, h_bb, ridge_t, ridge_beta };
constexpr What kParts[] = {What::h_tt, What::h_tb, What::h_bb, What::ridge_t, What::ridge_beta};

double inner(const Vector& a, const Vector& b) {
  REQUIRE(a.size() == b.size());
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double directional(const SystemGradient& g, const Direction& u, What part) {
  switch (part) {
    case What::h_tt:
      return inner(g.h_tt, u.h_tt);
    case What::h_tb:
      return inner(g.h_tb, u.h_tb);
    case What::h_bb:
      return inner(g.h_bb, u.h_bb);
    case What::ridge_t:
      return g.ridge_t * u.ridge_t;
    case What::ridge_beta:
      return g.ridge_beta * u.ridge_beta;
  }
  return 0.0;
}

// Fourth-order central difference of f(factor of the problem moved along one part).
double difference(const Problem& p, const Direction& u, What part, const std::function<double(const ArrowFactor&)>& f) {
  const auto value = [&](double step) {
    Problem moved = p;
    double ridge_t = 0.5, ridge_beta = 0.25;
    const auto add = [step](Vector& a, const Vector& b) {
      for (std::size_t i = 0; i < a.size(); ++i) a[i] += step * b[i];
    };
    if (part == What::h_tt) add(moved.h_tt, u.h_tt);
    if (part == What::h_tb) add(moved.h_tb, u.h_tb);
    if (part == What::h_bb) add(moved.h_bb, u.h_bb);
    if (part == What::ridge_t) ridge_t += step * u.ridge_t;
    if (part == What::ridge_beta) ridge_beta += step * u.ridge_beta;
    return f(moved.factor(ridge_t, ridge_beta));
  };
  const double h = 1e-4;
  return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h);
}

struct Sides {  // w, x = H^-1 w, and the cotangent of x
  Index m;
  Vector w_t, w_beta, c_t, c_beta, x_t, x_beta;
  Sides(const Problem& p, const ArrowFactor& f, Index columns, FactorSet set = FactorSet::step)
      : m(columns),
        w_t(random_vector(p.total * m, 21)),
        w_beta(random_vector(p.k * m, 22)),
        c_t(random_vector(p.total * m, 23)),
        c_beta(random_vector(p.k * m, 24)),
        x_t(w_t.size()),
        x_beta(w_beta.size()) {
    f.solve(w_t, w_beta, x_t, x_beta, m, set);
  }
};

Vector stack(const Vector& a, const Vector& b) {
  Vector out = a;
  out.insert(out.end(), b.begin(), b.end());
  return out;
}

}  // namespace

TEST(VjpEqualsCentralDifferences) {
  for (const Problem& p : {hand(), ragged(5)}) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const Index m : {1, 3}) {
      const Sides s(p, f, m);
      const Direction u(p, 31);

      const SystemGradient g = f.vjp(s.x_t, s.x_beta, s.c_t, s.c_beta, m);

      for (const What part : kParts) {
        const double expected = difference(p, u, part, [&](const ArrowFactor& moved) {
          Vector x_t(s.x_t.size()), x_beta(s.x_beta.size());
          moved.solve(s.w_t, s.w_beta, x_t, x_beta, m);
          return inner(x_t, s.c_t) + inner(x_beta, s.c_beta);
        });
        CHECK_NEAR(directional(g, u, part), expected, 1e-7);
      }
    }
  }
}

TEST(VjpEqualsTheDenseFormulas) {
  for (const Problem& p : {hand(), ragged(5), wide_rows(6), Problem(uniform(64, 4), 200, 4)}) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const Vector inverse = Dense(p.dense(c.ridge_t, c.ridge_beta), p.size()).inverse();
      for (const Index m : {1, 5}) {
        const Sides s(p, f, m, c.set);
        const Index size = p.size();
        const Vector x = stack(s.x_t, s.x_beta), cotangent = stack(s.c_t, s.c_beta);
        Vector lam(at(size * m), 0.0), full(at(size * size), 0.0);  // full: gradient with respect to all entries of H
        for (Index i = 0; i < size; ++i) {
          for (Index j = 0; j < size; ++j) {
            for (Index q = 0; q < m; ++q) lam[at(i * m + q)] += inverse[at(i * size + j)] * cotangent[at(j * m + q)];
          }
        }
        double ridge_t = 0.0, ridge_beta = 0.0;
        for (Index i = 0; i < size; ++i) {
          for (Index j = 0; j < size; ++j) {
            for (Index q = 0; q < m; ++q) {
              full[at(i * size + j)] -=
                  0.5 * (lam[at(i * m + q)] * x[at(j * m + q)] + x[at(i * m + q)] * lam[at(j * m + q)]);
            }
          }
          (i < p.total ? ridge_t : ridge_beta) += full[at(i * size + i)];
        }
        Vector h_tt, h_tb = block(full, size, 0, p.total, p.total, p.k);
        for (Index i = 0; i < p.n(); ++i) {
          h_tt = stack(h_tt, block(full, size, p.offset(i), p.offset(i), p.dims[at(i)], p.dims[at(i)]));
        }
        for (double& v : h_tb) v *= 2.0;

        const SystemGradient g = f.vjp(s.x_t, s.x_beta, s.c_t, s.c_beta, m, c.set);

        CHECK_NEAR(stack(g.w_t, g.w_beta), lam, 1e-11);
        CHECK_NEAR(g.h_tt, h_tt, 1e-11);
        CHECK_NEAR(g.h_tb, h_tb, 1e-11);
        CHECK_NEAR(g.h_bb, block(full, size, p.total, p.total, p.k, p.k), 1e-11);
        CHECK(symmetric(g.h_bb, p.k));
        CHECK_NEAR(g.ridge_t, ridge_t, 1e-10);
        CHECK_NEAR(g.ridge_beta, ridge_beta, 1e-10);
      }
    }
  }
}

TEST(LogDetVjpEqualsCentralDifferences) {
  for (const Problem& p : {hand(), ragged(5)}) {
    const Direction u(p, 41);

    const SystemGradient g = p.factor(0.5, 0.25).log_det_vjp();

    for (const What part : kParts) {
      const double expected = difference(p, u, part, [](const ArrowFactor& moved) { return moved.log_det(); });
      CHECK_NEAR(directional(g, u, part), expected, 1e-7);
    }
  }
}

TEST(LogDetVjpEqualsTheDenseInverse) {
  for (const Problem& p : {hand(), ragged(5), wide_rows(6), Problem(uniform(64, 4), 200, 4)}) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const Index size = p.size();
      const Vector inverse = Dense(p.dense(c.ridge_t, c.ridge_beta), size).inverse();
      Vector h_tt, h_tb = block(inverse, size, 0, p.total, p.total, p.k);
      for (Index i = 0; i < p.n(); ++i) {
        h_tt = stack(h_tt, block(inverse, size, p.offset(i), p.offset(i), p.dims[at(i)], p.dims[at(i)]));
      }
      for (double& v : h_tb) v *= 2.0;
      double trace_t = 0.0, trace_beta = 0.0;
      for (Index i = 0; i < size; ++i) (i < p.total ? trace_t : trace_beta) += inverse[at(i * size + i)];

      const SystemGradient g = f.log_det_vjp(c.set);

      CHECK_NEAR(g.h_tt, h_tt, 1e-11);
      CHECK_NEAR(g.h_tb, h_tb, 1e-11);
      CHECK_NEAR(g.h_bb, block(inverse, size, p.total, p.total, p.k, p.k), 1e-11);
      CHECK_NEAR(g.ridge_t, trace_t, 1e-11);
      CHECK_NEAR(g.ridge_beta, trace_beta, 1e-11);
      CHECK(g.w_t.empty() && g.w_beta.empty());
    }
  }
}

TEST(GradientsWithoutBorderOrRowsHaveEmptyParts) {
  const Problem rows({2, 0, 3}, 0, 7), border({}, 3, 8);

  const SystemGradient of_rows = rows.factor().log_det_vjp(), of_border = border.factor().log_det_vjp();
  const Vector x = {1, 2, 3, 4, 5}, none;
  const SystemGradient adjoint = rows.factor().vjp(x, none, x, none);

  CHECK_EQUAL(of_rows.h_tt.size(), 13u);
  CHECK(of_rows.h_tb.empty() && of_rows.h_bb.empty());
  CHECK_NEAR(of_border.ridge_beta, 30.0, 1e-13);
  CHECK(of_border.h_tt.empty());
  CHECK(adjoint.h_bb.empty() && adjoint.w_beta.empty());
  CHECK_NEAR(adjoint.ridge_t, -inner(adjoint.w_t, x), 1e-14);
}

TEST(WrongArgumentsAreNamed) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor();
  const Vector t(at(p.total), 1.0), beta(at(p.k), 1.0);
  Vector nan = beta;
  nan[1] = std::numeric_limits<double>::quiet_NaN();

  CHECK_THROWS_WITH(InvalidArgument, "x_t", f.vjp(beta, beta, t, beta));
  CHECK_THROWS_WITH(InvalidArgument, "x_beta", f.vjp(t, t, t, beta));
  CHECK_THROWS_WITH(InvalidArgument, "cotangent_t", f.vjp(t, beta, beta, beta));
  CHECK_THROWS_WITH(InvalidArgument, "cotangent_beta", f.vjp(t, beta, t, nan));
  CHECK_THROWS_WITH(InvalidArgument, "index 1", f.vjp(t, nan, t, beta));
  CHECK_THROWS_WITH(InvalidArgument, "m", f.vjp(t, beta, t, beta, 0));
}

CHECK_MAIN()
