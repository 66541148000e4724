// The matrix-free border solve as a whole: tolerances and iteration counts, trust region, curvature ridge, ladder, what
// later solves inherit, and errors. The whitened cross block is the plain one of pcg_support.hpp.
#include <functional>
#include <thread>

#include "arrowschur/error.hpp"
#include "border/pcg_support.hpp"
#include "border/solver.hpp"
#include "border/trust_region.hpp"
#include "check.hpp"

using namespace arrowschur;
using backend::BorderAccount;
using border::Solver;
using border::SolverInputs;
using support::LeastSquares;

namespace {

using Vector = std::vector<double>;

struct Problem {
  LeastSquares data;
  ArrowSystem system;
  std::shared_ptr<support::PlainWhitened> w;
  Vector s, rhs;

  explicit Problem(LeastSquares ls, Index block = 0)
      : Problem(std::move(ls), [block](const LeastSquares& d) { return d.system(block); }) {}
  Problem(LeastSquares ls, const std::function<ArrowSystem(const LeastSquares&)>& make_system)
      : data(std::move(ls)), system(make_system(data)), w(support::whitened(data)) {
    s = support::dense_schur(data.h_bb, *w, data.k);
    rhs = support::random_vector(data.k, 99);
  }
  std::unique_ptr<Solver> solver(const SolveOptions& options, bool by_plan = false, double ridge = 0.0) const {
    SolverInputs in;
    in.system = &system;
    in.w = w;
    in.options = options;
    in.plan.route = Route::inexact_pcg;
    in.chosen_by_plan = by_plan;
    auto made = border::make_pcg(in);
    const Vector shift(static_cast<std::size_t>(data.k), ridge);
    const auto report = made->factor(shift.data(), ridge, options.guards, false);
    CHECK(report.ok);
    return made;
  }
  double residual(const Vector& x, double ridge = 0.0) const {
    Vector r = support::multiply(s, x, data.k);
    for (std::size_t j = 0; j < r.size(); ++j) r[j] = rhs[j] - r[j] - ridge * x[j];
    return support::norm(r) / support::norm(rhs);
  }
};

// S = (h - 100) I with two columns.
LeastSquares collapse(double h_bb) {
  LeastSquares c(2, 1, 2, 1);
  c.h_tt = {0.01, 0.01};
  c.h_tb = {1.0, 0.0, 0.0, 1.0};
  c.h_bb = {h_bb, 0.0, 0.0, h_bb};
  return c;
}
const Vector kCollapseRhs{24.5, -12.25};

SolveOptions with(PreconditionerKind kind, std::optional<double> tolerance = {}) {
  SolveOptions o;
  o.mode = Mode::inexact_pcg;
  o.preconditioner = kind;
  o.pcg.relative_tolerance = tolerance;
  return o;
}

// First column of the two neighbouring blocks that row i touches.
Index chain_link(Index i, Index blocks) { return 4 * (i % (blocks - 1)); }

// A chain of `blocks` blocks of four columns, each row touching two neighbours: badly conditioned, one component.
LeastSquares chain(Index blocks, double regularisation) {
  const Index k = 4 * blocks, n = 6 * blocks;
  LeastSquares c(n, 1, k, 3);
  fixtures::SplitMix64 random(5);
  std::fill(c.h_tb.begin(), c.h_tb.end(), 0.0);
  std::fill(c.h_bb.begin(), c.h_bb.end(), 0.0);
  for (Index i = 0; i < n; ++i) {
    c.h_tt[static_cast<std::size_t>(i)] = 2.0;
    const Index first = chain_link(i, blocks);
    for (int equation = 0; equation < 2; ++equation) {
      Vector row(8);
      for (double& v : row) v = random.signed_unit();
      for (Index a = 0; a < 8; ++a) {
        c.h_tb[static_cast<std::size_t>(i * k + first + a)] += row[static_cast<std::size_t>(a)];
        for (Index b = 0; b < 8; ++b) {
          c.h_bb[static_cast<std::size_t>((first + a) * k + first + b)] +=
              row[static_cast<std::size_t>(a)] * row[static_cast<std::size_t>(b)];
        }
      }
    }
  }
  for (Index a = 0; a < k; ++a) c.h_bb[static_cast<std::size_t>(a * k + a)] += regularisation;
  return c;
}

}  // namespace

