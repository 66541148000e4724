#include "arrowschur/plan.hpp"

#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/newton.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"
#include "plan/memory.hpp"

using namespace arrowschur;

namespace {

constexpr ProblemShape kQwen{.n = 2000, .k = 2048, .total_dim = 4000, .max_dim = 2};

SolveOptions with_mode(Mode mode) {
  SolveOptions options;
  options.mode = mode;
  return options;
}

}  // namespace

TEST(TheDirectRouteIsTaken) {
  const SolvePlan p = plan(kQwen);

  CHECK_EQUAL(std::string(to_string(p.route)), "direct");
  CHECK_EQUAL(std::string(p.backend), "cpu");
  CHECK(!p.thin_border && !p.low_rank);
  CHECK(!p.reasons.empty());
  REQUIRE(p.candidates.size() == 1);
  CHECK_NEAR(p.candidates[0].flops, 4000.0 * 2048 * 2048 + 2048.0 * 2048 * 2048 / 3 + 2000 * 8.0 / 3, 1e-14);
  CHECK(p.candidates[0].seconds > 0.0);
  CHECK_EQUAL(p.candidates[0].peak_bytes, p.peak_bytes);
}

TEST(SqrtBaReportsItsOwnName) {
  CHECK_EQUAL(std::string(to_string(plan(kQwen, with_mode(Mode::sqrt_ba)).route)), "sqrt_ba");
  CHECK_EQUAL(std::string(to_string(plan(kQwen, with_mode(Mode::direct)).route)), "direct");
}

TEST(ShapesAreRecognised) {
  CHECK(plan({.n = 100, .k = 512, .total_dim = 600, .max_dim = 6}).thin_border);
  CHECK(!plan({.n = 100, .k = 513, .total_dim = 600, .max_dim = 6}).thin_border);
  CHECK(plan({.n = 180, .k = 5120, .total_dim = 360, .max_dim = 2}).low_rank);
  CHECK(plan(ProblemShape{}).reasons.size() >= 2);  // the empty system has a plan too
}

TEST(RaggedRowsAreCountedExactly) {
  const std::vector<double> zeros(64, 0.0);
  SystemParts p;
  p.n = 2;
  p.row_dims = {1, 3};
  p.h_tt = p.g_t = zeros.data();

  CHECK_NEAR(plan(ArrowSystem::make(std::move(p))).candidates[0].flops, 28.0 / 3.0, 1e-15);
}

TEST(WhatThisVersionLacksIsUnsupported) {
  SolveOptions mixed;
  mixed.precision = Precision::mixed;
  SolveOptions device;
  device.device = Device::required;

  CHECK_THROWS_WITH(UnsupportedConfiguration, "mode='low_rank'", plan(kQwen, with_mode(Mode::low_rank)));
  CHECK_THROWS_WITH(UnsupportedConfiguration, "mode='inexact_pcg'", plan(kQwen, with_mode(Mode::inexact_pcg)));
  CHECK_THROWS_WITH(UnsupportedConfiguration, "precision='mixed'", plan(kQwen, mixed));
  CHECK_THROWS_WITH(DeviceUnavailableError, "no CUDA backend", plan(kQwen, device));
}

TEST(OptionsAndShapesAreChecked) {
  SolveOptions bad;
  bad.num_threads = 0;

  CHECK_THROWS_WITH(InvalidArgument, "num_threads", plan(kQwen, bad));
  CHECK_THROWS_WITH(InvalidArgument, "k: got -1", plan(ProblemShape{.k = -1}));
  CHECK_THROWS(MemoryBudgetExceeded, plan(ProblemShape{.k = Index{1} << 40}));
}

TEST(TheMemoryLimitIsTheFormula) {
  SolveOptions options;
  const Index needed = direct_peak_bytes(kQwen, options);

  options.memory_limit = needed;
  CHECK_EQUAL(plan(kQwen, options).peak_bytes, needed);
  options.memory_limit = needed - 1;
  try {
    (void)plan(kQwen, options);
    CHECK(!"a limit that is too small passed");
  } catch (const MemoryBudgetExceeded& error) {
    CHECK_EQUAL(error.bytes_needed, needed);
    CHECK_EQUAL(error.budget, needed - 1);
    CHECK(std::string(error.what()).find("the direct route (T = 4000, k = 2048)") != std::string::npos);
  }
}

// What a solve really takes stays below what the plan says, and is not far from it where memory matters.
TEST(PeakBytesBoundWhatASolveTakes) {
  const struct {
    Index n, d, k;
  } shapes[] = {{1, 1, 1},     {200, 2, 64}, {6000, 1, 64}, {600, 1, 512},
                {900, 3, 700}, {3, 120, 10}, {50, 40, 30},  {0, 1, 300}};
  for (const auto& shape : shapes) {
    for (const Precision precision : {Precision::float64, Precision::float32}) {
      const auto data = fixtures::coupled_fixture(shape.n, shape.d, shape.k, 1, 0.5, fixtures::BorderKind::diagonal);
      SolveOptions options;
      options.precision = precision;
      clear_workspaces();  // a cached block may be larger than what is asked for
      const SolveDiagnostics diagnostics = newton_step(data.system(), {}, options).diagnostics;

      CHECK(diagnostics.peak_bytes <= diagnostics.plan.peak_bytes);
      CHECK(diagnostics.plan.peak_bytes <= 2 * diagnostics.peak_bytes + 2'000'000);
      if (diagnostics.peak_bytes > diagnostics.plan.peak_bytes) {
        std::cout << "  n=" << shape.n << " d=" << shape.d << " k=" << shape.k << " " << to_string(precision) << ": "
                  << diagnostics.peak_bytes << " > " << diagnostics.plan.peak_bytes << "\n";
      }
    }
  }
}

TEST(PeakBytesCoverTheSchurComplementAndSaturate) {
  SolveOptions single;
  single.precision = Precision::float32;
  const Index schur = 2048 * 2064 * 8;  // rows padded to 8, columns to 24

  CHECK(direct_peak_bytes(kQwen, {}) > schur);
  CHECK(direct_peak_bytes(kQwen, {}) < 4 * schur);
  CHECK(direct_peak_bytes(kQwen, single) < direct_peak_bytes(kQwen, {}));
  CHECK_EQUAL(direct_peak_bytes({.k = Index{1} << 40}, {}), std::numeric_limits<Index>::max());
}

CHECK_MAIN()
