// Batches on the fake device: T-D-24, parity with the CPU, what goes to the CPU and what is an error, and what is sent.
#include "arrowschur/batch.hpp"

#include <cmath>
#include <string>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"
#include "newton/fake_backend.hpp"
#include "newton/support.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;
using support::OwnedSystem;

namespace {

SolveOptions on(Device device) {
  SolveOptions options;
  options.device = device;
  return options;
}
const SolveOptions kRequired = on(Device::required), kOff = on(Device::off);

// The system of T-D-24, with a border diagonal of its own.
OwnedSystem td24(Index n, Index d, Index k, double s, double border) {
  OwnedSystem system(std::vector<Index>(static_cast<std::size_t>(n), d), k, 0);
  std::fill(system.h_bb.begin(), system.h_bb.end(), 0.0);
  for (Index i = 0; i < n; ++i) {
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c < d; ++c) system.h_tt[static_cast<std::size_t>((i * d + r) * d + c)] = r == c ? 2.0 + s : 0.0;
      for (Index c = 0; c < k; ++c)
        system.h_tb[static_cast<std::size_t>((i * d + r) * k + c)] = 0.05 * static_cast<double>(r + c + i + 1);
      system.g_t[static_cast<std::size_t>(i * d + r)] = 0.1 * static_cast<double>(i + 1) + s;
    }
  }
  for (Index c = 0; c < k; ++c) {
    system.h_bb[static_cast<std::size_t>(c * k + c)] = border;
    system.g_beta[static_cast<std::size_t>(c)] = 0.2 * static_cast<double>(c + 1);
  }
  return system;
}

std::vector<ArrowSystem> systems_of(const std::vector<OwnedSystem>& owners) {
  std::vector<ArrowSystem> systems;
  for (const OwnedSystem& owner : owners) systems.push_back(ArrowSystem::make(owner.parts()));
  return systems;
}

bool on_the_device(const BatchResult& r) {
  return r.step && std::string(r.backend) == "fake" && std::string(r.unproven_path) == "gpu-reupload" &&
         std::string(r.step->diagnostics.execution_path) == "cpu" &&
         std::string(r.step->diagnostics.plan.backend) == "fake";
}
bool on_the_cpu(const BatchResult& r) {
  return r.step && std::string(r.backend) == "cpu" && std::string(r.unproven_path).empty();
}

double distance(const NewtonStep& a, const NewtonStep& b) {
  return std::max(fake::metric_a(a.delta_t, b.delta_t), fake::metric_a(a.delta_beta, b.delta_beta));
}

// A CPU that takes seconds for what follows: the reference device is faster.
class SlowCpu {
 public:
  SlowCpu() {
    MachineProfile slow = policy::built_in_cpu_profile();
    slow.rate_mat = slow.rate_vec = slow.mem_bw = 1e4;
    policy::set_profile(slow);
  }
  ~SlowCpu() { policy::set_profile(policy::built_in_cpu_profile()); }
};

}  // namespace

TEST(TheBatchOfTheFixture) {
  const fake::Leaks leaks;
  const std::vector<OwnedSystem> one{td24(5, 2, 3, 0.0, 2.0)};
  const BatchResult only = solve_batch(systems_of(one), 1e-6, 1e-6, kRequired)[0];
  REQUIRE(on_the_device(only));
  CHECK_NEAR(only.step->delta_beta, (std::vector<double>{0.0476419006, -0.0171112619, -0.0818644244}), 1e-8);
  CHECK_NEAR(only.log_det_hessian, 8.4420285342, 1e-10);

  const std::vector<OwnedSystem> three{td24(4, 2, 2, 0.0, 2.0), td24(6, 2, 3, 0.5, 2.5), td24(3, 1, 2, 1.0, 3.0)};
  const std::vector<ArrowSystem> systems = systems_of(three);
  const std::vector<BatchResult> results = solve_batch(systems, 1e-6, 1e-6, kRequired);
  for (std::size_t i = 0; i < 3; ++i) {
    const ArrowFactor factor = factorize(systems[i], {1e-6, 1e-6});
    REQUIRE(on_the_device(results[i]));
    CHECK(distance(*results[i].step, factor.step()) < 1e-12);
    CHECK_NEAR(results[i].log_det_hessian, factor.log_det(), 1e-12);
    CHECK(results[i].step->diagnostics.backward_error < 64 * 0x1p-52);
  }
  const std::vector<OwnedSystem> pair{td24(4, 2, 2, 0.0, 2.0), td24(4, 2, 2, 0.0, -2.0)};
  const std::vector<BatchResult> halves = solve_batch(systems_of(pair), 0.0, 0.0, kRequired);
  CHECK(on_the_device(halves[0]) && !halves[1].step);
  REQUIRE(halves[1].error != nullptr);
  CHECK_THROWS(SchurFactorError, std::rethrow_exception(halves[1].error));
  CHECK(solve_batch({}, 0.0, 0.0, kRequired).empty());
}