// T19, T20
TEST(IterationCountsOfJacobi) {
  struct Row {
    Index n, d, k;
    std::uint64_t seed;
    Index loose, tight;
  };
  for (const Row& row : {Row{40, 3, 17, 1, 12, 22}, Row{300, 2, 64, 3, 12, 26}, Row{64, 4, 200, 4, 70, 160}}) {
    const Problem p(LeastSquares(row.n, row.d, row.k, row.seed), 8);
    const Vector exact = support::dense_solve(p.s, p.rhs);
    for (const double tolerance : {1e-4, 1e-10}) {
      Index scalar = 0;
      for (const auto kind : {PreconditionerKind::diagonal, PreconditionerKind::block, PreconditionerKind::ladder}) {
        Vector x = p.rhs;
        BorderAccount account;
        p.solver(with(kind, tolerance))->solve(x.data(), 1, &account);
        REQUIRE(account.pcg.has_value());
        CHECK_EQUAL(account.pcg->stopping_reason, "converged");
        CHECK(account.inexact && !account.boundary && !account.truncated);
        CHECK(p.residual(x) <= tolerance);
        CHECK_NEAR(x, exact, 20.0 * 1e4 * tolerance);
        const Index iterations = account.pcg->iterations;
        if (kind == PreconditionerKind::diagonal) {
          CHECK(iterations <= (tolerance == 1e-4 ? row.loose : row.tight));
          CHECK_EQUAL(account.pcg->preconditioner, "diagonal");
          scalar = iterations;
        } else {
          CHECK(iterations <= scalar + 2);
          CHECK_EQUAL(account.pcg->preconditioner, "block");
        }
      }
    }
  }
}

TEST(TheDefaultToleranceDependsOnWhoChose) {
  const Problem p(LeastSquares(40, 3, 17, 1));
  Vector asked = p.rhs, planned = p.rhs;
  BorderAccount by_name, by_plan;
  p.solver(with(PreconditionerKind::ladder))->solve(asked.data(), 1, &by_name);
  CHECK(p.residual(asked) <= 1e-4 && p.residual(asked) > 1e-10);
  CHECK(by_name.inexact);
  p.solver(with(PreconditionerKind::ladder), true)->solve(planned.data(), 1, &by_plan);
  CHECK(p.residual(planned) <= 1e-13);
  CHECK(!by_plan.inexact);
  CHECK_EQUAL(by_plan.pcg->matvec_calls, by_plan.pcg->iterations + 3);  // nu, and the true residual
}

// T86 through the solver: N from the border, nu measured.
TEST(UnreachableToleranceEndsAtTheAttainableAccuracy) {
  const Problem p(LeastSquares(64, 4, 200, 4));
  Vector x = p.rhs;
  BorderAccount account;
  auto options = with(PreconditionerKind::diagonal, 0x1p-53);
  options.pcg.max_iterations = 1000;
  p.solver(options)->solve(x.data(), 1, &account);
  CHECK_EQUAL(account.pcg->stopping_reason, "attainable_floor");
  CHECK(account.pcg->iterations < 400);
  CHECK(account.pcg->final_relative_residual <= 2.0 * account.pcg->residual_gap);
  CHECK(p.residual(x) <= 1e-11);
}

TEST(ProductsAndColumns) {
  const Problem p(LeastSquares(40, 3, 17, 1));
  const auto solver = p.solver(with(PreconditionerKind::ladder, 1e-12), false, 0.5);
  const Vector x = support::random_vector(17 * 3, 4);
  Vector y(17 * 3), one(17);
  solver->apply(x.data(), y.data(), 3);
  Vector shifted = p.s;
  for (std::size_t j = 0; j < 17; ++j) shifted[j * 18] += 0.5;
  CHECK_NEAR(y, support::multiply(shifted, x, 17, 3), 1e-13);
  Vector back = y;
  solver->solve(back.data(), 3, nullptr);
  CHECK_NEAR(back, x, 1e-9);
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t j = 0; j < 17; ++j) one[j] = y[j * 3 + c];
    solver->solve(one.data(), 1, nullptr);
    for (std::size_t j = 0; j < 17; ++j) CHECK_EQUAL(one[j], back[j * 3 + c]);
  }
  CHECK(solver->nbytes() > 0);
}

