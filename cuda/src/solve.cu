// V2 to V6: one right-hand side through the factors of a frame.
#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {

int reduce_rhs(const System* system, const Factor* factor, const double* g, double* out, void* workspace,
               void* stream) noexcept {
  return on_system(system, stream, "reduce_rhs", [&](DeviceQueue& queue) {
    return kernels::reduce_rhs(queue, *system, *factor, g, out, static_cast<double*>(workspace));
  });
}

int border_solve(const System* system, const Factor* factor, double* x, void* workspace, void* stream) noexcept {
  return on_system(system, stream, "border_solve", [&](DeviceQueue& queue) {
    return kernels::border_solve(queue, *system, *factor, x, static_cast<double*>(workspace));
  });
}

int expand(const System* system, const Factor* factor, double* x, void* workspace, void* stream) noexcept {
  return on_system(system, stream, "expand", [&](DeviceQueue& queue) {
    return kernels::expand(queue, *system, *factor, x, static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
