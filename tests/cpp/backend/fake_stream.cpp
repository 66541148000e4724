#include "fake_stream.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "fake_heap.hpp"

namespace fake {
namespace {

thread_local std::string message;
std::int64_t ticks_so_far = 0;

struct Event {
  std::int64_t tick = -1;  // place in the order in which work has run; -1: not reached
};

constexpr int kOk = ARROWSCHUR_DEVICE_OK;

int run(Stream& stream) {
  int first_failure = kOk;
  for (const auto& work : std::exchange(stream.queue, {})) {
    ++ticks_so_far;
    const int status = work();
    if (first_failure == kOk) first_failure = status;
  }
  return first_failure;
}

// What a recording cannot hold.
int not_in_a_capture(Stream& stream, const char* what) {
  if (stream.capture == nullptr) return kOk;
  stream.capture_broken = true;
  return fail(ARROWSCHUR_DEVICE_INVALID, std::string(what) + " while the stream is captured");
}

// ---- scripts --------------------------------------------------------------------------------------------------------
struct Script {
  int first = 0, count = 0, status = 0;  // counted from when it was set
  int seen = 0;
};
std::map<std::string, Script>& scripts() {
  static auto* const all = new std::map<std::string, Script>;
  return *all;
}
std::map<std::string, int>& calls() {
  static auto* const all = new std::map<std::string, int>;
  return *all;
}
std::mutex& script_mutex() {
  static auto* const one = new std::mutex;
  return *one;
}

}  // namespace

std::mutex& mutex() {
  static auto* const one = new std::mutex;
  return *one;
}

int fail(int status, const std::string& words) {
  message = words;
  return status;
}
const char* last_error() { return message.c_str(); }
std::int64_t ticks() { return ticks_so_far; }

int scripted(const char* function) {
  const std::lock_guard lock(script_mutex());
  ++calls()[function];
  const auto found = scripts().find(function);
  if (found == scripts().end()) return kOk;
  Script& script = found->second;
  const int call = ++script.seen;
  if (call < script.first || (script.count >= 0 && call >= script.first + script.count)) return kOk;
  if (script.status == kFakeNumericalFailure) return script.status;
  return fail(script.status, std::string("scripted failure of ") + function);
}

Stream* stream_of(void* handle) {
  if (handle == nullptr) fail(ARROWSCHUR_DEVICE_INVALID, "stream is null");
  return static_cast<Stream*>(handle);
}

int enqueue(Stream& stream, std::function<int()> work) {
  (stream.capture != nullptr ? stream.capture->queue : stream.queue).push_back(std::move(work));
  return kOk;
}

void count_bytes(Stream& stream, std::int64_t h2d, std::int64_t d2h) {
  std::int64_t& to = stream.capture != nullptr ? stream.capture->h2d_bytes : stream.counters.h2d_bytes;
  std::int64_t& from = stream.capture != nullptr ? stream.capture->d2h_bytes : stream.counters.d2h_bytes;
  to += h2d, from += d2h;
}

// ---- streams --------------------------------------------------------------------------------------------------------
int stream_create(void** stream) {
  if (const int status = scripted("stream_create")) return status;
  const std::lock_guard lock(mutex());
  auto* const made = new Stream;
  made->counters.handle_creations = 3;  // the stream itself and the two libraries' handles of the real one
  *stream = made;
  ++counts().streams;
  return kOk;
}

int stream_destroy(void* stream) {
  if (const int status = scripted("stream_destroy")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  const int status = run(*s);
  delete s->capture;
  delete s;
  --counts().streams;
  return status;
}

int stream_synchronize(void* stream) {
  if (const int status = scripted("stream_synchronize")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (const int status = not_in_a_capture(*s, "synchronized")) return status;
  ++counts().syncs;
  ++s->counters.syncs;
  return run(*s);
}

int counters(void* stream, ArrowschurDeviceCounters* out) {
  const std::lock_guard lock(mutex());
  const Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  *out = s->counters;
  return kOk;
}

namespace {

int tie(const char* function, void* stream, std::uint64_t external) {
  if (const int status = scripted(function)) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (external == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "stream 0 of the caller");
  return not_in_a_capture(*s, function);
}

}  // namespace

int stream_wait_external(void* stream, std::uint64_t external) { return tie("stream_wait_external", stream, external); }
int external_wait_stream(std::uint64_t external, void* stream) { return tie("external_wait_stream", stream, external); }

int memory_ordinal(const void* memory, std::int32_t* ordinal) {
  if (const int status = scripted("memory_ordinal")) return status;
  const std::lock_guard lock(mutex());
  *ordinal = heap().content(memory, 0) != nullptr ? 0 : -1;
  return kOk;
}

// ---- memory ---------------------------------------------------------------------------------------------------------
int free_memory(std::size_t* bytes) {
  if (const int status = scripted("free_memory")) return status;
  const std::lock_guard lock(mutex());
  *bytes = free_bytes();
  return kOk;
}

int allocate(void** memory, std::size_t bytes, void* stream) {
  if (const int status = scripted("allocate")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (bytes == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "an allocation of 0 bytes");
  if (const int status = not_in_a_capture(*s, "allocated")) return status;
  void* const space = heap().allocate(bytes);
  if (space == nullptr) return fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no room for " + std::to_string(bytes) + " bytes");
  ++s->counters.allocations;
  *memory = space;
  return kOk;
}

int release(void* memory, void* stream) {
  if (const int status = scripted("release")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (const int status = not_in_a_capture(*s, "released")) return status;
  return enqueue(*s, [memory] {
    return heap().release(memory) ? kOk : fail(ARROWSCHUR_DEVICE_INVALID, "released what is not allocated");
  });
}

int host_allocate(void** memory, std::size_t bytes) {
  if (const int status = scripted("host_allocate")) return status;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*memory == nullptr) return fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no host memory");
  ++counts().host_allocations;
  return kOk;
}

int host_release(void* memory) {
  if (const int status = scripted("host_release")) return status;
  std::free(memory);
  --counts().host_allocations;
  return kOk;
}

int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream) {
  if (const int status = scripted("fill")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  s->counters.kernel_launches += count > 0;
  return enqueue(*s, [=] {
    unsigned char* const to = heap().content(memory, count * sizeof pattern);
    if (to == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "fill outside of an allocation");
    for (std::size_t i = 0; i < count; ++i) std::memcpy(to + i * sizeof pattern, &pattern, sizeof pattern);
    return kOk;
  });
}

int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  if (const int status = scripted("copy_to_device")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  count_bytes(*s, static_cast<std::int64_t>(bytes), 0);
  return enqueue(*s, [=] {
    unsigned char* const place = heap().content(to, bytes);
    if (place == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "copy outside of an allocation");
    std::memcpy(place, from, bytes);
    counts().h2d_bytes += bytes;
    return kOk;
  });
}

int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) {
  if (const int status = scripted("copy_to_host")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  count_bytes(*s, 0, static_cast<std::int64_t>(bytes));
  return enqueue(*s, [=] {
    const unsigned char* const place = heap().content(from, bytes);
    if (place == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "copy outside of an allocation");
    std::memcpy(to, place, bytes);
    counts().d2h_bytes += bytes;
    return kOk;
  });
}

int copy_on_device(void* to, const void* from, std::size_t bytes, void* stream) {
  if (const int status = scripted("copy_on_device")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  return enqueue(*s, [=] {
    unsigned char* const target = heap().content(to, bytes);
    const unsigned char* const source = heap().content(from, bytes);
    if (target == nullptr || source == nullptr) {
      return fail(ARROWSCHUR_DEVICE_INVALID, "copy outside of an allocation");
    }
    std::memmove(target, source, bytes);
    return kOk;
  });
}

// ---- events ---------------------------------------------------------------------------------------------------------
int event_create(void** event) {
  if (const int status = scripted("event_create")) return status;
  *event = new Event;
  ++counts().events;
  return kOk;
}

int event_destroy(void* event) {
  if (const int status = scripted("event_destroy")) return status;
  if (event == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  delete static_cast<Event*>(event);
  --counts().events;
  return kOk;
}

int event_record(void* event, void* stream) {
  if (const int status = scripted("event_record")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (event == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  return enqueue(*s, [event] {
    static_cast<Event*>(event)->tick = ticks();
    return kOk;
  });
}

// One millisecond for each piece of work that has run.
int event_elapsed(void* begin, void* end, double* milliseconds) {
  if (const int status = scripted("event_elapsed")) return status;
  const std::lock_guard lock(mutex());
  if (begin == nullptr || end == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  const std::int64_t from = static_cast<Event*>(begin)->tick, to = static_cast<Event*>(end)->tick;
  if (from < 0 || to < 0) return fail(ARROWSCHUR_DEVICE_FAILED, "an event has not been reached");
  *milliseconds = static_cast<double>(to - from);
  return kOk;
}

// ---- graphs ---------------------------------------------------------------------------------------------------------
int capture_begin(void* stream) {
  if (const int status = scripted("capture_begin")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (const int status = not_in_a_capture(*s, "a second capture")) return status;
  s->capture = new Graph;
  s->capture_broken = false;
  return kOk;
}

int capture_end(void* stream, void** graph) {
  const int scripted_status = scripted("capture_end");
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (s->capture == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "the stream is not captured");
  std::unique_ptr<Graph> made(std::exchange(s->capture, nullptr));
  if (scripted_status != kOk) return scripted_status;
  if (s->capture_broken) return fail(ARROWSCHUR_DEVICE_FAILED, "the capture held what cannot be recorded");
  *graph = made.release();
  ++counts().graphs;
  return kOk;
}

int graph_launch(void* graph, void* stream) {
  if (const int status = scripted("graph_launch")) return status;
  const std::lock_guard lock(mutex());
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  if (graph == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "graph is null");
  const auto& g = *static_cast<Graph*>(graph);
  count_bytes(*s, g.h2d_bytes, g.d2h_bytes);
  ++s->counters.graph_replays;
  for (const auto& work : g.queue) enqueue(*s, work);
  return kOk;
}

int graph_destroy(void* graph) {
  if (const int status = scripted("graph_destroy")) return status;
  if (graph == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "graph is null");
  delete static_cast<Graph*>(graph);
  --counts().graphs;
  return kOk;
}

}  // namespace fake

extern "C" const FakeDeviceCounts* arrowschur_fake_counts() { return &fake::counts(); }

extern "C" void arrowschur_fake_fail(const char* function, int first, int count, int status) {
  const std::lock_guard lock(fake::script_mutex());
  if (function == nullptr) {
    fake::scripts().clear();
  } else {
    fake::scripts()[function] = {first, count, status, 0};
  }
}

extern "C" int arrowschur_fake_calls(const char* function) {
  const std::lock_guard lock(fake::script_mutex());
  return fake::calls()[function];
}