TEST(ThereIsNoFactor) {
  const Problem p(LeastSquares(40, 3, 17, 1));
  const auto solver = p.solver(with(PreconditionerKind::ladder));
  CHECK(!solver->exact());
  double a = 0.0, b = 0.0;
  CHECK_THROWS(UnsupportedConfiguration, solver->log_det());
  CHECK_THROWS(UnsupportedConfiguration, solver->pivots(a, b));
  CHECK_THROWS(UnsupportedConfiguration, solver->root_rows());
  CHECK_THROWS(UnsupportedConfiguration, solver->root(&a, &b, 1));
  CHECK_THROWS(UnsupportedConfiguration, solver->root_transpose(&a, &b, 1));
  CHECK(!solver->latent_blocks_cheap());
}

// T22: PCG, and the dense route's truncated iteration.
TEST(TrustRegionBoundary) {
  const Problem p(LeastSquares(40, 3, 17, 1), 8);
  const Vector newton = support::dense_solve(p.s, p.rhs);
  const double radius = 0.5 * support::norm(newton);
  TrustRegionOptions trust;
  trust.radius = radius;
  const auto model = [&](const Vector& x) {
    const Vector sx = support::multiply(p.s, x, 17);
    double m = 0.0;
    for (std::size_t j = 0; j < 17; ++j) m += x[j] * (0.5 * sx[j] - p.rhs[j]);
    return m;
  };
  double rr = 0.0, curvature = 0.0;
  const Vector sr = support::multiply(p.s, p.rhs, 17);
  for (std::size_t j = 0; j < 17; ++j) {
    rr += p.rhs[j] * p.rhs[j];
    curvature += p.rhs[j] * sr[j];
  }
  Vector cauchy = p.rhs;
  for (double& v : cauchy) v *= std::min(rr / curvature, radius / std::sqrt(rr));

  for (const auto kind : {PreconditionerKind::block, PreconditionerKind::diagonal, PreconditionerKind::none}) {
    Vector x = p.rhs;
    BorderAccount account;
    p.solver(with(kind))->step(x.data(), trust, account);
    CHECK_NEAR(support::norm(x), radius, 1e-12);
    CHECK(model(x) <= model(cauchy));
    CHECK(account.boundary);
    CHECK_EQUAL(account.pcg->stopping_reason, "trust_region");
  }
  Vector x = p.rhs;
  BorderAccount account;
  border::step_within(
      17, x.data(), trust, account,
      [&](double* y) {
        const Vector full = support::dense_solve(p.s, Vector(y, y + 17));
        std::copy(full.begin(), full.end(), y);
      },
      [&](const double* v, double* y) {
        const Vector image = support::multiply(p.s, Vector(v, v + 17), 17);
        std::copy(image.begin(), image.end(), y);
      });
  CHECK_NEAR(support::norm(x), radius, 1e-12);
  CHECK(model(x) <= model(cauchy));
  CHECK(account.boundary);
  CHECK_EQUAL(account.pcg->stopping_reason, "trust_region");
  CHECK_EQUAL(account.pcg->preconditioner, "none");

  // Outside the reach of the radius nothing changes.
  trust.radius = 10.0 * support::norm(newton);
  for (const bool by_plan : {false, true}) {
    x = p.rhs;
    BorderAccount inside;
    p.solver(with(PreconditionerKind::ladder, 1e-10), by_plan)->step(x.data(), trust, inside);
    CHECK(!inside.boundary);
    CHECK(p.residual(x) <= (by_plan ? 1e-12 : 1e-4));  // the larger tolerance, unless a plan has to certify the step
  }
}

