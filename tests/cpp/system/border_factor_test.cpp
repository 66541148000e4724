#include <cmath>

#include "check.hpp"
#include "system/border.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::random_vector;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Positive definite blocks one after another.
std::vector<double> blocks(const std::vector<Index>& sizes) {
  std::vector<double> data;
  for (const Index size : sizes) {
    std::vector<double> block = support::random_symmetric(size, at(size));
    for (Index i = 0; i < size; ++i) block[at(i * size + i)] = 2.0 + static_cast<double>(size);
    data.insert(data.end(), block.begin(), block.end());
  }
  return data;
}

std::vector<double> bands(Index k, Index bandwidth) {
  std::vector<double> data = random_vector((bandwidth + 1) * k, 3);
  for (Index i = 0; i < k; ++i) data[at(i)] = 2.0 + 2.0 * static_cast<double>(bandwidth);
  return data;
}

// R R' = M: R^-1 M R^-T = I column by column, and log|M| against a dense Cholesky factor.
void check_factor(const Border& border, const std::vector<double>& shift) {
  const Index k = border.k;
  REQUIRE(border::cheap_to_factor(border));
  const border::FactorOutcome outcome = border::factor(border, shift.data());
  REQUIRE(outcome.factor != nullptr);
  CHECK_EQUAL(outcome.bad_pivot, Index{-1});
  CHECK(outcome.factor->nbytes() <= 2 * border::factor_bytes(border) && border::factor_bytes(border) > 0);

  std::vector<double> m(at(k * k));
  border.to_dense_add(m);
  for (Index i = 0; i < k; ++i) m[at(i * k + i)] += shift[at(i)];
  std::vector<double> l(m);
  double log_det = 0.0;
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j <= i; ++j) {
      double sum = l[at(i * k + j)];
      for (Index t = 0; t < j; ++t) sum -= l[at(i * k + t)] * l[at(j * k + t)];
      l[at(i * k + j)] = i == j ? std::sqrt(sum) : sum / l[at(j * k + j)];
    }
    log_det += 2.0 * std::log(l[at(i * k + i)]);
  }
  CHECK_NEAR(outcome.factor->log_det(), log_det, 1e-12);

  std::vector<double> x(m), transposed(at(k * k)), identity(at(k * k));
  outcome.factor->solve_lower(x.data(), k, k);
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j < k; ++j) transposed[at(j * k + i)] = x[at(i * k + j)];
    identity[at(i * k + i)] = 1.0;
  }
  outcome.factor->solve_lower(transposed.data(), k, k);
  CHECK_NEAR(transposed, identity, 1e-12);

  for (const Index columns : {1, 3, 24}) {  // inside a wider matrix, whose other columns stay
    const Index ldx = columns + 2;
    std::vector<double> b = random_vector(k * ldx, 5);
    std::vector<double> y(b);
    outcome.factor->solve_lower(y.data() + 1, ldx, columns);
    outcome.factor->solve_upper(y.data() + 1, ldx, columns);
    for (Index i = 0; i < k; ++i) {
      CHECK(y[at(i * ldx)] == b[at(i * ldx)]);
      CHECK(y[at(i * ldx + ldx - 1)] == b[at(i * ldx + ldx - 1)]);
    }
    const std::vector<double> image = support::multiply(m, y, k, ldx);
    std::vector<double> inner_image, inner_b;
    for (Index i = 0; i < k; ++i) {
      for (Index c = 1; c <= columns; ++c) {
        inner_image.push_back(image[at(i * ldx + c)]);
        inner_b.push_back(b[at(i * ldx + c)]);
      }
    }
    CHECK_NEAR(inner_image, inner_b, 1e-12);
  }
  double smallest = 1e300, largest = 0.0;
  outcome.factor->pivots(smallest, largest);
  CHECK(smallest > 0.0 && smallest <= largest && largest < 1e4);
}

std::vector<double> shift_of(Index k) {
  std::vector<double> shift = random_vector(k, 2);
  for (double& v : shift) v += 1.5;
  return shift;
}

Border of(Index k, std::vector<BorderTerm> terms) { return {k, DType::float64, std::move(terms), {}}; }

}  // namespace

TEST(DiagonalAndBanded) {
  const Index k = 60;
  const std::vector<double> diagonal(at(k), 0.5), one = bands(k, 1), many = bands(k, 20);
  check_factor(of(k, {DiagonalBorder{diagonal.data()}}), shift_of(k));
  check_factor(of(k, {BandedBorder{one.data(), 1}}), shift_of(k));
  check_factor(of(k, {BandedBorder{many.data(), 20}, DiagonalBorder{diagonal.data()}}), shift_of(k));
  check_factor(of(k, {}), shift_of(k));  // the zero matrix
}

