// The step, its escalation and the factor through the C++ headers, as an embedder sees them.
#include <cmath>
#include <vector>

#include "arrowschur/arrowschur.hpp"
#include "check.hpp"
#include "newton/support.hpp"

using namespace arrowschur;

namespace {

SolveOptions with_guards(Guards guards, RowLift lift = RowLift::indefinite) {
  SolveOptions options;
  options.guards = guards;
  options.row_lift = lift;
  return options;
}

const std::vector<double> kHandT = {-0.22232254625022281, 0.69103271693438463, -0.044488038871991142,
                                    -0.16072822860316876};
const std::vector<double> kHandBeta = {-0.13832230344238978, 0.080452832548268208, -0.23632358488306042};
const std::vector<double> kHandDampedT = {-0.16499271629553287, 0.51473075930699671, 0.0018136430061633355,
                                          -0.14043199730345905};
const std::vector<double> kHandDampedBeta = {-0.13836535846164008, 0.083051028314986483, -0.16973920050431533};

}  // namespace

// T01
TEST(TheHandExample) {
  const auto data = support::hand();
  const auto system = ArrowSystem::uniform(2, 2, 3, data.h_tt.data(), data.h_tb.data(), data.h_bb.data(),
                                           data.g_t.data(), data.g_beta.data());
  for (const Mode mode : {Mode::automatic, Mode::direct, Mode::sqrt_ba}) {
    SolveOptions options;
    options.mode = mode;
    const NewtonStep bare = newton_step(system, {}, options), damped = newton_step(system, {0.5, 0.25}, options);
    CHECK_NEAR(bare.delta_t, kHandT, 1e-13);
    CHECK_NEAR(bare.delta_beta, kHandBeta, 1e-13);
    CHECK_NEAR(damped.delta_t, kHandDampedT, 1e-13);
    CHECK_NEAR(damped.delta_beta, kHandDampedBeta, 1e-13);
    CHECK_NEAR(system.gradient_dot(bare.delta_t, bare.delta_beta), -1.1492477677311638, 1e-13);
    CHECK_NEAR(model_reduction(system, damped.delta_t, damped.delta_beta, {0.5, 0.25}, true), 0.46266509946455521,
               1e-13);
    CHECK_NEAR(model_reduction(system, damped.delta_t, damped.delta_beta, {0.5, 0.25}), 0.54749552624756711, 1e-13);
    CHECK_NEAR(factorize(system, {0.5, 0.25}, options).log_det(), 8.8810786565430111, 1e-13);
    CHECK(bare.diagnostics.backward_error < 1e-15);
  }
}

// T14
TEST(TheFactorStepsLikeTheStep) {
  for (const auto& data : {support::hand(), support::definite(support::mixed_dims(300), 40, 3)}) {
    const auto system = ArrowSystem::make(data.parts());
    const NewtonStep step = newton_step(system, {0.5, 0.25});
    const ArrowFactor factor = factorize(system, {0.5, 0.25});
    const NewtonStep again = factor.step(), given = factor.step(data.g_t, data.g_beta);
    CHECK(step.delta_t == again.delta_t && step.delta_beta == again.delta_beta);
    CHECK(step.delta_t == given.delta_t && step.delta_beta == given.delta_beta);
    std::vector<double> x_t = data.g_t, x_beta = data.g_beta;
    factor.solve(x_t, x_beta, x_t, x_beta);
    for (double& v : x_t) v = -v;
    for (double& v : x_beta) v = -v;
    CHECK_NEAR(x_t, step.delta_t, 1e-12);
    CHECK_NEAR(x_beta, step.delta_beta, 1e-12);
  }
}

TEST(TheStepSolvesTheSystem) {
  for (const Index k : {1, 40, 200, 520}) {
    const auto data = support::definite(support::mixed_dims(150), k, 8);
    const auto system = ArrowSystem::make(data.parts());
    for (const Precision precision : {Precision::float64, Precision::float32}) {
      SolveOptions options;
      options.precision = precision;
      const NewtonStep step = newton_step(system, {0.5, 0.25}, options);
      std::vector<double> y_t(data.g_t.size()), y_beta(data.g_beta.size());
      system.apply(step.delta_t, step.delta_beta, y_t, y_beta, {0.5, 0.25});
      for (double& v : y_t) v = -v;
      for (double& v : y_beta) v = -v;
      const double tolerance = precision == Precision::float64 ? 1e-12 : 1e-4;
      CHECK_NEAR(y_t, data.g_t, tolerance);
      CHECK_NEAR(y_beta, data.g_beta, tolerance);
      CHECK(step.diagnostics.backward_error < (precision == Precision::float64 ? 1e-14 : 3.8e-6));
    }
  }
}

