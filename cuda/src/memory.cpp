#include "memory.hpp"

#include <cstdint>
#include <mutex>

#include "status.hpp"

namespace arrowschur::cuda {
namespace {

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

}  // namespace

int allocate_from_pool(void** memory, std::size_t bytes, cudaStream_t stream) noexcept {
  cudaMemPool_t pool = nullptr;
  if (const int status = get_pool(&pool)) return status;
  return check(cudaMallocFromPoolAsync(memory, bytes, pool, stream), "cudaMallocFromPoolAsync");
}

// What the pool keeps without using it is free for its next allocations, though the driver counts it as taken.
int free_memory(std::size_t* bytes) noexcept {
  if (const int status = bind()) return status;
  std::size_t free_bytes = 0, total_bytes = 0;
  if (const int status = check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo")) return status;
  cudaMemPool_t pool = nullptr;
  if (const int status = get_pool(&pool)) return status;
  std::uint64_t reserved = 0, used = 0;
  if (const int status = check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved),
                               "cudaMemPoolGetAttribute")) {
    return status;
  }
  if (const int status =
          check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "cudaMemPoolGetAttribute")) {
    return status;
  }
  *bytes = free_bytes + static_cast<std::size_t>(reserved - used);
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace arrowschur::cuda
