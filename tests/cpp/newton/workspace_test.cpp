// Resident workspaces on the CPU: golden fits, kept factors, sequences, lengths, and what happens without a device.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "arrowschur/device.hpp"
#include "arrowschur/error.hpp"
#include "arrowschur/frame.hpp"
#include "arrowschur/inner_loop.hpp"
#include "arrowschur/newton.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"
#include "newton/support.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;

namespace {

ResidentWorkspace workspace_of(const FixtureData& f) {
  return ResidentWorkspace({f.n, f.k, f.basis_cols, f.d}, f.target, f.basis, f.gates, f.system());
}

double norm(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

InnerOptions with_ridges(double ridge, ShrinkRule rule) {
  InnerOptions o;
  o.initial_ridge_t = o.initial_ridge_beta = ridge;
  o.shrink_rule = rule;
  return o;
}

template <class F>
std::string argument_of(F&& f) {
  try {
    f();
  } catch (const InvalidArgument& error) {
    return error.argument;
  }
  return "";
}

bool same_bits(const InnerFit& a, const InnerFit& b) {
  return a.t == b.t && a.beta == b.beta && a.objective == b.objective && a.gradient_norm == b.gradient_norm &&
         a.iterations == b.iterations && a.ridge_t == b.ridge_t && a.ridge_beta == b.ridge_beta;
}

// ARROWSCHUR_DEVICE may forbid what a test is about.
bool device_required_by_environment() {
  const char* mode = std::getenv("ARROWSCHUR_DEVICE");
  return mode != nullptr && std::string(mode) == "required";
}

}  // namespace

// T-D-1, section 12.3
TEST(SmallFixturesHaveTheirMinimiser) {
  struct Golden {
    std::uint64_t seed;
    double objective, log_det, t, beta;
  };
  const Golden golden[] = {
      {0xABCD0001, -0.5579806235950775, 31.152806515729573, 0.42430416540129645, 0.21708794960739886},
      {0x5AE1017, -0.5349983106002303, 31.196597373221934, 0.4379390831641221, 0.1879914304836487},
      {0x1017F17, -0.5948562422235808, 31.01399862653501, 0.4464168192843344, 0.20966582489274865}};
  for (const Golden& g : golden) {
    const FixtureData data = fixtures::small_fixture(g.seed);
    ResidentWorkspace workspace = workspace_of(data);
    const auto size = static_cast<std::size_t>(data.n * data.d + data.k);
    std::vector<double> h(size * size), g0(size);
    workspace.system().to_dense(h, g0);
    for (const bool reference : {true, false}) {
      const InnerFit fit = reference ? workspace.cpu_reference_fit() : workspace.fit();
      CHECK(fit.converged());
      CHECK_EQUAL(fit.iterations, 1);
      CHECK_EQUAL(fit.telemetry.factorizations, 1);
      CHECK_EQUAL(std::string(fit.execution_path), std::string("cpu"));
      CHECK(!fit.telemetry.device_ordinal);
      CHECK_NEAR(fit.objective, g.objective, 1e-11);
      CHECK_NEAR(fit.log_det_hessian, g.log_det, 1e-11);
      CHECK_NEAR(norm(fit.t), g.t, 1e-11);
      CHECK_NEAR(norm(fit.beta), g.beta, 1e-11);
      std::vector<double> z = fit.t;
      z.insert(z.end(), fit.beta.begin(), fit.beta.end());
      for (std::size_t i = 0; i < size; ++i) {
        double line = -g0[i];
        for (std::size_t j = 0; j < size; ++j) line += h[i * size + j] * z[j];
        CHECK(std::abs(line) < 1e-9);
      }
    }
  }
}

TEST(OtherSmallFixturesHaveTheirObjective) {
  const std::pair<std::uint64_t, double> golden[] = {{0x11, -0.8729669986}, {0x22, -0.6690840819},
                                                     {0x33, -0.8021548983}, {0x44, -0.9000650615},
                                                     {0x55, -0.5526835683}, {0x66, -0.9703153165}};
  for (const auto& [seed, objective] : golden) {
    CHECK_NEAR(workspace_of(fixtures::small_fixture(seed)).fit().objective, objective, 1e-9);
  }
}

// T-D-10: the small rows of 12.4, by the dense reference and by every exact route. The log-determinant of the second is
// that of a dense factorization: the published 235.92956808080 has a wrong digit.
TEST(CoupledFixturesHaveTheirMinimiser) {
  struct Golden {
    Index n, d, k;
    std::uint64_t seed;
    double coupling, log_det, t, beta, objective;
  };
  const Golden golden[] = {{8, 2, 4, 1, 0.5, 22.566434312700, 0.6836738698063, 0.3125207146706, -0.8345564023229},
                           {40, 3, 96, 2, 0.9, 235.92956806080, 3.8422258655703, 2.9980351328343, -15.031417836836},
                           {12, 16, 6, 5, 0.9, 211.02616058903, 3.5144799181035, 1.9711041399750, -12.612401224011}};
  for (const Golden& g : golden) {
    const auto data = fixtures::coupled_fixture(g.n, g.d, g.k, g.seed, g.coupling, BorderKind::dense);
    ResidentWorkspace workspace = workspace_of(data);
    const auto check = [&](const InnerFit& fit) {
      CHECK(fit.converged());
      CHECK_NEAR(fit.log_det_hessian, g.log_det, 1e-11);
      CHECK_NEAR(norm(fit.t), g.t, 1e-11);
      CHECK_NEAR(norm(fit.beta), g.beta, 1e-11);
      CHECK_NEAR(fit.objective, g.objective, 1e-11);
    };
    check(workspace.cpu_reference_fit());
    for (const Mode mode : {Mode::automatic, Mode::direct, Mode::sqrt_ba}) {
      InnerOptions o;
      o.solve.mode = mode;
      check(workspace.fit(o));
    }
    const auto step = newton_step_dense_reference(workspace.system());
    CHECK_NEAR(step.log_det, g.log_det, 1e-11);
    CHECK_NEAR(norm(step.delta_t), g.t, 1e-11);
    CHECK_NEAR(norm(step.delta_beta), g.beta, 1e-11);
  }
}

TEST(TheLowRankRouteRunsTheSameLoop) {
  const auto data = fixtures::coupled_fixture(6, 2, 40, 3, 0.9, BorderKind::tridiagonal);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(data.system());
  InnerOptions o = with_ridges(1e-2, ShrinkRule::always);
  o.solve.mode = Mode::low_rank;
  const InnerFit fit = workspace.fit(o), reference = workspace.cpu_reference_fit(o);
  CHECK(fit.converged());
  CHECK_EQUAL(fit.iterations, reference.iterations);
  CHECK_NEAR(fit.t, reference.t, 1e-11);
  CHECK_NEAR(fit.beta, reference.beta, 1e-11);
  CHECK_NEAR(fit.log_det_hessian, reference.log_det_hessian, 1e-11);
}

// Conjugate gradients have no factor, but the loop needs none; what a fit gives does not depend on what came before.
TEST(AnIterativeBorderRunsTheLoopWithoutALogDeterminant) {
  const auto data = fixtures::coupled_fixture(40, 3, 96, 2, 0.9, BorderKind::dense);
  InnerOptions o;
  o.solve.mode = Mode::inexact_pcg;
  ResidentWorkspace workspace = ResidentWorkspace::from_system(data.system());
  const InnerFit first = workspace.fit(o), second = workspace.fit(o);
  CHECK(first.converged());
  CHECK(std::isnan(first.log_det_hessian));
  CHECK_NEAR(norm(first.t), 3.8422258655703, 1e-8);
  CHECK(same_bits(first, second));
}

TEST(WhatTheLoopHasNoUseForIsRefused) {
  const auto data = fixtures::small_fixture(1);
  ResidentWorkspace workspace = workspace_of(data);
  InnerOptions o;
  o.solve.trust_region.radius = 1.0;
  CHECK_THROWS(UnsupportedConfiguration, workspace.fit(o));
  CHECK_THROWS(UnsupportedConfiguration, workspace.cpu_reference_fit(o));
  o = {};
  o.solve.schur_apply = [](const double*, double*) {};
  CHECK_THROWS(UnsupportedConfiguration, workspace.fit(o));
  o = {};
  o.initial_ridge_t = -1.0;
  CHECK_EQUAL(argument_of([&] { workspace.fit(o); }), std::string("initial_ridge_t"));
  CHECK_EQUAL(argument_of([&] { workspace.device_fit(o); }), std::string("initial_ridge_t"));
}

// T-D-5
TEST(TheNewtonStepFromZeroIsMinusTheMinimiser) {
  const auto data = fixtures::small_fixture(0x1017F17);
  ResidentWorkspace workspace = workspace_of(data);
  const InnerFit fit = workspace.fit();
  NewtonStep step = newton_step(data.system());
  for (double& v : step.delta_t) v = -v;
  for (double& v : step.delta_beta) v = -v;
  CHECK_NEAR(step.delta_t, fit.t, 1e-9);
  CHECK_NEAR(step.delta_beta, fit.beta, 1e-9);
}

// T-D-17
TEST(TheRidgeScheduleCountsItsFactors) {
  const auto data = fixtures::small_fixture(0xABCD0001);
  const std::pair<double, int> schedule[] = {{1e-3, 3}, {0.1, 5}, {1.0, 7}};
  for (const auto& [ridge, iterations] : schedule) {
    ResidentWorkspace workspace = workspace_of(data);
    const InnerFit fit = workspace.fit(with_ridges(ridge, ShrinkRule::always));
    CHECK(fit.converged());
    CHECK_EQUAL(fit.iterations, iterations);
    CHECK_EQUAL(fit.accepted_iterations, iterations);
    CHECK_EQUAL(fit.telemetry.factorizations, static_cast<std::int64_t>(iterations));
    CHECK_EQUAL(fit.ridge_t, ridge * std::pow(0.5, iterations));
    CHECK_EQUAL(workspace.cpu_reference_fit(with_ridges(ridge, ShrinkRule::always)).iterations, iterations);
  }
  ResidentWorkspace workspace = workspace_of(data);
  CHECK_EQUAL(workspace.fit(with_ridges(1e-3, ShrinkRule::relevant)).telemetry.factorizations, std::int64_t{1});
}

TEST(ASequenceSharesItsFactors) {
  const auto data = fixtures::small_fixture(0xABCD0001);
  const std::vector<BaseGradient> same(3, BaseGradient{data.g_t, data.g_beta});
  InnerOptions o = with_ridges(1e-3, ShrinkRule::always);
  ResidentWorkspace kept = workspace_of(data);
  CHECK_EQUAL(kept.fit_outer_sequence(same, o).factorizations, std::int64_t{3});
  CHECK_EQUAL(kept.fit_outer_sequence(same, o).factorizations, std::int64_t{0});
  kept.release_factors();
  CHECK_EQUAL(kept.fit(o).telemetry.factorizations, std::int64_t{3});
  // Two entries hold two of the three pairs: each comes round after it has gone.
  o.solve.frame_cache_entries = 2;
  ResidentWorkspace two = workspace_of(data);
  CHECK_EQUAL(two.fit_outer_sequence(same, o).factorizations, std::int64_t{9});
  o.solve.frame_cache_entries = 0;
  ResidentWorkspace none = workspace_of(data);
  const auto fits = none.fit_outer_sequence(same, o);
  CHECK_EQUAL(fits.factorizations, std::int64_t{9});
  CHECK_EQUAL(fits.frame_builds, std::int64_t{0});
  CHECK(same_bits(fits.fits[2], kept.fit(o)));
  CHECK_EQUAL(none.cpu_reference_fit_outer_sequence(same, o).factorizations, std::int64_t{9});
}

// A pair with a known ridge_t takes over its rows and S_0: the bits are those of a factor from scratch.
TEST(SharedRowsLeaveNoTrace) {
  const auto data = fixtures::coupled_fixture(40, 3, 24, 2, 0.9, BorderKind::dense);
  InnerOptions o;
  o.initial_ridge_beta = 0.5;
  o.shrink_rule = ShrinkRule::always;
  ResidentWorkspace kept = workspace_of(data);
  const InnerFit shared = kept.fit(o);
  CHECK(shared.telemetry.factorizations > 2);
  o.solve.frame_cache_entries = 0;
  ResidentWorkspace fresh = workspace_of(data);
  CHECK(same_bits(shared, fresh.fit(o)));
}

TEST(OtherOptionsDropTheFactors) {
  const auto data = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  ResidentWorkspace workspace = workspace_of(data);
  InnerOptions o;
  o.solve.mode = Mode::direct;
  CHECK_EQUAL(workspace.fit(o).telemetry.factorizations, std::int64_t{1});
  o.solve.num_threads = 1;  // reaches no result
  CHECK_EQUAL(workspace.fit(o).telemetry.factorizations, std::int64_t{0});
  o.solve.guards = Guards::absolute;
  CHECK_EQUAL(workspace.fit(o).telemetry.factorizations, std::int64_t{1});
}

// T-D-6 in small: the bits of three separate fits, and lengths before any work.
TEST(ASequenceEqualsSeparateFits) {
  const auto data = fixtures::coupled_fixture(12, 2, 9, 7, 0.9, BorderKind::dense);
  std::vector<std::vector<double>> g_t, g_beta;
  std::vector<BaseGradient> gradients;
  for (std::uint64_t s = 0; s < 3; ++s) {
    g_t.push_back(support::random_vector(24, 10 + s));
    g_beta.push_back(support::random_vector(9, 20 + s));
  }
  for (std::size_t s = 0; s < 3; ++s) gradients.push_back({g_t[s], g_beta[s]});
  for (const double ridge : {0.0, 0.1}) {
    const InnerOptions o = with_ridges(ridge, ShrinkRule::always);
    ResidentWorkspace workspace = workspace_of(data);
    const OuterSequence sequence = workspace.fit_outer_sequence(gradients, o);
    const OuterSequence reference = workspace.cpu_reference_fit_outer_sequence(gradients, o);
    for (std::size_t s = 0; s < 3; ++s) {
      FixtureData own = data;
      own.g_t = g_t[s];
      own.g_beta = g_beta[s];
      ResidentWorkspace alone = workspace_of(own);
      CHECK(same_bits(alone.fit(o), sequence.fits[s]));
      CHECK(same_bits(alone.cpu_reference_fit(o), reference.fits[s]));
      CHECK_NEAR(sequence.fits[s].t, reference.fits[s].t, 1e-9);
      CHECK_NEAR(sequence.fits[s].beta, reference.fits[s].beta, 1e-9);
    }
  }
  ResidentWorkspace workspace = workspace_of(data);
  const Telemetry before = process_telemetry();
  gradients[2].g_t = gradients[2].g_t.first(5);
  for (int form = 0; form < 3; ++form) {
    const auto run = [&] {
      if (form == 0) return workspace.fit_outer_sequence(gradients);
      if (form == 1) return workspace.cpu_reference_fit_outer_sequence(gradients);
      return workspace.device_fit_outer_sequence(gradients);
    };
    CHECK_EQUAL(argument_of(run), std::string("gradients[2].g_t"));
    CHECK_THROWS_WITH(InvalidArgument, "got 5 entries, expected 24 entries", run());
  }
  CHECK_EQUAL(process_telemetry().factorizations, before.factorizations);
  gradients[2].g_t = g_t[2];
  g_beta[1][3] = std::nan("");
  CHECK_EQUAL(argument_of([&] { workspace.fit_outer_sequence(gradients); }), std::string("gradients[1].g_beta"));
}

// T-D-18
TEST(ScalingTheDataChangesNoDecision) {
  const auto data = fixtures::small_fixture(0xABCD0001);
  const InnerFit base = workspace_of(data).fit();
  for (const double a : {1e-6, 1e6}) {
    FixtureData scaled = data;
    for (auto* values : {&scaled.target, &scaled.g_t, &scaled.g_beta}) {
      for (double& v : *values) v *= a;
    }
    InnerFit fit = workspace_of(scaled).fit();
    CHECK_EQUAL(fit.iterations, base.iterations);
    CHECK_EQUAL(fit.accepted_iterations, base.accepted_iterations);
    for (auto* values : {&fit.t, &fit.beta}) {
      for (double& v : *values) v /= a;
    }
    CHECK_NEAR(fit.t, base.t, 1e-12);
    CHECK_NEAR(fit.beta, base.beta, 1e-12);
  }
}

// T-D-14 and D-10.4 through the whole loop: two rows that no small ridge repairs, one failed attempt.
TEST(AnIndefiniteRowCostsOneAttempt) {
  auto data = fixtures::coupled_fixture(4, 8, 3, 11, 0.5, BorderKind::dense);
  for (const auto& [row, value] : {std::pair<std::size_t, double>{2, -1.0}, {3, -250.0}}) {
    for (std::size_t i = 0; i < 64; ++i) data.h_tt[row * 64 + i] = i % 9 == 0 ? value : 0.0;
  }
  ResidentWorkspace workspace = workspace_of(data);
  InnerOptions o;
  o.max_iterations = 2;
  const double advice = examine_rows(workspace.system()).suggested_bump;
  for (const bool reference : {true, false}) {
    const InnerFit fit = reference ? workspace.cpu_reference_fit(o) : workspace.fit(o);
    CHECK(fit.status == InnerStatus::max_iterations);
    CHECK_EQUAL(fit.accepted_iterations, 1);
    // 1e-3 of the smallest pivot is far below the ridge: it is halved.
    CHECK_EQUAL(fit.ridge_t, 0.5 * advice);
  }
}

TEST(ALoopWithoutAnAcceptedStepIsAnErrorWithItsReason) {
  auto data = fixtures::small_fixture(2);
  for (std::size_t j = 0; j < 4; ++j) data.h_bb[j * 5] = -1e12;
  ResidentWorkspace workspace = workspace_of(data);
  for (const bool reference : {true, false}) {
    bool thrown = false;
    try {
      reference ? workspace.cpu_reference_fit() : workspace.fit();
    } catch (const InnerLoopError& error) {
      thrown = true;
      CHECK(error.facts().status == InnerStatus::max_iterations);
      CHECK_EQUAL(error.facts().iterations, 16);
      CHECK(error.facts().last_failure.find("Schur complement") != std::string::npos);
    }
    CHECK(thrown);
  }
  // The workspace is none the worse for it.
  CHECK_THROWS(SchurFactorError, workspace.inner_iteration());
  CHECK_THROWS(SchurFactorError, workspace.cpu_reference_step());
}

// T-D-4
TEST(WithoutADeviceTheDeviceMethodsSaySo) {
  if (device_info().outcome == DeviceOutcome::available) {
    std::cout << "skipped WithoutADeviceTheDeviceMethodsSaySo: this host has a device\n";
    return;
  }
  const auto data = fixtures::small_fixture(0x5AE1017);
  ResidentWorkspace workspace = workspace_of(data);
  const std::string why = device_info().why();
  CHECK_THROWS_WITH(DeviceUnavailableError, why, ArrowFrame::build(data.system()));
  CHECK_THROWS_WITH(DeviceUnavailableError, why, BaseArrowFrame::build(data.system()));
  CHECK_THROWS_WITH(DeviceUnavailableError, why, newton_step_reupload(data.system()));
  // What is wrong with an argument is said on every host.
  CHECK_THROWS_WITH(InvalidArgument, "ridge_t", ArrowFrame::build(data.system(), -1.0));
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.device_fit());
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.device_reupload_fit());
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.device_fit_outer_sequence({}));
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.one_inner_iteration());
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.inner_iteration(0.0, 0.0, Device::required));
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.fit({}, Device::required));
  InnerOptions o;
  o.solve.device = Device::required;
  CHECK_THROWS_WITH(DeviceUnavailableError, why, workspace.fit(o));
  CHECK(workspace.fit(o, Device::off).converged());  // the call's own word counts
  CHECK(workspace.cpu_reference_fit(o).converged());
  CHECK(!workspace.device_resident());
  CHECK_EQUAL(workspace.resident_device_bytes(), Index{0});
  const bool built = device_info().absence != DeviceAbsence::backend_not_compiled;
  const std::string reason = workspace.device_reason();
  CHECK(reason.find(built ? "not bound yet" : "this build has no CUDA backend") == 0);
}

