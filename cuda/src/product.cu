// Q1 and what goes with it: products with H, norms, multiples of vectors, the sums of an attempt.
#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {

int apply_h(const System* system, const double* z, double* q, void* workspace, void* stream) noexcept {
  return on_system(system, stream, "apply_h", [&](DeviceQueue& queue) {
    return kernels::apply_h(queue, *system, z, q, static_cast<double*>(workspace));
  });
}

int norm_h(const System* system, double ridge_t, double ridge_beta, double* norm, void* workspace,
           void* stream) noexcept {
  return on_system(system, stream, "norm_h", [&](DeviceQueue& queue) {
    return kernels::norm_h(queue, *system, ridge_t, ridge_beta, norm, static_cast<double*>(workspace));
  });
}

int norm_inf(std::int64_t size, const double* x, double* norm, void* workspace, void* stream) noexcept {
  if (size < 0) return fail(ARROWSCHUR_DEVICE_INVALID, "norm_inf: a negative size");
  return on_stream(stream, "norm_inf", [&](DeviceQueue& queue) {
    return kernels::norm_inf(queue, size, x, norm, static_cast<double*>(workspace));
  });
}

int combine(std::int64_t size, std::int32_t count, const double* coefficients, const double* const* inputs, double* out,
            void* stream) noexcept {
  if (size < 0 || count < 1 || count > kernels::Combine::kMost) {
    return fail(ARROWSCHUR_DEVICE_INVALID, "combine: 1 to 4 vectors");
  }
  return on_stream(stream, "combine",
                   [&](DeviceQueue& queue) { return kernels::combine(queue, size, count, coefficients, inputs, out); });
}

int measure(const System* system, const Factor* factor, const double* g, const double* z, const double* r,
            const double* delta, const double* q, ArrowschurLoopRecord* record, void* workspace,
            void* stream) noexcept {
  return on_system(system, stream, "measure", [&](DeviceQueue& queue) {
    return kernels::measure(queue, *system, factor, g, z, r, delta, q, record, static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
