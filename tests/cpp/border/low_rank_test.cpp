#include "check.hpp"

#include "border/block_sparse.hpp"

#include "arrowschur/error.hpp"
#include "linalg/pool.hpp"

namespace {

using namespace support;
using arrowschur::Border;
using arrowschur::DType;
using arrowschur::Guards;
using arrowschur::SchurFailure;
using arrowschur::border::make_low_rank;
using arrowschur::border::Solver;
using arrowschur::border::SolverInputs;

// Dense rows of size d, B scaled down, and any border that is at least the identity.
struct Wide {
  Index n, d, k;
  Vector h_tt, h_tb, g_t, g_beta;
  ArrowSystem system;
  arrowschur::eliminate::RowFactors<double> rows;
  std::shared_ptr<const arrowschur::eliminate::Whitened> w;

  Wide(Index count, Index dim, Index width, Border border, double scale = 0.05)
      : n(count), d(dim), k(width), g_t(at(n * d), 0.1), g_beta(at(k), 0.2), system(make(std::move(border), scale)) {
    const auto report = arrowschur::eliminate::factor_rows(system, arrowschur::eliminate::Partition::make(system),
                                                           Ridges{}, arrowschur::backend::RowPolicy{}, rows);
    REQUIRE(report.ok);
    w = arrowschur::eliminate::whiten(system, rows);
  }
  Wide(const Wide&) = delete;

  std::unique_ptr<Solver> solver() const {
    SolverInputs in;
    in.system = &system;
    in.w = w;
    return make_low_rank(in);
  }

 private:
  ArrowSystem make(Border border, double scale) {
    arrowschur::fixtures::SplitMix64 random(3);
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b) h_tt.push_back(a == b ? 2.0 + 0.1 * static_cast<double>(i % 5) : 0.3);
      }
    }
    for (Index i = 0; i < n * d * k; ++i) h_tb.push_back(scale * random.signed_unit());
    SystemParts p;
    p.n = n;
    p.d = d;
    p.k = k;
    p.h_tt = h_tt.data();
    p.h_tb = h_tb.data();
    p.border = std::move(border);
    p.g_t = g_t.data();
    p.g_beta = g_beta.data();
    return ArrowSystem::make(p);
  }
};

// S x = x again, for one and for several columns.
void check_inverse(const Solver& solver, Index k, double tolerance = 1e-12) {
  for (const Index m : {1, 5, 40}) {
    Vector x(at(k * m)), y(at(k * m));
    arrowschur::fixtures::SplitMix64 random(9);
    for (double& v : x) v = random.signed_unit();
    solver.apply(x.data(), y.data(), m);
    solver.solve(y.data(), m, nullptr);
    CHECK_NEAR(y, x, tolerance);
  }
}

TEST(CheapBordersAndBlockSparseRows) {
  for (const BorderForm form : {BorderForm::diagonal, BorderForm::banded, BorderForm::blocks, BorderForm::sum}) {
    SolverCase c(scattered(11, {3, 1, 2, 6, 2, 1, 4, 5, 3, 2}, 3, 5, {3, 1, 2, 0}, 5), form, 12);
    const auto solver = make_low_rank(c.inputs());
    CHECK(solver->latent_blocks_cheap());
    check_solver(c, *solver);
  }
  SolverCase uniform(scattered(40, std::vector<Index>(70, 1), 4, 12, {1}, 3), BorderForm::diagonal, 11);
  check_solver(uniform, *make_low_rank(uniform.inputs()));
}

TEST(DenseBordersAreRefused) {
  SolverCase c(scattered(5, std::vector<Index>(8, 3), 2, 8, {2}, 6), BorderForm::dense, 13);
  CHECK_THROWS_WITH(arrowschur::UnsupportedConfiguration, "low_rank", make_low_rank(c.inputs()));
}

TEST(DenseRowsOverSeveralPanelsAndTiles) {
  const Index k = 3000;
  Vector bands(at(2 * k));
  for (Index i = 0; i < k; ++i) {
    bands[at(i)] = 3.0 + 0.001 * static_cast<double>(i % 7);
    bands[at(k + i)] = 0.4;
  }
  const Wide c(105, 2, k, {k, DType::float64, {arrowschur::BandedBorder{bands.data(), 1}}, {}}, 0.01);
  const auto solver = c.solver();
  const Vector shift(at(k), 0.5);
  const auto report = solver->factor(shift.data(), 0.5, Guards::relative, false);
  REQUIRE(report.ok);
  CHECK(report.kappa < 100.0);
  check_inverse(*solver, k);

  // The same bits for every number of threads.
  Vector one(at(k * 3), 1.0), four(at(k * 3), 1.0);
  for (Vector* x : {&one, &four}) {
    const arrowschur::linalg::ThreadScope threads(x == &one ? 1 : 4);
    const auto own = solver->unfactored_copy();
    REQUIRE(own->factor(shift.data(), 0.5, Guards::relative, false).ok);
    own->solve(x->data(), 3, nullptr);
  }
  CHECK(one == four);
}

