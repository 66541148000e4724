// A 64-bit pattern over a range of memory: what cudaMemset, with its bytes, cannot write.
#include <algorithm>

#include "primitives.hpp"

namespace arrowschur::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::size_t kMostBlocks = 4096;  // enough to fill any device; longer ranges are walked in strides

__global__ void fill_kernel(std::uint64_t* memory, std::uint64_t pattern, std::size_t count) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    memory[i] = pattern;
  }
}

}  // namespace

cudaError_t launch_fill(std::uint64_t* memory, std::uint64_t pattern, std::size_t count, cudaStream_t stream) noexcept {
  if (count == 0) return cudaSuccess;  // an empty grid is an error
  const auto blocks = static_cast<unsigned>(std::min((count - 1) / kThreads + 1, kMostBlocks));
  fill_kernel<<<blocks, kThreads, 0, stream>>>(memory, pattern, count);
  return cudaGetLastError();
}

}  // namespace arrowschur::cuda
