// Failures of CUDA calls as statuses of the device interface, with their words.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "backend/device_api.h"

namespace arrowschur::cuda {

const char* last_error() noexcept;  // of the calling thread
int fail(int status, std::string message) noexcept;  // keeps the message, returns the status
// ARROWSCHUR_DEVICE_OK, or the status of a failure of `call`, whose message it keeps.
int check(cudaError_t error, const char* call) noexcept;

// Makes the library's device the calling thread's: its primary context, the only one that is ever used.
int bind() noexcept;
inline constexpr int kOrdinal = 0;  // the lowest visible

}  // namespace arrowschur::cuda
