// P1 and conjugate gradients on the Schur complement, from W alone.
#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {

int schur_apply(const System* system, double ridge_beta, const Factor* factor, const double* x, double* y,
                void* workspace, void* stream) noexcept {
  return on_system(system, stream, "schur_apply", [&](DeviceQueue& queue) {
    return kernels::schur_apply(queue, *system, ridge_beta, *factor, x, y, static_cast<double*>(workspace));
  });
}

int pcg_begin(const System* system, double ridge_beta, const Factor* factor, double relative_tolerance,
              std::int64_t max_iterations, const double* b, double* x, double* vectors, ArrowschurPcgRecord* record,
              void* workspace, void* stream) noexcept {
  return on_system(system, stream, "pcg_begin", [&](DeviceQueue& queue) {
    return kernels::pcg_begin(queue, *system, ridge_beta, *factor, relative_tolerance, max_iterations, b, x, vectors,
                              record, static_cast<double*>(workspace));
  });
}

int pcg_iterate(const System* system, double ridge_beta, const Factor* factor, double* x, double* vectors,
                ArrowschurPcgRecord* record, void* workspace, void* stream) noexcept {
  return on_system(system, stream, "pcg_iterate", [&](DeviceQueue& queue) {
    return kernels::pcg_iterate(queue, *system, ridge_beta, *factor, x, vectors, record,
                                static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
