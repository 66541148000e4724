#include <string>

#include "kernels/shape.hpp"
#include "math_libraries.hpp"
#include "stages.hpp"
#include "status.hpp"

namespace arrowschur::cuda {

int sizes(const System* system, std::int32_t full_inverse, ArrowschurDeviceSizes* sizes) noexcept {
  if (system == nullptr || sizes == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "sizes: no system");
  if (const char* words = kernels::complaint(*system)) {
    return fail(ARROWSCHUR_DEVICE_INVALID, std::string("sizes: ") + words);
  }
  std::size_t device = 0, host = 0;
  if (const int status = potrf_workspace(system->k, kernels::padded(system->k), &device, &host)) return status;
  sizes->workspace = kernels::workspace_bytes(system->total, system->k, device);
  sizes->inverse = kernels::inverse_bytes(system->k, full_inverse != 0);
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace arrowschur::cuda
