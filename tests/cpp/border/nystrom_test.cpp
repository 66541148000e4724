#include "border/border_root.hpp"
#include "border/street.hpp"
#include "check.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::at;

namespace {

// S = M - W'W with M = diag(1 .. 2) (or dense) and singular values of W M^-1/2 that fall from sqrt(1 - 1e-4) by
// `decay`.
struct DenseProblem {
  Index k, rows;
  std::vector<double> diagonal, dense, h_tt, h_tb, g_t, g_beta, shift, s;
  ArrowSystem system;
  std::unique_ptr<street::DenseWhitened> w;

  DenseProblem(Index columns, Index t, double decay, bool dense_border)
      : k(columns), rows(t), h_tt(at(t), 1.0), g_t(at(t), 1.0), g_beta(at(columns), 1.0), shift(at(columns), 0.25) {
    std::vector<double> m(at(k * k), 0.0), values(at(rows * k), 0.0);
    for (Index j = 0; j < k; ++j) {
      diagonal.push_back(0.75 + static_cast<double>(j) / static_cast<double>(k));
      m[at(j * k + j)] = diagonal.back() + shift[at(j)];
    }
    if (dense_border) dense.assign(at(k * k), 0.0);
    for (Index j = 0; j < k && dense_border; ++j) dense[at(j * k + j)] = diagonal[at(j)];
    // Row i is a unit vector of the discrete cosine basis: orthogonal rows, dense columns.
    for (Index i = 0; i < rows; ++i) {
      const double size = std::sqrt(1.0 - 1e-4) * std::pow(decay, static_cast<double>(i)) *
                          std::sqrt((i == 0 ? 1.0 : 2.0) / static_cast<double>(k));
      for (Index j = 0; j < k; ++j) {
        const double angle =
            3.14159265358979323846 * static_cast<double>(i) * (static_cast<double>(j) + 0.5) / static_cast<double>(k);
        values[at(i * k + j)] = size * std::cos(angle) * std::sqrt(m[at(j * k + j)]);
      }
    }
    s = m;
    for (Index a = 0; a < k; ++a) {
      for (Index b = 0; b < k; ++b) {
        for (Index i = 0; i < rows; ++i) s[at(a * k + b)] -= values[at(i * k + a)] * values[at(i * k + b)];
      }
    }
    h_tb = values;
    SystemParts parts;
    parts.n = rows;
    parts.k = k;
    parts.d = 1;
    parts.h_tt = h_tt.data();
    parts.h_tb = h_tb.data();
    parts.border = {k, DType::float64, {DiagonalBorder{diagonal.data()}}, {}};
    if (dense_border) parts.border.terms = {DenseBorder{dense.data()}};
    parts.g_t = g_t.data();
    parts.g_beta = g_beta.data();
    ValidationOptions as_given;
    as_given.detect_structure = false;
    system = ArrowSystem::make(parts, as_given);
    w = std::make_unique<street::DenseWhitened>(rows, k, std::move(values));
  }
  PreconditionerInputs inputs() const {
    PreconditionerInputs in;
    in.system = &system;
    in.w = w.get();
    in.shift = shift.data();
    return in;
  }
  Index iterations(const Preconditioner& p, const std::vector<double>& rhs, double tolerance) const {
    return street::cg_iterations(
        k,
        [&](const double* x, double* y) {
          const std::vector<double> image = support::multiply(s, std::vector<double>(x, x + k), k);
          std::copy(image.begin(), image.end(), y);
        },
        [&](const double* r, double* z) { p.apply(r, z); }, rhs, tolerance);
  }
};

}  // namespace

TEST(ExactBeyondTheRank) {
  for (const bool dense_border : {false, true}) {
    const DenseProblem problem(80, 9, 0.8, dense_border);
    std::string why;
    const Built p = nystrom(problem.inputs(), 12, why);
    REQUIRE(p != nullptr);
    CHECK_EQUAL(p->name(), "nystrom");
    CHECK(p->nbytes() >= 8 * 80 * 9);
    CHECK(street::asymmetry(*p, problem.k, 2) <= 1e-12);
    CHECK(problem.iterations(*p, support::random_vector(80, 3), 1e-8) <= 2);
  }
}

TEST(DecayingSpectraNeedFewIterations) {
  const DenseProblem problem(160, 120, 0.93, false);
  std::string why;
  const Built p = nystrom(problem.inputs(), 0, why), small = nystrom(problem.inputs(), 1, why);
  REQUIRE(p != nullptr && small != nullptr);
  const std::vector<double> rhs = support::random_vector(160, 5);
  const Index with_rank_20 = problem.iterations(*p, rhs, 1e-10), with_one = problem.iterations(*small, rhs, 1e-10);
  CHECK(2 * with_rank_20 < with_one);
}

TEST(SameBitsAgain) {
  const DenseProblem problem(60, 30, 0.9, false);
  const std::vector<double> r = support::random_vector(60, 7);
  std::vector<double> first(60), second(60);
  std::string why;
  for (std::vector<double>* z : {&first, &second}) {
    const Built p = nystrom(problem.inputs(), 10, why);
    REQUIRE(p != nullptr);
    p->apply(r.data(), z->data());
  }
  CHECK(first == second);
}

TEST(Refusals) {
  DenseProblem problem(40, 10, 0.9, true);
  problem.w = std::make_unique<street::DenseWhitened>(10, 40, std::vector<double>(400, 0.0));
  std::string why;
  CHECK(nystrom(problem.inputs(), 4, why) == nullptr);
  CHECK(why.find("zero") != std::string::npos);
  problem.shift[7] = -100.0;
  CHECK(nystrom(problem.inputs(), 4, why) == nullptr);
  CHECK(why.find("not positive definite at column 7") != std::string::npos);
}

TEST(DenseRoot) {
  const DenseProblem problem(30, 5, 0.9, true);
  std::string why;
  const auto root = border_root(problem.inputs(), why);
  REQUIRE(root != nullptr);
  const std::vector<double> x = support::random_vector(30 * 5, 10);
  std::vector<double> y = x;
  solve_lower(*root, 30, y.data(), 5);
  solve_upper(*root, 30, y.data(), 5);
  double log_det = 0.0, least = HUGE_VAL, most = 0.0, smallest = 0.0, largest = 0.0;
  for (Index j = 0; j < 30; ++j) {
    const double m = problem.diagonal[at(j)] + problem.shift[at(j)];
    log_det += std::log(m);
    least = std::min(least, m);
    most = std::max(most, m);
    for (Index q = 0; q < 5; ++q) CHECK_NEAR(m * y[at(j * 5 + q)], x[at(j * 5 + q)], 1e-14);
  }
  CHECK_NEAR(root->log_det(), log_det, 1e-14);
  root->pivots(smallest, largest);
  CHECK_NEAR(smallest, least, 1e-14);
  CHECK_NEAR(largest, most, 1e-14);
}

CHECK_MAIN()