// T23
TEST(CollapsedBorder) {
  const Problem p(collapse(1.0));
  TrustRegionOptions trust;
  trust.radius = 1.0;
  Vector x = kCollapseRhs;
  BorderAccount account;
  p.solver(with(PreconditionerKind::ladder))->step(x.data(), trust, account);
  CHECK_NEAR(x, (Vector{2.0 / std::sqrt(5.0), -1.0 / std::sqrt(5.0)}), 1e-12);
  CHECK(account.boundary);
  x = kCollapseRhs;
  try {
    p.solver(with(PreconditionerKind::ladder))->solve(x.data(), 1, nullptr);
    CHECK(false);
  } catch (const PcgError& error) {
    CHECK(error.facts.kind == PcgFailure::jacobi_diagonal);
    CHECK_EQUAL(error.facts.index, 0);
    CHECK_NEAR(error.facts.suggested_ridge, 198.0 + 99.0 * 0x1p-26, 1e-12);
    Vector again = kCollapseRhs;  // the advice works
    p.solver(with(PreconditionerKind::ladder), false, error.facts.suggested_ridge)->solve(again.data(), 1, nullptr);
    CHECK_NEAR(again[0], 24.5 / 99.0, 1e-4);
  }
  x = kCollapseRhs;
  try {
    p.solver(with(PreconditionerKind::none))->solve(x.data(), 1, nullptr);
    CHECK(false);
  } catch (const NegativeCurvature& error) {
    CHECK(error.facts.kind == PcgFailure::not_pd);
    CHECK_NEAR(error.curvature, -99.0 * error.direction_norm_sq, 1e-12);
    CHECK_NEAR(error.facts.suggested_ridge, 198.0 + 99.0 * 0x1p-26, 1e-12);
    CHECK_EQUAL(error.direction.size(), 2u);
  }
}

// T58, T80
TEST(CurvatureRidge) {
  for (const Guards guards : {Guards::absolute, Guards::relative}) {
    auto options = with(PreconditionerKind::ladder, 1e-12);
    options.guards = guards;
    options.schur_pd_floor = 1e-8;
    const Problem collapsed(collapse(1.0)), healthy(collapse(1000.0));
    Vector x = kCollapseRhs;
    BorderAccount account;
    const auto solver = collapsed.solver(options);
    solver->solve(x.data(), 1, &account);
    CHECK_NEAR(account.added_ridge, guards == Guards::absolute ? 273.918 : 198.000001, 2e-6);
    CHECK_NEAR(x[0], 24.5 / (account.added_ridge - 99.0), 1e-10);
    // Later solves of the factor have the same operator.
    Vector other{1.0, 3.0};
    BorderAccount second;
    solver->solve(other.data(), 1, &second);
    CHECK_EQUAL(second.added_ridge, account.added_ridge);
    CHECK_NEAR(other[1], 3.0 / (account.added_ridge - 99.0), 1e-10);
    // ... and the columns of one call too, also those before the one that found out.
    Vector columns{0.0, 24.5, 0.0, -12.25};
    collapsed.solver(options)->solve(columns.data(), 2, &second);
    CHECK_NEAR(columns[1], x[0], 1e-12);

    // A factor at other ridges starts afresh.
    const Vector shift(2, 200.0);
    auto copy = solver->unfactored_copy();
    copy->factor(shift.data(), 200.0, guards, false);
    x = kCollapseRhs;
    copy->solve(x.data(), 1, &account);
    CHECK_EQUAL(account.added_ridge, 0.0);
    CHECK_NEAR(x[0], 24.5 / 101.0, 1e-10);

    auto without = options;
    without.schur_pd_floor.reset();
    Vector a = kCollapseRhs, b = kCollapseRhs;
    healthy.solver(options)->solve(a.data(), 1, &account);
    healthy.solver(without)->solve(b.data(), 1, nullptr);
    CHECK(a == b);
    CHECK_EQUAL(account.added_ridge, 0.0);
  }
}

TEST(CurvatureRidgeWhereOnlyTheIterationFindsOut) {
  // S = [[1, 2], [2, 1]]: a healthy diagonal, and an eigenvalue -1.
  LeastSquares data = collapse(101.0);
  data.h_bb[1] = data.h_bb[2] = 2.0;
  const Problem p(std::move(data));
  for (const Guards guards : {Guards::absolute, Guards::relative}) {
    auto options = with(PreconditionerKind::ladder, 1e-12);
    options.guards = guards;
    Vector x{1.0, -1.0};
    CHECK_THROWS(NegativeCurvature, p.solver(options)->solve(x.data(), 1, nullptr));
    options.schur_pd_floor = 1e-8;
    x = {1.0, -1.0};
    BorderAccount account;
    p.solver(options)->solve(x.data(), 1, &account);
    CHECK(account.added_ridge > 1.0);
    CHECK_NEAR(x[0], 1.0 / (account.added_ridge - 1.0), 1e-9);
    if (guards == Guards::relative) CHECK_NEAR(account.added_ridge, 2.0 + 3.0 * 0x1p-26, 1e-12);
  }
}

