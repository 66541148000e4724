// Conjugate gradients of a frame on the fake device: agreement with the CPU's and with the dense reference, what an
// iteration costs, and how it ends.
#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/frame.hpp"
#include "arrowschur/newton.hpp"
#include "newton/fake_backend.hpp"
#include "newton/support.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;

namespace {

FrameOptions pcg(double tolerance, Index iterations = 200) {
  return {.route = FrameRoute::inexact_pcg, .pcg = {.max_iterations = iterations, .relative_tolerance = tolerance}};
}

// T-D-21: no rows to speak of, S = M with bands at 1 and 7.
struct DenseBorderProblem {
  static constexpr Index k = 512;
  std::vector<double> h_bb = std::vector<double>(k * k), g = std::vector<double>(k);
  DenseBorderProblem() {
    for (Index i = 0; i < k; ++i) {
      h_bb[static_cast<std::size_t>(i * k + i)] = 2.5 + 0.001 * static_cast<double>(i % 17);
      for (const auto& [offset, value] : {std::pair<Index, double>{1, -0.05}, {7, 0.01}}) {
        if (i + offset >= k) continue;
        h_bb[static_cast<std::size_t>(i * k + i + offset)] = h_bb[static_cast<std::size_t>((i + offset) * k + i)] =
            value;
      }
      g[static_cast<std::size_t>(i)] = -std::sin(0.013 * static_cast<double>(i + 1));
    }
  }
  ArrowSystem system(bool detect) const {
    SystemParts parts;
    parts.k = k;
    parts.border = {k, DType::float64, {DenseBorder{h_bb.data()}}, nullptr};
    parts.g_beta = g.data();
    ValidationOptions options;
    options.detect_structure = detect;
    return ArrowSystem::make(parts, options);
  }
};

}  // namespace

TEST(TheDenseBorderOfTheFixture) {
  const fake::Leaks leaks;
  const DenseBorderProblem problem;
  for (const bool detect : {false, true}) {
    const ArrowSystem s = problem.system(detect);
    const FrameStep step = ArrowFrame::build(s, 0, 0, pcg(1e-12)).step(true);
    SolveOptions options;
    options.mode = Mode::inexact_pcg;
    options.preconditioner = PreconditionerKind::diagonal;
    options.pcg.relative_tolerance = 1e-12;
    const NewtonStep host = newton_step(s, {}, options);
    CHECK(fake::metric_a(step.delta_beta, host.delta_beta) < 1e-10);
    REQUIRE(step.pcg.has_value());
    CHECK(step.pcg->iterations > 0);
    CHECK_EQUAL(step.pcg->matvec_calls, step.pcg->iterations);
    CHECK_EQUAL(step.pcg->stopping_reason, "converged");
    CHECK_EQUAL(step.pcg->preconditioner, "diagonal");
    CHECK(step.pcg->final_relative_residual <= 2e-12 && step.pcg->residual_gap < 1e-13);
    CHECK(step.certificate < 1e-11);
    CHECK(std::isnan(step.log_det_hessian));
    CHECK(step.route == FrameRoute::inexact_pcg);
  }
}

TEST(StepsMatchTheDenseReference) {
  const fake::Leaks leaks;
  for (const auto& [n, d, k] : {std::array<Index, 3>{8, 2, 4}, {40, 3, 96}, {12, 16, 6}, {20, 2, 300}}) {
    for (const BorderKind border : {BorderKind::dense, BorderKind::tridiagonal}) {
      const FixtureData f = fixtures::coupled_fixture(n, d, k, 2, 0.9, border);
      const DenseReferenceStep reference = newton_step_dense_reference(f.system(), 1e-3, 1e-2);
      const ArrowFrame frame = ArrowFrame::build(f.system(), 1e-3, 1e-2, pcg(1e-13, 1000));
      const FrameStep step = frame.step(true);
      CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-10);
      CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-10);
      const FrameStep again = frame.step(), third = frame.step();
      CHECK(again.delta_t == step.delta_t && third.delta_beta == step.delta_beta);
      CHECK_EQUAL(third.pcg->iterations, step.pcg->iterations);
    }
  }
  const support::OwnedSystem ragged = support::definite({3, 0, 1, 5, 3, 2, 17, 1, 4, 32}, 9, 7);
  const ArrowSystem s = ArrowSystem::make(ragged.parts());
  const DenseReferenceStep reference = newton_step_dense_reference(s, 0.25, 0.5);
  const FrameStep step = ArrowFrame::build(s, 0.25, 0.5, pcg(1e-13)).step();
  CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-11);
}

// No k x k numbers, and a look at the device once per block of eight.
TEST(AnIterationHoldsNoSquareAndIsLookedAtInBlocks) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(20, 2, 300, 2, 0.9, BorderKind::tridiagonal);
  const ArrowFrame frame = ArrowFrame::build(f.system(), 0, 0, pcg(1e-12));
  CHECK(frame.device_bytes() < 8 * (300 * 300 + 2 * 40 * 300));
  frame.step();
  const FrameStep step = frame.step();
  const Index blocks = step.pcg->iterations / 8 + 1;
  CHECK(step.telemetry.syncs <= blocks + 2);  // the true residual, the step
  CHECK_EQUAL(step.telemetry.allocations, std::int64_t{0});
  CHECK(step.telemetry.graph_replays >= blocks - 1);
  CHECK_EQUAL(frame.telemetry().capture_failures, std::int64_t{0});
}

