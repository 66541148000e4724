#include "arrowschur/profile.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include "arrowschur/error.hpp"
#include "check.hpp"

using namespace arrowschur;
using namespace arrowschur::policy;

namespace {

// A cache of this test's own. Set before the first plan of the process.
const std::filesystem::path& cache() {
  static const std::filesystem::path folder = [] {
    auto path = std::filesystem::temp_directory_path() / ("arrowschur_profile_test_" + std::to_string(std::rand()) +
                                                          std::to_string(reinterpret_cast<std::uintptr_t>(&cache)));
    std::filesystem::remove_all(path);
    setenv("XDG_CACHE_HOME", path.c_str(), 1);
    return path;
  }();
  return folder;
}

CalibrationRecord sample() {
  CalibrationRecord record;
  record.fingerprint = machine_fingerprint();
  record.profile = built_in_cpu_profile();
  record.profile.name = "sample";
  record.policy.potrf_min_p = 128;
  record.measurements = {{"gemm", {64, 64, 64}, 1.0, 2.0}};
  return record;
}

}  // namespace

TEST(ProfilesSurviveJson) {
  for (const MachineProfile& profile : {reference_profile(), built_in_cpu_profile()}) {
    CHECK(MachineProfile::from_json(profile.to_json()) == profile);
  }
  CHECK_THROWS_WITH(InvalidArgument, "not JSON", MachineProfile::from_json("?"));
  CHECK_THROWS_WITH(InvalidArgument, "name", MachineProfile::from_json("{}"));
  CHECK_THROWS_WITH(InvalidArgument, "mem_bw", MachineProfile::from_json(R"({"name": "x"})"));
  MachineProfile broken = reference_profile();
  broken.t_sync = -1.0;
  CHECK_THROWS_WITH(InvalidArgument, "t_sync", set_profile(broken));
  broken = reference_profile();
  broken.mem_bw = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(InvalidArgument, "mem_bw", set_profile(broken));
}

TEST(RecordsOfOthersAreIgnored) {
  const CalibrationRecord record = sample();
  const std::string text = to_json(record);

  const auto again = read_record(text, record.fingerprint);
  REQUIRE(again.has_value());
  CHECK(again->policy == record.policy && again->profile == record.profile);
  REQUIRE(again->measurements.size() == 1);
  CHECK(again->measurements[0].operation == "gemm" && again->measurements[0].sizes[2] == 64);

  Fingerprint other = record.fingerprint;
  other.fields.back().second += "x";
  CHECK(!read_record(text, other));
  CHECK(other.digest() != record.fingerprint.digest());
  for (std::size_t cut = 0; cut + 1 < text.size(); cut += 101)
    CHECK(!read_record(text.substr(0, cut), record.fingerprint));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return changed;
  };
  CHECK(!read_record(with("\"schema\": 1", "\"schema\": 99"), record.fingerprint));
  CHECK(!read_record(with("\"mem_bw\"", "\"bandwidth\""), record.fingerprint));
  CHECK(!read_record(with("[64, 64, 64]", "[-1]"), record.fingerprint));
  CHECK(!read_record(with("\"gemm\"", "7"), record.fingerprint));
  CHECK(!read_record(with("\"cpu\": \"", "\"cpu\": \"another "), record.fingerprint));
  CHECK(!read_record(with("\"measurements\"", "\"timings\""), record.fingerprint));
  CHECK(!read_record("[]", record.fingerprint));
}

TEST(TheRecordLiesInTheUsersCache) {
  (void)cache();
  CHECK(std::filesystem::path(record_path(machine_fingerprint())).parent_path() ==
        cache() / "arrowschur_native" / "policy" / "v1");
}

