// The real CUDA backend on a host without a device: the order of its probe, and absence told apart from fault. The driver
// and the libraries that it meets are those of fake_driver.cpp. Where there is a device, its primitives are tried too.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "arrowschur/device.hpp"
#include "backend/device_loader.hpp"
#include "check.hpp"
#include "library.hpp"

using namespace arrowschur;
namespace fs = std::filesystem;

namespace {

const std::string kFakeDriver = ARROWSCHUR_TEST_FAKE_DRIVER;
const std::string kMajor = std::to_string(ARROWSCHUR_TEST_CUDA_MAJOR);
const std::string kCublas = "libcublas.so." + kMajor;
const std::string kCusolver = "libcusolver.so." + std::to_string(ARROWSCHUR_TEST_CUDA_MAJOR - 1);

// A folder that is laid out like the packages of an interpreter.
class Packages {
 public:
  Packages() : root_(fs::temp_directory_path() / ("arrowschur-packages-" + std::to_string(::getpid()))) {
    fs::create_directories(folder());
  }
  ~Packages() { fs::remove_all(root_); }
  Packages(const Packages&) = delete;
  Packages& operator=(const Packages&) = delete;
  fs::path folder() const { return root_ / "nvidia" / ("cu" + kMajor) / "lib"; }
  void add(const std::string& name, const std::string& file = kFakeDriver) const {
    fs::copy_file(file, folder() / name);
  }
  void add_broken(const std::string& name) const { std::ofstream(folder() / name) << "no machine code\n"; }
  std::string root() const { return root_.string(); }

