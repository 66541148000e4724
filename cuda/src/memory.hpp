// The stream-ordered pool of this library, and how much of the device is free.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace arrowschur::cuda {

int allocate_from_pool(void** memory, std::size_t bytes, cudaStream_t stream) noexcept;
int free_memory(std::size_t* bytes) noexcept;

}  // namespace arrowschur::cuda
