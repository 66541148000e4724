// The dual route on the fake device: when it is chosen, that its steps are those of the dense reference, what a move of a
// ridge costs, when it is left, and that loops and sweeps take it by the same rule.
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

constexpr double kCertificate = 64 * 0x1p-52;
const FrameOptions kDual{.route = FrameRoute::dual}, kDirect{.route = FrameRoute::direct};

bool same_bits(const FrameStep& a, const FrameStep& b) {
  return a.delta_t == b.delta_t && a.delta_beta == b.delta_beta && a.log_det_hessian == b.log_det_hessian;
}

// The rows of a fixture with a border of bands of their own: `values` [width + 1, k].
ArrowSystem banded(const FixtureData& f, const std::vector<double>& values, Index width) {
  SystemParts parts;
  parts.n = f.n, parts.k = f.k, parts.d = f.d;
  parts.h_tt = f.h_tt.data(), parts.h_tb = f.h_tb.data(), parts.g_t = f.g_t.data(), parts.g_beta = f.g_beta.data();
  parts.border = {f.k, DType::float64, {BandedBorder{values.data(), width}}, nullptr};
  return ArrowSystem::make(parts);
}

const FrameCandidate& candidate(const FramePlan& plan, FrameRoute route) {
  for (const FrameCandidate& c : plan.candidates) {
    if (c.route == route) return c;
  }
  throw std::logic_error("no such candidate");
}

}  // namespace

// T-D-10 and T-D-11, dual
TEST(DualStepsMatchTheDenseReference) {
  const fake::Leaks leaks;
  for (const auto& [n, d, k] : {std::array<Index, 3>{3, 2, 7}, {8, 2, 40}, {5, 3, 64}, {2, 16, 150}, {60, 2, 300}}) {
    for (const BorderKind border : {BorderKind::tridiagonal, BorderKind::diagonal}) {
      for (const double ridge : {0.0, 1e-9, 1e-2}) {
        const FixtureData f = fixtures::coupled_fixture(n, d, k, 3, 0.9, border);
        const DenseReferenceStep reference = newton_step_dense_reference(f.system(), ridge, 2.0 * ridge);
        const ArrowFrame frame = ArrowFrame::build(f.system(), ridge, 2.0 * ridge, kDual);
        CHECK(frame.route() == FrameRoute::dual);
        const FrameStep step = frame.step(true);
        CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-10);
        CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-10);
        CHECK_NEAR(step.log_det_hessian, reference.log_det, 1e-11);
        CHECK(step.certificate < kCertificate);
        CHECK(step.route == FrameRoute::dual);
      }
    }
  }
}

TEST(WiderBandsAndRaggedRows) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(6, 2, 50, 4, 0.9, BorderKind::diagonal);
  for (const Index width : {2, 5, 17}) {
    std::vector<double> bands(static_cast<std::size_t>((width + 1) * f.k), -0.25 / static_cast<double>(width));
    std::fill(bands.begin(), bands.begin() + 50, 4.0);
    const ArrowSystem s = banded(f, bands, width);
    const DenseReferenceStep reference = newton_step_dense_reference(s, 0.25, 0.5);
    const FrameStep step = ArrowFrame::build(s, 0.25, 0.5, kDual).step(true);
    CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-11);
    CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-11);
    CHECK_NEAR(step.log_det_hessian, reference.log_det, 1e-11);
  }
  const support::OwnedSystem ragged = support::definite({3, 0, 1, 5, 3, 2}, 30, 7);
  SystemParts parts = ragged.parts();
  const std::vector<double> diagonal(30, 40.0);
  parts.border = {30, DType::float64, {DiagonalBorder{diagonal.data()}}, nullptr};
  const ArrowSystem s = ArrowSystem::make(parts);
  const DenseReferenceStep reference = newton_step_dense_reference(s, 0.25, 0.5);
  const FrameStep step = ArrowFrame::build(s, 0.25, 0.5, kDual).step(true);
  CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-11);
  CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-11);
}

