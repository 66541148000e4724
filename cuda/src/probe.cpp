#include "probe.hpp"

#include <cuda.h>  // types and codes only: the driver is opened, not linked
#include <library_types.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "library.hpp"
#include "math_libraries.hpp"
#include "status.hpp"

namespace arrowschur::cuda {
namespace {

constexpr int kMajor = CUDART_VERSION / 1000;
static_assert(kMajor == 12 || kMajor == 13, "the sonames below are those of CUDA 12 and 13");
const std::string kDriver = "libcuda.so.1";
const std::string kRuntime = "libcudart.so." + std::to_string(kMajor);
const std::string kCublas = "libcublas.so." + std::to_string(kMajor);
const std::string kCusolver = "libcusolver.so." + std::to_string(kMajor - 1);  // its soname is one behind the toolkit's

std::vector<std::string>& package_roots() {
  static auto* const folders = new std::vector<std::string>;
  return *folders;
}

// How the probe ends early.
struct End {
  int outcome;
  std::string message;
};

Library require(const std::string& name, const std::vector<std::string>& folders, int if_absent) {
  Library library = open_library(name, folders);
  if (library.state == Library::State::absent) throw End{if_absent, library.message};
  if (library.state == Library::State::fault) throw End{ARROWSCHUR_PROBE_FAULT, library.message};
  return library;
}

template <class Function>
Function* require_symbol(const Library& library, const std::string& of, const char* name) {
  Function* const function = library.symbol<Function>(name);
  if (function == nullptr) throw End{ARROWSCHUR_PROBE_FAULT, of + " does not export " + name};
  return function;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
}

// ---- the driver -----------------------------------------------------------------------------------------------------
struct Driver {
  Library library;
  int version = 0;
  bool no_device = false;  // said by cuInit; reported when devices are counted
};

Driver open_driver() {
  Driver driver{require(kDriver, {}, ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE)};
  const auto get_version = require_symbol<CUresult(int*)>(driver.library, kDriver, "cuDriverGetVersion");
  const auto init = require_symbol<CUresult(unsigned)>(driver.library, kDriver, "cuInit");
  const CUresult result = init(0);
  driver.no_device = result == CUDA_ERROR_NO_DEVICE;
  if (result == CUDA_ERROR_STUB_LIBRARY) {
    throw End{ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE, kDriver + " is the toolkit's stub, not a driver"};
  }
  if (result != CUDA_SUCCESS && !driver.no_device) {
    throw End{ARROWSCHUR_PROBE_FAULT, "cuInit failed with code " + std::to_string(result)};
  }
  if (get_version(&driver.version) != CUDA_SUCCESS) throw End{ARROWSCHUR_PROBE_FAULT, "cuDriverGetVersion failed"};
  if (driver.version / 1000 < kMajor) {
    throw End{ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE, "the driver is for CUDA " + version_text(driver.version) +
                                                       ", this backend needs one for CUDA " + std::to_string(kMajor)};
  }
  return driver;
}

// ---- the libraries --------------------------------------------------------------------------------------------------
// Beside the CUDA runtime that another package has brought into the process, then in the installed wheels.
std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  if (std::string beside = folder_of_mapped(kRuntime); !beside.empty()) folders.push_back(std::move(beside));
  for (const std::string& root : package_roots()) {
    for (const std::string& package : {"cu" + std::to_string(kMajor), std::string("cublas"), std::string("cusolver")}) {
      folders.push_back(root + "/nvidia/" + package + "/lib");
    }
  }
  return folders;
}

// A library of the runtime's major version that answers. `get_property` needs no device.
Library require_library(const std::string& name, const char* get_property, int major) {
  const Library library = require(name, library_folders(), ARROWSCHUR_PROBE_RUNTIME_LIBRARY_UNAVAILABLE);
  const auto get = require_symbol<int(libraryPropertyType, int*)>(library, name, get_property);
  int found = 0;
  if (get(MAJOR_VERSION, &found) != 0) throw End{ARROWSCHUR_PROBE_FAULT, std::string(get_property) + " failed"};
  if (found != major) {
    throw End{ARROWSCHUR_PROBE_FAULT, name + " says that its major version is " + std::to_string(found)};
  }
  return library;
}

// ---- the device -----------------------------------------------------------------------------------------------------
void require(int status) {
  if (status != ARROWSCHUR_DEVICE_OK) throw End{ARROWSCHUR_PROBE_FAULT, last_error()};
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  require(check(cudaDeviceGetAttribute(&value, which, kOrdinal), "cudaDeviceGetAttribute"));
  return value;
}

// In MIG mode the newer call gives the identity of the slice, the older one that of the whole device; -1 where the
// driver lacks one of them.
int is_slice(const Library& driver) {
  using Get = CUresult(CUuuid*, CUdevice);
  const auto whole = driver.symbol<Get>("cuDeviceGetUuid");
  const auto slice = driver.symbol<Get>("cuDeviceGetUuid_v2");
  CUuuid a{}, b{};
  if (whole == nullptr || slice == nullptr || whole(&a, kOrdinal) != CUDA_SUCCESS ||
      slice(&b, kOrdinal) != CUDA_SUCCESS) {
    return -1;
  }
  return std::memcmp(&a, &b, sizeof a) != 0 ? 1 : 0;
}

void count_devices(const Driver& driver) {
  int count = 0;
  const cudaError_t error = driver.no_device ? cudaErrorNoDevice : cudaGetDeviceCount(&count);
  if (error != cudaErrorNoDevice) require(check(error, "cudaGetDeviceCount"));
  if (count == 0) throw End{ARROWSCHUR_PROBE_NO_DEVICE, "no device is visible to the driver"};
}

void read_facts(const Driver& driver, ArrowschurDeviceFacts& facts) {
  facts.ordinal = kOrdinal;
  facts.compute_major = attribute(cudaDevAttrComputeCapabilityMajor);
  facts.compute_minor = attribute(cudaDevAttrComputeCapabilityMinor);
  facts.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  facts.threads_per_multiprocessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  facts.copy_engines = attribute(cudaDevAttrAsyncEngineCount);
  facts.ecc = attribute(cudaDevAttrEccEnabled) != 0;
  facts.integrated = attribute(cudaDevAttrIntegrated) != 0;
  facts.memory_pools = attribute(cudaDevAttrMemoryPoolsSupported) != 0;
  facts.mig = is_slice(driver.library);
  facts.shared_bytes_per_block = static_cast<std::uint64_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlock));
  facts.shared_bytes_per_block_optin = static_cast<std::uint64_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  facts.l2_bytes = static_cast<std::uint64_t>(attribute(cudaDevAttrL2CacheSize));
  std::size_t free_bytes = 0, total_bytes = 0;
  require(check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  facts.free_bytes = free_bytes, facts.total_bytes = total_bytes;
  facts.driver_version = driver.version;
  require(check(cudaRuntimeGetVersion(&facts.runtime_version), "cudaRuntimeGetVersion"));
  cudaDeviceProp properties{};
  require(check(cudaGetDeviceProperties(&properties, kOrdinal), "cudaGetDeviceProperties"));
  std::copy_n(properties.name, std::min(sizeof facts.name, sizeof properties.name), facts.name);
  facts.name[sizeof facts.name - 1] = '\0';
}

