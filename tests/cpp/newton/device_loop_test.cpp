// Resident workspaces on the fake device: parity of the loop, its bookkeeping under scripted failures, what moves over the
// link, sequences and sweeps.
#include <memory>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/threads.hpp"
#include "newton/device_provider.hpp"
#include "newton/fake_backend.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;

namespace {

ResidentWorkspace workspace_of(const FixtureData& f) {
  return ResidentWorkspace({f.n, f.k, f.basis_cols, f.d}, f.target, f.basis, f.gates, f.system());
}

bool same_bits(const InnerFit& a, const InnerFit& b) {
  return a.t == b.t && a.beta == b.beta && a.objective == b.objective && a.gradient_norm == b.gradient_norm &&
         a.iterations == b.iterations && a.ridge_t == b.ridge_t;
}

InnerOptions with_ridges(double ridge, ShrinkRule rule = ShrinkRule::always) {
  InnerOptions o;
  o.initial_ridge_t = o.initial_ridge_beta = ridge;
  o.shrink_rule = rule;
  return o;
}

// The slabs of a workspace, in bytes, with the border as it travels.
std::int64_t slab_bytes(const FixtureData& f, Index border_entries) {
  return 8 * (f.n * f.d * f.d + f.n * f.d * f.k + border_entries + f.n * f.d + f.k);
}

}  // namespace

// T-D-3, on a stand-in
TEST(ResidentAndReuploadFitsMatchTheReference) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(0x5AE1017);
  ResidentWorkspace workspace = workspace_of(f);
  CHECK(!workspace.device_resident());
  const InnerFit reference = workspace.cpu_reference_fit();
  const InnerFit resident = workspace.device_fit();
  CHECK(workspace.device_resident());
  CHECK_EQUAL(workspace.device_reason(), std::string());
  CHECK(workspace.resident_device_bytes() > workspace.frame_upload_bytes());
  const InnerFit reupload = workspace.device_reupload_fit();
  const char* path[] = {"gpu-resident-full", "gpu-reupload"};
  for (const InnerFit* fit : {&resident, &reupload}) {
    CHECK(fit->converged());
    CHECK(fake::metric_a(fit->t, reference.t) < 1e-9);
    CHECK(fake::metric_a(fit->beta, reference.beta) < 1e-9);
    CHECK_NEAR(fit->objective, reference.objective, 1e-12);
    CHECK_NEAR(fit->log_det_hessian, reference.log_det_hessian, 1e-12);
    CHECK_EQUAL(std::string(fit->execution_path), "cpu");
    CHECK_EQUAL(std::string(fit->backend), "fake");
    CHECK_EQUAL(std::string(fit->unproven_path), path[fit == &reupload]);
  }
  const InnerStep one = workspace.one_inner_iteration(), required = workspace.inner_iteration(0, 0, Device::required);
  CHECK(one.delta_t == required.delta_t && one.delta_beta == required.delta_beta);
  CHECK_EQUAL(std::string(one.unproven_path), "gpu-resident-linearization");
  CHECK_EQUAL(std::string(one.execution_path), "cpu");
  const InnerStep dense = workspace.cpu_reference_step();
  CHECK(fake::metric_a(one.delta_t, dense.delta_t) < 1e-9);
  CHECK(fake::metric_a(one.delta_beta, dense.delta_beta) < 1e-9);
  CHECK(one.certificate < 64 * 0x1p-52);
  CHECK_EQUAL(one.objective, dense.objective);

  workspace.release_factors();
  CHECK(!workspace.device_resident());
  CHECK_EQUAL(workspace.resident_device_bytes(), Index{0});
  CHECK(same_bits(workspace.device_fit(), resident));
}

// A small call is the CPU's under automatic: no device is asked, and nothing bound.
TEST(AutomaticStaysOnTheCpuForASmallCall) {
  const FixtureData f = fixtures::small_fixture(0x5AE1017);
  ResidentWorkspace workspace = workspace_of(f);
  const InnerFit fit = workspace.fit();
  CHECK_EQUAL(std::string(fit.backend), "cpu");
  CHECK_EQUAL(std::string(fit.unproven_path), "");
  CHECK_EQUAL(fit.telemetry.cpu_fallbacks, std::int64_t{0});
  CHECK(!workspace.device_resident());
  const InnerStep automatic = workspace.inner_iteration(), off = workspace.inner_iteration(0, 0, Device::off);
  CHECK(automatic.delta_t == off.delta_t && automatic.delta_beta == off.delta_beta);
}