TEST(AKroneckerBorder) {
  const Index p = 9, left = 8, k = p * left;
  Vector factors;
  for (const Index size : {Index{5}, Index{3}}) {
    for (Index r = 0; r < size; ++r) {
      for (Index c = 0; c < size; ++c) factors.push_back(r == c ? 2.0 : 0.2);
    }
  }
  const Wide c(4, 3, k, {k, DType::float64, {arrowschur::KroneckerBorder{factors.data(), {5, 3}, p}}, {}});
  const auto solver = c.solver();
  Vector shift(at(k), 0.25);
  REQUIRE(solver->factor(shift.data(), 0.25, Guards::relative, false).ok);
  check_inverse(*solver, k);
  shift[4] = 0.5;
  CHECK_THROWS_WITH(arrowschur::UnsupportedConfiguration, "damping_beta",
                    solver->factor(shift.data(), 0.25, Guards::relative, false));
}

TEST(IndefiniteBordersAndCapacitances) {
  Vector diagonal(40, 1.0);
  const Border border{40, DType::float64, {arrowschur::DiagonalBorder{diagonal.data()}}, {}};
  const Vector shift(40, 0.0);
  for (const Guards guards : {Guards::relative, Guards::absolute}) {
    diagonal[17] = -2.0;
    const auto m = Wide(3, 2, 40, border).solver()->factor(shift.data(), 0.0, guards, false);
    CHECK(!m.ok);
    CHECK(m.kind == SchurFailure::non_pd);
    CHECK_EQUAL(m.pivot_index, 17);
    CHECK(m.suggested_ridge > 2.0);
    CHECK(m.suggested_ridge < 5.0);

    diagonal[17] = 1.0;
    const Wide wide(3, 2, 40, border, 5.0);
    const auto c = wide.solver()->factor(shift.data(), 0.0, guards, false);
    CHECK(!c.ok);
    CHECK(c.kind == SchurFailure::non_pd);
    CHECK(c.pivot_index >= 0);
    // The advice cures it.
    const Vector cured(40, c.suggested_ridge);
    CHECK(wide.solver()->factor(cured.data(), c.suggested_ridge, guards, false).ok);
  }
}

TEST(TheConditionIsEstimatedWhereTheBoundIsNoComfort) {
  // S loses all but 1e-12 of one direction: w = sqrt(1 - 1e-12) e_0 on a border of ones.
  Vector diagonal(40, 1.0);
  const Border border{40, DType::float64, {arrowschur::DiagonalBorder{diagonal.data()}}, {}};
  const Vector shift(40, 0.0);
  SystemParts p;
  const double h_tt = 1.0, g_t = 0.0;
  Vector h_tb(40, 0.0), g_beta(40, 0.0);
  h_tb[0] = std::sqrt(1.0 - 1e-12) * std::sqrt(0.5);
  h_tb[1] = h_tb[0];
  p.n = p.d = 1;
  p.k = 40;
  p.h_tt = &h_tt;
  p.h_tb = h_tb.data();
  p.border = border;
  p.g_t = &g_t;
  p.g_beta = g_beta.data();
  const ArrowSystem system = ArrowSystem::make(p);
  arrowschur::eliminate::RowFactors<double> rows;
  REQUIRE(arrowschur::eliminate::factor_rows(system, arrowschur::eliminate::Partition::make(system), Ridges{},
                                             arrowschur::backend::RowPolicy{}, rows)
              .ok);
  SolverInputs in;
  in.system = &system;
  in.w = arrowschur::eliminate::whiten(system, rows);
  const auto solver = make_low_rank(in);
  const auto report = solver->factor(shift.data(), 0.0, Guards::relative, false);
  CHECK(report.ok);
  CHECK(report.kappa > 1e11);
  CHECK(report.kappa < 1e13);
  CHECK(!solver->factor(shift.data(), 0.0, Guards::absolute, false).ok);
  CHECK(solver->factor(shift.data(), 0.0, Guards::absolute, true).ok);
}

TEST(NoRowsAndNoBorder) {
  const Vector diagonal(5, 2.0);
  const Wide empty(0, 2, 5, {5, DType::float64, {arrowschur::DiagonalBorder{diagonal.data()}}, {}});
  const auto solver = empty.solver();
  const Vector shift(5, 1.0);
  REQUIRE(solver->factor(shift.data(), 1.0, Guards::relative, false).ok);
  check_inverse(*solver, 5);
  CHECK_NEAR(solver->log_det(), 5.0 * std::log(3.0), 1e-14);

  const Wide none(2, 2, 0, {0, DType::float64, {}, {}});
  CHECK(none.solver()->factor(nullptr, 0.0, Guards::relative, false).ok);
}

}  // namespace

CHECK_MAIN()
