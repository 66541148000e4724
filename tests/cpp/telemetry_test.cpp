// Counters of work, and the ring of stage records.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/inner_loop.hpp"
#include "check.hpp"
#include "telemetry.hpp"

using namespace arrowschur;

namespace {

bool recorded(const std::vector<StageRecord>& records, const std::string& name) {
  return std::any_of(records.begin(), records.end(), [&](const StageRecord& r) { return r.name == name; });
}

void record(const char* name) { const telemetry::StageClock clock({name, 1, 2, 3, 4.0, 5.0}); }

}  // namespace

TEST(CountersAdd) {
  Telemetry a, b;
  a.factorizations = 2;
  a.cpu_fallbacks = 1;
  a.fallback_reasons = {"first", "second"};
  b.factorizations = 3;
  b.h2d_bytes = 7;
  b.cpu_fallbacks = 2;
  b.fallback_reasons = {"second", "third"};
  b.device_ordinal = 1;
  a += b;
  CHECK_EQUAL(a.factorizations, std::int64_t{5});
  CHECK_EQUAL(a.h2d_bytes, std::int64_t{7});
  CHECK_EQUAL(a.cpu_fallbacks, std::int64_t{3});
  CHECK(a.fallback_reasons == (std::vector<std::string>{"first", "second", "third"}));
  CHECK(a.device_ordinal == 1);
  b.device_ordinal.reset();
  a += b;
  CHECK(a.device_ordinal == 1);
}

TEST(AFitIsCountedForItselfAndForTheProcess) {
  const auto data = fixtures::small_fixture(1);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(data.system());
  const auto before = process_telemetry().factorizations;
  InnerOptions options;
  options.initial_ridge_t = options.initial_ridge_beta = 1e-3;
  options.shrink_rule = ShrinkRule::always;
  CHECK_EQUAL(workspace.fit(options).telemetry.factorizations, std::int64_t{3});
  CHECK_EQUAL(process_telemetry().factorizations - before, std::int64_t{3});
  const InnerFit again = workspace.fit(options);
  CHECK_EQUAL(again.telemetry.factorizations, std::int64_t{0});
  CHECK_EQUAL(again.telemetry.frame_builds, std::int64_t{0});
  CHECK_EQUAL(again.telemetry.h2d_bytes + again.telemetry.d2h_bytes, std::int64_t{0});
  workspace.cpu_reference_fit();
  CHECK_EQUAL(process_telemetry().factorizations - before, std::int64_t{4});
}

TEST(ThreadsAddToOneProcess) {
  const auto before = process_telemetry().factorizations;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      Telemetry fit, one;
      one.factorizations = 1;
      for (int m = 0; m < 100; ++m) telemetry::count(fit, one);
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK_EQUAL(process_telemetry().factorizations - before, std::int64_t{400});
}

TEST(StagesAreRecordedWhileAWindowIsOpen) {
  const auto data = fixtures::coupled_fixture(12, 3, 40, 1, 0.5, fixtures::BorderKind::dense);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(data.system());
  InnerOptions options;
  options.solve.mode = Mode::direct;
  record("closed");
  const StageWindow window;
  CHECK(window.records().empty());
  workspace.fit(options);
  const auto records = window.records();
  for (const char* name : {"factor_rows", "reduce", "factor_border", "solve", "apply_h"}) {
    CHECK(recorded(records, name));
  }
  CHECK(!recorded(records, "closed"));
  CHECK_EQUAL(records[1].name, std::string("reduce"));
  CHECK_EQUAL(records[1].n, Index{12});
  CHECK_EQUAL(records[1].d, Index{3});
  CHECK_EQUAL(records[1].k, Index{40});
  CHECK_EQUAL(records[1].flops, 36.0 * 40.0 * 41.0);
  CHECK(records[1].cpu_ms >= 0.0);
  CHECK_EQUAL(records[1].device_ms, 0.0);
}

TEST(WindowsNestAndTheFirstEmptiesTheRing) {
  {
    const StageWindow outer;
    record("one");
    {
      const StageWindow inner;
      record("two");
      CHECK_EQUAL(inner.records().size(), std::size_t{2});
    }
    record("three");
    CHECK_EQUAL(outer.records().size(), std::size_t{3});
    CHECK_EQUAL(outer.records().back().name, std::string("three"));
  }
  record("nobody looks");
  CHECK(StageWindow().records().empty());
}

TEST(TheRingKeepsTheLast1024) {
  const StageWindow window;
  record("lost");
  record("oldest");
  for (int i = 0; i < 1022; ++i) record("between");
  record("newest");
  const auto records = window.records();
  REQUIRE(records.size() == 1024);
  CHECK_EQUAL(records.front().name, std::string("oldest"));
  CHECK_EQUAL(records.back().name, std::string("newest"));
}

TEST(ManyThreadsRecord) {
  const StageWindow window;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int m = 0; m < 50; ++m) record("thread");
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK_EQUAL(window.records().size(), std::size_t{200});
}

CHECK_MAIN()
