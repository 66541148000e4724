#include "primitives.hpp"

#include <mutex>

#include "status.hpp"

namespace arrowschur::cuda {
namespace {

cudaStream_t as_stream(void* handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t as_event(void* handle) { return static_cast<cudaEvent_t>(handle); }

int null_handle(const char* what) { return fail(ARROWSCHUR_DEVICE_INVALID, std::string(what) + " is null"); }

// A pool of our own: the threshold that keeps its memory would otherwise hold for everybody in the process. It is
// dropped, not destroyed, when the process ends.
int make_pool(cudaMemPool_t* pool) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = kOrdinal;
  if (const int status = check(cudaMemPoolCreate(pool, &properties), "cudaMemPoolCreate")) return status;
  std::uint64_t keep = ~std::uint64_t{0};
  return check(cudaMemPoolSetAttribute(*pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
}

int get_pool(cudaMemPool_t* pool) {
  static std::mutex mutex;
  static cudaMemPool_t kept = nullptr;
  const std::lock_guard lock(mutex);
  if (kept == nullptr) {
    cudaMemPool_t made = nullptr;
    if (const int status = make_pool(&made)) return status;  // tried again by the next allocation
    kept = made;
  }
  *pool = kept;
  return ARROWSCHUR_DEVICE_OK;
}

int copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (const int status = bind()) return status;
  return check(cudaMemcpyAsync(to, from, bytes, kind, as_stream(stream)), "cudaMemcpyAsync");
}

}  // namespace

int stream_create(void** stream) noexcept {
  if (const int status = bind()) return status;
  cudaStream_t made = nullptr;
  // Not ordered with the default stream, which other libraries use.
  const int status = check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  *stream = made;
  return status;
}

int stream_destroy(void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (const int status = bind()) return status;
  return check(cudaStreamDestroy(as_stream(stream)), "cudaStreamDestroy");
}

int stream_synchronize(void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (const int status = bind()) return status;
  return check(cudaStreamSynchronize(as_stream(stream)), "cudaStreamSynchronize");
}

int allocate(void** memory, std::size_t bytes, void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (bytes == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "an allocation of 0 bytes");
  if (const int status = bind()) return status;
  cudaMemPool_t pool = nullptr;
  if (const int status = get_pool(&pool)) return status;
  return check(cudaMallocFromPoolAsync(memory, bytes, pool, as_stream(stream)), "cudaMallocFromPoolAsync");
}

int release(void* memory, void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (const int status = bind()) return status;
  return check(cudaFreeAsync(memory, as_stream(stream)), "cudaFreeAsync");
}

int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (const int status = bind()) return status;
  return check(launch_fill(static_cast<std::uint64_t*>(memory), pattern, count, as_stream(stream)), "fill");
}

int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) noexcept {
  return copy(to, from, bytes, cudaMemcpyHostToDevice, stream);
}

int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) noexcept {
  return copy(to, from, bytes, cudaMemcpyDeviceToHost, stream);
}

int event_create(void** event) noexcept {
  if (const int status = bind()) return status;
  cudaEvent_t made = nullptr;
  const int status = check(cudaEventCreate(&made), "cudaEventCreate");
  *event = made;
  return status;
}

int event_destroy(void* event) noexcept {
  if (event == nullptr) return null_handle("event");
  if (const int status = bind()) return status;
  return check(cudaEventDestroy(as_event(event)), "cudaEventDestroy");
}

int event_record(void* event, void* stream) noexcept {
  if (event == nullptr || stream == nullptr) return null_handle("event or stream");
  if (const int status = bind()) return status;
  return check(cudaEventRecord(as_event(event), as_stream(stream)), "cudaEventRecord");
}

int event_elapsed(void* begin, void* end, double* milliseconds) noexcept {
  if (begin == nullptr || end == nullptr) return null_handle("event");
  if (const int status = bind()) return status;
  float measured = 0.0f;
  const int status = check(cudaEventElapsedTime(&measured, as_event(begin), as_event(end)), "cudaEventElapsedTime");
  *milliseconds = static_cast<double>(measured);
  return status;
}

}  // namespace arrowschur::cuda