TEST(BudgetAndTruncation) {
  const Problem p(LeastSquares(64, 4, 200, 4));
  for (const Index budget : {0, 3}) {
    auto options = with(PreconditionerKind::diagonal, 1e-10);
    options.pcg.max_iterations = budget;
    Vector x = p.rhs;
    try {
      p.solver(options)->solve(x.data(), 1, nullptr);
      CHECK(false);
    } catch (const PcgError& error) {
      CHECK(error.facts.kind == PcgFailure::budget);
      CHECK_EQUAL(error.facts.iterations, budget);
      CHECK_EQUAL(error.facts.preconditioner, "diagonal");
      CHECK(error.facts.relative_residual > 1e-10);
    }
    options.accept_truncated = true;
    x = p.rhs;
    BorderAccount account;
    p.solver(options)->solve(x.data(), 1, &account);
    CHECK(account.truncated);
    CHECK_EQUAL(account.pcg->stopping_reason, "max_iter");
    CHECK_NEAR(account.pcg->final_relative_residual, p.residual(x), 1e-6);
    if (budget == 0) CHECK_EQUAL(account.pcg->final_relative_residual, 1.0);
  }
}

TEST(ZeroRightHandSide) {
  const Problem p(LeastSquares(40, 3, 17, 1));
  Vector x(17, 0.0);
  BorderAccount account;
  p.solver(with(PreconditionerKind::ladder))->solve(x.data(), 1, &account);
  CHECK_EQUAL(account.pcg->iterations, 0);
  CHECK_EQUAL(account.pcg->final_relative_residual, 0.0);
  CHECK(x == Vector(17, 0.0));
}

TEST(AUserProductOfS) {
  const Problem p(LeastSquares(40, 3, 17, 1));
  auto options = with(PreconditionerKind::ladder, 1e-11);
  int calls = 0;
  options.schur_apply = [&](const double* x, double* y) {
    ++calls;
    const Vector image = support::multiply(p.s, Vector(x, x + 17), 17);
    for (std::size_t j = 0; j < 17; ++j) y[j] = image[j] + 0.25 * x[j];  // at the ridge of the call below
  };
  const auto solver = p.solver(options, false, 0.25);
  Vector x = p.rhs;
  BorderAccount account;
  solver->solve(x.data(), 1, &account);
  CHECK_EQUAL(calls, account.pcg->matvec_calls);
  CHECK(p.residual(x, 0.25) <= 1e-11);
  Vector two = support::random_vector(34, 3), image(34);
  solver->apply(two.data(), image.data(), 2);
  Vector shifted = p.s;
  for (std::size_t j = 0; j < 17; ++j) shifted[j * 18] += 0.25;
  CHECK_NEAR(image, support::multiply(shifted, two, 17, 2), 1e-12);
  // At another ridge the difference is added to the product.
  const Vector shift(17, 4.0);
  auto copy = solver->unfactored_copy();
  copy->factor(shift.data(), 4.0, Guards::relative, false);
  x = p.rhs;
  copy->solve(x.data(), 1, nullptr);
  CHECK(p.residual(x, 4.0) <= 1e-11);
}

TEST(APreconditionerThatCannotBeBuiltIsNamedOrPassedOver) {
  const Problem p(LeastSquares(64, 4, 200, 4));  // dense rows: no border graph
  Vector x = p.rhs;
  CHECK_THROWS(UnsupportedConfiguration, p.solver(with(PreconditionerKind::cluster))->solve(x.data(), 1, nullptr));
  auto options = with(PreconditionerKind::ladder, 1e-10);
  options.pcg.max_iterations = 40;
  BorderAccount account;
  p.solver(options)->solve(x.data(), 1, &account);
  CHECK(p.residual(x) <= 1e-10);
  REQUIRE(account.pcg->tiers.size() > 2);
  CHECK(account.pcg->tiers[0].find("diagonal: max_iter after") == 0);
  CHECK(account.pcg->tiers[1].find("cluster: not built, ") == 0);
  for (const auto& line : account.pcg->tiers) std::cout << "  " << line << "\n";
}