// T-D-7 on the dual route
TEST(DualFrameBaseAndReuploadHaveTheSameBits) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(20, 2, 90, 3, 0.9, BorderKind::tridiagonal);
  const ArrowSystem s = f.system();
  const ArrowFrame frame = ArrowFrame::build(s, 1e-3, 1e-2, kDual);
  BaseArrowFrame base = BaseArrowFrame::build(s, kDual);
  const FrameFactors factors = base.factor_at(1e-3, 1e-2);
  CHECK(factors.route() == FrameRoute::dual);
  for (int i = 0; i < 6; ++i) {
    std::vector<double> g_t = support::random_vector(40, 2 * i), g_beta = support::random_vector(90, 2 * i + 1);
    const FrameStep one = frame.step(g_t, g_beta);
    CHECK(same_bits(one, frame.step(g_t, g_beta)));
    CHECK(same_bits(one, base.solve_with(factors, g_t, g_beta)));
    CHECK(same_bits(one, newton_step_reupload(s.with_gradient(g_t.data(), g_beta.data()), 1e-3, 1e-2, false, kDual)));
  }
  CHECK_EQUAL(frame.telemetry().graph_replays, std::int64_t{2 * 6 - 1});
  CHECK_EQUAL(frame.telemetry().capture_failures, std::int64_t{0});
  CHECK_EQUAL(frame.step().telemetry.syncs, std::int64_t{1});
}

// D-8.6: ridge_beta moves V and C, not the rows.
TEST(AMoveOfRidgeBetaKeepsTheRows) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(10, 2, 60, 9, 0.9, BorderKind::tridiagonal);
  BaseArrowFrame base = BaseArrowFrame::build(f.system(), kDual);
  base.factor_at(0.5, 0.0);
  const auto uploaded = base.telemetry().h2d_bytes;
  const int rows = fake::calls("factor_and_whiten"), reductions = fake::calls("dual_reduce");
  base.factor_at(0.5, 2.0);
  CHECK_EQUAL(fake::calls("factor_and_whiten"), rows);
  CHECK_EQUAL(fake::calls("dual_reduce") - reductions, 1);
  CHECK_EQUAL(base.telemetry().h2d_bytes, uploaded);
  CHECK(same_bits(base.refactor_and_solve(0.5, 2.0), ArrowFrame::build(f.system(), 0.5, 2.0, kDual).step()));
  CHECK(same_bits(base.refactor_and_solve(0.25, 2.0), ArrowFrame::build(f.system(), 0.25, 2.0, kDual).step()));
}

