// What a frame says about rows without a factor: T-D-13, T-D-14.
#include <cmath>
#include <limits>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "arrowschur/inner_loop.hpp"
#include "check.hpp"
#include "linalg/blas.hpp"
#include "newton/ridge_bump.hpp"
#include "newton/support.hpp"

using namespace arrowschur;

namespace {

bool factors(std::vector<double> block, Index d, double shift) {
  for (Index i = 0; i < d; ++i) block[static_cast<std::size_t>(i * d + i)] += shift;
  return linalg::blas_table<double>().potrf('U', d, block.data(), d) == 0;
}

std::vector<double> scaled_identity(Index d, double value) {
  std::vector<double> block(static_cast<std::size_t>(d * d));
  for (Index i = 0; i < d; ++i) block[static_cast<std::size_t>(i * d + i)] = value;
  return block;
}

// d I - 11', times `unit`: singular, not indefinite.
std::vector<double> laplacian(Index d, double unit) {
  std::vector<double> block(static_cast<std::size_t>(d * d), -unit);
  for (Index i = 0; i < d; ++i) block[static_cast<std::size_t>(i * d + i)] = (static_cast<double>(d) - 1.0) * unit;
  return block;
}

// coupled_fixture(4, 8, 3, 11, 0.5, dense) with two rows that no small ridge repairs.
fixtures::FixtureData two_bad_rows() {
  auto data = fixtures::coupled_fixture(4, 8, 3, 11, 0.5, fixtures::BorderKind::dense);
  for (const auto& [row, value] : {std::pair<Index, double>{2, -1.0}, {3, -250.0}}) {
    const auto block = scaled_identity(8, value);
    std::copy(block.begin(), block.end(), data.h_tt.begin() + static_cast<std::ptrdiff_t>(row * 64));
  }
  return data;
}

}  // namespace

TEST(TheBumpIsTheDeficitAndRounding) {
  struct Case {
    std::vector<double> block;
    Index d;
    double deficit, excess;
  };
  const Case cases[] = {{scaled_identity(8, -1.0), 8, 1.0, 1.75e-14},
                        {scaled_identity(4, -250.0), 4, 250.0, 1.36e-12},
                        {{1, 2, 2, 1}, 2, 1.0, 2.9e-15},
                        {scaled_identity(3, 5.0), 3, 0.0, 1.0e-14},
                        {{-2, 0.3, 0.1, 0.3, 0.5, -0.4, 0.1, -0.4, 1}, 3, 2.4, 7.5e-15}};
  for (const Case& c : cases) {
    const double bump = ridge_bump(c.block, c.d, 0.0), excess = bump - c.deficit;
    CHECK(excess > c.excess / 1.5);
    CHECK(excess < c.excess * 1.5);
    CHECK(factors(c.block, c.d, bump));
  }
}

TEST(SingularBlocksNeedRoundingOnly) {
  CHECK(!factors(laplacian(2, 1.0), 2, 0.0));
  for (const Index d : {2, 3, 5, 8, 12}) {
    for (const double unit : {1e-3, 1.0, 7.3e5}) {
      for (const double ridge : {0.0, 0.5 * unit}) {
        const auto block = laplacian(d, unit);
        const double bump = ridge_bump(block, d, ridge);
        CHECK(bump > 0.0);
        CHECK(bump < 0x1p-26 * std::max(1.0, (static_cast<double>(d) - 1.0) * unit));
        CHECK(factors(block, d, ridge + bump));
      }
    }
  }
}

TEST(RowAndColumnOrderAgree) {
  const auto random = support::random_vector(25, 3);
  std::vector<double> block(25);
  for (std::size_t r = 0; r < 5; ++r) {
    for (std::size_t c = 0; c < 5; ++c) block[r * 5 + c] = random[std::min(r, c) * 5 + std::max(r, c)];
  }
  std::vector<double> columns(25);
  for (std::size_t i = 0; i < 25; ++i) columns[i] = block[i % 5 * 5 + i / 5];
  CHECK_EQUAL(ridge_bump(block, 5, 0.25), ridge_bump(columns, 5, 0.25));
}

TEST(AFrameNamesItsFailingRowsAndWhatRepairsThem) {
  const auto data = two_bad_rows();
  const RowBump found = examine_rows(data.system());
  CHECK_EQUAL(found.failing_rows, Index{2});
  CHECK_EQUAL(found.first_row, Index{2});
  CHECK_EQUAL(found.first_pivot, Index{0});
  CHECK_NEAR(found.bump, 250.0000000000044, 1e-14);
  CHECK_NEAR(found.suggested_bump, 251.5761727, 1e-7);
}

TEST(HealthyRowsNeedNothing) {
  const auto data = fixtures::small_fixture(1);
  const RowBump found = examine_rows(data.system());
  CHECK_EQUAL(found.failing_rows, Index{0});
  CHECK_EQUAL(found.first_row, Index{-1});
  CHECK_EQUAL(found.bump, 0.0);
  CHECK_EQUAL(found.suggested_bump, 0.0);
  CHECK_THROWS_WITH(InvalidArgument, "ridge_t", examine_rows(data.system(), -1.0));
  CHECK_THROWS_WITH(InvalidArgument, "ridge_t", examine_rows(data.system(), std::nan("")));
}

// At the bump the rows factor and ruin the border; the advice repairs both at once.
TEST(OneRetryAtTheAdviceSucceeds) {
  const auto data = two_bad_rows();
  const ArrowSystem system = data.system();
  SolveOptions plain;
  plain.row_lift = RowLift::never;
  plain.tolerate_ill_conditioning = true;
  const RowBump found = examine_rows(system);
  CHECK_THROWS(RowFactorError, factorize(system, {}, plain));
  CHECK_THROWS(SchurFactorError, factorize(system, {found.bump, 0.0}, plain));
  const NewtonStep step = factorize(system, {found.suggested_bump, 0.0}, plain).step();
  const auto reference = newton_step_dense_reference(system, found.suggested_bump, 0.0);
  CHECK_NEAR(step.delta_t, reference.delta_t, 1e-10);
  CHECK_NEAR(step.delta_beta, reference.delta_beta, 1e-10);
}

TEST(ABorderWithoutAPositiveDiagonalLeavesTheAdviceFinite) {
  auto data = two_bad_rows();
  data.h_bb.assign(9, 0.0);
  const RowBump found = examine_rows(data.system());
  CHECK(found.suggested_bump > 250.0);
  CHECK(std::isfinite(found.suggested_bump));
  // A ridge on the border counts.
  CHECK(newton::examine_rows(data.system(), 0.0, 4.0).suggested_bump > found.suggested_bump);
}

TEST(RaggedRowsAreReadInTheirOwnSizes) {
  auto data = support::definite({1, 3, 0, 2}, 2, 5);
  const Index start = 1;  // behind the 1 x 1 block: the second row
  data.h_tt[static_cast<std::size_t>(start + 4)] = -7.0;  // its middle diagonal entry
  const RowBump found = examine_rows(ArrowSystem::make(data.parts()));
  CHECK_EQUAL(found.failing_rows, Index{1});
  CHECK_EQUAL(found.first_row, Index{1});
  CHECK_EQUAL(found.first_pivot, Index{1});
}

CHECK_MAIN()
