// What is known about the device: which backend was found, how its probe ended, and the facts of the device itself.
#pragma once

#include <optional>
#include <string>

#include "arrowschur/types.hpp"

namespace arrowschur {

// Read from the device. Sizes in bytes.
struct DeviceFacts {
  int ordinal = 0;
  std::string name;
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0, threads_per_multiprocessor = 0;
  int copy_engines = 0;  // that work beside kernels
  std::optional<bool> ecc, integrated, mig, memory_pools;  // none where the driver does not say
  Index shared_bytes_per_block = 0, shared_bytes_per_block_optin = 0;
  Index l2_bytes = 0, total_bytes = 0, free_bytes = 0;  // free: at the time of the probe
  int driver_version = 0, runtime_version = 0;  // 1000 major + 10 minor
};

// absent: something is not there. fault: it is there, and broken.
enum class DeviceOutcome { available, absent, fault };
enum class DeviceAbsence {
  none,
  backend_not_compiled,  // no backend library beside this one
  version_mismatch,  // its table is of another version
  unsupported_platform,
  driver_unavailable,
  runtime_library_unavailable,
  no_device,
};
const char* to_string(DeviceOutcome) noexcept;
const char* to_string(DeviceAbsence) noexcept;

struct DeviceInfo {
  DeviceOutcome outcome = DeviceOutcome::absent;
  DeviceAbsence absence = DeviceAbsence::none;  // none unless absent
  std::string message;  // of an absence or a fault
  std::string backend;  // "cuda"; empty when no table was had
  std::string library;  // path of the backend; empty when there is no file
  std::optional<DeviceFacts> facts;  // of an available device
  bool has_solver_stages = false;  // whether the backend can carry a solve: every available one of this version

  std::string why() const;  // "driver_unavailable: libcuda.so.1: ...", "fault: ..."; empty when available
};

// Opens the backend and probes, once per process; a child of a process that has found a device sees none. This is the
// one call that wakes a driver whatever the size of the work.
const DeviceInfo& device_info();

// Another folder in whose packages (nvidia/*/lib) device libraries may lie, after those around this library. Before the
// first probe; later ones change nothing.
void add_device_package_root(const std::string& folder);

}  // namespace arrowschur
