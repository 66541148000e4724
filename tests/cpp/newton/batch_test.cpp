#include "arrowschur/batch.hpp"

#include <cmath>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "newton/support.hpp"

using namespace arrowschur;
using support::OwnedSystem;

TEST(EverySystemHasItsOwnStep) {
  std::vector<OwnedSystem> owners;
  for (int i = 0; i < 24; ++i) {
    owners.push_back(support::definite(std::vector<Index>(static_cast<std::size_t>(1 + 7 * i % 40), 1 + i % 4), i % 9,
                                       static_cast<std::uint64_t>(i)));
  }
  std::vector<ArrowSystem> systems;
  for (const OwnedSystem& owner : owners) systems.push_back(ArrowSystem::make(owner.parts()));
  for (const int threads : {1, 3}) {
    SolveOptions options;
    options.num_threads = threads;
    const std::vector<BatchResult> results = solve_batch(systems, 0.25, 0.5, options);
    REQUIRE(results.size() == systems.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      const ArrowFactor factor = factorize(systems[i], {0.25, 0.5});
      const NewtonStep step = factor.step();
      REQUIRE(results[i].step.has_value());
      CHECK(results[i].step->delta_t == step.delta_t);
      CHECK(results[i].step->delta_beta == step.delta_beta);
      CHECK_EQUAL(results[i].log_det_hessian, factor.log_det());
      CHECK(results[i].error == nullptr);
    }
  }
}

TEST(AFailureStaysWithItsSystem) {
  const OwnedSystem good = support::hand(), bad = support::collapse(-4.0);
  const std::vector<ArrowSystem> systems{ArrowSystem::make(good.parts()), ArrowSystem::make(bad.parts()),
                                         ArrowSystem::make(good.parts())};
  const std::vector<BatchResult> results = solve_batch(systems);
  CHECK(results[0].step && results[2].step && !results[1].step);
  CHECK(std::isnan(results[1].log_det_hessian));
  REQUIRE(results[1].error != nullptr);
  CHECK_THROWS(SchurFactorError, std::rethrow_exception(results[1].error));
}

TEST(WhatIsWrongWithTheCallIsThrown) {
  const OwnedSystem owner = support::hand();
  const std::vector<ArrowSystem> systems{ArrowSystem::make(owner.parts())};
  CHECK(solve_batch({}).empty());
  CHECK_THROWS_WITH(InvalidArgument, "ridge_t: got -1", solve_batch(systems, -1.0));
  CHECK_THROWS_WITH(InvalidArgument, "ridge_beta", solve_batch({}, 0.0, std::nan("")));
  SolveOptions options;
  options.device = Device::required;
  CHECK_THROWS(DeviceUnavailableError, solve_batch(systems, 0.0, 0.0, options));
  options = {};
  options.schur_apply = [](const double*, double*) {};
  CHECK_THROWS_WITH(UnsupportedConfiguration, "schur_apply", solve_batch(systems, 0.0, 0.0, options));
}

CHECK_MAIN()