// What the backend is compiled for and relies on.
void require_able(const ArrowschurDeviceFacts& facts) {
  const std::string name = facts.name;
  if (facts.compute_major < 8) {
    throw End{ARROWSCHUR_PROBE_NO_DEVICE, name + " has compute capability " + std::to_string(facts.compute_major) +
                                              "." + std::to_string(facts.compute_minor) + "; 8.0 or later is needed"};
  }
  if (facts.memory_pools == 0) {
    throw End{ARROWSCHUR_PROBE_NO_DEVICE, name + " has no stream-ordered memory pools, which are needed"};
  }
}

}  // namespace

void set_package_roots(std::vector<std::string> folders) { package_roots() = std::move(folders); }

int probe(ArrowschurDeviceFacts* facts) noexcept {
  try {
    const Driver driver = open_driver();
    const Library cublas = require_library(kCublas, "cublasGetProperty", kMajor);
    const Library cusolver = require_library(kCusolver, "cusolverGetProperty", kMajor - 1);
    count_devices(driver);
    require(bind());
    read_facts(driver, *facts);
    require_able(*facts);
    if (const char* missing = set_math_libraries(cublas, cusolver)) {
      throw End{ARROWSCHUR_PROBE_FAULT, std::string("the libraries do not export ") + missing};
    }
    return ARROWSCHUR_PROBE_AVAILABLE;
  } catch (const End& end) {
    return fail(end.outcome, end.message);
  } catch (const std::exception& error) {
    return fail(ARROWSCHUR_PROBE_FAULT, error.what());
  }
}

}  // namespace arrowschur::cuda