// Section 12 of the time model, and T-D-28
TEST(TheRouteIsThatOfTheLeastTimeWithinTheMemory) {
  const fake::Leaks leaks;
  const FixtureData wide = fixtures::coupled_fixture(20, 2, 2048, 3, 0.9, BorderKind::tridiagonal);
  BaseArrowFrame base = BaseArrowFrame::build(wide.system());
  CHECK(base.plan().route == FrameRoute::dual);
  CHECK_EQUAL(base.plan().profile, "reference");
  const FrameCandidate& dual = candidate(base.plan(), FrameRoute::dual);
  const FrameCandidate& direct = candidate(base.plan(), FrameRoute::direct);
  CHECK(dual.why_not.empty() && direct.why_not.empty());
  CHECK(dual.seconds < direct.seconds && dual.peak_bytes < direct.peak_bytes);
  CHECK_NEAR(dual.seconds, dual.up_seconds + dual.build_seconds + 8.0 * dual.solve_seconds, 1e-14);
  const FrameStep step = base.refactor_and_solve(0.0, 0.0, true);
  CHECK(step.route == FrameRoute::dual && step.certificate < kCertificate);
  CHECK(base.device_bytes() <= dual.peak_bytes);

  // Rows as many as the border: no candidate. A dense border neither.
  const FixtureData square = fixtures::coupled_fixture(10, 2, 20, 1, 0.9, BorderKind::tridiagonal);
  const FixtureData dense = fixtures::coupled_fixture(4, 2, 20, 1, 0.9, BorderKind::dense);
  const ArrowFrame of_square = ArrowFrame::build(square.system()), of_dense = ArrowFrame::build(dense.system());
  CHECK(of_square.route() == FrameRoute::direct && of_dense.route() == FrameRoute::direct);
  CHECK(candidate(of_square.plan(), FrameRoute::dual).why_not.find("T >= k") == 0);
  CHECK(candidate(of_dense.plan(), FrameRoute::dual).why_not.find("neither diagonal nor banded") != std::string::npos);
  CHECK_THROWS_WITH(UnsupportedConfiguration, "T >= k", ArrowFrame::build(square.system(), 0, 0, kDual));
  CHECK_THROWS_WITH(UnsupportedConfiguration, "neither diagonal nor banded",
                    ArrowFrame::build(dense.system(), 0, 0, kDual));

  // Predicted to be the same within a tenth, so direct; without the memory of k x k numbers dual.
  const FixtureData close = fixtures::coupled_fixture(19, 2, 200, 1, 0.9, BorderKind::tridiagonal);
  const ArrowFrame roomy = ArrowFrame::build(close.system());
  CHECK(roomy.route() == FrameRoute::direct);
  const Index below = candidate(roomy.plan(), FrameRoute::direct).peak_bytes - 1;
  const ArrowFrame tight = ArrowFrame::build(close.system(), 0, 0, {.device_memory_limit = below});
  CHECK(tight.route() == FrameRoute::dual);
  CHECK(tight.device_bytes() <= below);
  CHECK(candidate(tight.plan(), FrameRoute::direct).why_not.find("bytes needed") != std::string::npos);
  const Index least = candidate(roomy.plan(), FrameRoute::dual).peak_bytes;
  CHECK(ArrowFrame::build(close.system(), 0, 0, {.device_memory_limit = least}).device_bytes() <= least);
  CHECK_THROWS_WITH(DeviceUnavailableError, (std::to_string(least) + " bytes needed").c_str(),
                    ArrowFrame::build(close.system(), 0, 0, {.device_memory_limit = least - 1}));
  CHECK_THROWS_WITH(
      DeviceUnavailableError, "bytes needed",
      ArrowFrame::build(close.system(), 0, 0, {.route = FrameRoute::direct, .device_memory_limit = below}));
}

// M is a principal block of H: where it is not positive definite, H is not either, and what is left for the direct route
// ends there, and says so.
TEST(WhereMOrCHasNoFactorTheRouteIsLeft) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(10, 2, 1024, 3, 0.5, BorderKind::diagonal);
  std::vector<double> diagonal(1024, 4.0);
  diagonal[7] = -1.0;
  const ArrowSystem indefinite = banded(f, diagonal, 0);
  const auto pivot_of = [](auto&& work) -> Index {
    try {
      work();
    } catch (const SchurFactorError& error) {
      return error.pivot_index;
    }
    return -2;
  };
  const int direct = fake::calls("reduce");
  CHECK_EQUAL(pivot_of([&] { ArrowFrame::build(indefinite, 0, 0, kDual); }), Index{7});
  CHECK_EQUAL(fake::calls("reduce"), direct);  // dual by name is that or an error
  BaseArrowFrame base = BaseArrowFrame::build(indefinite);
  REQUIRE(base.plan().route == FrameRoute::dual);
  CHECK_EQUAL(pivot_of([&] { base.factor_at(0.0, 0.0); }), Index{7});
  CHECK_EQUAL(fake::calls("reduce") - direct, 1);
  const FrameStep repaired = base.refactor_and_solve(0.0, 2.0, true);
  CHECK(repaired.route == FrameRoute::dual && repaired.certificate < kCertificate);

  // Scripted: C has no factor by rounding, S has one. The rows are not made again.
  const int rows = fake::calls("factor_and_whiten");
  const fake::Failing script("factor_border", 1, 1, kFakeNumericalFailure);
  const FrameStep left = base.refactor_and_solve(0.0, 3.0, true);
  CHECK(left.route == FrameRoute::direct && left.certificate < kCertificate);
  CHECK_EQUAL(fake::calls("factor_and_whiten"), rows);
  CHECK(same_bits(left, ArrowFrame::build(indefinite, 0.0, 3.0, kDirect).step()));
}