// T-D-10, T-D-5
TEST(CoupledFitsReachTheirMinimum) {
  const fake::Leaks leaks;
  struct Golden {
    Index n, d, k;
    std::uint64_t seed;
    double coupling, log_det, objective;
  };
  for (const Golden& g : {Golden{8, 2, 4, 1, 0.5, 22.566434312700, -0.8345564023229},
                          Golden{40, 3, 96, 2, 0.9, 235.92956806080, -15.031417836836},
                          Golden{12, 16, 6, 5, 0.9, 211.02616058903, -12.612401224011}}) {
    const FixtureData f = fixtures::coupled_fixture(g.n, g.d, g.k, g.seed, g.coupling, BorderKind::dense);
    ResidentWorkspace workspace = ResidentWorkspace::from_system(f.system());
    const InnerFit fit = workspace.device_fit(), reference = workspace.cpu_reference_fit();
    CHECK(fit.converged());
    CHECK(fake::metric_n(fit.t, reference.t) < 1e-11);
    CHECK(fake::metric_n(fit.beta, reference.beta) < 1e-11);
    CHECK_NEAR(fit.log_det_hessian, g.log_det, 1e-11);
    CHECK_NEAR(fit.objective, g.objective, 1e-11);
    CHECK_EQUAL(fit.telemetry.frame_builds, std::int64_t{1});
  }
}

// T-D-6 at a size for the host
TEST(AnOuterSequenceSharesOneFrame) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(30, 2, 24, 3, 0.9, BorderKind::dense);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(f.system());
  std::vector<std::vector<double>> g_t(3, std::vector<double>(60)), g_beta(3, std::vector<double>(24));
  std::vector<BaseGradient> outers;
  for (std::size_t s = 0; s < 3; ++s) {
    for (std::size_t i = 0; i < 60; ++i) g_t[s][i] = 0.01 * std::sin(0.002 * static_cast<double>(i + 3 * s));
    for (std::size_t j = 0; j < 24; ++j) g_beta[s][j] = 0.001 * std::cos(0.0009 * static_cast<double>(j + 11 * s));
    outers.push_back({g_t[s], g_beta[s]});
  }
  const OuterSequence resident = workspace.device_fit_outer_sequence(outers);
  const OuterSequence host = workspace.fit_outer_sequence(outers, {}, Device::off);
  CHECK_EQUAL(resident.frame_builds, std::int64_t{1});
  CHECK_EQUAL(resident.factorizations, std::int64_t{1});
  CHECK_EQUAL(host.frame_builds, std::int64_t{0});
  for (std::size_t s = 0; s < 3; ++s) {
    CHECK(fake::metric_a(resident.fits[s].t, host.fits[s].t) < 1e-9);
    CHECK(fake::metric_n(resident.fits[s].t, host.fits[s].t) < 1e-10);
    CHECK(fake::metric_n(resident.fits[s].beta, host.fits[s].beta) < 1e-10);
    const ArrowSystem own = f.system().with_gradient(g_t[s].data(), g_beta[s].data());
    CHECK(same_bits(ResidentWorkspace::from_system(own).device_fit(), resident.fits[s]));
  }
  outers[2].g_beta = std::span(g_beta[2]).first(23);
  const int before = fake::calls("measure");
  CHECK_THROWS_WITH(InvalidArgument, "gradients[2].g_beta", workspace.device_fit_outer_sequence(outers));
  CHECK_EQUAL(fake::calls("measure"), before);
  // The slab's own gradient after a sequence: sent again, and the same fit.
  CHECK(same_bits(workspace.device_fit(), ResidentWorkspace::from_system(f.system()).device_fit()));
}

