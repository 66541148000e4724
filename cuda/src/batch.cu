// Small systems, solved at once.
#include "device_queue.cuh"
#include "stages.hpp"

namespace arrowschur::cuda {
namespace {

int refused(const ArrowschurDeviceBatch* batch, const char* name) {
  const char* const words = batch == nullptr ? "no batch" : kernels::complaint(*batch);
  return words == nullptr ? ARROWSCHUR_DEVICE_OK
                          : fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": " + words);
}

}  // namespace

int batch_sizes(const ArrowschurDeviceBatch* batch, std::size_t* workspace) noexcept {
  if (const int status = refused(batch, "batch_sizes")) return status;
  *workspace = static_cast<std::size_t>(kernels::batch_doubles(*batch)) * sizeof(double);
  return ARROWSCHUR_DEVICE_OK;
}

int batch_solve(const ArrowschurDeviceBatch* batch, double ridge_t, double ridge_beta, double* x,
                ArrowschurBuildRecord* records, void* workspace, void* stream) noexcept {
  if (const int status = refused(batch, "batch_solve")) return status;
  return on_stream(stream, "batch_solve", [&](DeviceQueue& queue) {
    return kernels::batch_solve(queue, *batch, ridge_t, ridge_beta, x, records, static_cast<double*>(workspace));
  });
}

}  // namespace arrowschur::cuda