// Depths, borders and lengths of every kind, float32 storage, structured borders; certificates of device and host agree.
TEST(EverySystemThatADeviceTakes) {
  const fake::Leaks leaks;
  std::vector<FixtureData> data;
  std::vector<ArrowSystem> systems;
  const Index shapes[][3] = {{1, 1, 1},  {3, 2, 4},   {40, 3, 20},  {7, 2, 32}, {12, 16, 6},
                             {5, 32, 3}, {100, 1, 9}, {2100, 2, 5}, {9, 7, 17}, {6, 5, 31}};
  std::uint64_t seed = 1;
  for (const auto& [n, d, k] : shapes) {
    for (const BorderKind border : {BorderKind::dense, BorderKind::tridiagonal, BorderKind::diagonal}) {
      data.push_back(fixtures::coupled_fixture(n, d, k, seed++, 0.9, border));
    }
  }
  for (const FixtureData& f : data) systems.push_back(f.system());
  const FixtureData& f = data[7];
  const auto tt = support::to_float(f.h_tt), tb = support::to_float(f.h_tb), bb = support::to_float(f.h_bb),
             gt = support::to_float(f.g_t), gb = support::to_float(f.g_beta);
  SystemParts parts;
  parts.n = f.n, parts.k = f.k, parts.d = f.d, parts.dtype = DType::float32;
  parts.h_tt = tt.data(), parts.h_tb = tb.data(), parts.g_t = gt.data(), parts.g_beta = gb.data();
  parts.border = {f.k, DType::float32, {BandedBorder{bb.data(), 1}}, nullptr};
  systems.push_back(ArrowSystem::make(parts));
  const std::vector<BatchResult> there = solve_batch(systems, 0.25, 0.5, kRequired),
                                 here = solve_batch(systems, 0.25, 0.5, kOff);
  for (std::size_t i = 0; i < systems.size(); ++i) {
    REQUIRE(on_the_device(there[i]) && on_the_cpu(here[i]));
    CHECK(distance(*there[i].step, *here[i].step) < 1e-11);
    CHECK_NEAR(there[i].log_det_hessian, here[i].log_det_hessian, 1e-11);
    CHECK(there[i].step->diagnostics.backward_error < 64 * 0x1p-52);
  }
  const std::vector<BatchResult> again = solve_batch(systems, 0.25, 0.5, kRequired);
  for (std::size_t i = 0; i < systems.size(); ++i) CHECK(again[i].step->delta_t == there[i].step->delta_t);
}

TEST(WhatIsRequiredAndNotTakenIsAnErrorOfItsSystem) {
  const fake::Leaks leaks;
  std::vector<OwnedSystem> owners{support::hand(), support::definite({2, 3}, 3, 1), support::definite({2, 2}, 33, 1),
                                  support::definite({33}, 2, 1)};
  owners.push_back(support::hand());
  owners.back().h_tt[4] = -7.0;
  const std::vector<BatchResult> results = solve_batch(systems_of(owners), 0.0, 0.0, kRequired);
  CHECK(on_the_device(results[0]));
  const auto says = [&](std::size_t i, const char* text) {
    REQUIRE(results[i].error != nullptr);
    CHECK_THROWS_WITH(UnsupportedConfiguration, text, std::rethrow_exception(results[i].error));
  };
  says(1, "rows of different sizes");
  says(2, "a border of more than 32 unknowns");
  says(3, "row blocks of more than 32 unknowns");
  try {
    std::rethrow_exception(results[4].error);
  } catch (const RowFactorError& error) {
    CHECK_EQUAL(error.facts.row, Index{1});
    const std::vector<ArrowSystem> last{ArrowSystem::make(owners.back().parts())};
    CHECK(on_the_device(solve_batch(last, error.facts.suggested_ridge, 0.0, kRequired)[0]));
  }
  SolveOptions options = kRequired;
  options.mode = Mode::inexact_pcg;
  CHECK_THROWS_WITH(UnsupportedConfiguration, "direct", solve_batch(systems_of(owners), 0.0, 0.0, options));
  const fake::Failing script("batch_solve", 1, 1, ARROWSCHUR_DEVICE_FAILED);
  CHECK_THROWS_WITH(DeviceError, "batch_solve", solve_batch(systems_of(owners), 0.0, 0.0, kRequired));
  options = kRequired;
  options.device_memory_limit = 1000;
  CHECK_THROWS_WITH(DeviceUnavailableError, "bytes needed", solve_batch(systems_of(owners), 0.0, 0.0, options));
}