// T-D-16 (a)
TEST(FailuresOfTheBorderGrowTheRidges) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f);
  const fake::Failing script("factor_border", 1, -1, kFakeNumericalFailure);
  try {
    workspace.device_fit();
    CHECK(!"a fit without a factor");
  } catch (const InnerLoopError& error) {
    CHECK(error.facts().status == InnerStatus::max_iterations);
    CHECK_EQUAL(error.facts().iterations, 16);
    REQUIRE(error.facts().ridges_t.size() == 17);
    CHECK_EQUAL(error.facts().ridges_t[0], 0.0);
    CHECK_NEAR(error.facts().ridges_t[1], 1e-6, 1e-15);
    CHECK_NEAR(error.facts().ridges_t[2], 4e-6, 1e-15);
    CHECK_NEAR(error.facts().ridges_beta[16], 1073.741824, 1e-14);
    CHECK(std::isnan(error.facts().rho));
    CHECK(error.facts().last_failure.find("Schur complement") != std::string::npos);
  }
}

// T-D-16 (b)
TEST(WhatNoRidgeCuresEndsTheLoop) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f);
  {
    const fake::Failing script("allocate", 1, 1, ARROWSCHUR_DEVICE_OUT_OF_MEMORY);
    CHECK_THROWS(DeviceUnavailableError, workspace.device_fit());
    CHECK(!workspace.device_resident());
    CHECK(workspace.device_reason().find("memory") != std::string::npos);
  }
  for (const char* stage : {"factor_and_whiten", "reduce_rhs", "apply_h", "measure", "stream_synchronize"}) {
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS_WITH(DeviceError, stage, workspace.device_fit());
    CHECK(!workspace.device_resident());
  }
  for (const char* stage : {"copy_to_device", "expand"}) {
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS_WITH(DeviceError, stage, workspace.device_reupload_fit());
  }
  CHECK(workspace.device_fit().converged());
}

// T-D-16 (d), (e), (f), (g), (h)
TEST(BookkeepingOfTheLoop) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f);
  {
    FixtureData still = f;
    for (double& g : still.g_t) g = 0.0;
    for (double& g : still.g_beta) g = 0.0;
    const InnerFit fit = workspace_of(still).device_fit();
    CHECK_EQUAL(fit.iterations, 0);
    CHECK_EQUAL(fit.gradient_norm, 0.0);
    CHECK_EQUAL(fit.telemetry.frame_builds, std::int64_t{0});
    CHECK_EQUAL(std::string(fit.unproven_path), "");  // no accepted work anywhere
  }
  InnerOptions one;
  one.max_iterations = 1;
  CHECK(workspace.device_fit(one).converged());
  workspace.release_factors();
  {
    InnerOptions short_of_ridge;
    short_of_ridge.max_ridge = 1e-5;
    const fake::Failing script("factor_border", 1, -1, kFakeNumericalFailure);
    try {
      workspace.device_fit(short_of_ridge);
      CHECK(!"a fit without a factor");
    } catch (const InnerLoopError& error) {
      CHECK(error.facts().status == InnerStatus::ridge_exhausted);
      CHECK_EQUAL(error.facts().iterations, 3);
      CHECK_NEAR(error.facts().ridges_t.back(), 1.6e-5, 1e-15);
    }
  }
  {
    const fake::Failing script("factor_border", 2, -1, kFakeNumericalFailure);
    const InnerFit fit = workspace.device_fit(with_ridges(1.0));
    CHECK(fit.status == InnerStatus::max_iterations);
    CHECK_EQUAL(fit.iterations, 16);
    CHECK_EQUAL(fit.accepted_iterations, 1);
    CHECK_EQUAL(std::string(fit.unproven_path), "gpu-resident-full");
  }
  CHECK_THROWS_WITH(InvalidArgument, "initial_ridge_t", workspace.device_fit(with_ridges(-1.0)));
}

TEST(ARowThatFailsIsRepairedByOneSuggestion) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::small_fixture(1);
  f.h_tt[0] = -3.0;
  ResidentWorkspace workspace = workspace_of(f);
  InnerOptions two;
  two.max_iterations = 2;
  const InnerFit fit = workspace.device_fit(two), host = workspace.fit(two, Device::off);
  CHECK_EQUAL(fit.accepted_iterations, 1);
  CHECK_NEAR(fit.ridge_t, host.ridge_t, 1e-12);
}

