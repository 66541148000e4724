#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "support.hpp"

using namespace support;
using arrowschur::UnsupportedConfiguration;

TEST(HandSystemHasTheTabulatedDeterminants) {
  const Problem p = hand();

  const ArrowFactor damped = p.factor(0.5, 0.25);

  CHECK_NEAR(damped.log_det(FactorSet::evidence), 7.7853591864090692, 1e-13);
  CHECK_NEAR(damped.log_det(), 8.8810786565430111, 1e-13);
}

TEST(LogDetEqualsTheDenseOneAndItsPartsSumToIt) {
  for (const Problem& p : {ragged(5), Problem(uniform(40, 3), 17, 1), wide_rows(2)}) {
    const ArrowFactor damped = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const double expected = Dense(p.dense(c.ridge_t, c.ridge_beta), p.size()).log_det();

      const auto parts = damped.log_det_parts(c.set);

      CHECK_NEAR(damped.log_det(c.set), expected, 1e-12);
      CHECK_EQUAL(damped.log_det(c.set), parts.rows + parts.border);
    }
  }
}

TEST(SystemsWithoutBorderOrRowsHaveADeterminant) {
  const Problem rows({2, 0, 3}, 0, 7), border({}, 6, 8), nothing({}, 0, 9);

  CHECK_NEAR(rows.factor().log_det(), Dense(rows.dense(), 5).log_det(), 1e-13);
  CHECK_EQUAL(rows.factor().log_det_parts().border, 0.0);
  CHECK_NEAR(border.factor().log_det(), 6 * std::log(0.1), 1e-13);
  CHECK_EQUAL(nothing.factor().log_det(), 0.0);
}

TEST(PivotsOfADiagonalSystemAreItsDiagonal) {
  Problem p;
  p.dims = {2, 1};
  p.k = 2;
  p.total = 3;
  p.h_tt = {4, 0, 0, 9, 0.25};
  p.h_tb = Vector(6, 0.0);
  p.h_bb = {16, 0, 0, 0.0625};
  p.g_t = {0, 0, 0};
  p.g_beta = {0, 0};

  const ArrowFactor f = p.factor();

  CHECK_NEAR(f.min_pivot().rows, 0.25, 1e-14);
  CHECK_NEAR(f.min_pivot().border, 0.0625, 1e-14);
  CHECK_NEAR(f.min_pivot().both, 0.0625, 1e-14);
  CHECK_NEAR(f.max_pivot().rows, 9.0, 1e-14);
  CHECK_NEAR(f.max_pivot().border, 16.0, 1e-14);
  CHECK_NEAR(f.max_pivot().both, 16.0, 1e-14);
}

TEST(PivotsOfAMissingPartAreNaN) {
  const Problem rows({2, 3}, 0, 7), border({}, 4, 8);

  const auto of_rows = rows.factor().min_pivot(), of_border = border.factor().max_pivot();

  CHECK(std::isnan(of_rows.border));
  CHECK_EQUAL(of_rows.both, of_rows.rows);
  CHECK(std::isnan(of_border.rows));
  CHECK_NEAR(of_border.both, 0.1, 1e-14);
}

TEST(LiftedRowsRefuseADeterminant) {
  Problem p;  // row [[1, 2], [2, 1]] is indefinite
  p.dims = {2};
  p.k = 1;
  p.total = 2;
  p.h_tt = {1, 2, 2, 1};
  p.h_tb = {0, 0};
  p.h_bb = {1};
  p.g_t = {1, -.5};
  p.g_beta = {0};
  const ArrowFactor f = p.factor(1e-8);
  REQUIRE(f.diagnostics().rows_lifted == 1);

  CHECK_THROWS(UnsupportedConfiguration, f.log_det());
  CHECK_THROWS(UnsupportedConfiguration, f.log_det_parts());
  CHECK_THROWS(UnsupportedConfiguration, f.log_det_vjp());
  CHECK_THROWS(arrowschur::RowFactorError, f.log_det(FactorSet::evidence));
}

CHECK_MAIN()
