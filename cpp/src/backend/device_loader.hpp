// The way to the device backend: finds the library, agrees on a version, probes.
#pragma once

#include <string>

#include "arrowschur/device.hpp"
#include "backend/device_api.h"

namespace arrowschur::device {

inline constexpr const char* kFileName = "libarrowschur_cuda.so";
inline constexpr const char* kNoBackend = "this build has no CUDA backend";

// Path of the backend that would be opened, empty when there is no such file: ARROWSCHUR_CUDA_BACKEND when it is set,
// else the file beside this library, or in ../lib of the program that contains it. Asks no driver.
std::string backend_path();
// Whether there is a file to open, as far as that can be told without asking a driver.
bool backend_is_there() noexcept;

struct Runtime {
  DeviceInfo info;
  const ArrowschurDeviceTable* table = nullptr;  // of an available device
};
// One attempt, whatever has been tried before. An empty path: no backend.
Runtime open_runtime(const std::string& path);

// The backend of this process: the first call opens it, every other one gets the same answer. In a child of the process
// that found a device, which cannot be used there, driver_unavailable; where nothing had been found, or nothing asked
// before the fork, the child's own answer.
const Runtime& runtime();

}  // namespace arrowschur::device
