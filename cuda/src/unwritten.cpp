// Stages whose kernels are yet to come.
#include <string>

#include "stages.hpp"
#include "status.hpp"

namespace arrowschur::cuda {
namespace {
int unwritten(const char* name) { return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": not written yet"); }
}  // namespace

int batch_sizes(const ArrowschurDeviceBatch*, std::size_t*) noexcept { return unwritten("batch_sizes"); }
int batch_solve(const ArrowschurDeviceBatch*, double, double, double*, ArrowschurBuildRecord*, void*, void*) noexcept {
  return unwritten("batch_solve");
}

}  // namespace arrowschur::cuda
