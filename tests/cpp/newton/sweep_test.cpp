// Many fits: multiplexed results have the bits of sequential ones, whoever else runs, fails or is interrupted.
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/sweep.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"

using namespace arrowschur;
using fixtures::FixtureData;

namespace {

// Workspaces over fixtures that live as long.
struct Fleet {
  std::vector<std::unique_ptr<FixtureData>> data;
  std::vector<ResidentWorkspace> workspaces;
  std::vector<ResidentWorkspace*> pointers;

  void add(FixtureData fixture) {
    data.push_back(std::make_unique<FixtureData>(std::move(fixture)));
    workspaces.push_back(ResidentWorkspace::from_system(data.back()->system()));
    pointers.clear();
    for (ResidentWorkspace& w : workspaces) pointers.push_back(&w);
  }
};

// T-D-2; `broken`: the one in the middle has a border that no ridge of the schedule repairs.
Fleet small_fleet(bool broken = false) {
  Fleet fleet;
  for (const std::uint64_t seed : {0x11, 0x22, 0x33, 0x44, 0x55, 0x66}) {
    FixtureData data = fixtures::small_fixture(seed);
    if (broken && seed == 0x33) data.h_bb[0] = -1e12;
    fleet.add(std::move(data));
  }
  return fleet;
}

SweepOptions workers(Index count, Runner runner = Runner::fit) {
  SweepOptions o;
  o.max_concurrent = count;
  o.runner = runner;
  return o;
}

}  // namespace

TEST(MultiplexedFitsHaveTheBitsOfSequentialOnes) {
  for (const bool broken : {false, true}) {
    for (const Runner runner : {Runner::fit, Runner::cpu_reference}) {
      Fleet fleet = small_fleet(broken);
      const SweepResult expected = run_fits_sequential(fleet.pointers, {}, workers(0, runner));
      CHECK_EQUAL(expected.throughput.fits, Index{6});
      CHECK_EQUAL(expected.throughput.succeeded, Index{broken ? 5 : 6});
      CHECK_EQUAL(expected.results[2].succeeded(), !broken);
      for (const Index count : {1, 2, 8}) {
        const SweepResult result = run_fits_multiplexed(fleet.pointers, {}, workers(count, runner));
        CHECK(!first_difference(result.results, expected.results));
        CHECK_EQUAL(result.throughput.succeeded, expected.throughput.succeeded);
        CHECK_EQUAL(result.results[2].error != nullptr, broken);
      }
    }
  }
}

TEST(AFailedFitKeepsItsError) {
  Fleet fleet = small_fleet(true);
  const SweepResult result = run_fits_multiplexed(fleet.pointers);
  CHECK_THROWS(InnerLoopError, std::rethrow_exception(result.results[2].error));
  CHECK_NEAR(result.results[3].fit->objective, -0.9000650615, 1e-9);
}

// T-D-8, on the fixture whose seeds reach the numbers: cross-talk would be seen.
TEST(TwelveCoupledFitsAreTwelveResults) {
  Fleet fleet;
  const auto variants = fixtures::color_arm_variant_matrix();
  for (const auto& v : variants) {
    fleet.add(fixtures::coupled_fixture(24, 2, 48, v.seed, 0.9, fixtures::BorderKind::dense));
  }
  const SweepResult multiplexed = run_fits_multiplexed(fleet.pointers, {}, workers(4));
  const SweepResult sequential = run_fits_sequential(fleet.pointers);
  CHECK(!first_difference(multiplexed.results, sequential.results));
  REQUIRE(multiplexed.throughput.succeeded == 12);
  CHECK_NEAR(multiplexed.results.front().fit->objective, -6.912568118031, 1e-11);
  CHECK_NEAR(multiplexed.results.back().fit->objective, -5.507429776330, 1e-11);
  for (std::size_t i = 0; i < 12; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      CHECK(multiplexed.results[i].fit->objective != multiplexed.results[j].fit->objective);
    }
  }
}

TEST(TheBatteryHasItsSeeds) {
  const auto variants = fixtures::color_arm_variant_matrix();
  REQUIRE(variants.size() == 12);
  CHECK_EQUAL(variants.front().seed, std::uint64_t{0x1017004000000104});
  CHECK_EQUAL(variants.back().seed, std::uint64_t{0x101700400000040C});
  CHECK(variants[1].shape == (ResidentShape{180, 5120, 8, 2}));
}

TEST(WithoutADeviceTheDeviceRunnerFailsEachFit) {
  Fleet fleet = small_fleet();
  const SweepResult result = run_fits_multiplexed(fleet.pointers, {}, workers(2, Runner::device));
  CHECK_EQUAL(result.throughput.succeeded, Index{0});
  for (const FitResult& r : result.results) CHECK_THROWS(DeviceUnavailableError, std::rethrow_exception(r.error));
}

