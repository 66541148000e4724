// The real CUDA backend on a host without a device: the order of its probe, and absence told apart from fault. The driver
// and the libraries that it meets are those of fake_driver.cpp.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

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
  void add(const std::string& name) const { fs::copy_file(kFakeDriver, folder() / name); }
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
  packages.add(name);
  CHECK(open_library(name, {"/nowhere", folder}).state == Library::State::open);
  packages.add_broken("libarrowschur_broken_test.so");
  CHECK(open_library("libarrowschur_broken_test.so", {folder}).state == Library::State::fault);
}

CHECK_MAIN()