// A call that is predicted to be long asks for a device; that there is none is told, once per call.
TEST(AFallbackIsCounted) {
  if (device_required_by_environment()) return;
  const auto data = fixtures::small_fixture(1);
  ResidentWorkspace workspace = workspace_of(data);
  const std::vector<BaseGradient> gradients(3, BaseGradient{data.g_t, data.g_beta});
  InnerOptions o;
  o.solve.expected_solves = Index{1} << 40;
  o.solve.device = Device::off;
  CHECK_EQUAL(workspace.fit(o).telemetry.cpu_fallbacks, std::int64_t{0});
  o.solve.device = Device::automatic;
  if (std::getenv("ARROWSCHUR_DEVICE") != nullptr) return;
  const auto before = process_telemetry().cpu_fallbacks;
  if (device_info().outcome == DeviceOutcome::available) return;  // declined for what it lacks, not for its absence
  const InnerFit fit = workspace.fit(o);
  CHECK_EQUAL(fit.telemetry.cpu_fallbacks, std::int64_t{1});
  CHECK(fit.telemetry.fallback_reasons == std::vector<std::string>{"runtime_unavailable"});
  const OuterSequence sequence = workspace.fit_outer_sequence(gradients, o);
  CHECK_EQUAL(sequence.fits[0].telemetry.cpu_fallbacks, std::int64_t{1});
  CHECK_EQUAL(sequence.fits[1].telemetry.cpu_fallbacks, std::int64_t{0});
  CHECK_EQUAL(process_telemetry().cpu_fallbacks - before, std::int64_t{2});
}

