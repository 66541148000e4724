// Automatic, where a device is there and predicted to be faster: it is used; what it declines or fails in runs on the CPU,
// is counted, and after the second fault is not tried again. One case: the order matters, and faults are counted for the
// process.
//
// And sweeps, where the choice of a fit is its own.
#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"
#include "newton/fake_backend.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;

namespace {

bool same_bits(const InnerFit& a, const InnerFit& b) {
  return a.t == b.t && a.beta == b.beta && a.objective == b.objective;
}

}  // namespace

TEST(AutomaticFallsBackOnceCountsItAndGivesUpAfterTheSecondFault) {
  const fake::Leaks leaks;
  // A CPU that takes seconds for what follows: the reference device is faster.
  MachineProfile slow = policy::built_in_cpu_profile();
  slow.rate_mat = slow.rate_vec = slow.mem_bw = 1e4;
  policy::set_profile(slow);
  const FixtureData f = fixtures::coupled_fixture(24, 2, 16, 1, 0.9, BorderKind::dense);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(f.system());
  const std::vector<BaseGradient> outers(2, BaseGradient{f.g_t, f.g_beta});
  const InnerFit host = workspace.fit({}, Device::off);
  const InnerStep host_step = workspace.inner_iteration(0, 0, Device::off);

  const InnerFit chosen = workspace.fit();
  CHECK_EQUAL(std::string(chosen.backend), "fake");
  CHECK_EQUAL(std::string(chosen.unproven_path), "gpu-resident-full");
  CHECK_EQUAL(chosen.telemetry.cpu_fallbacks, std::int64_t{0});
  CHECK_EQUAL(std::string(workspace.inner_iteration().unproven_path), "gpu-resident-linearization");
  CHECK_EQUAL(std::string(workspace.fit_outer_sequence(outers).fits[1].unproven_path), "gpu-resident-full");
  InnerOptions options;
  options.solve.precision = Precision::float32;  // that no device of this version does
  CHECK_EQUAL(std::string(workspace.fit(options).backend), "cpu");
  workspace.release_factors();

  const auto fell_back = [](const InnerFit& fit, const char* reason) {
    return fit.telemetry.cpu_fallbacks == 1 && fit.telemetry.fallback_reasons.size() == 1 &&
           fit.telemetry.fallback_reasons[0].find(reason) == 0 && std::string(fit.execution_path) == "cpu" &&
           std::string(fit.backend) == "cpu" && std::string(fit.unproven_path).empty();
  };
  {
    const fake::Failing script("allocate", 1, 1, ARROWSCHUR_DEVICE_OUT_OF_MEMORY);  // a decline, not a fault
    const InnerFit fit = workspace.fit();
    CHECK(same_bits(fit, host));
    CHECK(fell_back(fit, "device_unavailable: device memory"));
  }
  {
    const auto before = process_telemetry().cpu_fallbacks;
    const fake::Failing script("measure", 2, 1, ARROWSCHUR_DEVICE_FAILED);  // in the middle of the loop
    const InnerFit fit = workspace.fit();
    CHECK(same_bits(fit, host));
    CHECK(fell_back(fit, "device_fault: "));
    CHECK_EQUAL(process_telemetry().cpu_fallbacks - before, std::int64_t{1});
  }
  CHECK_EQUAL(std::string(workspace.fit().backend), "fake");  // once more
  {
    const fake::Failing script("graph_launch", 1, -1, ARROWSCHUR_DEVICE_FAILED);
    const fake::Failing also("reduce_rhs", 1, -1, ARROWSCHUR_DEVICE_FAILED);
    const InnerStep step = workspace.inner_iteration();
    CHECK(step.delta_t == host_step.delta_t && step.delta_beta == host_step.delta_beta);
    CHECK_EQUAL(std::string(step.backend), "cpu");
  }
  const int before = fake::calls("factor_and_whiten");
  const InnerFit given_up = workspace.fit();
  CHECK(same_bits(given_up, host));
  CHECK(fell_back(given_up, "device_fault: the device has failed twice"));
  CHECK_EQUAL(fake::calls("factor_and_whiten"), before);
  CHECK_EQUAL(std::string(workspace.device_fit().backend), "fake");  // who requires it gets it

  // A device that is predicted to be slower is left alone, however large the call.
  policy::set_profile(policy::built_in_cpu_profile());
  options = {};
  options.solve.expected_solves = Index{1} << 40;
  CHECK_EQUAL(fake::calls("factor_and_whiten"), before + 1);
  CHECK_EQUAL(std::string(workspace.fit(options).backend), "cpu");
  CHECK_EQUAL(workspace.fit(options).telemetry.cpu_fallbacks, std::int64_t{0});
}

// The history of the process may carry a call over the threshold from which a device is asked for; in a sweep it does
// not, or its two arms could differ.
TEST(AFitOfASweepIsJudgedByItsOwnSize) {
  // 15 ms a fit by the model: too small to ask for a device, alone.
  MachineProfile profile = policy::built_in_cpu_profile();
  const FixtureData f = fixtures::coupled_fixture(24, 2, 16, 1, 0.9, BorderKind::dense);
  const double seconds = plan(f.system(), InnerOptions{}.solve, PlanPurpose::factor).predicted_seconds;
  for (double* rate : {&profile.rate_mat, &profile.rate_vec, &profile.mem_bw}) *rate *= seconds / 15e-3;
  policy::set_profile(profile);
  std::vector<ResidentWorkspace> workspaces;
  for (int i = 0; i < 100; ++i) workspaces.push_back(ResidentWorkspace::from_system(f.system()));
  std::vector<ResidentWorkspace*> pointers;
  for (ResidentWorkspace& w : workspaces) pointers.push_back(&w);
  const policy::Size before = policy::probe_counters().process_ns;
  for (const FitResult& result : run_fits_sequential(pointers).results) {
    REQUIRE(result.succeeded());
    CHECK_EQUAL(std::string(result.fit->backend), "cpu");
    CHECK_EQUAL(result.fit->telemetry.cpu_fallbacks, std::int64_t{0});
  }
  CHECK(policy::probe_counters().process_ns - before > 1'000'000'000u);  // they count all the same
}

CHECK_MAIN()
