#include <memory>

#include "border/street.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::at;
using street::Problem;

namespace {

// Two streets of three blocks each.
Problem two_components() {
  std::vector<std::vector<Index>> sees;
  for (Index r = 0; r < 40; ++r) {
    sees.push_back({r % 2, r % 2 + 1});
    sees.push_back({3 + r % 2, 4 + r % 2});
  }
  return Problem(sees, 6, 8, 0.5, 1);
}

}  // namespace

TEST(ComponentsAreSolvedExactly) {
  const Problem problem = two_components();
  std::string why;
  const Built p = clusters(problem.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK_EQUAL(p->name(), "cluster");
  CHECK(p->nbytes() > 8 * 2 * 24 * 24);
  const std::vector<double> rhs = support::random_vector(problem.k, 2);
  CHECK(street::cg_iterations(problem, *p, rhs, 1e-10) <= 2);
  CHECK(street::asymmetry(*p, problem.k, 3) <= 1e-13);
}

TEST(ClustersAndSchwarzBeatJacobi) {
  // T65: a chain of 2000 columns.
  const Problem problem(street::chain(2000, 1), 2000, 1, 0.05, 4);
  std::string why;
  const Built plain = clusters(problem.inputs(), why), overlapping = schwarz(problem.inputs(), 20, why);
  REQUIRE(plain != nullptr && overlapping != nullptr);
  CHECK_EQUAL(overlapping->name(), "schwarz");
  CHECK(street::asymmetry(*overlapping, problem.k, 5) <= 1e-13);
  const std::vector<double> rhs = support::random_vector(problem.k, 6);
  const Index jacobi = street::jacobi_iterations(problem, rhs, 1e-8);
  CHECK(street::cg_iterations(problem, *plain, rhs, 1e-8) <= 10);  // four clusters, three cuts
  CHECK(2 * street::cg_iterations(problem, *overlapping, rhs, 1e-8) < jacobi);
}

// T64 for Schwarz: grown components are the components.
TEST(SchwarzOnComponents) {
  const Problem problem = two_components();
  std::string why;
  const Built p = schwarz(problem.inputs(), 1, why);
  REQUIRE(p != nullptr);
  CHECK(street::asymmetry(*p, problem.k, 3) <= 1e-13);
  CHECK(street::cg_iterations(problem, *p, support::random_vector(problem.k, 2), 1e-10) <= 2);
}

TEST(WideBlocksGetScalars) {
  // Block widths 2; then one border of a single block of 600 columns, beyond every cluster.
  const Problem narrow(street::chain(4, 3), 4, 2, 0.5, 7);
  const Problem wide({{0}, {0}, {0}}, 1, 600, 0.5, 8);
  std::string why;
  CHECK(clusters(narrow.inputs(), why) != nullptr);
  CHECK(clusters(wide.inputs(), why) == nullptr);
  CHECK(why.find("wider than 512") != std::string::npos);
}

TEST(IndefiniteClustersFallBack) {
  Problem problem = two_components();
  // The first component becomes indefinite by a negative shift that leaves its diagonal positive.
  double lowest = HUGE_VAL;
  for (Index j = 0; j < 24; ++j) lowest = std::min(lowest, problem.s[at(j * problem.k + j)]);
  for (Index j = 0; j < 24; ++j) problem.shift[at(j)] = -0.9 * lowest;
  std::string why;
  const Built p = clusters(problem.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK(street::asymmetry(*p, problem.k, 9) <= 1e-13);
  std::vector<double> unit(at(problem.k), 0.0), z(at(problem.k));
  unit[3] = 1.0;
  p->apply(unit.data(), z.data());
  CHECK_NEAR(z[3], 1.0 / (problem.s[at(3 * problem.k + 3)] + problem.shift[3]), 1e-12);
  CHECK_EQUAL(z[4], 0.0);
  // A negative diagonal: refused, and with a trust region floored.
  problem.shift[5] = -100.0 * problem.s[at(5 * problem.k + 5)];
  CHECK(clusters(problem.inputs(), why) == nullptr);
  PreconditionerInputs in = problem.inputs();
  in.trust_region = true;
  const Built floored = clusters(in, why);
  REQUIRE(floored != nullptr);
  CHECK(street::asymmetry(*floored, problem.k, 10) <= 1e-13);
}

TEST(DenseRowsHaveNoClusters) {
  const support::OwnedSystem owned({1, 2}, 3, 11);
  const ArrowSystem system = ArrowSystem::make(owned.parts());
  const street::DenseWhitened w(3, 3, support::random_vector(9, 12));
  const std::vector<double> shift(3, 0.0);
  std::string why;
  PreconditionerInputs in;
  in.system = &system;
  in.w = &w;
  in.shift = shift.data();
  CHECK(clusters(in, why) == nullptr);
  CHECK(why.find("every row") != std::string::npos);
}

CHECK_MAIN()