TEST(OneStepHasTheSameBitsWithAndWithoutAskingForADevice) {
  if (device_required_by_environment()) return;
  const auto data = fixtures::small_fixture(0x5AE1017);
  ResidentWorkspace workspace = workspace_of(data);
  for (const double ridge : {0.0, 0.5}) {
    const InnerStep off = workspace.inner_iteration(ridge, 2.0 * ridge, Device::off);
    const InnerStep automatic = workspace.inner_iteration(ridge, 2.0 * ridge);
    const InnerStep reference = workspace.cpu_reference_step(ridge, 2.0 * ridge);
    CHECK(off.delta_t == automatic.delta_t);
    CHECK(off.delta_beta == automatic.delta_beta);
    CHECK_NEAR(off.delta_t, reference.delta_t, 1e-12);
    CHECK_NEAR(off.delta_beta, reference.delta_beta, 1e-12);
    CHECK_NEAR(off.log_det_hessian, reference.log_det_hessian, 1e-13);
    CHECK_EQUAL(off.objective, 0.0);
    CHECK_EQUAL(off.gradient_norm, workspace.system().gradient_norm());
    CHECK(off.certificate < 64 * 0x1p-52);
    CHECK(reference.certificate < 64 * 0x1p-52);
    CHECK(reference.certificate > 0.0);
    // It is the step of newton_step.
    const NewtonStep plain = newton_step(data.system(), {ridge, 2.0 * ridge});
    CHECK(off.delta_t == plain.delta_t);
    CHECK(off.delta_beta == plain.delta_beta);
  }
  CHECK_EQUAL(argument_of([&] { workspace.inner_iteration(-1.0); }), std::string("ridge_t"));
  CHECK_EQUAL(argument_of([&] { workspace.cpu_reference_step(0.0, std::nan("")); }), std::string("ridge_beta"));
}