TEST(WithoutRoomForTheDirectRouteTheFailureOfTheDualOneIsTold) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(4, 2, 200, 3, 0.5, BorderKind::diagonal);
  const ArrowFrame dual = ArrowFrame::build(f.system(), 0, 0, kDual);
  const fake::Failing script("factor_border", 1, -1, kFakeNumericalFailure);
  CHECK_THROWS(SchurFactorError, ArrowFrame::build(f.system(), 0, 0, {.device_memory_limit = dual.device_bytes()}));
}

TEST(AnIndefiniteRowIsToldAsOnTheDirectRoute) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::coupled_fixture(4, 2, 40, 3, 0.5, BorderKind::tridiagonal);
  f.h_tt[4 * 2] = -3.0;
  const auto facts_of = [&](const FrameOptions& options) {
    try {
      ArrowFrame::build(f.system(), 0, 0, options);
    } catch (const RowFactorError& error) {
      return error.facts;
    }
    return RowFactorError::Facts{};
  };
  const RowFactorError::Facts dual = facts_of(kDual), direct = facts_of(kDirect);
  CHECK_EQUAL(dual.row, Index{2});
  CHECK_EQUAL(dual.suggested_ridge, direct.suggested_ridge);
  CHECK(ArrowFrame::build(f.system(), dual.suggested_ridge, 0, kDual).step(true).certificate < kCertificate);
}

TEST(AFaultOfTheDualRouteIsAnError) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(4, 2, 40, 3, 0.5, BorderKind::tridiagonal);
  for (const char* stage : {"dual_reduce", "factor_border", "log_det", "prepare_border_solve"}) {
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS_WITH(DeviceError, stage, ArrowFrame::build(f.system(), 0, 0, kDual));
  }
}

TEST(LoopsAndSweepsTakeItByTheSameRule) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(20, 2, 600, 3, 0.9, BorderKind::tridiagonal);
  InnerOptions automatic, dual, direct;
  dual.solve.mode = Mode::low_rank;
  direct.solve.mode = Mode::direct;
  ResidentWorkspace workspace = ResidentWorkspace::from_system(f.system());
  const InnerFit reference = workspace.cpu_reference_fit(automatic);
  const auto near = [&](const InnerFit& fit) {
    return fit.converged() && fake::metric_a(fit.t, reference.t) < 1e-9 &&
           fake::metric_a(fit.beta, reference.beta) < 1e-9;
  };
  const InnerFit by_dual = workspace.device_fit(dual), by_direct = workspace.device_fit(direct),
                 by_choice = workspace.device_fit(automatic);
  CHECK(near(by_dual) && near(by_direct) && near(by_choice));
  CHECK_EQUAL(std::string(by_dual.route), "dual");
  CHECK_EQUAL(std::string(by_direct.route), "direct");
  CHECK_EQUAL(std::string(by_choice.route), "dual");
  CHECK(by_choice.t == by_dual.t && by_choice.beta == by_dual.beta);
  CHECK_NEAR(by_dual.log_det_hessian, by_direct.log_det_hessian, 1e-11);
  const InnerFit reupload = workspace.device_reupload_fit(dual);
  CHECK(near(reupload) && std::string(reupload.route) == "dual");
  CHECK_EQUAL(std::string(workspace.one_inner_iteration().route), "dual");

  std::vector<ResidentWorkspace> many;
  for (int i = 0; i < 4; ++i) many.push_back(ResidentWorkspace::from_system(f.system()));
  std::vector<ResidentWorkspace*> pointers;
  for (ResidentWorkspace& w : many) pointers.push_back(&w);
  SweepOptions sweep;
  sweep.runner = Runner::device;
  const SweepResult together = run_fits_multiplexed(pointers, automatic, sweep);
  CHECK(!first_difference(together.results, run_fits_sequential(pointers, automatic, sweep).results).has_value());
  for (const FitResult& result : together.results) CHECK_EQUAL(std::string(result.fit->route), "dual");
}

CHECK_MAIN()