TEST(TheProfileIsFixedByTheFirstPlanAndChangedByCalibration) {
  const std::filesystem::path path =
      cache() / "arrowschur_native" / "policy" / "v1" / (machine_fingerprint().digest() + ".json");
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << to_json(sample());

  CHECK_EQUAL(plan({.n = 1, .k = 1, .total_dim = 1, .max_dim = 1}).profile_name(), "sample");
  CHECK_EQUAL(in_force().potrf_min_p, 128u);
  std::filesystem::remove(path);
  CHECK_EQUAL(profile_in_force(Calibrate::off)->name, "sample");

  const MachineProfile measured = calibrate();
  CHECK_EQUAL(profile_in_force()->name, measured.name);
  CHECK(measured.mem_bw > 1e8 && measured.rate_vec > 1e7 && measured.rate_mat > 1e8);
  CHECK(measured.half_reduce >= 0.0 && measured.half_factor >= 0.0);
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto stored = read_record(text, machine_fingerprint());
  REQUIRE(stored.has_value());
  CHECK(stored->profile == measured);
  set_profile(reference_profile());
  CHECK_EQUAL(profile_in_force()->name, "reference");
  std::filesystem::remove_all(cache());
}

TEST(ACrossoverHoldsAtEveryLargerSize) {
  const Timing timings[] = {{64, 1.0, 0.5}, {128, 1.0, 2.0}, {256, 4.0, 1.0}};
  CHECK_EQUAL(crossover(timings, 1000), 256u);
  CHECK_EQUAL(crossover(std::span(timings).first(2), 1000), 1000u);
  CHECK_EQUAL(crossover(std::span(timings).first(2), 100), 256u);
  CHECK_EQUAL(crossover({}, 7), 7u);

  const std::vector<Measurement> gemm = {
      {"gemm", {256, 256, 256}, 80.0, 10.0}, {"gemm", {64, 64, 64}, 1.0, 4.0}, {"gemm", {128, 128, 128}, 10.0, 9.0}};
  CHECK_EQUAL(calibrated({}, gemm).gemm_min_flops, 4'194'304u);
  const std::vector<Measurement> gram = {
      {"xtwx", {2048, 32}, 1.0, 2.0}, {"xtwx", {4096, 64}, 1.0, 2.0}, {"xtwx", {8192, 96}, 1.0, 2.0}};
  CHECK_EQUAL(calibrated({}, gram).xtwx_flops_min, 301'989'888u);
  CHECK(calibrated({}, {}) == DispatchPolicy{});
  const std::vector<Measurement> narrow = {{"potrf", {1}, 1.0, 0.1}};
  CHECK_EQUAL(calibrated({}, narrow).potrf_min_p, kMinCalibratablePotrfP);
  const std::vector<Measurement> odd = {{"potrf", {1, 2}, 1.0, 0.1}};
  CHECK_THROWS_WITH(InvalidArgument, "sizes", calibrated({}, odd));
}

TEST(RouteTimesAreThoseOfTheSpecification) {
  const MachineProfile reference = reference_profile(), cpu = built_in_cpu_profile();

  const auto qwen = route_table({2000, 2, 2048, BorderForm::dense, 24.0, 30.0}, reference);
  REQUIRE(qwen.size() == 3);
  CHECK_NEAR(qwen[0].up_seconds, 1.804e-3, 0.01);
  CHECK_NEAR(qwen[0].build_seconds, 0.635e-3, 0.01);
  CHECK_NEAR(qwen[0].solve_seconds, 0.106e-3, 0.01);
  CHECK_NEAR(qwen[0].seconds, 4.98e-3, 0.01);
  CHECK_NEAR(qwen[2].seconds, 25.6e-3, 0.01);
  CHECK_EQUAL(choose(qwen), 0);
  CHECK(qwen[1].obstacle == Obstacle::border_not_cheap);

  const auto arm = route_table({180, 2, 5120, BorderForm::tridiagonal, 24.0, 30.0}, reference);
  CHECK_NEAR(arm[1].seconds, 1.65e-3, 0.01);
  CHECK_NEAR(arm[0].seconds, 6.68e-3, 0.01);
  CHECK_EQUAL(choose(arm), 1);
  CHECK(route_table({180, 2, 100, BorderForm::diagonal, 1.0, 8.0}, reference)[1].obstacle == Obstacle::rows_not_fewer);

  CHECK_NEAR(route_table({2000, 2, 2048, BorderForm::dense, 1.0, 8.0}, cpu)[0].seconds, 117.2e-3, 0.01);
  CHECK_NEAR(route_table({180, 2, 5120, BorderForm::tridiagonal, 1.0, 8.0}, cpu)[1].seconds, 7.53e-3, 0.01);
  CHECK_EQUAL(choose({}), -1);
}

CHECK_MAIN()