TEST(Float32SystemsAreSolvedInBothPrecisions) {
  const auto data = support::definite(support::mixed_dims(150), 40, 8);
  const auto h_tt = support::to_float(data.h_tt), h_tb = support::to_float(data.h_tb),
             h_bb = support::to_float(data.h_bb), g_t = support::to_float(data.g_t),
             g_beta = support::to_float(data.g_beta);
  SystemParts parts = data.parts();
  parts.dtype = DType::float32;
  parts.h_tt = h_tt.data();
  parts.h_tb = h_tb.data();
  parts.border = {40, DType::float32, {DenseBorder{h_bb.data()}}, {}};
  parts.g_t = g_t.data();
  parts.g_beta = g_beta.data();
  const auto system = ArrowSystem::make(parts);
  const NewtonStep wide = newton_step(ArrowSystem::make(data.parts())), step = newton_step(system);
  SolveOptions single;
  single.precision = Precision::float32;
  const NewtonStep narrow = newton_step(system, {}, single);
  CHECK(step.diagnostics.backward_error < 1e-14);
  CHECK(narrow.diagnostics.backward_error > 1e-12);
  CHECK_NEAR(step.delta_beta, wide.delta_beta, 1e-4);
  CHECK_NEAR(narrow.delta_beta, step.delta_beta, 1e-4);
  CHECK_NEAR(narrow.delta_t, step.delta_t, 1e-4);
}

// T10
TEST(ACollapsedBorderSaysHowToCureIt) {
  const auto data = support::collapse(1.0);
  const auto system = ArrowSystem::make(data.parts());
  for (const Guards guards : {Guards::relative, Guards::absolute}) {
    double suggested = 0.0;
    try {
      newton_step(system, {}, with_guards(guards));
    } catch (const SchurFactorError& error) {
      CHECK(error.kind == SchurFailure::non_pd);
      CHECK_EQUAL(error.pivot_index, Index{0});
      CHECK(error.cured_by_ridge());
      suggested = error.suggested_ridge;
    }
    CHECK(suggested > 99.0);
    const NewtonStep step = newton_step(system, {0.0, suggested}, with_guards(guards));
    CHECK(std::isfinite(step.delta_beta[0]));
  }
}

// T12
TEST(EscalationRecovers) {
  const auto data = support::collapse(1.0);
  const auto system = ArrowSystem::make(data.parts());
  const NewtonStep absolute = newton_step_escalated(system, {}, with_guards(Guards::absolute));
  CHECK_EQUAL(absolute.diagnostics.ridge_escalations, 9);
  CHECK_NEAR(absolute.diagnostics.ridge_t, 1.0, 1e-12);
  CHECK_NEAR(absolute.diagnostics.ridge_beta, 1.0, 1e-12);
  CHECK_NEAR(absolute.delta_beta, std::vector<double>({-0.25, 0.125}), 1e-12);
  const NewtonStep relative = newton_step_escalated(system);
  CHECK_EQUAL(relative.diagnostics.ridge_t, 0.0);
  CHECK_NEAR(relative.diagnostics.ridge_beta, 198.000001, 1e-7);
  for (const NewtonStep* step : {&absolute, &relative}) {
    CHECK(system.gradient_dot(step->delta_t, step->delta_beta) < 0.0);
    CHECK(step->diagnostics.backward_error_effective < 1e-14);
    CHECK(step->diagnostics.backward_error > 1e-3);
  }
}

TEST(EscalationOfRowsAndOfTheBorderTogether) {
  auto data = support::definite(std::vector<Index>(20, 2), 5, 9);
  data.h_tt[4 * 7] = -3.0;
  for (std::size_t j = 0; j < 5; ++j) data.h_bb[j * 5 + j] -= 12.0;
  const auto system = ArrowSystem::make(data.parts());
  const NewtonStep step = newton_step_escalated(system, {}, with_guards(Guards::relative, RowLift::never));
  CHECK(step.diagnostics.ridge_t > 3.0);
  CHECK(step.diagnostics.ridge_beta > 0.0);
  CHECK(step.diagnostics.ridge_escalations >= 2);
  CHECK(system.gradient_dot(step.delta_t, step.delta_beta) < 0.0);
  CHECK(step.diagnostics.backward_error_effective < 1e-14);
  EscalationOptions none;
  none.max_escalations = 0;
  CHECK_THROWS(RowFactorError, newton_step_escalated(system, {}, with_guards(Guards::relative, RowLift::never), none));
}

// T08
TEST(ALiftedRowIsReported) {
  support::OwnedSystem data({2}, 1, 0);
  data.h_tt = {1, 2, 2, 1};
  data.h_tb = {0, 0};
  data.h_bb = {1};
  data.g_t = {1, -0.5};
  data.g_beta = {0};
  const auto system = ArrowSystem::make(data.parts());
  const NewtonStep relative = newton_step(system, {1e-8, 0.0});
  CHECK_EQUAL(relative.diagnostics.rows_lifted, Index{1});
  CHECK_NEAR(relative.diagnostics.row_ridge_max, 2.0000024, 1e-7);
  const NewtonStep absolute = newton_step(system, {1e-8, 0.0}, with_guards(Guards::absolute));
  CHECK_NEAR(absolute.diagnostics.row_ridge_max, 10.0, 1e-12);
  CHECK(absolute.diagnostics.backward_error_effective < 1e-14);
  const ArrowFactor lifted = factorize(system);
  CHECK_THROWS(UnsupportedConfiguration, lifted.log_det());
  CHECK_THROWS(RowFactorError, lifted.log_det(FactorSet::evidence));
  CHECK_THROWS(RowFactorError, newton_step(system, {}, with_guards(Guards::absolute)));
}

