#include "check.hpp"

#include "border/block_sparse.hpp"

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"
#include "plan/schur_pattern.hpp"

namespace {

using namespace support;
using arrowschur::Guards;
using arrowschur::border::make_sparse;

TEST(chain_of_single_columns) {
  SolverCase c(chain(120, 90, 1, 3), BorderForm::diagonal, 21);
  const auto solver = make_sparse(c.inputs());
  CHECK(solver->latent_blocks_cheap());
  CHECK(!solver->root_is_lower());
  check_solver(c, *solver);
}

TEST(chain_with_a_banded_border) {
  SolverCase c(chain(300, 220, 2, 2, {2, 1}), BorderForm::banded, 22);
  check_solver(c, *make_sparse(c.inputs()));
}

TEST(ragged_rows_and_blocks) {
  SolverCase c(scattered(60, {3, 1, 2, 6, 2, 1, 4, 5, 3, 2, 1, 1, 7, 2, 3, 3}, 3, 5, {3, 1, 2, 0}, 5), BorderForm::sum,
               23);
  check_solver(c, *make_sparse(c.inputs()));
}

// Cameras with two-dimensional neighbourhoods: minimum degree has something to do, and wide supernodes are cut.
TEST(hundred_cameras) {
  SolverCase c(scattered(300, std::vector<Index>(100, 6), 3, 12, {3}, 9), BorderForm::blocks, 24);
  check_solver(c, *make_sparse(c.inputs()));
}

TEST(full_pattern) {
  SolverCase c(scattered(80, std::vector<Index>(40, 4), 6, 40, {2}, 10), BorderForm::dense, 25);
  check_solver(c, *make_sparse(c.inputs()));
}

TEST(one_column_and_untouched_columns) {
  SolverCase one(scattered(3, {1}, 1, 1, {1}, 10), BorderForm::diagonal, 26);
  check_solver(one, *make_sparse(one.inputs()));
  SolverCase c(chain(4, 30, 1, 2), BorderForm::diagonal, 27);  // S is diagonal but for a corner
  check_solver(c, *make_sparse(c.inputs()));
}

TEST(same_bits_for_every_number_of_threads) {
  SolverCase c(scattered(3000, std::vector<Index>(150, 6), 3, 15, {2}, 11), BorderForm::blocks, 28);
  Vector first, second;
  for (Vector* x : {&first, &second}) {
    arrowschur::set_num_threads(x == &first ? 1 : 4);
    const auto solver = make_sparse(c.inputs());
    REQUIRE(solver->factor(c.shift.data(), 0.25, Guards::relative, false).ok);
    x->assign(at(c.problem.k * 70), 1.0);
    solver->solve(x->data(), 70, nullptr);
    Vector blocks(at(c.system.n() * 4));
    REQUIRE(solver->latent_blocks(c.rows, {}, blocks.data()));
    x->insert(x->end(), blocks.begin(), blocks.end());
    Vector y(at(c.problem.k));
    solver->apply(x->data(), y.data(), 1);
    x->insert(x->end(), y.begin(), y.end());
    x->push_back(solver->log_det());
  }
  arrowschur::set_num_threads(2);
  CHECK(first == second);
}

TEST(failures_name_the_column) {
  SolverCase c(scattered(60, std::vector<Index>(25, 2), 2, 4, {1}, 3), BorderForm::diagonal, 29);
  const auto solver = make_sparse(c.inputs());
  Vector shift(50, 0.0);
  shift[33] = -1e3;
  for (const Guards guards : {Guards::relative, Guards::absolute}) {
    const auto report = solver->factor(shift.data(), 0.0, guards, false);
    CHECK(!report.ok);
    CHECK(report.kind == arrowschur::SchurFailure::non_pd);
    CHECK_EQUAL(report.pivot_index, 33);
    CHECK(report.suggested_ridge > 500.0);
  }
  shift[33] = std::nan("");
  CHECK(solver->factor(shift.data(), 0.0, Guards::relative, false).kind == arrowschur::SchurFailure::non_finite);
  shift.assign(50, 0.0);
  shift[12] = 1e14;
  CHECK(solver->factor(shift.data(), 0.0, Guards::absolute, false).kind == arrowschur::SchurFailure::ill_conditioned);
  CHECK(solver->factor(shift.data(), 0.0, Guards::relative, false).ok);  // equilibrated
  CHECK(solver->factor(shift.data(), 0.0, Guards::absolute, true).ok);   // evidence: no guard
}

TEST(entries_near_the_exponent_range) {
  SolverCase c(chain(4, 3, 1, 1), BorderForm::diagonal, 30);
  const auto solver = make_sparse(c.inputs());
  const Vector shift{1e300, 1.0, 1e200};
  REQUIRE(solver->factor(shift.data(), 0.0, Guards::relative, false).ok);
  Vector x{1e300, 0.0, 3e200};
  solver->solve(x.data(), 1, nullptr);
  CHECK_NEAR(x[0], 1.0, 1e-14);
  CHECK_NEAR(x[2], 3.0, 1e-14);
}

TEST(other_forms_are_refused) {
  const Problem dense({2, 2}, 3, 4);
  const ArrowSystem system = dense.system();
  arrowschur::eliminate::RowFactors<double> rows;
  REQUIRE(arrowschur::eliminate::factor_rows(system, arrowschur::eliminate::Partition::make(system),
                                             arrowschur::Ridges{}, arrowschur::backend::RowPolicy{}, rows)
              .ok);
  arrowschur::border::SolverInputs inputs;
  inputs.system = &system;
  inputs.w = arrowschur::eliminate::whiten(system, rows);
  CHECK_THROWS(arrowschur::UnsupportedConfiguration, make_sparse(inputs));
}

}  // namespace

CHECK_MAIN()
