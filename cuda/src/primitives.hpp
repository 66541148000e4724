// Streams, memory, transfers, events and graphs of the table (backend/device_api.h says what each does).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backend/device_api.h"

namespace arrowschur::cuda {

int stream_create(void** stream) noexcept;
int stream_destroy(void* stream) noexcept;
int stream_synchronize(void* stream) noexcept;
int counters(void* stream, ArrowschurDeviceCounters* counters) noexcept;
int stream_wait_external(void* stream, std::uint64_t external) noexcept;
int external_wait_stream(std::uint64_t external, void* stream) noexcept;
int memory_ordinal(const void* memory, std::int32_t* ordinal) noexcept;

int allocate(void** memory, std::size_t bytes, void* stream) noexcept;
int release(void* memory, void* stream) noexcept;
int host_allocate(void** memory, std::size_t bytes) noexcept;
int host_release(void* memory) noexcept;
int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream) noexcept;
int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) noexcept;
int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) noexcept;
int copy_on_device(void* to, const void* from, std::size_t bytes, void* stream) noexcept;

int event_create(void** event) noexcept;
int event_destroy(void* event) noexcept;
int event_record(void* event, void* stream) noexcept;
int event_elapsed(void* begin, void* end, double* milliseconds) noexcept;

int capture_begin(void* stream) noexcept;
int capture_end(void* stream, void** graph) noexcept;
int graph_launch(void* graph, void* stream) noexcept;
int graph_destroy(void* graph) noexcept;

// fill.cu
cudaError_t launch_fill(std::uint64_t* memory, std::uint64_t pattern, std::size_t count, cudaStream_t stream) noexcept;

}  // namespace arrowschur::cuda
