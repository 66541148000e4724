// Calibration of the thresholds by a device, on the fake one with scripted times; its record, and when it takes force.
#include "backend/measure_device.hpp"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "arrowschur/error.hpp"
#include "arrowschur/plan.hpp"
#include "newton/fake_backend.hpp"

using namespace arrowschur;
using namespace arrowschur::policy;

namespace {

using Times = std::map<std::pair<std::string, Size>, std::pair<double, double>>;  // of CPU and device

// Runs every operation once, and says what it is told to.
OperationTimer scripted(const Times& times, std::set<std::string>* seen = nullptr) {
  return [=](const Measurement& point, bool on_device, const std::function<void()>& run) {
    run();
    if (seen != nullptr) seen->insert(point.operation + (on_device ? " device" : " cpu"));
    const auto found = times.find({point.operation, point.sizes[0]});
    const auto [cpu, gpu] = found == times.end() ? std::pair{1.0, 2.0} : found->second;
    return on_device ? gpu : cpu;
  };
}

std::filesystem::path cache() { return std::filesystem::temp_directory_path() / ("asn_" + std::to_string(::getpid())); }

}  // namespace

// T-DP-38, 39, 41
TEST(ScriptedTimesSetTheThresholds) {
  const fake::Leaks leaks;
  std::set<std::string> seen;
  const Times times = {{{"gemm", 64}, {1.0, 4.0}},  {{"gemm", 128}, {10.0, 9.0}}, {{"gemm", 256}, {80.0, 10.0}},
                       {{"potrf", 64}, {1.0, 0.5}}, {{"potrf", 128}, {1.0, 2.0}}, {{"potrf", 256}, {4.0, 1.0}}};
  const int uploads = fake::calls("copy_to_device"), downloads = fake::calls("copy_to_host");
  const std::vector<Measurement> points = measure_operations(scripted(times, &seen));
  CHECK_EQUAL(points.size(), std::size_t{9});
  CHECK_EQUAL(seen.size(), std::size_t{6});
  CHECK(fake::calls("copy_to_device") - uploads >= 18);  // transfers are in it, both ways
  CHECK(fake::calls("copy_to_host") - downloads >= 9);
  const DispatchPolicy policy = calibrated(DispatchPolicy{}, points);
  CHECK_EQUAL(policy.gemm_min_flops, 4'194'304u);
  CHECK_EQUAL(policy.xtwx_flops_min, 301'989'888u);  // never won
  CHECK_EQUAL(policy.potrf_min_p, 256u);  // win, loss, win: the last
  for (const Measurement& m : measure_operations()) CHECK(m.cpu_seconds > 0.0 && m.gpu_seconds > 0.0);
}

// DP-11.4, DP-11.5, DP-11.8. One case: what is in force is the process's.
TEST(TheRecordOfADeviceTakesForceOnce) {
  ::setenv("XDG_CACHE_HOME", cache().c_str(), 1);
  const DeviceFacts facts = *device_info().facts;
  const Fingerprint own = machine_fingerprint(facts), cpu = machine_fingerprint();
  CHECK(own.digest() != cpu.digest());
  const std::string path = record_path(own);
  CHECK(path.find("arrowschur_native/policy/v1/" + own.digest() + ".json") != std::string::npos);
  for (const auto& change : std::vector<std::function<void(DeviceFacts&)>>{
           [](DeviceFacts& f) { f.name += 'x'; }, [](DeviceFacts& f) { ++f.compute_major; },
           [](DeviceFacts& f) { ++f.multiprocessors; }, [](DeviceFacts& f) { ++f.threads_per_multiprocessor; },
           [](DeviceFacts& f) { ++f.shared_bytes_per_block; }, [](DeviceFacts& f) { ++f.l2_bytes; },
           [](DeviceFacts& f) { ++f.total_bytes; }, [](DeviceFacts& f) { f.ecc.reset(); },
           [](DeviceFacts& f) { f.integrated.reset(); }, [](DeviceFacts& f) { f.mig = true; },
           [](DeviceFacts& f) { ++f.driver_version; }, [](DeviceFacts& f) { ++f.runtime_version; }}) {
    DeviceFacts other = facts;
    change(other);
    CHECK(machine_fingerprint(other).digest() != own.digest());
  }

  CalibrationRecord record;
  record.fingerprint = own;
  record.profile = built_in_cpu_profile();
  record.policy.potrf_min_p = 128;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << to_json(record);
  plan(ProblemShape{.n = 1, .k = 1, .total_dim = 1, .max_dim = 1});
  CHECK_EQUAL(in_force().potrf_min_p, DispatchPolicy{}.potrf_min_p);  // nobody has probed
  SolveOptions options;
  options.mode = Mode::direct;
  plan(ProblemShape{.n = 2000, .k = 2048, .total_dim = 4000, .max_dim = 2}, options);
  CHECK_EQUAL(in_force().potrf_min_p, 128u);
  record.policy.potrf_min_p = 64;
  std::ofstream(path) << to_json(record);
  options.calibrate = Calibrate::off;
  plan(ProblemShape{.n = 2000, .k = 2048, .total_dim = 4000, .max_dim = 2}, options);
  CHECK_EQUAL(in_force().potrf_min_p, 128u);  // a record of later changes nothing

  {
    const fake::Leaks leaks;
    const fake::Failing script("factor_border", 1, 1, ARROWSCHUR_DEVICE_FAILED);
    calibrate();
    CHECK(calibration_failure().find("factor_border") != std::string::npos);
    CHECK(in_force() == DispatchPolicy{});  // the defaults stand
  }
  calibrate();
  CHECK_EQUAL(calibration_failure(), "");
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto stored = read_record(text, own);
  REQUIRE(stored.has_value());
  CHECK_EQUAL(stored->measurements.size(), std::size_t{9});
  CHECK(stored->policy == in_force());
  CHECK(!read_record(text, cpu).has_value());
  std::filesystem::remove_all(cache());
}

CHECK_MAIN()