// T-D-17, T-D-18
TEST(BuildsFollowTheSchedule) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  for (const auto& [ridge, iterations] : {std::pair{1e-3, 3}, std::pair{0.1, 5}, std::pair{1.0, 7}}) {
    ResidentWorkspace workspace = workspace_of(f);
    const InnerFit fit = workspace.device_fit(with_ridges(ridge));
    CHECK_EQUAL(fit.iterations, iterations);
    CHECK_EQUAL(fit.accepted_iterations, iterations);
    CHECK_EQUAL(fit.telemetry.frame_builds, std::int64_t{iterations});
    CHECK_EQUAL(fit.telemetry.factorizations, std::int64_t{iterations});
    const InnerFit host = workspace.fit(with_ridges(ridge), Device::off);
    CHECK_EQUAL(host.iterations, iterations);
    CHECK_NEAR(fit.objective, host.objective, 1e-12);
  }
  ResidentWorkspace workspace = workspace_of(f);
  const std::vector<BaseGradient> outers(3, BaseGradient{f.g_t, f.g_beta});
  CHECK_EQUAL(workspace.device_fit_outer_sequence(outers, with_ridges(1e-3)).frame_builds, std::int64_t{3});
  ResidentWorkspace fresh = workspace_of(f);
  CHECK_EQUAL(fresh.device_fit(with_ridges(1e-3, ShrinkRule::relevant)).telemetry.frame_builds, std::int64_t{1});
  InnerOptions forgetful = with_ridges(1e-3);
  forgetful.solve.frame_cache_entries = 0;
  CHECK_EQUAL(fresh.device_fit_outer_sequence(outers, forgetful).frame_builds, std::int64_t{9});
}

// T-D-19, by the bytes of the shape
TEST(TheSlabsGoUpOnceAndThePointComesBackOnce) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::shape_fixture(50, 64, 4, 2, 9);
  ValidationOptions as_given;
  as_given.detect_structure = false;
  const std::int64_t vector = 8 * (100 + 64), record = 64;
  for (const bool dense : {true, false}) {
    const ArrowSystem s = dense ? ArrowSystem::uniform(f.n, f.d, f.k, f.h_tt.data(), f.h_tb.data(), f.h_bb.data(),
                                                       f.g_t.data(), f.g_beta.data(), as_given)
                                : f.system();
    ResidentWorkspace workspace({f.n, f.k, f.basis_cols, f.d}, f.target, f.basis, f.gates, s);
    const std::int64_t slabs = slab_bytes(f, dense ? 64 * 64 : 2 * 64);
    const InnerFit first = workspace.device_fit();
    CHECK_EQUAL(first.iterations, 1);
    CHECK_EQUAL(first.telemetry.h2d_bytes, slabs);
    // start, build, attempt and the residual from scratch give a record each; then the point.
    CHECK_EQUAL(first.telemetry.d2h_bytes, 4 * record + vector);
    const InnerFit again = workspace.device_fit();
    CHECK_EQUAL(again.telemetry.h2d_bytes, std::int64_t{0});
    CHECK_EQUAL(again.telemetry.d2h_bytes, 3 * record + vector);
    CHECK_EQUAL(again.telemetry.allocations, std::int64_t{0});
    CHECK_EQUAL(again.telemetry.handle_creations, std::int64_t{0});
    CHECK_EQUAL(again.telemetry.frame_builds, std::int64_t{0});
    CHECK_EQUAL(again.telemetry.syncs, std::int64_t{4});
    CHECK(same_bits(again, first));
    const InnerFit replayed = workspace.device_fit();
    CHECK_EQUAL(replayed.telemetry.graph_replays, std::int64_t{1});
    CHECK(same_bits(replayed, first));
    workspace.release_factors();

    InnerOptions ridged = with_ridges(0.1);
    const InnerFit reupload = workspace.device_reupload_fit(ridged);
    CHECK(reupload.iterations > 1);
    CHECK_EQUAL(reupload.telemetry.h2d_bytes, reupload.iterations * slabs);
    CHECK_EQUAL(reupload.telemetry.frame_builds, std::int64_t{reupload.iterations});
  }
}