TEST(AFitOfASweepUsesOneThreadAndLeavesNoFactor) {
  Fleet fleet = small_fleet();
  InnerOptions o;
  o.solve.num_threads = 4;
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (const SweepResult& result :
         {run_fits_multiplexed(fleet.pointers, o), run_fits_sequential(fleet.pointers, o)}) {
      for (const FitResult& r : result.results) CHECK_EQUAL(r.fit->telemetry.factorizations, std::int64_t{1});
    }
  }
}

TEST(ProgressIsToldOnTheCallingThreadAndMayStopTheSweep) {
  Fleet fleet = small_fleet();
  for (const bool multiplexed : {true, false}) {
    const auto run = multiplexed ? run_fits_multiplexed : run_fits_sequential;
    std::vector<Index> told;
    const auto caller = std::this_thread::get_id();
    SweepOptions o = workers(2);
    o.progress = [&](Index finished, Index total) {
      CHECK(std::this_thread::get_id() == caller);
      CHECK_EQUAL(total, Index{6});
      told.push_back(finished);
      return true;
    };
    run(fleet.pointers, {}, o);
    CHECK(told == (std::vector<Index>{1, 2, 3, 4, 5, 6}));
    o.progress = [](Index finished, Index) { return finished < 2; };
    CHECK_THROWS(Interrupted, run(fleet.pointers, {}, o));
    o.progress = [](Index, Index) -> bool { throw ArrowError("the caller's own"); };
    CHECK_THROWS_WITH(ArrowError, "the caller's own", run(fleet.pointers, {}, o));
    // And everything is as before.
    CHECK_EQUAL(run(fleet.pointers, {}, {}).throughput.succeeded, Index{6});
  }
}

TEST(AnInterruptOfTheCallerEndsTheSweep) {
  Fleet fleet;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    fleet.add(fixtures::coupled_fixture(200, 2, 700, seed, 0.9, fixtures::BorderKind::dense));
  }
  InnerOptions options;
  options.solve.mode = Mode::direct;
  options.initial_ridge_t = options.initial_ridge_beta = 1.0;
  options.shrink_rule = ShrinkRule::always;
  const InterruptScope scope([](void*) { return true; }, nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(25));  // no question is asked before
  CHECK_THROWS(Interrupted, run_fits_multiplexed(fleet.pointers, options, workers(2)));
  CHECK_THROWS(Interrupted, run_fits_sequential(fleet.pointers, options));
}

TEST(ArgumentsAreNamed) {
  Fleet fleet = small_fleet();
  CHECK_THROWS_WITH(InvalidArgument, "max_concurrent", run_fits_multiplexed(fleet.pointers, {}, workers(-1)));
  InnerOptions options;
  options.max_iterations = 0;
  CHECK_THROWS_WITH(InvalidArgument, "max_iterations", run_fits_sequential(fleet.pointers, options));
  auto twice = fleet.pointers;
  twice[4] = twice[1];
  CHECK_THROWS_WITH(InvalidArgument, "workspaces[4]", run_fits_multiplexed(twice));
  twice[4] = nullptr;
  CHECK_THROWS_WITH(InvalidArgument, "workspaces[4]", run_fits_sequential(twice));
}

TEST(NoFitsAreNoWork) {
  const SweepResult result = run_fits_multiplexed({});
  CHECK(result.results.empty());
  CHECK_EQUAL(result.throughput.fits, Index{0});
  CHECK_EQUAL(result.throughput.fits_per_second(), 0.0);
  CHECK_EQUAL((SweepThroughput{3, 3, 0.0}).fits_per_second(), 3e9);
}

TEST(ADifferenceInOneBitIsFound) {
  Fleet fleet = small_fleet(true);
  const SweepResult a = run_fits_sequential(fleet.pointers);
  SweepResult b = run_fits_sequential(fleet.pointers);
  CHECK(!first_difference(a.results, b.results));
  b.results[4].fit->beta[1] = std::nextafter(b.results[4].fit->beta[1], 1.0);
  CHECK_EQUAL(first_difference(a.results, b.results).value(), std::size_t{4});
  b.results[3].fit->objective = std::nextafter(b.results[3].fit->objective, 1.0);
  CHECK_EQUAL(first_difference(a.results, b.results).value(), std::size_t{3});
  b.results[2].fit = InnerFit{};  // the other side failed
  CHECK_EQUAL(first_difference(a.results, b.results).value(), std::size_t{2});
  b.results.pop_back();
  CHECK_THROWS(InvalidArgument, first_difference(a.results, b.results));
}

CHECK_MAIN()
