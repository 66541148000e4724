#include "stream.hpp"

#include <memory>
#include <new>
#include <string>

#include "math_libraries.hpp"
#include "memory.hpp"
#include "status.hpp"

namespace arrowschur::cuda {
namespace {

// cuBLAS is given its workspace: otherwise it takes one from a pool of its own, chosen differently when several streams are
// busy, and results would depend on that. The sizes are those that its documentation asks for.
int cublas_workspace_bytes(std::size_t* bytes) {
  int major = 0;
  const int status =
      check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, kOrdinal), "cudaDeviceGetAttribute");
  *bytes = std::size_t{major >= 9 ? 32u : 4u} << 20;
  return status;
}

}  // namespace

int Stream::create(Stream** stream) noexcept {
  std::unique_ptr<Stream> made(new (std::nothrow) Stream);
  if (made == nullptr) return fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no host memory for a stream");
  if (const int status = made->make()) return status;
  *stream = made.release();
  return ARROWSCHUR_DEVICE_OK;
}

int Stream::make() noexcept {
  const MathLibraries* const libraries = math();
  if (libraries == nullptr) return fail(ARROWSCHUR_DEVICE_FAILED, "the device has not been probed");
  // Not ordered with the default stream, which other libraries use.
  if (const int status =
          check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags")) {
    return status;
  }
  if (const int status = check(cudaEventCreateWithFlags(&fence_, cudaEventDisableTiming), "cudaEventCreateWithFlags")) {
    return status;
  }
  std::size_t bytes = 0;
  if (const int status = cublas_workspace_bytes(&bytes)) return status;
  if (const int status = allocate_from_pool(&workspace_, bytes, stream_)) return status;
  if (const int status = check_library(libraries->cublas_create(&cublas_), "cublasCreate")) return status;
  // In this order: a new stream resets the workspace.
  if (const int status = check_library(libraries->cublas_set_stream(cublas_, stream_), "cublasSetStream"))
    return status;
  if (const int status =
          check_library(libraries->cublas_set_workspace(cublas_, workspace_, bytes), "cublasSetWorkspace")) {
    return status;
  }
  if (const int status = check_library(libraries->cusolver_create(&cusolver_), "cusolverDnCreate")) return status;
  if (const int status = check_library(libraries->cusolver_set_stream(cusolver_, stream_), "cusolverDnSetStream")) {
    return status;
  }
  if (const int status = check_library(libraries->create_params(&params_), "cusolverDnCreateParams")) return status;
  counters_.handle_creations = 3;  // stream, cuBLAS, cuSOLVER
  return ARROWSCHUR_DEVICE_OK;
}