// D-10.3: a step that is off by half is the step again after one refinement, at ridges and with the sums that belong to it.
TEST(ARefinementRestoresAStep) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(12, 3, 10, 2, 0.9, BorderKind::dense);
  newton::DeviceProvider provider(f.system(), {});
  provider.start(f.g_t, f.g_beta, 0.0);
  const newton::Attempt exact = provider.attempt(0.5, 0.25);
  device::ResidentDevice& device = provider.resident();
  // The third and the fourth vector after those of a single solve: the step, and its product with H.
  constexpr int kStep = device::ResidentDevice::kSolveVectors + 3;
  const double half_more[] = {1.5};
  for (const int vector : {kStep, kStep + 1}) {
    const double* const inputs[] = {device.vector(vector)};
    device.queue_sum(half_more, inputs, device.vector(vector));
  }
  const newton::Attempt restored = provider.refine();
  CHECK(restored.outcome == newton::Attempt::Outcome::solved);
  CHECK_NEAR(restored.r_delta, exact.r_delta, 1e-13);
  CHECK_NEAR(restored.delta_q, exact.delta_q, 1e-13);
  CHECK_NEAR(restored.delta_t_squared, exact.delta_t_squared, 1e-13);
  CHECK_NEAR(restored.delta_beta_squared, exact.delta_beta_squared, 1e-13);
  CHECK_NEAR(restored.next.objective, exact.next.objective, 1e-13);
  provider.accept();
  const newton::Point point = provider.recompute_residual();
  CHECK_NEAR(point.objective, exact.next.objective, 1e-13);
  CHECK_NEAR(point.gradient_norm, exact.next.gradient_norm, 1e-12);
  std::vector<double> t(36), beta(10);
  provider.read(t, beta);
  // A step at z = 0 solves (H + ridges) z = g.
  const DenseReferenceStep dense = newton_step_dense_reference(f.system(), 0.5, 0.25);
  for (std::size_t i = 0; i < t.size(); ++i) CHECK_NEAR(t[i], -dense.delta_t[i], 1e-11);
  for (std::size_t j = 0; j < beta.size(); ++j) CHECK_NEAR(beta[j], -dense.delta_beta[j], 1e-11);
}

// D-2.10: what one more iterate costs
TEST(AnIterateIsOneRecordAndOneWait) {
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f);
  InnerOptions o = with_ridges(1.0, ShrinkRule::relevant);
  o.lm_shrink = 1.0;  // one factor, linear convergence
  workspace.device_fit(o);
  o.max_iterations = 4;
  const InnerFit four = workspace.device_fit(o);
  o.max_iterations = 5;
  const InnerFit five = workspace.device_fit(o);
  CHECK_EQUAL(four.iterations, 4);
  CHECK_EQUAL(five.iterations, 5);
  CHECK_EQUAL(five.telemetry.h2d_bytes, std::int64_t{0});
  CHECK_EQUAL(five.telemetry.d2h_bytes - four.telemetry.d2h_bytes, std::int64_t{64});
  CHECK_EQUAL(five.telemetry.syncs - four.telemetry.syncs, std::int64_t{1});
  CHECK_EQUAL(five.telemetry.graph_replays, std::int64_t{5});
  CHECK_EQUAL(five.telemetry.kernel_launches - four.telemetry.kernel_launches, std::int64_t{2});  // of the acceptance
}

// D-3.3
TEST(StagesAreTimedByEventsWhileAWindowIsOpen) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f), other = workspace_of(f);
  const InnerFit closed = other.device_fit(with_ridges(1e-3));
  const StageWindow window;
  CHECK(same_bits(workspace.device_fit(with_ridges(1e-3)), closed));
  const std::vector<StageRecord> records = window.records();
  REQUIRE(records.size() == 6);  // three builds, three attempts
  for (std::size_t i = 0; i < records.size(); ++i) {
    CHECK_EQUAL(records[i].name, std::string(i % 2 == 0 ? "frame_build" : "attempt"));
    CHECK_EQUAL(records[i].n, Index{8});
    CHECK_EQUAL(records[i].d, Index{2});
    CHECK_EQUAL(records[i].k, Index{4});
    CHECK(records[i].flops > 0.0 && records[i].bytes > 0.0);
    CHECK(records[i].device_ms > 0.0 && records[i].cpu_ms > 0.0);
  }
}