TEST(RowsLargerThanTheKernelsAreLiftedToo) {
  auto data = support::definite({40, 3, 40}, 4, 10);
  data.h_tt[0] = -5.0;
  const auto system = ArrowSystem::make(data.parts());
  const NewtonStep step = newton_step(system);
  CHECK_EQUAL(step.diagnostics.rows_lifted, Index{1});
  CHECK(step.diagnostics.row_ridge_max > 10.0);
  CHECK(step.diagnostics.backward_error_effective < 1e-14);
}

TEST(UpdatedRidgesEqualAFreshFactor) {
  const auto data = support::definite(support::mixed_dims(100), 30, 11);
  const auto system = ArrowSystem::make(data.parts());
  const std::vector<double> damping(30, 0.5);
  const ArrowFactor factor = factorize(system, {0.5, 0.25});
  for (const Ridges& ridges :
       {Ridges{0.5, 0.25}, Ridges{0.5, 1.0}, Ridges{1.0, 0.25}, Ridges{0.5, 0.25, {}, damping}}) {
    const ArrowFactor updated = factor.update_ridges(ridges), fresh = factorize(system, ridges);
    CHECK_EQUAL(updated.log_det(), fresh.log_det());
    CHECK(updated.step().delta_t == fresh.step().delta_t);
    CHECK_EQUAL(updated.ridges().beta, ridges.beta);
    CHECK_EQUAL(updated.ridges().damping_beta.size(), ridges.damping_beta.size());
  }
  CHECK_THROWS(InvalidArgument, factor.update_ridges({-1.0, 0.0}));
}

TEST(EmptySystems) {
  const std::vector<double> none;
  for (const Index d : {0, 2}) {
    const auto system = ArrowSystem::uniform(0, d, 0, none.data(), none.data(), none.data(), none.data(), none.data());
    const NewtonStep step = newton_step(system);
    CHECK(step.delta_t.empty() && step.delta_beta.empty());
    CHECK_EQUAL(factorize(system).log_det(), 0.0);
  }
}

TEST(BadArgumentsOfTheStep) {
  const auto data = support::hand();
  const auto system = ArrowSystem::make(data.parts());
  const std::vector<double> short_damping(3, 1.0), negative = {0, 0, -1};
  CHECK_THROWS_WITH(InvalidArgument, "ridge_t", newton_step(system, {-1.0, 0.0}));
  CHECK_THROWS_WITH(InvalidArgument, "ridge_beta", newton_step(system, {0.0, std::nan("")}));
  CHECK_THROWS_WITH(InvalidArgument, "damping_t", newton_step(system, {0.0, 0.0, short_damping, {}}));
  CHECK_THROWS_WITH(InvalidArgument, "damping_beta", newton_step(system, {0.0, 0.0, {}, negative}));
  SolveOptions options;
  options.certificate_tolerance = -1.0;
  CHECK_THROWS_WITH(InvalidArgument, "certificate_tolerance", newton_step(system, {}, options));
  options = {};
  options.mode = Mode::low_rank;  // a dense border has no cheap factor
  CHECK_THROWS(UnsupportedConfiguration, newton_step(system, {}, options));
  options = {};
  options.precision = Precision::mixed;
  CHECK_THROWS(UnsupportedConfiguration, factorize(system, {}, options));
  options = {};
  options.device = Device::required;
  CHECK_THROWS(DeviceUnavailableError, newton_step(system, {}, options));
  options = {};
  options.memory_limit = 10;
  CHECK_THROWS(MemoryBudgetExceeded, newton_step(system, {}, options));
  options = {};
  options.certificate_tolerance = 1e-30;
  CHECK_THROWS(CertificateError, newton_step(system, {}, options));
}

// 17.4
TEST(ReducedSystemsEscalateTheirDiagonal) {
  const std::vector<double> schur = {4, 1.5, 0.5, 3}, rhs = {1, 2};
  const NewtonStep step = solve_reduced(2, schur.data(), rhs.data());
  CHECK_NEAR(step.delta_beta, std::vector<double>({1.0 / 11, 7.0 / 11}), 1e-14);
  CHECK(step.delta_t.empty());
  const std::vector<double> indefinite = {5, 0, 0, -99};
  const NewtonStep lifted = solve_reduced(2, indefinite.data(), rhs.data());
  CHECK(lifted.diagnostics.ridge_escalations >= 1);
  CHECK_NEAR(lifted.delta_beta[1] * (lifted.diagnostics.ridge_beta - 99.0), 2.0, 1e-12);
}

CHECK_MAIN()
