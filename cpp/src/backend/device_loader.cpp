#include "backend/device_loader.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "own_directory.hpp"

namespace arrowschur {
namespace device {
namespace {

constexpr const char* kVariable = "ARROWSCHUR_CUDA_BACKEND";

// Leaked, like everything here: the backend may be asked for while static objects are being destroyed.
struct Roots {
  std::mutex mutex;
  std::vector<std::string> added;
};
Roots& roots() {
  static Roots* const all = new Roots;
  return *all;
}

// Where packages of device libraries may lie: this library's own folder and those above it (a wheel's is
// site-packages/arrowschur_native/lib), then what the caller added.
std::vector<std::string> package_roots() {
  std::vector<std::string> folders;
  std::string folder = own_directory();
  for (int level = 0; level < 3 && !folder.empty(); ++level) {
    folders.push_back(folder);
    folder.resize(folder.rfind('/'));
  }
  const std::lock_guard lock(roots().mutex);
  folders.insert(folders.end(), roots().added.begin(), roots().added.end());
  return folders;
}

Runtime absent(DeviceAbsence absence, std::string message) {
  Runtime result;
  result.info.absence = absence;
  result.info.message = std::move(message);
  return result;
}

Runtime fault(std::string message) {
  Runtime result;
  result.info.outcome = DeviceOutcome::fault;
  result.info.message = std::move(message);
  return result;
}

std::optional<bool> flag(std::int32_t value) { return value < 0 ? std::nullopt : std::optional<bool>(value != 0); }

DeviceFacts to_facts(const ArrowschurDeviceFacts& f) {
  const auto bytes = [](std::uint64_t value) { return static_cast<Index>(value); };
  DeviceFacts facts;
  facts.ordinal = f.ordinal;
  facts.name = f.name;
  facts.compute_major = f.compute_major, facts.compute_minor = f.compute_minor;
  facts.multiprocessors = f.multiprocessors, facts.threads_per_multiprocessor = f.threads_per_multiprocessor;
  facts.copy_engines = f.copy_engines;
  facts.ecc = flag(f.ecc), facts.integrated = flag(f.integrated), facts.mig = flag(f.mig);
  facts.memory_pools = flag(f.memory_pools);
  facts.shared_bytes_per_block = bytes(f.shared_bytes_per_block);
  facts.shared_bytes_per_block_optin = bytes(f.shared_bytes_per_block_optin);
  facts.l2_bytes = bytes(f.l2_bytes), facts.total_bytes = bytes(f.total_bytes), facts.free_bytes = bytes(f.free_bytes);
  facts.driver_version = f.driver_version, facts.runtime_version = f.runtime_version;
  return facts;
}

Runtime probe(const ArrowschurDeviceTable& table) {
  ArrowschurDeviceFacts facts{};
  const int outcome = table.probe(&facts);
  if (outcome == ARROWSCHUR_PROBE_AVAILABLE) {
    Runtime result;
    result.info.outcome = DeviceOutcome::available;
    result.info.facts = to_facts(facts);
    result.info.has_solver_stages = true;  // of every table of this version
    result.table = &table;
    return result;
  }
  const std::string message = table.last_error();
  switch (outcome) {
    case ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE:
      return absent(DeviceAbsence::driver_unavailable, message);
    case ARROWSCHUR_PROBE_RUNTIME_LIBRARY_UNAVAILABLE:
      return absent(DeviceAbsence::runtime_library_unavailable, message);
    case ARROWSCHUR_PROBE_NO_DEVICE:
      return absent(DeviceAbsence::no_device, message);
    default:
      return fault(message);
  }
}

Runtime ask(void* library) {
  void* const address = ::dlsym(library, ARROWSCHUR_DEVICE_TABLE_SYMBOL);
  if (address == nullptr) return fault("it does not export " ARROWSCHUR_DEVICE_TABLE_SYMBOL);
  const auto function = reinterpret_cast<ArrowschurDeviceTableFunction>(address);

  const std::vector<std::string> folders = package_roots();
  std::vector<const char*> pointers;
  for (const std::string& folder : folders) pointers.push_back(folder.c_str());
  pointers.push_back(nullptr);
  const ArrowschurHostTable host{ARROWSCHUR_DEVICE_API_VERSION, pointers.data()};

  std::uint32_t version = 0;
  const ArrowschurDeviceTable* table = function(&host, &version);
  if (table == nullptr || table->version != ARROWSCHUR_DEVICE_API_VERSION) {
    return absent(DeviceAbsence::version_mismatch, "the backend has version " +
                                                       std::to_string(table == nullptr ? version : table->version) +
                                                       " of the device interface, this library version " +
                                                       std::to_string(ARROWSCHUR_DEVICE_API_VERSION));
  }
  Runtime result = probe(*table);
  result.info.backend = table->backend;
  return result;
}

// What this process knows. The probe belongs to the process that made it: a driver does not survive a fork.
struct Answer {
  Runtime runtime, after_fork;
  pid_t process = 0;
};

Runtime forked(Runtime runtime) {
  if (runtime.info.outcome != DeviceOutcome::available) return runtime;
  Runtime result = absent(DeviceAbsence::driver_unavailable, "forked: the parent process has the device");
  result.info.backend = runtime.info.backend;
  result.info.library = runtime.info.library;
  return result;
}

}  // namespace

std::string backend_path() {
  const char* named = std::getenv(kVariable);
  std::vector<std::string> candidates{named == nullptr ? "" : named};
  if (candidates[0].empty()) candidates = {own_directory() + '/' + kFileName, own_directory() + "/../lib/" + kFileName};
  for (const std::string& path : candidates) {
    if (::access(path.c_str(), F_OK) == 0) return path;
  }
  return {};
}

bool backend_is_there() noexcept {
  static const bool found = !backend_path().empty();
  return found;
}

Runtime open_runtime(const std::string& path) {
#if defined(__linux__)
  if (path.empty()) return absent(DeviceAbsence::backend_not_compiled, kNoBackend);
  Runtime result;
  // Never closed: a driver keeps threads that may run its code until the process ends.
  if (void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    result = ask(library);
  } else {
    const char* error = ::dlerror();
    result = fault(error == nullptr ? "it cannot be loaded" : error);
  }
  result.info.library = path;
  return result;
#else
  (void)path;
  return absent(DeviceAbsence::unsupported_platform, "the CUDA backend is for Linux");
#endif
}

const Runtime& runtime() {
  static std::atomic<const Answer*> known{nullptr};
  static std::atomic<pid_t> prober{0};
  static std::mutex probing;

  const pid_t process = ::getpid();
  if (const Answer* answer = known.load(std::memory_order_acquire)) {
    return answer->process == process ? answer->runtime : answer->after_fork;
  }
  pid_t nobody = 0;
  if (!prober.compare_exchange_strong(nobody, process) && nobody != process) {
    // Forked while another thread of the parent was probing: the lock below will never be given back.
    static const Runtime* const interrupted =
        new Runtime(absent(DeviceAbsence::driver_unavailable, "forked: the parent process was probing the device"));
    return *interrupted;
  }
  const std::lock_guard lock(probing);
  if (known.load(std::memory_order_acquire) == nullptr) {
    auto* answer = new Answer;
    answer->process = process;
    answer->runtime = open_runtime(backend_path());
    answer->after_fork = forked(answer->runtime);
    known.store(answer, std::memory_order_release);
  }
  return known.load(std::memory_order_acquire)->runtime;
}

}  // namespace device

const char* to_string(DeviceOutcome outcome) noexcept {
  switch (outcome) {
    case DeviceOutcome::available:
      return "available";
    case DeviceOutcome::absent:
      return "absent";
    case DeviceOutcome::fault:
      return "fault";
  }
  return "";
}

const char* to_string(DeviceAbsence absence) noexcept {
  switch (absence) {
    case DeviceAbsence::none:
      return "";
    case DeviceAbsence::backend_not_compiled:
      return "backend_not_compiled";
    case DeviceAbsence::version_mismatch:
      return "version_mismatch";
    case DeviceAbsence::unsupported_platform:
      return "unsupported_platform";
    case DeviceAbsence::driver_unavailable:
      return "driver_unavailable";
    case DeviceAbsence::runtime_library_unavailable:
      return "runtime_library_unavailable";
    case DeviceAbsence::no_device:
      return "no_device";
  }
  return "";
}

std::string DeviceInfo::why() const {
  switch (outcome) {
    case DeviceOutcome::available:
      return {};
    case DeviceOutcome::absent:
      return to_string(absence) + (": " + message);
    case DeviceOutcome::fault:
      return "fault: " + message;
  }
  return {};
}

const DeviceInfo& device_info() { return device::runtime().info; }

void add_device_package_root(const std::string& folder) {
  const std::lock_guard lock(device::roots().mutex);
  device::roots().added.push_back(folder);
}

}  // namespace arrowschur