TEST(WhatADeviceDoesNotDoIsRefusedByName) {
  const FixtureData f = fixtures::small_fixture(0xABCD0001);
  ResidentWorkspace workspace = workspace_of(f);
  InnerOptions o;
  o.solve.mode = Mode::low_rank;
  CHECK_THROWS_WITH(UnsupportedConfiguration, "neither diagonal nor banded", workspace.device_fit(o));
  o.solve.mode = Mode::inexact_pcg;
  CHECK_THROWS_WITH(UnsupportedConfiguration, "of frames only", workspace.device_fit(o));
  o.solve.mode = Mode::direct;
  o.solve.precision = Precision::float32;
  CHECK_THROWS_WITH(UnsupportedConfiguration, "float64", workspace.device_reupload_fit(o));
  // Below every gate of the seam: a frame takes such a system, a workspace is not bound to it.
  const FixtureData few = fixtures::coupled_fixture(5, 8, 3, 1, 0.9, BorderKind::dense);
  CHECK_THROWS_WITH(DeviceUnavailableError, "below_threshold",
                    ResidentWorkspace::from_system(few.system()).device_fit());
  o.solve = {};
  o.solve.device_memory_limit = 100;
  CHECK_THROWS_WITH(DeviceUnavailableError, "bytes needed", workspace.device_fit(o));
}

// T-D-9: plumbing
TEST(ASweepOnTheDeviceHasTheBitsOfTheSequentialOne) {
  const fake::Leaks leaks;
  std::vector<FixtureData> data;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    data.push_back(fixtures::coupled_fixture(24, 2, 48, seed, 0.9, BorderKind::dense));
  }
  data[5].h_bb[0] = -1e12;
  std::vector<ResidentWorkspace> workspaces;
  for (const FixtureData& f : data) workspaces.push_back(ResidentWorkspace::from_system(f.system()));
  std::vector<ResidentWorkspace*> pointers;
  for (ResidentWorkspace& w : workspaces) pointers.push_back(&w);
  SweepOptions sweep;
  sweep.runner = Runner::device;
  const SweepResult sequential = run_fits_sequential(pointers, {}, sweep);
  CHECK_EQUAL(sequential.throughput.succeeded, Index{11});
  CHECK(!sequential.results[5].succeeded());
  const int lanes = fake::counts().streams;
  for (const Index at_once : {Index{1}, Index{2}, Index{8}}) {
    sweep.max_concurrent = at_once;
    const SweepResult many = run_fits_multiplexed(pointers, {}, sweep);
    CHECK(!first_difference(many.results, sequential.results).has_value());
    CHECK(fake::counts().streams <= std::max<int>(lanes, static_cast<int>(at_once)));
    for (const FitResult& result : many.results) {
      if (result.succeeded()) CHECK_EQUAL(std::string(result.fit->unproven_path), "gpu-resident-full");
    }
  }
  // A fault stays with its fit, whichever that is: one of the eleven that succeed otherwise.
  pointers.erase(pointers.begin() + 5);
  const fake::Failing script("reduce", 3, 1, ARROWSCHUR_DEVICE_FAILED);
  CHECK_EQUAL(run_fits_multiplexed(pointers, {}, sweep).throughput.succeeded, Index{10});
  for (const ResidentWorkspace& w : workspaces) CHECK(!w.device_resident());
}

TEST(AnInterruptEndsAFitOnTheDevice) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::small_fixture(1);
  ResidentWorkspace workspace = workspace_of(f);
  const InterruptScope now([](void*) { return true; }, nullptr);
  bool interrupted = false;
  // The scope is asked at intervals; fits go on until it is.
  for (int i = 0; i < 100000 && !interrupted; ++i) {
    try {
      workspace.device_fit();
    } catch (const Interrupted&) {
      interrupted = true;
    }
  }
  CHECK(interrupted);
}

CHECK_MAIN()
