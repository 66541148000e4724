#include "border/street.hpp"
#include "check.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::at;
using street::Problem;

namespace {

// A 2-d grid of cells, rows between neighbours: elimination makes fill.
std::vector<std::vector<Index>> grid(Index side) {
  std::vector<std::vector<Index>> sees;
  for (Index i = 0; i < side; ++i) {
    for (Index j = 0; j < side; ++j) {
      if (j + 1 < side) sees.push_back({i * side + j, i * side + j + 1});
      if (i + 1 < side) sees.push_back({i * side + j, (i + 1) * side + j});
    }
  }
  return sees;
}

}  // namespace

TEST(ExactWithoutFill) {
  const Problem problem(street::chain(300, 2), 300, 2, 1e-6, 1);
  std::string why;
  const Built p = incomplete_cholesky(problem.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK_EQUAL(p->name(), "incomplete_cholesky");
  CHECK(p->nbytes() < 8 * problem.k * 20);
  CHECK(street::asymmetry(*p, problem.k, 2) <= 1e-13);
  CHECK(street::cg_iterations(problem, *p, support::random_vector(problem.k, 3), 1e-10) <= 3);
}

TEST(HelpsWithFill) {
  const Problem problem(grid(20), 400, 1, 1e-4, 4);
  std::string why;
  const Built p = incomplete_cholesky(problem.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK(street::asymmetry(*p, problem.k, 5) <= 1e-13);
  const std::vector<double> rhs = support::random_vector(problem.k, 6);
  CHECK(2 * street::cg_iterations(problem, *p, rhs, 1e-10) < street::jacobi_iterations(problem, rhs, 1e-10));
}

// Entries that vanish inside a coupled pair of blocks belong to the pattern, so that a chain of blocks stays exact;
// beyond 16 columns per block each entry counts for itself.
TEST(NarrowBlocksAreTiles) {
  for (const Index width : {16, 17}) {
    Problem problem(street::chain(30, 2), 30, width, 0.5, 15);
    std::string why;
    const Built p = incomplete_cholesky(problem.inputs(), why);
    REQUIRE(p != nullptr);
    CHECK(street::cg_iterations(problem, *p, support::random_vector(problem.k, 16), 1e-10) <= 2);
  }
}

TEST(NearlyFullPatternsAreCompleted) {
  const Problem problem(std::vector<std::vector<Index>>(30, {0, 1, 2, 3}), 4, 5, 0.1, 7);
  std::string why;
  const Built p = incomplete_cholesky(problem.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK(street::cg_iterations(problem, *p, support::random_vector(problem.k, 8), 1e-10) <= 2);
}

// Slightly indefinite: the shifted factor is positive definite; far from it: scalars, or a refusal.
TEST(BadPivots) {
  Problem problem(grid(20), 400, 1, 1e-2, 9);
  for (double& shift : problem.shift) shift = -2e-2;
  std::string why;
  const Built shifted = incomplete_cholesky(problem.inputs(), why);
  REQUIRE(shifted != nullptr);
  CHECK(street::asymmetry(*shifted, problem.k, 10) <= 1e-13);

  // Two grids, the second one hopeless though its diagonal is positive.
  std::vector<std::vector<Index>> sees = grid(10);
  for (auto row : grid(10)) {
    for (Index& c : row) c += 100;
    sees.push_back(row);
  }
  Problem half(sees, 200, 1, 1e-2, 11);
  for (Index j = 100; j < 200; ++j) half.shift[at(j)] = -0.8 * half.s[at(j * half.k + j)];
  const Built mixed = incomplete_cholesky(half.inputs(), why);
  REQUIRE(mixed != nullptr);
  CHECK(street::asymmetry(*mixed, half.k, 12) <= 1e-13);
  std::vector<double> unit(at(half.k), 0.0), z(at(half.k));
  unit[150] = 1.0;
  mixed->apply(unit.data(), z.data());
  CHECK_NEAR(z[150], 1.0 / (half.s[at(150 * half.k + 150)] + half.shift[150]), 1e-12);

  for (double& shift : half.shift) shift = -1e3;
  CHECK(incomplete_cholesky(half.inputs(), why) == nullptr);
  CHECK(why.find("broke down") != std::string::npos);
}

TEST(DenseRowsAreRefused) {
  const support::OwnedSystem owned({1}, 3, 13);
  const ArrowSystem system = ArrowSystem::make(owned.parts());
  const street::DenseWhitened w(1, 3, support::random_vector(3, 14));
  const std::vector<double> shift(3, 0.0);
  PreconditionerInputs in;
  in.system = &system;
  in.w = &w;
  in.shift = shift.data();
  std::string why;
  CHECK(incomplete_cholesky(in, why) == nullptr);
  CHECK(why.find("every row") != std::string::npos);
}

CHECK_MAIN()