// The gate, and what automatic leaves to the CPU. One case: faults are counted for the process.
TEST(AutomaticTakesADeviceBehindTheGate) {
  const fake::Leaks leaks;
  const SlowCpu slow;
  // 8 systems of 1600 rows: sum n (2 d k + d^2) = 8 * 1600 * 80; 7 of them are too few.
  std::vector<FixtureData> data;
  std::vector<ArrowSystem> systems;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    data.push_back(fixtures::coupled_fixture(1600, 2, 19, seed, 0.9, BorderKind::dense));
  }
  for (const FixtureData& f : data) systems.push_back(f.system());
  const int before = fake::calls("batch_solve");
  for (const BatchResult& r : solve_batch(std::span(systems).first(7))) CHECK(on_the_cpu(r));
  CHECK_EQUAL(fake::calls("batch_solve"), before);
  const std::vector<BatchResult> here = solve_batch(systems, 0.0, 0.0, kOff);
  {
    const std::vector<BatchResult> there = solve_batch(systems);
    for (std::size_t i = 0; i < 8; ++i) {
      REQUIRE(on_the_device(there[i]));
      CHECK(distance(*there[i].step, *here[i].step) < 1e-10);
    }
  }
  // Eight that are too small together.
  std::vector<OwnedSystem> small(8, support::hand());
  for (const BatchResult& r : solve_batch(systems_of(small))) CHECK(on_the_cpu(r));

  // A row that is lifted, a system that no device takes, a border that fails: each on its own.
  FixtureData lifted = data[2];
  lifted.h_tt[4] = -5.0;
  const OwnedSystem ragged = support::definite({2, 3}, 3, 1), failing = td24(4, 2, 2, 0.0, -2.0);
  std::vector<ArrowSystem> mixed = systems;
  mixed.push_back(lifted.system());
  mixed.push_back(ArrowSystem::make(ragged.parts()));
  mixed.push_back(ArrowSystem::make(failing.parts()));
  const std::vector<BatchResult> results = solve_batch(mixed);
  for (std::size_t i = 0; i < 8; ++i) CHECK(on_the_device(results[i]));
  CHECK(on_the_cpu(results[8]) && results[8].step->diagnostics.rows_lifted == 1);
  CHECK(on_the_cpu(results[9]));
  REQUIRE(results[10].error != nullptr);
  CHECK_THROWS(SchurFactorError, std::rethrow_exception(results[10].error));

  // Declined for want of memory, then failed: the CPU, counted.
  const auto fallbacks = [] { return process_telemetry().cpu_fallbacks; };
  auto counted = fallbacks();
  {
    const fake::Failing script("allocate", 1, 1, ARROWSCHUR_DEVICE_OUT_OF_MEMORY);
    for (const BatchResult& r : solve_batch(systems)) CHECK(on_the_cpu(r));
    CHECK_EQUAL(fallbacks() - counted, std::int64_t{1});
  }
  {
    const fake::Failing script("batch_solve", 1, 1, ARROWSCHUR_DEVICE_FAILED);
    const std::vector<BatchResult> again = solve_batch(systems);
    for (std::size_t i = 0; i < 8; ++i) CHECK(on_the_cpu(again[i]) && again[i].step->delta_t == here[i].step->delta_t);
    CHECK_EQUAL(fallbacks() - counted, std::int64_t{2});
  }
}

// One array goes up, steps and records come back.
TEST(ABatchIsOneUpload) {
  const fake::Leaks leaks;
  std::vector<OwnedSystem> owners(20, support::hand());
  const std::vector<ArrowSystem> systems = systems_of(owners);
  const Telemetry before = process_telemetry();
  const int uploads = fake::calls("copy_to_device"), downloads = fake::calls("copy_to_host");
  solve_batch(systems, 0.0, 0.0, kRequired);
  CHECK_EQUAL(fake::calls("copy_to_device") - uploads, 1);
  CHECK_EQUAL(fake::calls("copy_to_host") - downloads, 2);
  const Telemetry after = process_telemetry();
  CHECK_EQUAL(after.d2h_bytes - before.d2h_bytes, std::int64_t{20 * (64 + 8 * 7)});
}

CHECK_MAIN()
