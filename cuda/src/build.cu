// E1 to E6: the factors of a frame, and the advice where rows have none.
#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {

int factor_and_whiten(const System* system, double ridge_t, const Factor* factor, void*, void* stream) noexcept {
  return on_system(system, stream, "factor_and_whiten",
                   [&](DeviceQueue& queue) { return kernels::factor_and_whiten(queue, *system, ridge_t, *factor); });
}

int reduce(const System* system, const Factor* factor, void*, void* stream) noexcept {
  return on_system(system, stream, "reduce",
                   [&](DeviceQueue& queue) { return kernels::reduce(queue, *system, *factor); });
}

int dual_reduce(const System* system, double ridge_beta, const Factor* factor, void*, void* stream) noexcept {
  if (system != nullptr) {
    if (const char* words = kernels::dual_complaint(*system)) {
      return fail(ARROWSCHUR_DEVICE_INVALID, std::string("dual_reduce: ") + words);
    }
  }
  return on_system(system, stream, "dual_reduce",
                   [&](DeviceQueue& queue) { return kernels::dual_reduce(queue, *system, ridge_beta, *factor); });
}

int factor_border(const System* system, double ridge_beta, const Factor* factor, void* workspace,
                  void* stream) noexcept {
  return on_system(system, stream, "factor_border", [&](DeviceQueue& queue) {
    void* const library = static_cast<unsigned char*>(workspace) + kernels::kInfoBytes;
    return kernels::factor_border(queue, *system, ridge_beta, *factor, static_cast<int*>(workspace), library);
  });
}

int log_det(const System* system, const Factor* factor, void* workspace, void* stream) noexcept {
  return on_system(system, stream, "log_det", [&](DeviceQueue& queue) {
    return kernels::log_det(queue, *system, *factor, static_cast<double*>(workspace));
  });
}

int prepare_border_solve(const System* system, const Factor* factor, void*, void* stream) noexcept {
  return on_system(system, stream, "prepare_border_solve",
                   [&](DeviceQueue& queue) { return kernels::prepare_border_solve(queue, *system, *factor); });
}

int suggest_bump(const System* system, double ridge_t, double ridge_beta, const Factor* factor, void* workspace,
                 void* stream) noexcept {
  return on_system(system, stream, "suggest_bump", [&](DeviceQueue& queue) {
    return kernels::suggest_bump(queue, *system, ridge_t, ridge_beta, *factor, static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