// The chain with its cross block given block by block.
struct Chain {
  std::vector<Index> indptr{0}, index, offsets;
  Vector values;
  ArrowSystem operator()(const LeastSquares& c) {
    const Index blocks = c.k / 4;
    for (Index b = 0; b <= blocks; ++b) offsets.push_back(4 * b);
    for (Index i = 0; i < c.n; ++i) {
      const Index first = chain_link(i, blocks);
      index.push_back(first / 4);
      index.push_back(first / 4 + 1);
      const auto row = c.h_tb.begin() + i * c.k + first;
      values.insert(values.end(), row, row + 8);
      indptr.push_back(static_cast<Index>(index.size()));
    }
    SystemParts p;
    p.n = c.n;
    p.d = 1;
    p.k = c.k;
    p.h_tt = c.h_tt.data();
    p.cross = BlockSparseCross{indptr.data(), index.data(), values.data(), offsets};
    p.border = {c.k, DType::float64, {DenseBorder{c.h_bb.data()}}, {}};
    p.g_t = c.g_t.data();
    p.g_beta = c.g_beta.data();
    return ArrowSystem::make(p, {.detect_structure = false});
  }
};

TEST(TheLadderClimbsAndLaterSolvesStartWhereItEnded) {
  Chain parts;
  const Problem p(chain(150, 1e-5), std::ref(parts));
  auto options = with(PreconditionerKind::ladder, 1e-10);
  options.pcg.max_iterations = 60;
  const auto solver = p.solver(options);
  Vector first, again;
  for (int solve = 0; solve < 4; ++solve) {
    Vector x = p.rhs;
    BorderAccount account;
    solver->solve(x.data(), 1, &account);
    CHECK(p.residual(x) <= 1e-10);
    if (solve == 0) {
      first = x;
      CHECK_EQUAL(account.pcg->tiers[0].find("block: max_iter after"), 0u);
      CHECK(account.pcg->preconditioner != "block");
      CHECK(account.pcg->matvec_calls > account.pcg->iterations);
    } else {
      CHECK_EQUAL(account.pcg->tiers.size(), 1u);
    }
    for (const auto& line : account.pcg->tiers) std::cout << "  solve " << solve << ": " << line << "\n";
  }
  // Another factor gives the same bits in the same call of the sequence.
  again = p.rhs;
  p.solver(options)->solve(again.data(), 1, nullptr);
  CHECK(again == first);
}

// Every tier is named in the account, in order; no more than its budget is spent on one.
TEST(AnExhaustedLadderIsAnErrorThatSaysSo) {
  const Problem p(LeastSquares(64, 4, 200, 4));
  auto options = with(PreconditionerKind::ladder, 1e-13);
  options.pcg.max_iterations = 2;
  Vector x = p.rhs;
  CHECK_THROWS(PcgError, p.solver(options)->solve(x.data(), 1, nullptr));
  options.accept_truncated = true;
  BorderAccount account;
  p.solver(options)->solve(x.data(), 1, &account);
  CHECK(account.truncated);
  CHECK_EQUAL(account.pcg->stopping_reason, "max_iter");
  CHECK(account.pcg->iterations <= 2 * 7);
  REQUIRE(account.pcg->tiers.size() == 7u);
  CHECK_EQUAL(account.pcg->tiers.front(), "diagonal: max_iter after 2");
  CHECK_EQUAL(account.pcg->tiers.back(), "deflated: max_iter after 2");
  CHECK_NEAR(account.pcg->final_relative_residual, p.residual(x), 1e-6);
}

// Preconditioners of another matrix than the one that is solved with: all of them fail, and the one that did best
// before it was left goes on.
TEST(ATierLeftEarlyGetsTheRestOfItsBudget) {
  const Problem p(LeastSquares(64, 4, 200, 4));
  Vector values(200);
  for (std::size_t j = 0; j < 200; ++j) values[j] = std::pow(10.0, -0.05 * static_cast<double>(j * 37 % 200));
  auto options = with(PreconditionerKind::ladder, 1e-12);
  options.schur_apply = [&](const double* x, double* y) {
    for (std::size_t j = 0; j < 200; ++j) y[j] = values[j] * x[j];
  };
  options.accept_truncated = true;
  Vector x = p.rhs;
  BorderAccount account;
  p.solver(options)->solve(x.data(), 1, &account);
  const auto& tiers = account.pcg->tiers;
  for (const auto& line : tiers) std::cout << "  " << line << "\n";
  REQUIRE(tiers.size() > 2);
  CHECK(tiers.front().find("too slow for its budget") != std::string::npos);
  CHECK(account.truncated || account.pcg->final_relative_residual <= 1e-12);
}

