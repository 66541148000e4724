#include "status.hpp"

#include <utility>

namespace arrowschur::cuda {
namespace {

std::string& message_of_thread() noexcept {
  thread_local std::string message;
  return message;
}

}  // namespace

const char* last_error() noexcept { return message_of_thread().c_str(); }

int fail(int status, std::string message) noexcept {
  message_of_thread() = std::move(message);
  return status;
}

int check(cudaError_t error, const char* call) noexcept {
  if (error == cudaSuccess) return ARROWSCHUR_DEVICE_OK;
  cudaGetLastError();  // an error that can be left behind is not met again by the next call
  int status = ARROWSCHUR_DEVICE_FAILED;
  if (error == cudaErrorMemoryAllocation) status = ARROWSCHUR_DEVICE_OUT_OF_MEMORY;
  if (error == cudaErrorInvalidValue) status = ARROWSCHUR_DEVICE_INVALID;
  return fail(status, std::string(call) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")");
}

int bind() noexcept {
  // Another library may have switched the thread to its own device since our last call.
  thread_local bool materialized = false;
  int current = -1;
  if (materialized && cudaGetDevice(&current) == cudaSuccess && current == kOrdinal) return ARROWSCHUR_DEVICE_OK;
  materialized = false;
  if (const int status = check(cudaSetDevice(kOrdinal), "cudaSetDevice")) return status;
  if (const int status = check(cudaFree(nullptr), "cudaFree")) return status;  // creates the context now
  materialized = true;
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace arrowschur::cuda