TEST(BlocksSmallAndLarge) {
  const std::vector<Index> small{3, 1, 8, 2}, large{40, 2, 33};
  const std::vector<double> few = blocks(small), big = blocks(large), one = bands(14, 1);
  check_factor(of(14, {BlockDiagonalBorder{few.data(), small}}), shift_of(14));
  check_factor(of(14, {BlockDiagonalBorder{few.data(), small}, BandedBorder{one.data(), 1}}), shift_of(14));
  check_factor(of(75, {BlockDiagonalBorder{big.data(), large}}), shift_of(75));
}

TEST(KroneckerWithAnIdentity) {
  const Index p = 5;
  const std::vector<double> shift(75 * 5, 0.75), diagonal(75 * 5, 0.125);
  const std::vector<Index> sizes{40, 2, 33};
  const std::vector<double> factors = blocks(sizes);
  check_factor(of(75 * p, {KroneckerBorder{factors.data(), sizes, p}}), shift);
  check_factor(of(75 * p, {KroneckerBorder{factors.data(), sizes, p}, DiagonalBorder{diagonal.data()}}), shift);
  check_factor(of(75, {KroneckerBorder{factors.data(), sizes, 1}}), shift_of(75));

  const std::vector<double> values = blocks({4, 4, 4});
  SparseBlockKroneckerBorder sparse;
  sparse.blocks = {{0, 0, 4, 4, 0}, {4, 4, 4, 4, 16}, {6, 0, 2, 2, 32}};
  sparse.values = values.data();
  sparse.entries = 48;
  sparse.p = p;
  sparse.mirror = true;
  const std::vector<double> twenty(8 * 5, 8.0);
  check_factor(of(8 * p, {sparse}), twenty);
  sparse.blocks[2] = {0, 6, 2, 2, 32};
  check_factor(of(8 * p, {sparse}), twenty);

  FramedKroneckerBorder framed;
  framed.groups = {{4, p, nullptr}, {4, p, nullptr}};
  framed.blocks = {{0, 0, 0}, {1, 1, 16}};
  framed.values = values.data();
  framed.entries = 48;
  framed.p = p;
  check_factor(of(8 * p, {framed}), twenty);

  // A shift or a diagonal that varies inside I_p.
  std::vector<double> varying(twenty);
  varying[1] = 9.0;
  const border::FactorOutcome outcome = border::factor(of(8 * p, {sparse}), varying.data());
  CHECK(outcome.factor == nullptr);
  CHECK_EQUAL(outcome.bad_pivot, Index{-1});
  CHECK(!border::cheap_to_factor(of(8 * p, {sparse, DiagonalBorder{varying.data()}})));
}

TEST(WhatHasNoCheapFactor) {
  const Index k = 40;
  const std::vector<double> dense = support::random_symmetric(k, 1), one = bands(k, 1);
  CHECK(!border::cheap_to_factor(of(k, {DenseBorder{dense.data()}})));
  CHECK(!border::cheap_to_factor(of(k, {KroneckerProductBorder{dense.data(), dense.data(), 5, 8, 0}})));
  const std::vector<double> factor = blocks({20});
  CHECK(!border::cheap_to_factor(of(k, {KroneckerBorder{factor.data(), {20}, 2}, BandedBorder{one.data(), 1}})));
  CHECK(!border::cheap_to_factor(
      of(k, {KroneckerBorder{factor.data(), {20}, 2}, KroneckerBorder{factor.data(), {10}, 4}})));
  OperatorBorder op;
  CHECK(!border::cheap_to_factor(of(k, {op})));
  FramedKroneckerBorder framed;
  framed.groups = {{4, 10, dense.data()}};
  framed.p = 40;
  CHECK(!border::cheap_to_factor(of(k, {framed})));
}

TEST(TheFirstPivotThatIsNotPositive) {
  const Index k = 75;
  std::vector<double> shift(at(k), 0.0), one = bands(k, 1);
  one[50] = -1.0;
  CHECK_EQUAL(border::factor(of(k, {BandedBorder{one.data(), 1}}), shift.data()).bad_pivot, Index{50});
  const std::vector<Index> sizes{40, 2, 33};
  std::vector<double> data = blocks(sizes);
  data[1600] = -1.0;
  CHECK_EQUAL(border::factor(of(k, {BlockDiagonalBorder{data.data(), sizes}}), shift.data()).bad_pivot, Index{40});
  shift.assign(at(2 * k), 0.0);
  CHECK_EQUAL(border::factor(of(2 * k, {KroneckerBorder{data.data(), sizes, 2}}), shift.data()).bad_pivot, Index{80});
  shift[7] = std::nan("");
  CHECK_EQUAL(border::factor(of(k, {BandedBorder{one.data(), 1}}), shift.data()).bad_pivot, Index{7});
}

CHECK_MAIN()
