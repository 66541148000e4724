#include "math_libraries.hpp"

#include <mutex>
#include <string>

#include "status.hpp"

namespace arrowschur::cuda {
namespace {

MathLibraries& functions() {
  static auto* const all = new MathLibraries;
  return *all;
}
bool complete = false;  // set by the probe, before any stage

template <class Function>
bool take(const Library& library, const char* name, Function*& to) {
  to = library.symbol<Function>(name);
  return to != nullptr;
}

}  // namespace

const char* set_math_libraries(const Library& cublas, const Library& cusolver) {
  MathLibraries& f = functions();
  const char* missing = nullptr;
  const auto require = [&](const Library& library, const char* name, auto*& to) {
    if (!take(library, name, to) && missing == nullptr) missing = name;
  };
  require(cublas, "cublasCreate_v2", f.cublas_create);
  require(cublas, "cublasDestroy_v2", f.cublas_destroy);
  require(cublas, "cublasSetStream_v2", f.cublas_set_stream);
  require(cublas, "cublasSetWorkspace_v2", f.cublas_set_workspace);
  require(cublas, "cublasDsyrk_v2_64", f.syrk);
  require(cublas, "cublasDtrsm_v2_64", f.trsm);
  require(cublas, "cublasSgemm_v2_64", f.sgemm);
  require(cusolver, "cusolverDnCreate", f.cusolver_create);
  require(cusolver, "cusolverDnDestroy", f.cusolver_destroy);
  require(cusolver, "cusolverDnSetStream", f.cusolver_set_stream);
  require(cusolver, "cusolverDnCreateParams", f.create_params);
  require(cusolver, "cusolverDnDestroyParams", f.destroy_params);
  require(cusolver, "cusolverDnXpotrf_bufferSize", f.potrf_bytes);
  require(cusolver, "cusolverDnXpotrf", f.potrf);
  complete = missing == nullptr;
  return missing;
}

const MathLibraries* math() noexcept { return complete ? &functions() : nullptr; }

// Both number their statuses alike: 0 is success, 2 (cuBLAS: 3) a failed allocation.
int check_library(int status, const char* call) noexcept {
  if (status == 0) return ARROWSCHUR_DEVICE_OK;
  const bool cublas = std::string(call).rfind("cublas", 0) == 0;
  const bool no_memory = status == (cublas ? 3 : 2);
  return fail(no_memory ? ARROWSCHUR_DEVICE_OUT_OF_MEMORY : ARROWSCHUR_DEVICE_FAILED,
              std::string(call) + " failed with status " + std::to_string(status));
}

int potrf_workspace(std::int64_t k, std::int64_t lds, std::size_t* device, std::size_t* host) noexcept {
  *device = *host = 0;
  if (k == 0) return ARROWSCHUR_DEVICE_OK;
  const MathLibraries* const libraries = math();
  if (libraries == nullptr) return fail(ARROWSCHUR_DEVICE_FAILED, "the device has not been probed");
  if (const int status = bind()) return status;
  // One handle for questions, made once and dropped when the process ends.
  static std::mutex mutex;
  static void *handle = nullptr, *params = nullptr;
  const std::lock_guard lock(mutex);
  if (handle == nullptr) {
    if (const int status = check_library(libraries->cusolver_create(&handle), "cusolverDnCreate")) return status;
  }
  if (params == nullptr) {
    if (const int status = check_library(libraries->create_params(&params), "cusolverDnCreateParams")) return status;
  }
  return check_library(libraries->potrf_bytes(handle, params, MathLibraries::kLower, k, MathLibraries::kFloat64,
                                              nullptr, lds, MathLibraries::kFloat64, device, host),
                       "cusolverDnXpotrf_bufferSize");
}

}  // namespace arrowschur::cuda
