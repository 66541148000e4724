#include <string>

#include "kernels/shape.hpp"
#include "math_libraries.hpp"
#include "stages.hpp"
#include "status.hpp"

namespace arrowschur::cuda {

int sizes(const System* system, std::int32_t dual, std::int32_t full_inverse, ArrowschurDeviceSizes* sizes) noexcept {
  if (system == nullptr || sizes == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "sizes: no system");
  if (const char* words = dual != 0 ? kernels::dual_complaint(*system) : kernels::complaint(*system)) {
    return fail(ARROWSCHUR_DEVICE_INVALID, std::string("sizes: ") + words);
  }
  const std::int64_t order = dual != 0 ? system->total : system->k;
  std::size_t device = 0, host = 0;
  if (const int status = potrf_workspace(order, kernels::padded(order), &device, &host)) return status;
  sizes->workspace = kernels::workspace_bytes(system->total, system->k, order, device);
  sizes->inverse = kernels::inverse_bytes(order, full_inverse != 0);
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace arrowschur::cuda