// Freeing must not fail: what cannot be given back is left to the driver.
Stream::~Stream() {
  const MathLibraries* const libraries = math();
  if (capturing_) {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  if (params_ != nullptr) libraries->destroy_params(params_);
  if (cusolver_ != nullptr) libraries->cusolver_destroy(cusolver_);
  if (cublas_ != nullptr) libraries->cublas_destroy(cublas_);
  if (workspace_ != nullptr) cudaFreeAsync(workspace_, stream_);
  if (fence_ != nullptr) cudaEventDestroy(fence_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  cudaGetLastError();
}

void Stream::count_bytes(std::int64_t h2d, std::int64_t d2h) {
  (capturing_ ? capture_h2d_ : counters_.h2d_bytes) += h2d;
  (capturing_ ? capture_d2h_ : counters_.d2h_bytes) += d2h;
}

// ---- graphs -----------------------------------------------------------------------------------------------------------
int Stream::not_in_a_capture(const char* what) noexcept {
  if (!capturing_) return ARROWSCHUR_DEVICE_OK;
  spoilt_ = true;
  return fail(ARROWSCHUR_DEVICE_INVALID, std::string(what) + " while the stream is captured");
}

int Stream::capture_begin() noexcept {
  if (const int status = not_in_a_capture("a second capture")) return status;
  // Calls of other threads stay as they are.
  if (const int status =
          check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture")) {
    return status;
  }
  capturing_ = true, spoilt_ = false;
  capture_h2d_ = capture_d2h_ = 0;
  return ARROWSCHUR_DEVICE_OK;
}

int Stream::capture_end(Graph** graph) noexcept {
  if (!capturing_) return fail(ARROWSCHUR_DEVICE_INVALID, "the stream is not captured");
  capturing_ = false;
  cudaGraph_t recorded = nullptr;
  int status = check(cudaStreamEndCapture(stream_, &recorded), "cudaStreamEndCapture");
  std::unique_ptr<Graph> made(new (std::nothrow) Graph);
  if (status == ARROWSCHUR_DEVICE_OK && spoilt_) {
    status = fail(ARROWSCHUR_DEVICE_FAILED, "the capture held what cannot be recorded");
  }
  if (status == ARROWSCHUR_DEVICE_OK && made == nullptr) {
    status = fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no host memory for a graph");
  }
  if (status == ARROWSCHUR_DEVICE_OK) {
    status = check(cudaGraphInstantiate(&made->exec, recorded, 0), "cudaGraphInstantiate");
  }
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (status != ARROWSCHUR_DEVICE_OK) return status;
  made->h2d_bytes = capture_h2d_, made->d2h_bytes = capture_d2h_;
  *graph = made.release();
  return ARROWSCHUR_DEVICE_OK;
}

int Stream::launch(const Graph& graph) noexcept {
  if (const int status = not_in_a_capture("a graph launched")) return status;
  if (const int status = check(cudaGraphLaunch(graph.exec, stream_), "cudaGraphLaunch")) return status;
  ++counters_.graph_replays;
  count_bytes(graph.h2d_bytes, graph.d2h_bytes);
  return ARROWSCHUR_DEVICE_OK;
}

// ---- other streams ----------------------------------------------------------------------------------------------------
// A wait is for the event as it was recorded last before it: one event serves any number of them.
int Stream::wait_for(cudaStream_t other) noexcept {
  if (const int status = not_in_a_capture("another stream waited for")) return status;
  if (const int status = check(cudaEventRecord(fence_, other), "cudaEventRecord")) return status;
  return check(cudaStreamWaitEvent(stream_, fence_, 0), "cudaStreamWaitEvent");
}

int Stream::let_wait(cudaStream_t other) noexcept {
  if (const int status = not_in_a_capture("another stream let wait")) return status;
  if (const int status = check(cudaEventRecord(fence_, stream_), "cudaEventRecord")) return status;
  return check(cudaStreamWaitEvent(other, fence_, 0), "cudaStreamWaitEvent");
}

// ---- libraries --------------------------------------------------------------------------------------------------------
// W is row-major [lines, k]: to the library the k x lines matrix W', of which W'W is the symmetric rank-`lines` product.
int Stream::subtract_gram(std::int64_t k, std::int64_t lines, const double* w, double* s, std::int64_t lds) noexcept {
  const double minus_one = -1.0, one = 1.0;
  ++counters_.kernel_launches;
  return check_library(math()->syrk(cublas_, MathLibraries::kLower, MathLibraries::kNoTranspose, k, lines, &minus_one,
                                    w, k, &one, s, lds),
                       "cublasDsyrk");
}

// Z is row-major [lines, k]: to the library k x lines, and its transpose the factor of the product.
int Stream::minus_outer(std::int64_t lines, std::int64_t k, const double* z, double* c, std::int64_t ldc) noexcept {
  const double minus_one = -1.0, zero = 0.0;
  ++counters_.kernel_launches;
  return check_library(math()->syrk(cublas_, MathLibraries::kLower, MathLibraries::kTranspose, lines, k, &minus_one, z,
                                    k, &zero, c, ldc),
                       "cublasDsyrk");
}

int Stream::cholesky(std::int64_t k, double* s, std::int64_t lds, int* info, void* workspace) noexcept {
  if (potrf_k_ != k || potrf_lds_ != lds) {
    if (const int status = potrf_workspace(k, lds, &potrf_device_, &potrf_host_)) return status;
    potrf_k_ = k, potrf_lds_ = lds;
  }
  if (host_.size() < potrf_host_) {
    try {
      host_.resize(potrf_host_);
    } catch (const std::bad_alloc&) {
      return fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no host memory for cusolverDnXpotrf");
    }
  }
  ++counters_.kernel_launches;
  return check_library(
      math()->potrf(cusolver_, params_, MathLibraries::kLower, k, MathLibraries::kFloat64, s, lds,
                    MathLibraries::kFloat64, workspace, potrf_device_, host_.data(), potrf_host_, info),
      "cusolverDnXpotrf");
}

int Stream::solve_lower(std::int64_t k, const double* l, std::int64_t lds, double* x, std::int64_t ldx) noexcept {
  const double one = 1.0;
  ++counters_.kernel_launches;
  return check_library(math()->trsm(cublas_, MathLibraries::kLeft, MathLibraries::kLower, MathLibraries::kNoTranspose,
                                    MathLibraries::kNonUnit, k, k, &one, l, lds, x, ldx),
                       "cublasDtrsm");
}

// D and X are row-major: to the library width x atoms and width x rows, and S = D'X in columns of one row each.
int Stream::scores(std::int64_t atoms, std::int64_t rows, std::int64_t width, const float* d, const float* x, float* s,
                   std::int64_t lds) noexcept {
  const float one = 1.0f, zero = 0.0f;
  ++counters_.kernel_launches;
  return check_library(math()->sgemm(cublas_, MathLibraries::kTranspose, MathLibraries::kNoTranspose, atoms, rows,
                                     width, &one, d, width, x, width, &zero, s, lds),
                       "cublasSgemm");
}

Stream* stream_of(void* handle, int* status) noexcept {
  if (handle == nullptr) {
    *status = fail(ARROWSCHUR_DEVICE_INVALID, "stream is null");
    return nullptr;
  }
  *status = bind();
  return *status == ARROWSCHUR_DEVICE_OK ? static_cast<Stream*>(handle) : nullptr;
}

}  // namespace arrowschur::cuda