TEST(RightHandSidesOfZeroAndEmptyBorders) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const std::vector<double> zero_t(16, 0.0), zero_beta(4, 0.0);
  const FrameStep step = ArrowFrame::build(f.system(), 0, 0, pcg(1e-12)).step(zero_t, zero_beta);
  CHECK(step.delta_t == zero_t && step.delta_beta == zero_beta);
  CHECK_EQUAL(step.pcg->iterations, Index{0});
  CHECK_EQUAL(step.pcg->precond_apply_calls, Index{0});
  for (const auto& [dims, k] : {std::pair{std::vector<Index>{2, 3}, Index{0}}, {std::vector<Index>{}, Index{3}}}) {
    const support::OwnedSystem owned = support::definite(dims, k, 5);
    const ArrowSystem s = ArrowSystem::make(owned.parts());
    const DenseReferenceStep reference = newton_step_dense_reference(s);
    const FrameStep one = ArrowFrame::build(s, 0, 0, pcg(1e-14)).step();
    CHECK_NEAR(one.delta_t, reference.delta_t, 1e-13);
    CHECK_NEAR(one.delta_beta, reference.delta_beta, 1e-13);
  }
}

TEST(ALadderOfRidgesOnOneFrame) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(20, 2, 30, 2, 0.9, BorderKind::dense);
  BaseArrowFrame base = BaseArrowFrame::build(f.system(), pcg(1e-13));
  for (const double ridge_t : {0.0, 0.5}) {
    for (const double ridge_beta : {0.0, 1.0, 4.0}) {
      const int rows = fake::calls("factor_and_whiten");
      for (int i = 0; i < 3; ++i) {
        const FrameStep step = base.refactor_and_solve(ridge_t, ridge_beta);
        const DenseReferenceStep reference = newton_step_dense_reference(f.system(), ridge_t, ridge_beta);
        CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-11);
      }
      CHECK_EQUAL(fake::calls("factor_and_whiten") - rows, ridge_beta == 0.0 ? 1 : 0);
    }
  }
}

TEST(HowAnIterationEnds) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(40, 3, 96, 2, 0.9, BorderKind::dense);
  const auto facts_of = [](auto&& work) {
    try {
      work();
    } catch (const PcgError& error) {
      return error.facts;
    }
    CHECK(!"no error");
    return PcgError::Facts{};
  };
  const PcgError::Facts budget = facts_of([&] { ArrowFrame::build(f.system(), 0, 0, pcg(1e-12, 5)).step(); });
  CHECK(budget.kind == PcgFailure::budget);
  CHECK_EQUAL(budget.iterations, Index{5});
  CHECK(budget.relative_residual > 1e-12 && budget.relative_residual < 1.0);
  FrameOptions truncated = pcg(1e-12, 5);
  truncated.accept_truncated = true;
  const FrameStep step = ArrowFrame::build(f.system(), 0, 0, truncated).step(true);
  CHECK_EQUAL(step.pcg->stopping_reason, "max_iter");
  CHECK_EQUAL(step.pcg->iterations, Index{5});
  CHECK_NEAR(step.pcg->final_relative_residual, budget.relative_residual, 1e-8);
  CHECK(step.certificate > 1e-10);

  FixtureData negative = f;
  negative.h_bb[96 * 7 + 7] = -1.0;
  const PcgError::Facts diagonal = facts_of([&] { ArrowFrame::build(negative.system(), 0, 0, pcg(1e-12)).step(); });
  CHECK(diagonal.kind == PcgFailure::jacobi_diagonal);
  CHECK(diagonal.value < -1.0);
  // A positive diagonal, an indefinite border.
  FixtureData saddle = f;
  saddle.h_bb[96 * 7 + 8] = saddle.h_bb[96 * 8 + 7] = 20.0;
  const ArrowFrame frame = ArrowFrame::build(saddle.system(), 0, 0, pcg(1e-12));
  const PcgError::Facts curvature = facts_of([&] { frame.step(); });
  CHECK(curvature.kind == PcgFailure::not_pd);
  CHECK(curvature.value <= 0.0);
  const std::vector<double> zero_t(120, 0.0), zero_beta(96, 0.0);
  CHECK(frame.step(zero_t, zero_beta).delta_beta == zero_beta);  // it can be used on

  for (const char* stage : {"pcg_begin", "pcg_iterate", "schur_apply"}) {
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS_WITH(DeviceError, stage, ArrowFrame::build(f.system(), 0, 0, pcg(1e-12)).step());
  }
  FrameOptions rounded = pcg(1e-12);
  rounded.pcg.float32_storage = true;
  CHECK_THROWS_WITH(InvalidArgument, "pcg.storage", ArrowFrame::build(f.system(), 0, 0, rounded));
}

CHECK_MAIN()
