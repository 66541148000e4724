#include "border/street.hpp"
#include "check.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::at;
using street::Problem;

namespace {

struct Runs {
  const Problem& problem;
  Index operator()(const Deflation& deflation, const std::vector<double>& rhs, std::vector<double>* p = nullptr,
                   std::vector<double>* q = nullptr) const {
    std::vector<double> start(at(problem.k));
    deflation.initial(rhs.data(), start.data());
    return street::cg_iterations(
        problem.k, [&](const double* x, double* y) { problem.apply(x, y); },
        [&](const double* r, double* z) {
          for (Index j = 0; j < problem.k; ++j) z[j] = r[j] / problem.s[at(j * problem.k + j)];
          deflation.correct(r, z);
        },
        rhs, 1e-8, p, q, start);
  }
};

}  // namespace

TEST(LaterRunsAreShorter) {
  const Problem problem(street::chain(150, 1), 150, 1, 1e-4, 1);
  const Runs run{problem};
  std::vector<double> diagonal(at(problem.k));
  for (Index j = 0; j < problem.k; ++j) diagonal[at(j)] = problem.s[at(j * problem.k + j)];
  for (const bool scaled : {false, true}) {
    Deflation deflation(problem.k, 16, scaled ? diagonal : std::vector<double>{});
    CHECK(deflation.empty());
    std::vector<double> p, q;
    const Index first = run(deflation, support::random_vector(problem.k, 2), &p, &q);
    deflation.absorb(first, p.data(), q.data());
    CHECK_EQUAL(deflation.size(), 16);
    CHECK(deflation.nbytes() >= 2 * 8 * 16 * problem.k);
    p.clear();
    q.clear();
    const Index second = run(deflation, support::random_vector(problem.k, 3), &p, &q);
    CHECK(3 * second < 2 * first);
    deflation.absorb(second, p.data(), q.data());
    CHECK_EQUAL(deflation.size(), 16);
    CHECK(run(deflation, support::random_vector(problem.k, 4)) <= second + 2);
  }
}

// In its own span the start is the solution, and the correction is S^-1.
TEST(SolvesInItsSpan) {
  const Problem problem(street::chain(4, 2), 4, 2, 0.5, 5);
  const Index k = problem.k;
  const std::vector<double> p = support::random_vector(3 * k, 6);
  std::vector<double> q(at(3 * k));
  for (Index i = 0; i < 3; ++i) problem.apply(p.data() + i * k, q.data() + i * k);
  Deflation deflation(k);
  deflation.absorb(3, p.data(), q.data());
  CHECK_EQUAL(deflation.size(), 3);
  std::vector<double> x(at(k));
  deflation.initial(q.data() + k, x.data());
  CHECK_NEAR(x, std::span<const double>(p).subspan(at(k), at(k)), 1e-12);
  // The same directions again add nothing.
  deflation.absorb(3, p.data(), q.data());
  CHECK_EQUAL(deflation.size(), 3);
}

TEST(IgnoresWhatIsNotConvex) {
  Deflation deflation(3, 2);
  const std::vector<double> p = {1, 0, 0, 0, 1, 0}, q = {-1, 0, 0, 0, 0, 0};
  deflation.absorb(2, p.data(), q.data());
  deflation.absorb(0, nullptr, nullptr);
  CHECK(deflation.empty());
  std::vector<double> x(3, 7.0);
  deflation.initial(p.data(), x.data());
  CHECK_EQUAL(x[0], 0.0);
  const std::vector<double> image = {2, 0, 0};
  deflation.absorb(1, p.data(), image.data());
  CHECK_EQUAL(deflation.size(), 1);
  deflation.initial(p.data(), x.data());
  CHECK_NEAR(x[0], 0.5, 1e-15);
}

CHECK_MAIN()
