#include "check.hpp"

#include "border/block_sparse.hpp"

#include "arrowschur/error.hpp"

namespace {

using namespace support;
using arrowschur::Guards;
using arrowschur::border::make_dense;
using arrowschur::border::Solver;

TEST(scalar_rows_on_single_columns) {
  SolverCase c(scattered(60, std::vector<Index>(25, 1), 4, 12, {1}, 3), BorderForm::diagonal, 11);
  const auto solver = make_dense(c.inputs());
  CHECK(solver->latent_blocks_cheap());
  CHECK(solver->root_is_lower());
  check_solver(c, *solver);
}

TEST(ragged_rows_and_blocks) {
  SolverCase c(scattered(40, {3, 1, 2, 6, 2, 1, 4, 5, 3, 2}, 3, 5, {3, 1, 2, 0}, 5), BorderForm::sum, 12);
  check_solver(c, *make_dense(c.inputs()));
}

TEST(dense_border) {
  SolverCase c(scattered(50, std::vector<Index>(8, 3), 2, 8, {2}, 6), BorderForm::dense, 13);
  check_solver(c, *make_dense(c.inputs()));
}

TEST(several_tiles) {
  SolverCase c(scattered(450, std::vector<Index>(149, 4), 3, 20, {1, 2}, 7), BorderForm::blocks, 14);
  check_solver(c, *make_dense(c.inputs()));
}

TEST(few_rows_are_solved_column_by_column) {
  SolverCase c(scattered(5, std::vector<Index>(40, 1), 4, 12, {1}, 3), BorderForm::banded, 11);
  const auto solver = make_dense(c.inputs());
  Vector out(5);
  CHECK(!solver->latent_blocks_cheap());
  REQUIRE(solver->factor(c.shift.data(), 0.25, Guards::relative, false).ok);
  CHECK(!solver->latent_blocks(c.rows, {}, out.data()));
}

TEST(indefinite_and_not_finite) {
  SolverCase c(scattered(60, std::vector<Index>(25, 1), 4, 12, {1}, 3), BorderForm::diagonal, 11);
  const auto solver = make_dense(c.inputs());
  Vector shift(25, 0.0);
  shift[17] = -1e3;
  const auto report = solver->factor(shift.data(), 0.0, Guards::relative, false);
  CHECK(!report.ok);
  CHECK(report.kind == arrowschur::SchurFailure::non_pd);
  CHECK_EQUAL(report.pivot_index, 17);
  CHECK(report.suggested_ridge > 500.0);
  shift[17] = std::nan("");
  CHECK(solver->factor(shift.data(), 0.0, Guards::relative, false).kind == arrowschur::SchurFailure::non_finite);
}

TEST(borders_by_callback_are_refused) {
  SolverCase c(scattered(6, std::vector<Index>(5, 1), 2, 5, {1}, 3), BorderForm::diagonal, 11);
  arrowschur::SystemParts parts;
  parts.k = 2;
  arrowschur::OperatorBorder op;
  op.matvec = [](std::span<const double>, std::span<double>) {};
  op.diagonal = {1.0, 1.0};
  parts.border = {2, arrowschur::DType::float64, {op}, {}};
  const Vector g(2, 0.0);
  parts.g_beta = g.data();
  const ArrowSystem system = ArrowSystem::make(parts);
  auto inputs = c.inputs();
  inputs.system = &system;
  CHECK_THROWS(arrowschur::UnsupportedConfiguration, make_dense(inputs));
}

}  // namespace

CHECK_MAIN()
