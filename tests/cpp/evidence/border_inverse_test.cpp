#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "support.hpp"

using namespace support;
using arrowschur::InvalidArgument;

namespace {

Vector border_inverse(const Problem& p, const SetCase& c) {
  return block(Dense(p.dense(c.ridge_t, c.ridge_beta), p.size()).inverse(), p.size(), p.total, p.total, p.k, p.k);
}

Vector pick(const Vector& a, Index size, const std::vector<Index>& cols) {
  Vector out;
  for (const Index i : cols) {
    for (const Index j : cols) out.push_back(a[at(i * size + j)]);
  }
  return out;
}

}  // namespace

TEST(WholeBlockAndDiagonalEqualTheDenseInverse) {
  for (const Problem& p : {hand(), ragged(5), Problem(uniform(40, 3), 17, 1), Problem(uniform(64, 4), 200, 4)}) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const Vector expected = border_inverse(p, c);
      Vector out(at(p.k * p.k)), diagonal(at(p.k)), expected_diagonal;
      for (Index j = 0; j < p.k; ++j) expected_diagonal.push_back(expected[at(j * p.k + j)]);

      f.border_inverse_block({}, out, c.set);
      f.border_inverse_diagonal(diagonal, c.set);

      CHECK_NEAR(out, expected, 1e-11);
      CHECK(symmetric(out, p.k));
      CHECK_NEAR(diagonal, expected_diagonal, 1e-11);
    }
  }
}

TEST(SubBlocksTakeColumnsInAnyOrder) {
  const Problem p(uniform(40, 3), 17, 1);
  const ArrowFactor f = p.factor();
  const Vector expected = border_inverse(p, kSets[1]);
  std::vector<std::vector<Index>> choices = {{16}, {0}, {3, 16, 1}, {5, 5, 2}};
  for (Index count = 1; count < p.k; ++count) {
    choices.emplace_back(at(count));
    std::iota(choices.back().begin(), choices.back().end(), Index{0});
  }
  for (const auto& cols : choices) {
    Vector out(cols.size() * cols.size());

    f.border_inverse_block(cols, out);

    CHECK_NEAR(out, pick(expected, p.k, cols), 1e-11);
    CHECK(symmetric(out, static_cast<Index>(cols.size())));
  }
}

TEST(ScatteredColumnsAcrossTilesEqualTheWholeBlock) {
  const Problem p(uniform(30, 2), 430, 6);
  const ArrowFactor f = p.factor(0.0, 1.0);
  std::vector<Index> cols;
  for (Index j = 0; j < 400; ++j) cols.push_back((j * 173) % p.k);
  Vector all(at(p.k * p.k)), some(cols.size() * cols.size()), diagonal(at(p.k));

  f.border_inverse_block({}, all);
  f.border_inverse_block(cols, some);
  f.border_inverse_diagonal(diagonal);

  CHECK_NEAR(some, pick(all, p.k, cols), 1e-13);
  CHECK(symmetric(some, 400));
  for (Index j = 0; j < p.k; ++j) CHECK_NEAR(diagonal[at(j)], all[at(j * p.k + j)], 1e-13);
}

TEST(ApplicationsAreInverseToEachOther) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor(0.5, 0.25);
  for (const SetCase& c : kSets) {
    const Vector expected = border_inverse(p, c);
    for (const Index m : {1, 2, 33}) {
      const Vector v = random_vector(p.k * m, 4);
      Vector dense(at(p.k * m), 0.0), x(at(p.k * m)), back(at(p.k * m));
      for (Index i = 0; i < p.k; ++i) {
        for (Index j = 0; j < p.k; ++j) {
          for (Index s = 0; s < m; ++s) dense[at(i * m + s)] += expected[at(i * p.k + j)] * v[at(j * m + s)];
        }
      }

      f.border_inverse_apply(v, x, m, c.set);
      f.schur_apply(x, back, m, c.set);

      CHECK_NEAR(x, dense, 1e-11);
      CHECK_NEAR(back, v, 1e-11);
    }
  }
}

TEST(ApplicationsMayWorkInPlace) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor();
  const Vector v = random_vector(p.k * 2, 4);
  Vector apart(v.size()), in_place = v;

  f.schur_apply(v, apart, 2);
  f.schur_apply(in_place, in_place, 2);
  CHECK(in_place == apart);

  in_place = v;
  f.border_inverse_apply(v, apart, 2);
  f.border_inverse_apply(in_place, in_place, 2);
  CHECK(in_place == apart);
}

TEST(AnEmptyBorderHasAnEmptyInverse) {
  const Problem p({2, 1}, 0, 3);
  const ArrowFactor f = p.factor();
  Vector none;

  f.border_inverse_block({}, none);
  f.border_inverse_diagonal(none);
  f.border_inverse_apply(none, none, 3);
  f.schur_apply(none, none, 3);

  CHECK(none.empty());
}

TEST(WrongArgumentsAreNamed) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor();
  Vector v(at(p.k), 1.0), out(at(p.k)), short_out(at(p.k - 1)), one(1);
  Vector nan = v;
  nan[4] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Index> high = {0, p.k}, low = {-1};

  CHECK_THROWS_WITH(InvalidArgument, "cols", f.border_inverse_block(high, out));
  CHECK_THROWS_WITH(InvalidArgument, "cols", f.border_inverse_block(low, one));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.border_inverse_block({}, out));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.border_inverse_diagonal(short_out));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.schur_apply(v, short_out));
  CHECK_THROWS_WITH(InvalidArgument, "v", f.schur_apply(short_out, out));
  CHECK_THROWS_WITH(InvalidArgument, "m", f.border_inverse_apply(v, out, 0));
  CHECK_THROWS_WITH(InvalidArgument, "m", f.border_inverse_apply(v, out, std::numeric_limits<Index>::max() / 2));
  CHECK_THROWS_WITH(InvalidArgument, "index 4", f.border_inverse_apply(nan, out));
  CHECK_THROWS_WITH(InvalidArgument, "index 4", f.schur_apply(nan, out));
}

CHECK_MAIN()