TEST(RecycledDirectionsSaveIterations) {
  // A few eigenvalues far below the rest.
  LeastSquares data(2, 1, 150, 3);
  std::fill(data.h_tb.begin(), data.h_tb.end(), 0.0);
  std::fill(data.h_bb.begin(), data.h_bb.end(), 0.0);
  const Vector v = support::random_vector(150, 8);
  const double scale = 2.0 / (support::norm(v) * support::norm(v));
  for (std::size_t c = 0; c < 150; ++c) {
    const double value = c < 6 ? 1e-4 * static_cast<double>(c + 1) : 1.0 + 0.01 * static_cast<double>(c);
    for (std::size_t i = 0; i < 150; ++i) {
      const double qi = (i == c ? 1.0 : 0.0) - scale * v[i] * v[c];
      for (std::size_t j = 0; j < 150; ++j) {
        data.h_bb[i * 150 + j] += value * qi * ((j == c ? 1.0 : 0.0) - scale * v[j] * v[c]);
      }
    }
  }
  const Problem p(std::move(data));
  const auto run = [&](PreconditionerKind kind, Index expected) {
    auto options = with(kind, 1e-9);
    options.expected_solves = expected;
    const auto solver = p.solver(options);
    std::vector<Index> iterations;
    for (std::uint64_t solve = 0; solve < 4; ++solve) {
      Vector x = support::random_vector(150, 40 + solve);
      const Vector rhs = x;
      BorderAccount account;
      solver->solve(x.data(), 1, &account);
      CHECK_NEAR(support::multiply(p.s, x, 150), rhs, 1e-7);
      iterations.push_back(account.pcg->iterations);
    }
    CHECK(solver->nbytes() > 150 * 8);
    return iterations;
  };
  const auto plain = run(PreconditionerKind::diagonal, 1);
  const auto deflated = run(PreconditionerKind::deflated, 1);
  const auto ladder = run(PreconditionerKind::ladder, 4);
  CHECK_EQUAL(plain[0], deflated[0]);
  CHECK_EQUAL(plain[0], ladder[0]);
  CHECK(2 * deflated[3] <= plain[3] + 2);
  CHECK(deflated == ladder);
  std::cout << "  iterations " << plain[3] << " -> " << deflated[1] << ", " << deflated[3] << "\n";
}

TEST(SeveralThreadsMayUseOneFactor) {
  const Problem p(LeastSquares(64, 4, 200, 4));
  const auto solver = p.solver(with(PreconditionerKind::diagonal, 1e-10));
  Vector expected = p.rhs;
  p.solver(with(PreconditionerKind::diagonal, 1e-10))->solve(expected.data(), 1, nullptr);
  std::vector<Vector> results(4, p.rhs);
  std::vector<std::thread> threads;
  for (Vector& x : results) threads.emplace_back([&] { solver->solve(x.data(), 1, nullptr); });
  for (std::thread& t : threads) t.join();
  for (const Vector& x : results) CHECK(x == expected);
}

TEST(ScalingByPowersOfTwoChangesNoBit) {
  const LeastSquares data(40, 3, 17, 1);
  const Problem p(data, 4);
  Vector reference = p.rhs;
  BorderAccount account;
  p.solver(with(PreconditionerKind::ladder, 1e-10))->solve(reference.data(), 1, &account);
  for (const double scale : {0x1p-40, 0x1p40}) {
    LeastSquares scaled = data;
    for (auto* part : {&scaled.h_tt, &scaled.h_tb, &scaled.h_bb}) {
      for (double& v : *part) v *= scale;
    }
    const Problem q(std::move(scaled), 4);
    Vector x = p.rhs;
    for (double& v : x) v *= scale;
    BorderAccount other;
    q.solver(with(PreconditionerKind::ladder, 1e-10))->solve(x.data(), 1, &other);
    CHECK(x == reference);
    CHECK_EQUAL(other.pcg->iterations, account.pcg->iterations);
  }
}

CHECK_MAIN()
