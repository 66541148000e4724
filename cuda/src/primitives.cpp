#include "primitives.hpp"

#include "memory.hpp"
#include "status.hpp"
#include "stream.hpp"

namespace arrowschur::cuda {
namespace {

cudaEvent_t as_event(void* handle) { return static_cast<cudaEvent_t>(handle); }

int null_handle(const char* what) { return fail(ARROWSCHUR_DEVICE_INVALID, std::string(what) + " is null"); }

int copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr || bytes == 0) return status;
  status = check(cudaMemcpyAsync(to, from, bytes, kind, s->get()), "cudaMemcpyAsync");
  if (status == ARROWSCHUR_DEVICE_OK) {
    const auto count = static_cast<std::int64_t>(bytes);
    s->count_bytes(kind == cudaMemcpyHostToDevice ? count : 0, kind == cudaMemcpyDeviceToHost ? count : 0);
  }
  return status;
}

// The numbers 1 and 2 are those of the runtime, too: cudaStreamLegacy, cudaStreamPerThread. 0 says neither.
int external_stream(std::uint64_t number, cudaStream_t* stream) noexcept {
  if (number == 0)
    return fail(ARROWSCHUR_DEVICE_INVALID, "stream 0 of the caller: 1 is the legacy one, 2 the thread's");
  *stream = reinterpret_cast<cudaStream_t>(static_cast<std::uintptr_t>(number));
  return ARROWSCHUR_DEVICE_OK;
}

}  // namespace

int stream_create(void** stream) noexcept {
  if (const int status = bind()) return status;
  Stream* made = nullptr;
  const int status = Stream::create(&made);
  *stream = made;
  return status;
}

int stream_destroy(void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  delete stream_of(stream, &status);
  return status;
}

int stream_synchronize(void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  if (const int refused = s->not_in_a_capture("synchronized")) return refused;
  ++s->counters().syncs;
  return check(cudaStreamSynchronize(s->get()), "cudaStreamSynchronize");
}

int counters(void* stream, ArrowschurDeviceCounters* counters) noexcept {
  if (stream == nullptr) return null_handle("stream");
  *counters = static_cast<Stream*>(stream)->counters();
  return ARROWSCHUR_DEVICE_OK;
}

int stream_wait_external(void* stream, std::uint64_t external) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  cudaStream_t other = nullptr;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  if (const int refused = external_stream(external, &other)) return refused;
  return s->wait_for(other);
}

int external_wait_stream(std::uint64_t external, void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  cudaStream_t other = nullptr;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  if (const int refused = external_stream(external, &other)) return refused;
  return s->let_wait(other);
}

int memory_ordinal(const void* memory, std::int32_t* ordinal) noexcept {
  if (const int status = bind()) return status;
  cudaPointerAttributes attributes{};
  if (const int status = check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes")) {
    return status;
  }
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  *ordinal = on_device ? attributes.device : -1;
  return ARROWSCHUR_DEVICE_OK;
}

int allocate(void** memory, std::size_t bytes, void* stream) noexcept {
  if (stream == nullptr) return null_handle("stream");
  if (bytes == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "an allocation of 0 bytes");
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  if (const int refused = s->not_in_a_capture("allocated")) return refused;
  status = allocate_from_pool(memory, bytes, s->get());
  if (status == ARROWSCHUR_DEVICE_OK) ++s->counters().allocations;
  return status;
}

int release(void* memory, void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  if (const int refused = s->not_in_a_capture("released")) return refused;
  return check(cudaFreeAsync(memory, s->get()), "cudaFreeAsync");
}

int host_allocate(void** memory, std::size_t bytes) noexcept {
  if (bytes == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "an allocation of 0 bytes");
  if (const int status = bind()) return status;
  return check(cudaHostAlloc(memory, bytes, cudaHostAllocDefault), "cudaHostAlloc");
}

int host_release(void* memory) noexcept {
  if (const int status = bind()) return status;
  return check(cudaFreeHost(memory), "cudaFreeHost");
}

int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  s->counters().kernel_launches += count > 0;
  return check(launch_fill(static_cast<std::uint64_t*>(memory), pattern, count, s->get()), "fill");
}

int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) noexcept {
  return copy(to, from, bytes, cudaMemcpyHostToDevice, stream);
}

int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) noexcept {
  return copy(to, from, bytes, cudaMemcpyDeviceToHost, stream);
}

int copy_on_device(void* to, const void* from, std::size_t bytes, void* stream) noexcept {
  return copy(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
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
  if (event == nullptr) return null_handle("event");
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  return check(cudaEventRecord(as_event(event), s->get()), "cudaEventRecord");
}

int event_elapsed(void* begin, void* end, double* milliseconds) noexcept {
  if (begin == nullptr || end == nullptr) return null_handle("event");
  if (const int status = bind()) return status;
  float measured = 0.0f;
  const int status = check(cudaEventElapsedTime(&measured, as_event(begin), as_event(end)), "cudaEventElapsedTime");
  *milliseconds = static_cast<double>(measured);
  return status;
}

int capture_begin(void* stream) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  return s == nullptr ? status : s->capture_begin();
}

int capture_end(void* stream, void** graph) noexcept {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  Graph* made = nullptr;
  status = s->capture_end(&made);
  *graph = made;
  return status;
}

int graph_launch(void* graph, void* stream) noexcept {
  if (graph == nullptr) return null_handle("graph");
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  return s == nullptr ? status : s->launch(*static_cast<Graph*>(graph));
}

int graph_destroy(void* graph) noexcept {
  if (graph == nullptr) return null_handle("graph");
  if (const int status = bind()) return status;
  auto* const g = static_cast<Graph*>(graph);
  const int status = check(cudaGraphExecDestroy(g->exec), "cudaGraphExecDestroy");
  delete g;
  return status;
}

}  // namespace arrowschur::cuda
