// Stages whose kernels are yet to come.
#include <string>

#include "stages.hpp"
#include "status.hpp"

namespace arrowschur::cuda {
namespace {
int unwritten(const char* name) { return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": not written yet"); }
}  // namespace

int schur_apply(const System*, double, const Factor*, const double*, double*, void*, void*) noexcept {
  return unwritten("schur_apply");
}
int pcg_begin(const System*, double, const Factor*, double, std::int64_t, const double*, double*, double*,
              ArrowschurPcgRecord*, void*, void*) noexcept {
  return unwritten("pcg_begin");
}
int pcg_iterate(const System*, double, const Factor*, double*, double*, ArrowschurPcgRecord*, void*, void*) noexcept {
  return unwritten("pcg_iterate");
}
int batch_sizes(const ArrowschurDeviceBatch*, std::size_t*) noexcept { return unwritten("batch_sizes"); }
int batch_solve(const ArrowschurDeviceBatch*, double, double, double*, ArrowschurBuildRecord*, void*, void*) noexcept {
  return unwritten("batch_solve");
}

}  // namespace arrowschur::cuda
