// Atoms for rows.
#include <cstdlib>
#include <string_view>

#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {
namespace {

int refused(const ArrowschurDeviceAtoms* atoms, std::int64_t rows, int wanted, const char* name) {
  const char* const words = atoms == nullptr ? "no dictionary" : kernels::complaint(*atoms, rows, wanted);
  return words == nullptr ? ARROWSCHUR_DEVICE_OK
                          : fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": " + words);
}

// The error bound is that of float32 products. The library makes them in the default mode, which the environment can
// change behind its caller's back.
int require_float32() {
  for (const char* const name : {"NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"}) {
    const char* const value = std::getenv(name);
    if (value == nullptr || *value == '\0' || std::string_view(value) == "0") continue;
    return fail(ARROWSCHUR_DEVICE_FAILED, std::string("route_sizes: ") + name + "=" + value +
                                              " makes float32 products of fewer bits; unset it");
  }
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace

int route_sizes(const ArrowschurDeviceAtoms* atoms, std::int64_t rows, std::int32_t wanted,
                std::size_t* workspace) noexcept {
  if (const int status = refused(atoms, rows, wanted, "route_sizes")) return status;
  if (const int status = require_float32()) return status;
  *workspace = static_cast<std::size_t>(kernels::route_space(atoms->count, rows, wanted).end) * sizeof(double);
  return ARROWSCHUR_DEVICE_OK;
}

int route(const ArrowschurDeviceAtoms* atoms, std::int64_t rows, const float* x, std::int32_t wanted,
          std::uint32_t* index, double* score, std::int64_t* rescanned, void* workspace, void* stream) noexcept {
  if (const int status = refused(atoms, rows, wanted, "route")) return status;
  return on_stream(stream, "route", [&](DeviceQueue& queue) {
    return kernels::route(queue, *atoms, rows, x, wanted, index, score, rescanned, static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
