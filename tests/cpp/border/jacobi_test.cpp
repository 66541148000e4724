// Scalar and block Jacobi against the dense Schur complement.
#include <limits>

#include "arrowschur/error.hpp"
#include "border/pcg_support.hpp"
#include "border/preconditioner.hpp"
#include "check.hpp"

using namespace arrowschur;
using border::block_jacobi;
using border::PreconditionerInputs;
using border::scalar_jacobi;
using border::schur_diagonal;
using support::LeastSquares;

namespace {

using Vector = std::vector<double>;

struct Case {
  LeastSquares data;
  ArrowSystem system;
  std::shared_ptr<support::PlainWhitened> w;
  Vector shift, s;

  Case(LeastSquares ls, Index block)
      : data(std::move(ls)),
        system(data.system(block)),
        w(support::whitened(data)),
        shift(support::random_vector(data.k, 77)) {
    for (double& v : shift) v = v * v;
    s = support::dense_schur(data.h_bb, *w, data.k);
    for (Index a = 0; a < data.k; ++a)
      s[static_cast<std::size_t>(a * (data.k + 1))] += shift[static_cast<std::size_t>(a)];
  }
  PreconditionerInputs inputs(bool trust_region = false) const {
    return {&system, w.get(), shift.data(), Guards::relative, trust_region};
  }
  double entry(Index i, Index j) const { return s[static_cast<std::size_t>(i * data.k + j)]; }
};

}  // namespace

TEST(DiagonalOfTheSchurComplement) {
  const Case c(LeastSquares(40, 3, 17, 1), 0);
  const border::SchurDiagonal d = schur_diagonal(c.inputs());
  CHECK_EQUAL(d.bad, -1);
  const auto p = scalar_jacobi(c.inputs());
  CHECK_EQUAL(p->name(), "diagonal");
  CHECK(p->nbytes() > 0);
  const Vector r = support::random_vector(17, 5);
  Vector z(17);
  p->apply(r.data(), z.data());
  for (Index a = 0; a < 17; ++a) {
    const auto i = static_cast<std::size_t>(a);
    CHECK_NEAR(d.values[i], c.entry(a, a), 1e-12);
    CHECK_NEAR(z[i], r[i] / c.entry(a, a), 1e-12);
  }
}

TEST(BlocksAreSolvedExactly) {
  const Case c(LeastSquares(40, 3, 17, 1), 5);  // the last block has two columns
  std::string why;
  const auto p = block_jacobi(c.inputs(), why);
  REQUIRE(p != nullptr);
  CHECK_EQUAL(p->name(), "block");
  const Vector r = support::random_vector(17, 5);
  Vector z(17);
  p->apply(r.data(), z.data());
  for (Index first = 0; first < 17; first += 5) {
    const Index size = std::min<Index>(5, 17 - first);
    for (Index a = first; a < first + size; ++a) {
      double sum = 0.0;
      for (Index b = first; b < first + size; ++b) sum += c.entry(a, b) * z[static_cast<std::size_t>(b)];
      CHECK_NEAR(sum, r[static_cast<std::size_t>(a)], 1e-11);
    }
  }
  CHECK(p->nbytes() > 0);
}

TEST(BlocksAreRefusedWithAReason) {
  std::string why;
  const Case none(LeastSquares(10, 1, 6, 2), 0);
  CHECK(block_jacobi(none.inputs(), why) == nullptr);
  CHECK_EQUAL(why, "no border blocks");
  const Case wide(LeastSquares(2, 1, 300, 2), 300);
  CHECK(block_jacobi(wide.inputs(), why) == nullptr);
  CHECK(why.find("300 columns") != std::string::npos);
}

TEST(ACollapsedDiagonalIsRefusedWithItsColumn) {
  Case c(LeastSquares(40, 3, 17, 1), 4);
  c.shift[6] -= c.entry(6, 6) + 2.0;  // S_66 = -2
  try {
    scalar_jacobi(c.inputs());
    CHECK(false);
  } catch (const PcgError& error) {
    CHECK(error.facts.kind == PcgFailure::jacobi_diagonal);
    CHECK_EQUAL(error.facts.index, 6);
    CHECK_NEAR(error.facts.value, -2.0, 1e-10);
  }
  std::string why;
  CHECK_THROWS(PcgError, block_jacobi(c.inputs(), why));
  // With a trust region the magnitude stands for it.
  const Vector r(17, 1.0);
  Vector z(17);
  scalar_jacobi(c.inputs(true))->apply(r.data(), z.data());
  CHECK_NEAR(z[6], 0.5, 1e-10);
  CHECK_NEAR(z[5], 1.0 / c.entry(5, 5), 1e-12);
  block_jacobi(c.inputs(true), why)->apply(r.data(), z.data());
  CHECK_NEAR(z[6], 0.5, 1e-10);
  CHECK_NEAR(z[5], 1.0 / c.entry(5, 5), 1e-12);  // the same block
}

TEST(ABlockThatIsNotDefiniteFallsBackToItsDiagonal) {
  LeastSquares data(40, 3, 17, 1);
  data.h_bb[1] += 500.0;  // columns 0 and 1
  data.h_bb[17] += 500.0;
  const Case c(std::move(data), 4);
  std::string why;
  const auto p = block_jacobi(c.inputs(), why);
  REQUIRE(p != nullptr);
  const Vector r(17, 1.0);
  Vector z(17);
  p->apply(r.data(), z.data());
  for (Index a = 0; a < 4; ++a) CHECK_NEAR(z[static_cast<std::size_t>(a)], 1.0 / c.entry(a, a), 1e-11);
}

TEST(AnOperatorIsNotProbedWhenThatIsExpensive) {
  const Case c(LeastSquares(40, 3, 70, 1), 10);
  support::PlainWhitened opaque(120, 70, Vector(120 * 70, std::numeric_limits<double>::quiet_NaN()), "operator");
  PreconditionerInputs in = c.inputs();
  in.w = &opaque;
  const border::SchurDiagonal d = schur_diagonal(in);
  CHECK_EQUAL(d.bad, -1);
  CHECK_NEAR(d.values[3], c.data.h_bb[3 * 71] + c.shift[3], 1e-14);
  std::string why;
  CHECK(block_jacobi(in, why) != nullptr);
}

TEST(AbsoluteGuardsUseTheirOwnFloor) {
  Case c(LeastSquares(40, 3, 17, 1), 0);
  c.shift[2] -= c.entry(2, 2) - 1e-15;  // rounding of the subtraction, but above 1e-18
  PreconditionerInputs in = c.inputs();
  CHECK_EQUAL(schur_diagonal(in).bad, 2);
  in.guards = Guards::absolute;
  const border::SchurDiagonal d = schur_diagonal(in);
  CHECK(d.bad == -1 || !(d.values[2] > 1e-18));
}

CHECK_MAIN()