// T-D-20
TEST(LengthsOfTheReferenceShapes) {
  const ResidentShape qwen = ResidentShape::qwen();
  CHECK_EQUAL(qwen.target(), Index{4'096'000});
  CHECK_EQUAL(qwen.basis(), Index{16'000});
  CHECK_EQUAL(qwen.gates(), Index{16'000});
  CHECK_EQUAL(qwen.row_hessian(), Index{8'000});
  CHECK_EQUAL(qwen.row_cross(), Index{8'192'000});
  CHECK_EQUAL(qwen.row_gradient(), Index{4'000});
  CHECK_EQUAL(qwen.border_hessian(), Index{4'194'304});
  const Index large = Index{1} << 40;
  CHECK_EQUAL(argument_of([&] { (void)ResidentShape{large, large, 1, 2}.target(); }), std::string("target"));
}

TEST(EveryWrongLengthIsNamed) {
  const auto data = fixtures::small_fixture(1);
  const ResidentShape right{8, 4, 2, 2};
  const auto make = [&](const ResidentShape& shape, std::size_t target, std::size_t basis, std::size_t gates,
                        const FixtureData& slabs) {
    const std::vector<double> zeros(1000);
    const std::span<const double> all(zeros);
    return argument_of(
        [&] { ResidentWorkspace(shape, all.first(target), all.first(basis), all.first(gates), slabs.system()); });
  };
  CHECK_EQUAL(make(right, 32, 16, 16, data), std::string());
  CHECK_EQUAL(make(right, 31, 16, 16, data), std::string("target"));
  CHECK_EQUAL(make(right, 32, 17, 16, data), std::string("basis"));
  CHECK_EQUAL(make(right, 32, 16, 15, data), std::string("gates"));
  const auto coupled = [](Index n, Index d, Index k) {
    return fixtures::coupled_fixture(n, d, k, 1, 0.5, BorderKind::dense);
  };
  CHECK_EQUAL(make(right, 32, 16, 16, coupled(8, 3, 4)), std::string("row_hessian"));
  CHECK_EQUAL(make(right, 32, 16, 16, coupled(8, 2, 5)), std::string("row_cross"));
  // 4 rows of 4 and 16 of 1 have as many Hessian entries as 16 of 2: the slab of B tells them apart.
  CHECK_EQUAL(make({16, 4, 1, 2}, 64, 16, 16, coupled(4, 4, 4)), std::string("row_cross"));
  // n d p alone cannot tell d p apart.
  CHECK_EQUAL(make({16, 2, 1, 2}, 32, 16, 16, coupled(4, 4, 4)), std::string("row_gradient"));
  for (const auto& [shape, name] : {std::pair<ResidentShape, std::string>{{0, 4, 2, 2}, "n"},
                                    {{8, 0, 2, 2}, "p"},
                                    {{8, 4, 0, 2}, "basis_cols"},
                                    {{8, 4, 2, 0}, "d"}}) {
    CHECK_EQUAL(make(shape, 32, 16, 16, data), name);
  }
}

TEST(TheTargetGivesTheObjectiveAndMustBeFinite) {
  auto data = fixtures::shape_fixture(6, 5, 3, 2, 7);
  double square = 0.0;
  for (const double v : data.target) square += v * v;
  ResidentWorkspace workspace = workspace_of(data);
  CHECK_NEAR(workspace.objective_at_zero(), 0.5 * square, 1e-14);
  CHECK(workspace.shape() == (ResidentShape{6, 5, 3, 2}));
  data.target[7] = std::nan("");
  CHECK_EQUAL(argument_of([&] { workspace_of(data); }), std::string("target"));
}

TEST(AnySystemOfEqualRowsMakesAWorkspace) {
  const auto data = fixtures::small_fixture(3);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(data.system(), 2.0);
  CHECK(workspace.shape() == (ResidentShape{8, 4, 1, 2}));
  const InnerFit fit = workspace.fit();
  CHECK_NEAR(fit.objective, 2.0 + workspace_of(data).fit().objective, 1e-14);
  const auto ragged = support::definite({1, 3, 2}, 2, 5), empty = support::definite({}, 2, 5);
  CHECK_EQUAL(argument_of([&] { ResidentWorkspace::from_system(ArrowSystem::make(ragged.parts())); }),
              std::string("system"));
  CHECK_EQUAL(argument_of([&] { ResidentWorkspace::from_system(ArrowSystem::make(empty.parts())); }), std::string("n"));
  CHECK_EQUAL(argument_of([&] { ResidentWorkspace::from_system(data.system(), std::nan("")); }),
              std::string("objective_at_zero"));
}

// The bytes of D-9.3 in small: what was handed over, whether or not its structure was detected.
TEST(BytesCountWhatWasHandedOver) {
  const auto smooth = fixtures::shape_fixture(6, 40, 3, 2, 7);  // a tridiagonal border, stored dense
  ResidentWorkspace workspace = workspace_of(smooth);
  REQUIRE(!workspace.system().detected().empty());
  const Index slabs = 6 * 2 * 2 + 6 * 2 * 40 + 6 * 2 + 40 * 40 + 40;
  CHECK_EQUAL(workspace.frame_upload_bytes(), 8 * slabs);
  CHECK_EQUAL(workspace.host_shadow_bytes(), 8 * (slabs + 6 * 40 + 2 * 6 * 3));
  const auto banded = fixtures::coupled_fixture(6, 2, 40, 1, 0.5, BorderKind::tridiagonal);
  CHECK_EQUAL(ResidentWorkspace::from_system(banded.system()).frame_upload_bytes(), 8 * (slabs - 40 * 40 + 2 * 40));
}

TEST(AReferenceThatDoesNotFitTheLimitIsRefused) {
  const auto data = fixtures::small_fixture(1);
  InnerOptions o;
  o.solve.memory_limit = 3199;  // 8 (16 + 4)^2 - 1
  CHECK_THROWS(MemoryBudgetExceeded, workspace_of(data).cpu_reference_fit(o));
  o.solve.memory_limit = 3200;
  CHECK(workspace_of(data).cpu_reference_fit(o).converged());
}

TEST(BitsDoNotDependOnTheNumberOfThreads) {
  const auto data = fixtures::coupled_fixture(600, 2, 250, 4, 0.9, BorderKind::dense);
  InnerOptions o = with_ridges(0.1, ShrinkRule::always);
  o.solve.mode = Mode::direct;
  o.solve.num_threads = 1;
  const InnerFit one = workspace_of(data).fit(o);
  CHECK(one.converged());
  for (const int threads : {2, 4}) {
    o.solve.num_threads = threads;
    CHECK(same_bits(workspace_of(data).fit(o), one));
  }
}

TEST(CallsOnOneWorkspaceAreSerialised) {
  const auto data = fixtures::coupled_fixture(40, 3, 24, 2, 0.9, BorderKind::dense);
  ResidentWorkspace workspace = workspace_of(data);
  const InnerOptions schedules[] = {with_ridges(0.0, ShrinkRule::always), with_ridges(0.1, ShrinkRule::always)};
  const InnerFit expected[] = {workspace_of(data).fit(schedules[0]), workspace_of(data).fit(schedules[1])};
  std::vector<InnerFit> fits(6);
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < fits.size(); ++i) {
    callers.emplace_back([&, i] {
      for (int repeat = 0; repeat < 3; ++repeat) fits[i] = workspace.fit(schedules[i % 2]);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (std::size_t i = 0; i < fits.size(); ++i) CHECK(same_bits(fits[i], expected[i % 2]));
}

TEST(AnInterruptedFitLeavesTheWorkspaceUsable) {
  const auto data = fixtures::coupled_fixture(200, 2, 700, 4, 0.9, BorderKind::dense);
  ResidentWorkspace workspace = workspace_of(data);
  InnerOptions o = with_ridges(1.0, ShrinkRule::always);
  o.solve.mode = Mode::direct;
  {
    const InterruptScope scope([](void*) { return true; }, nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(25));  // no question is asked before
    CHECK_THROWS(Interrupted, workspace.fit(o));
  }
  CHECK(same_bits(workspace.fit(o), workspace_of(data).fit(o)));
}

TEST(AFailureOfTheReferenceNamesItsPlace) {
  auto data = fixtures::small_fixture(4);
  data.h_tt[5 * 4 + 3] = -1.0;
  bool thrown = false;
  try {
    newton_step_dense_reference(data.system());
  } catch (const RowFactorError& error) {
    thrown = true;
    CHECK_EQUAL(error.facts.row, Index{5});
    CHECK_EQUAL(error.facts.pivot_index, Index{1});
  }
  CHECK(thrown);
  data = fixtures::small_fixture(4);
  data.h_bb[2 * 4 + 2] = -1.0;
  thrown = false;
  try {
    newton_step_dense_reference(data.system());
  } catch (const SchurFactorError& error) {
    thrown = true;
    CHECK_EQUAL(error.pivot_index, Index{2});
  }
  CHECK(thrown);
  CHECK(newton_step_dense_reference(data.system(), 0.0, 20.0).log_det > 0.0);
}

CHECK_MAIN()
