// How the backend is found and how its probe ends, on the fake device; what a child of a process with a device sees; the
// primitives of the table.
#include "backend/device_loader.hpp"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/policy.hpp"
#include "backend/fake_device.hpp"
#include "check.hpp"

using namespace arrowschur;

namespace {

const std::string kFake = ARROWSCHUR_TEST_FAKE_DEVICE;  // path, from CMake

void set_fake(const char* outcome) { ::setenv("ARROWSCHUR_FAKE_DEVICE", outcome, 1); }

DeviceInfo info_of(const std::string& path) { return device::open_runtime(path).info; }
DeviceInfo scripted(const char* outcome) {
  set_fake(outcome);
  return info_of(kFake);
}

const FakeDeviceCounts& fake_counts() {
  void* const library = ::dlopen(kFake.c_str(), RTLD_NOW);
  return *reinterpret_cast<const FakeDeviceCounts* (*)()>(::dlsym(library, "arrowschur_fake_counts"))();
}

// Whether all checks hold in a fresh child: the backend of a process can be asked for only once. It ends without the
// destructors of the parent's objects.
bool in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    checks::failures_of_case() = 0;
    try {
      body();
    } catch (const std::exception& error) {
      checks::fail(__FILE__, __LINE__, error.what());
    } catch (const checks::EndOfCase&) {
    }
    std::cout.flush();
    ::_exit(checks::failures_of_case() == 0 ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void use_fake(const char* outcome) {
  ::setenv("ARROWSCHUR_CUDA_BACKEND", kFake.c_str(), 1);
  ::unsetenv("ARROWSCHUR_DEVICE");
  set_fake(outcome);
}

// Large enough to be worth a driver: auto asks for a device.
constexpr ProblemShape kLarge{.n = 2000, .k = 2048, .total_dim = 4000, .max_dim = 2};

SolveOptions options(Device mode) {
  SolveOptions o;
  o.mode = Mode::direct;
  o.calibrate = Calibrate::off;
  o.device = mode;
  return o;
}

}  // namespace

TEST(AnAvailableDeviceHasItsFacts) {
  const DeviceInfo info = scripted("available");
  CHECK(info.outcome == DeviceOutcome::available);
  CHECK(info.absence == DeviceAbsence::none);
  CHECK_EQUAL(info.backend, "fake");
  CHECK_EQUAL(info.library, kFake);
  CHECK_EQUAL(info.why(), "");
  CHECK(info.has_solver_stages);
  REQUIRE(info.facts.has_value());
  CHECK_EQUAL(info.facts->name, "fake device");
  CHECK_EQUAL(info.facts->ordinal, 0);
  CHECK_EQUAL(info.facts->compute_major, 9);
  CHECK_EQUAL(info.facts->multiprocessors, 132);
  CHECK_EQUAL(info.facts->total_bytes, Index{1} << 30);
  CHECK(info.facts->ecc == std::optional<bool>(true));
  CHECK(info.facts->integrated == std::optional<bool>(false));
  CHECK(!info.facts->mig.has_value());
  CHECK(fake_counts().package_roots > 0);
}

TEST(EachAbsenceHasItsReason) {
  for (const DeviceAbsence absence :
       {DeviceAbsence::driver_unavailable, DeviceAbsence::runtime_library_unavailable, DeviceAbsence::no_device}) {
    const DeviceInfo info = scripted(to_string(absence));
    CHECK(info.outcome == DeviceOutcome::absent);
    CHECK(info.absence == absence);
    CHECK_EQUAL(info.why(), std::string(to_string(absence)) + ": scripted " + to_string(absence));
    CHECK(!info.facts.has_value());
  }
  const DeviceInfo missing = info_of("");
  CHECK(missing.outcome == DeviceOutcome::absent);
  CHECK_EQUAL(missing.why(), "backend_not_compiled: this build has no CUDA backend");
  const DeviceInfo other = scripted("version");
  CHECK(other.outcome == DeviceOutcome::absent);
  CHECK_EQUAL(other.why(),
              "version_mismatch: the backend has version 4 of the device interface, this library version 3");
}

TEST(WhatIsThereAndBrokenIsAFault) {
  const DeviceInfo said = scripted("fault");
  CHECK(said.outcome == DeviceOutcome::fault);
  CHECK_EQUAL(said.why(), "fault: scripted fault");

  const std::string text = "./not_a_library." + std::to_string(::getpid()) + ".so";
  std::ofstream(text) << "no machine code\n";
  const DeviceInfo unloadable = info_of(text);
  ::unlink(text.c_str());
  CHECK(unloadable.outcome == DeviceOutcome::fault);
  CHECK(unloadable.message.find("not_a_library") != std::string::npos);
  CHECK_EQUAL(unloadable.library, text);

  const DeviceInfo stranger = info_of(ARROWSCHUR_TEST_CORE);  // a library, but no backend
  CHECK(stranger.outcome == DeviceOutcome::fault);
  CHECK(stranger.message.find("does not export arrowschur_device_table") != std::string::npos);
}

TEST(TheVariableNamesTheBackend) {
  CHECK(in_child([] {
    use_fake("available");
    CHECK_EQUAL(device::backend_path(), kFake);
    ::setenv("ARROWSCHUR_CUDA_BACKEND", "/nowhere/backend.so", 1);
    CHECK_EQUAL(device::backend_path(), "");
    CHECK(device_info().absence == DeviceAbsence::backend_not_compiled);
  }));
}

TEST(EightThreadsProbeOnce) {
  CHECK(in_child([] {
    use_fake("available");
    const int before = fake_counts().probes;
    std::vector<const DeviceInfo*> seen(8);
    std::vector<std::thread> threads;
    for (const DeviceInfo*& info : seen) threads.emplace_back([&info] { info = &device_info(); });
    for (std::thread& thread : threads) thread.join();
    CHECK_EQUAL(fake_counts().probes - before, 1);
    for (const DeviceInfo* info : seen) CHECK(info == seen[0] && info->outcome == DeviceOutcome::available);
  }));
}

TEST(AChildHasNoneOfItsParentsDevice) {
  CHECK(in_child([] {
    use_fake("available");
    CHECK(device_info().outcome == DeviceOutcome::available);
    CHECK(in_child([] {
      CHECK(device_info().absence == DeviceAbsence::driver_unavailable);
      CHECK_EQUAL(device_info().why(), "driver_unavailable: forked: the parent process has the device");
      CHECK_EQUAL(device_info().backend, "fake");
      CHECK(device::runtime().table == nullptr);
    }));
  }));
  // A child that asks first has an answer of its own, and so has its parent.
  CHECK(in_child([] {
    use_fake("available");
    CHECK(in_child([] { CHECK(device_info().outcome == DeviceOutcome::available); }));
    CHECK(device_info().outcome == DeviceOutcome::available);
  }));
  // What was absent for the parent is absent for the same reason.
  CHECK(in_child([] {
    use_fake("no_device");
    CHECK(device_info().absence == DeviceAbsence::no_device);
    CHECK(in_child([] { CHECK(device_info().absence == DeviceAbsence::no_device); }));
  }));
}

TEST(ASeamWithoutADeviceRouteDeclines) {
  CHECK(in_child([] {
    use_fake("available");
    const SolvePlan chosen = plan(kLarge, options(Device::automatic));
    CHECK_EQUAL(std::string(chosen.facts.device_reason), "kernel_lacks_capability");
    CHECK_EQUAL(policy::probe_counters().availability_requests, policy::Size{1});
    CHECK_THROWS_WITH(DeviceUnavailableError, "this call runs on the host", plan(kLarge, options(Device::required)));
    CHECK_EQUAL(std::string(plan(kLarge, options(Device::off)).facts.device_reason), "policy_off");
  }));
}

TEST(AnAbsenceIsTheCpuUnderAutoAndAnErrorUnderRequired) {
  CHECK(in_child([] {
    use_fake("no_device");
    const int before = fake_counts().probes;
    CHECK_EQUAL(std::string(plan(kLarge, options(Device::automatic)).facts.device_reason), "runtime_unavailable");
    CHECK_THROWS_WITH(DeviceUnavailableError, "runtime_unavailable: no_device: scripted",
                      plan(kLarge, options(Device::required)));
    CHECK_EQUAL(fake_counts().probes - before, 1);
  }));
}

TEST(AFaultIsTheSameErrorUnderBoth) {
  CHECK(in_child([] {
    use_fake("fault");
    for (const Device mode : {Device::automatic, Device::required}) {
      CHECK_THROWS_WITH(DeviceError, "failed in probe: scripted fault", plan(kLarge, options(mode)));
    }
    CHECK_EQUAL(std::string(plan(kLarge, options(Device::off)).facts.device_reason), "policy_off");
  }));
}

TEST(NothingIsOpenedForASmallCallOrByOff) {
  CHECK(in_child([] {
    use_fake("available");
    const int before = fake_counts().probes;
    constexpr ProblemShape small{.n = 7, .k = 4, .total_dim = 14, .max_dim = 2};
    CHECK_EQUAL(std::string(plan(small, options(Device::automatic)).facts.device_reason), "below_threshold");
    plan(kLarge, options(Device::off));
    CHECK_EQUAL(fake_counts().probes - before, 0);
  }));
}

// ---- the primitives, as the fake has them: the contract that the real ones share --------------------------------------
TEST(WorkRunsInTheOrderOfItsStream) {
  set_fake("available");
  const ArrowschurDeviceTable* const table = device::open_runtime(kFake).table;
  REQUIRE(table != nullptr);
  const auto& counts = fake_counts();
  const std::size_t h2d = counts.h2d_bytes, d2h = counts.d2h_bytes;
  constexpr std::size_t kCount = 100;
  const std::vector<double> in(kCount / 2, 3.25);
  std::vector<double> out(kCount, -1.0);

  void *stream = nullptr, *memory = nullptr, *begin = nullptr, *end = nullptr;
  REQUIRE(table->stream_create(&stream) == ARROWSCHUR_DEVICE_OK);
  REQUIRE(table->event_create(&begin) == ARROWSCHUR_DEVICE_OK && table->event_create(&end) == ARROWSCHUR_DEVICE_OK);
  REQUIRE(table->allocate(&memory, kCount * sizeof(double), stream) == ARROWSCHUR_DEVICE_OK);
  const double nan = std::numeric_limits<double>::signaling_NaN();
  std::uint64_t poison = 0;
  std::memcpy(&poison, &nan, sizeof poison);
  CHECK_EQUAL(table->event_record(begin, stream), 0);
  CHECK_EQUAL(table->fill(memory, poison, kCount, stream), 0);
  CHECK_EQUAL(table->copy_to_device(memory, in.data(), in.size() * sizeof(double), stream), 0);
  CHECK_EQUAL(table->copy_to_host(out.data(), memory, kCount * sizeof(double), stream), 0);
  CHECK_EQUAL(table->event_record(end, stream), 0);
  double milliseconds = 0.0;
  CHECK_EQUAL(out[0], -1.0);
  CHECK_EQUAL(table->event_elapsed(begin, end, &milliseconds), int{ARROWSCHUR_DEVICE_FAILED});
  CHECK_EQUAL(table->stream_synchronize(stream), 0);
  CHECK_EQUAL(out[0], 3.25);
  CHECK_EQUAL(out[kCount / 2 - 1], 3.25);
  CHECK(std::isnan(out[kCount / 2]) && std::isnan(out[kCount - 1]));
  CHECK_EQUAL(table->event_elapsed(begin, end, &milliseconds), 0);
  CHECK(milliseconds > 0.0);
  CHECK_EQUAL(counts.h2d_bytes - h2d, kCount / 2 * sizeof(double));
  CHECK_EQUAL(counts.d2h_bytes - d2h, kCount * sizeof(double));

  CHECK_EQUAL(table->release(memory, stream), 0);
  CHECK_EQUAL(counts.allocations.load(), 1);
  CHECK_EQUAL(table->stream_synchronize(stream), 0);
  CHECK_EQUAL(counts.allocations.load(), 0);
  CHECK_EQUAL(table->event_destroy(begin) + table->event_destroy(end) + table->stream_destroy(stream), 0);
  CHECK_EQUAL(counts.streams.load(), 0);
}

TEST(MistakesAreTold) {
  set_fake("available");
  const ArrowschurDeviceTable* const table = device::open_runtime(kFake).table;
  REQUIRE(table != nullptr);
  void *stream = nullptr, *memory = nullptr;
  double value = 0.0;
  CHECK_EQUAL(table->stream_synchronize(nullptr), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK(std::string(table->last_error()).find("stream is null") != std::string::npos);
  REQUIRE(table->stream_create(&stream) == ARROWSCHUR_DEVICE_OK);
  CHECK_EQUAL(table->allocate(&memory, 0, stream), int{ARROWSCHUR_DEVICE_INVALID});
  REQUIRE(table->allocate(&memory, 8, stream) == ARROWSCHUR_DEVICE_OK);
  table->fill(memory, 0, 2, stream);  // one too many
  CHECK_EQUAL(table->stream_synchronize(stream), int{ARROWSCHUR_DEVICE_INVALID});
  table->copy_to_device(&value, &value, sizeof value, stream);  // host memory
  CHECK_EQUAL(table->stream_synchronize(stream), int{ARROWSCHUR_DEVICE_INVALID});
  table->release(memory, stream);
  table->release(memory, stream);  // twice
  CHECK_EQUAL(table->stream_synchronize(stream), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(table->stream_destroy(stream), 0);
}

CHECK_MAIN()