 private:
  fs::path root_;
};

// What a process that has mapped the fake driver finds; a process that has a real one in it cannot be asked.
bool finds(const std::function<void()>& prepare, DeviceOutcome outcome, DeviceAbsence absence, const char* part) {
  const pid_t child = ::fork();
  if (child == 0) {
    void* const driver = ::dlopen(kFakeDriver.c_str(), RTLD_NOW | RTLD_GLOBAL);  // its soname is libcuda.so.1
    prepare();
    const DeviceInfo info = device::open_runtime(ARROWSCHUR_TEST_BACKEND).info;
    const bool good = driver != nullptr && info.outcome == outcome && info.absence == absence &&
                      info.backend == "cuda" && info.message.find(part) != std::string::npos;
    if (!good) std::cout << "found " << info.why() << " (backend '" << info.backend << "')" << std::endl;
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A host with a toolkit may have the library on its system path: there it cannot be missing.
bool host_has(const std::string& name) {
  void* const library = ::dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library != nullptr) ::dlclose(library);
  return library != nullptr;
}

void set(const char* name, int value) { ::setenv(name, std::to_string(value).c_str(), 1); }

constexpr auto kAbsent = DeviceOutcome::absent;
constexpr auto kFault = DeviceOutcome::fault;
constexpr int kNoDevice = 100, kStub = 34, kUnknown = 999;  // codes of cuInit

}  // namespace

TEST(ADriverThatIsNoneIsAbsent) {
  CHECK(finds([] { set("ARROWSCHUR_FAKE_DRIVER_INIT", kStub); }, kAbsent, DeviceAbsence::driver_unavailable, "stub"));
  CHECK(finds([] { set("ARROWSCHUR_FAKE_DRIVER_VERSION", 11080); }, kAbsent, DeviceAbsence::driver_unavailable,
              "the driver is for CUDA 11.8"));
}

TEST(ADriverThatFailsIsAFault) {
  CHECK(finds([] { set("ARROWSCHUR_FAKE_DRIVER_INIT", kUnknown); }, kFault, DeviceAbsence::none,
              "cuInit failed with code 999"));
}

// With a driver, but without cuBLAS or cuSOLVER, a host is never said to be usable.
TEST(LibrariesComeBeforeDevices) {
  const Packages packages;
  const auto prepare = [&] {
    set("ARROWSCHUR_FAKE_DRIVER_INIT", kNoDevice);
    add_device_package_root(packages.root());
  };
  const auto missing = DeviceAbsence::runtime_library_unavailable;
  if (!host_has(kCublas)) CHECK(finds(prepare, kAbsent, missing, kCublas.c_str()));
  packages.add(kCublas);
  if (!host_has(kCusolver)) CHECK(finds(prepare, kAbsent, missing, kCusolver.c_str()));
  packages.add_broken(kCusolver);
  CHECK(finds(prepare, kFault, DeviceAbsence::none, kCusolver.c_str()));
  fs::remove(packages.folder() / kCusolver);
  packages.add(kCusolver);
  CHECK(finds(prepare, kAbsent, DeviceAbsence::no_device, "no device"));
  const auto older = [&] {
    prepare();
    set("ARROWSCHUR_FAKE_LIBRARY_MAJOR", 7);
  };
  CHECK(finds(older, kFault, DeviceAbsence::none, "its major version is 7"));
}

TEST(LibrariesAreLookedForInOrder) {
  using cuda::Library, cuda::open_library;
  const Packages packages;
  const std::string folder = packages.folder();
  const Library mapped = open_library("libc.so.6", {folder});
  CHECK(mapped.state == Library::State::open);
  CHECK(mapped.symbol<void()>("malloc") != nullptr && mapped.symbol<void()>("no_such_symbol") == nullptr);
  CHECK(!cuda::folder_of_mapped("libc.so.6").empty());

  const std::string name = "libarrowschur_probe_test.so";
  CHECK(open_library(name, {folder}).state == Library::State::absent);
  CHECK_EQUAL(cuda::folder_of_mapped(name), "");
  packages.add(name, ARROWSCHUR_TEST_FAKE_DEVICE);  // this process is to map no fake driver
  CHECK(open_library(name, {"/nowhere", folder}).state == Library::State::open);
  packages.add_broken("libarrowschur_broken_test.so");
  CHECK(open_library("libarrowschur_broken_test.so", {folder}).state == Library::State::fault);
}

TEST(TheTableIsOfOneVersion) {
  void* const library = ::dlopen(ARROWSCHUR_TEST_BACKEND, RTLD_NOW);
  REQUIRE(library != nullptr);
  const auto function =
      reinterpret_cast<ArrowschurDeviceTableFunction>(::dlsym(library, ARROWSCHUR_DEVICE_TABLE_SYMBOL));
  REQUIRE(function != nullptr);
  const char* const no_roots[] = {nullptr};
  std::uint32_t version = 0;
  const ArrowschurHostTable later{ARROWSCHUR_DEVICE_API_VERSION + 1, no_roots};
  CHECK(function(&later, &version) == nullptr);
  CHECK_EQUAL(version, ARROWSCHUR_DEVICE_API_VERSION);
  const ArrowschurHostTable host{ARROWSCHUR_DEVICE_API_VERSION, no_roots};
  const ArrowschurDeviceTable* const table = function(&host, &version);
  REQUIRE(table != nullptr);
  CHECK_EQUAL(table->version, ARROWSCHUR_DEVICE_API_VERSION);
  CHECK_EQUAL(std::string(table->backend), "cuda");
  void* memory = nullptr;
  CHECK_EQUAL(table->allocate(&memory, 8, nullptr), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(std::string(table->last_error()), "stream is null");
}

// Last: from here on this process may have a driver, which its children could not use.
TEST(ThePrimitivesOfADevice) {
  const device::Runtime runtime = device::open_runtime(ARROWSCHUR_TEST_BACKEND);
  CHECK(runtime.info.outcome != DeviceOutcome::fault);
  if (runtime.table == nullptr) {
    std::cout << "SKIPPED(no-device): " << runtime.info.why() << "\n";
    return;
  }
  const ArrowschurDeviceTable& table = *runtime.table;
  constexpr std::size_t kCount = 3'000'001;  // more than one stride of the largest grid
  const std::vector<double> in(kCount / 2, 3.25);
  std::vector<double> out(kCount, -1.0);
  const double nan = std::numeric_limits<double>::signaling_NaN();
  std::uint64_t poison = 0;
  std::memcpy(&poison, &nan, sizeof poison);
  void *stream = nullptr, *memory = nullptr, *begin = nullptr, *end = nullptr;
  REQUIRE(table.stream_create(&stream) == ARROWSCHUR_DEVICE_OK);
  REQUIRE(table.event_create(&begin) == ARROWSCHUR_DEVICE_OK && table.event_create(&end) == ARROWSCHUR_DEVICE_OK);
  REQUIRE(table.allocate(&memory, kCount * sizeof(double), stream) == ARROWSCHUR_DEVICE_OK);
  CHECK_EQUAL(table.event_record(begin, stream), 0);
  CHECK_EQUAL(table.fill(memory, poison, kCount, stream), 0);
  CHECK_EQUAL(table.copy_to_device(memory, in.data(), in.size() * sizeof(double), stream), 0);
  CHECK_EQUAL(table.copy_to_host(out.data(), memory, kCount * sizeof(double), stream), 0);
  CHECK_EQUAL(table.event_record(end, stream), 0);
  CHECK_EQUAL(table.stream_synchronize(stream), 0);
  double milliseconds = 0.0;
  CHECK_EQUAL(table.event_elapsed(begin, end, &milliseconds), 0);
  CHECK(milliseconds > 0.0);
  CHECK(std::equal(in.begin(), in.end(), out.begin()));
  CHECK(std::all_of(out.begin() + kCount / 2, out.end(), [](double x) { return std::isnan(x); }));
  CHECK_EQUAL(table.release(memory, stream) + table.stream_synchronize(stream), 0);
  CHECK_EQUAL(table.event_destroy(begin) + table.event_destroy(end) + table.stream_destroy(stream), 0);
}

CHECK_MAIN()
