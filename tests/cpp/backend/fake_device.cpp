// A device backend for tests: the table over host memory, loaded by the loader of the real one. It calls itself "fake",
// so that nothing made with it can pass for a device.
//
// ARROWSCHUR_FAKE_DEVICE, read by each probe, says how it ends: available (the default), driver_unavailable,
// runtime_library_unavailable, no_device or fault; `version` makes the table one of another version.
//
// Device memory is address space without access rights, so that a host that dereferences it faults; the bytes are kept
// beside it. Streams are queues that run when they are synchronized, and not before: a result that is read too early is
// missing.
#include "fake_device.hpp"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "backend/device_api.h"

namespace {

thread_local std::string message;

int fail(int status, const std::string& words) {
  message = words;
  return status;
}
const char* last_error() { return message.c_str(); }

FakeDeviceCounts counts;
std::mutex mutex;  // of everything below

// ---- memory ---------------------------------------------------------------------------------------------------------
struct Block {
  std::size_t bytes = 0;
  std::vector<unsigned char> content;
};
std::map<unsigned char*, Block>& heap() {
  static auto* const blocks = new std::map<unsigned char*, Block>;
  return *blocks;
}

// The content behind [memory, memory + bytes); null where that is not inside one block.
unsigned char* content(void* memory, std::size_t bytes) {
  auto* const at = static_cast<unsigned char*>(memory);
  auto after = heap().upper_bound(at);
  if (after == heap().begin()) return nullptr;
  auto& [begin, block] = *--after;
  const auto offset = static_cast<std::size_t>(at - begin);
  return offset <= block.bytes && bytes <= block.bytes - offset ? block.content.data() + offset : nullptr;
}

// ---- streams and events ---------------------------------------------------------------------------------------------
struct Stream {
  std::vector<std::function<int()>> queue;
};
struct Event {
  std::int64_t tick = -1;  // place in the order in which work has run; -1: not reached
};
std::int64_t ticks = 0;

int enqueue(void* stream, std::function<int()> work) {
  if (stream == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "stream is null");
  static_cast<Stream*>(stream)->queue.push_back(std::move(work));
  return ARROWSCHUR_DEVICE_OK;
}

int run(Stream& stream) {
  int first_failure = ARROWSCHUR_DEVICE_OK;
  for (const auto& work : stream.queue) {
    ++ticks;
    if (const int status = work(); status != ARROWSCHUR_DEVICE_OK && first_failure == ARROWSCHUR_DEVICE_OK) {
      first_failure = status;
    }
  }
  stream.queue.clear();
  return first_failure;
}

int stream_create(void** stream) {
  const std::lock_guard lock(mutex);
  *stream = new Stream;
  ++counts.streams;
  return ARROWSCHUR_DEVICE_OK;
}

int stream_destroy(void* stream) {
  const std::lock_guard lock(mutex);
  if (stream == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "stream is null");
  const int status = run(*static_cast<Stream*>(stream));
  delete static_cast<Stream*>(stream);
  --counts.streams;
  return status;
}

int stream_synchronize(void* stream) {
  const std::lock_guard lock(mutex);
  if (stream == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "stream is null");
  ++counts.syncs;
  return run(*static_cast<Stream*>(stream));
}

int allocate(void** memory, std::size_t bytes, void* stream) {
  const std::lock_guard lock(mutex);
  if (stream == nullptr || bytes == 0) return fail(ARROWSCHUR_DEVICE_INVALID, "no stream, or 0 bytes");
  void* const space = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return fail(ARROWSCHUR_DEVICE_OUT_OF_MEMORY, "no address space");
  heap()[static_cast<unsigned char*>(space)] = {bytes, std::vector<unsigned char>(bytes, 0xA5)};
  ++counts.allocations;
  *memory = space;
  return ARROWSCHUR_DEVICE_OK;
}

int release(void* memory, void* stream) {
  const std::lock_guard lock(mutex);
  return enqueue(stream, [memory] {
    const auto block = heap().find(static_cast<unsigned char*>(memory));
    if (block == heap().end()) return fail(ARROWSCHUR_DEVICE_INVALID, "released what is not allocated");
    ::munmap(memory, block->second.bytes);
    heap().erase(block);
    --counts.allocations;
    return static_cast<int>(ARROWSCHUR_DEVICE_OK);
  });
}

int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream) {
  const std::lock_guard lock(mutex);
  return enqueue(stream, [=] {
    unsigned char* const to = content(memory, count * sizeof pattern);
    if (to == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "fill outside of an allocation");
    for (std::size_t i = 0; i < count; ++i) std::memcpy(to + i * sizeof pattern, &pattern, sizeof pattern);
    return static_cast<int>(ARROWSCHUR_DEVICE_OK);
  });
}

int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  const std::lock_guard lock(mutex);
  return enqueue(stream, [=] {
    unsigned char* const place = content(to, bytes);
    if (place == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "copy outside of an allocation");
    std::memcpy(place, from, bytes);
    counts.h2d_bytes += bytes;
    return static_cast<int>(ARROWSCHUR_DEVICE_OK);
  });
}

int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) {
  const std::lock_guard lock(mutex);
  return enqueue(stream, [=] {
    const unsigned char* const place = content(const_cast<void*>(from), bytes);
    if (place == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "copy outside of an allocation");
    std::memcpy(to, place, bytes);
    counts.d2h_bytes += bytes;
    return static_cast<int>(ARROWSCHUR_DEVICE_OK);
  });
}

int event_create(void** event) {
  *event = new Event;
  return ARROWSCHUR_DEVICE_OK;
}

int event_destroy(void* event) {
  if (event == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  delete static_cast<Event*>(event);
  return ARROWSCHUR_DEVICE_OK;
}

int event_record(void* event, void* stream) {
  const std::lock_guard lock(mutex);
  if (event == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  return enqueue(stream, [event] {
    static_cast<Event*>(event)->tick = ticks;
    return static_cast<int>(ARROWSCHUR_DEVICE_OK);
  });
}

// One millisecond for each piece of work that has run.
int event_elapsed(void* begin, void* end, double* milliseconds) {
  const std::lock_guard lock(mutex);
  if (begin == nullptr || end == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "event is null");
  const std::int64_t from = static_cast<Event*>(begin)->tick, to = static_cast<Event*>(end)->tick;
  if (from < 0 || to < 0) return fail(ARROWSCHUR_DEVICE_FAILED, "an event has not been reached");
  *milliseconds = static_cast<double>(to - from);
  return ARROWSCHUR_DEVICE_OK;
}

// ---- the probe ------------------------------------------------------------------------------------------------------
std::string script() {
  const char* const value = std::getenv("ARROWSCHUR_FAKE_DEVICE");
  return value == nullptr || *value == '\0' ? "available" : value;
}

int probe(ArrowschurDeviceFacts* facts) {
  ++counts.probes;
  const std::string outcome = script();
  const std::string words = "scripted " + outcome;
  if (outcome == "driver_unavailable") return fail(ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE, words);
  if (outcome == "runtime_library_unavailable") return fail(ARROWSCHUR_PROBE_RUNTIME_LIBRARY_UNAVAILABLE, words);
  if (outcome == "no_device") return fail(ARROWSCHUR_PROBE_NO_DEVICE, words);
  if (outcome != "available") return fail(ARROWSCHUR_PROBE_FAULT, words);
  *facts = ArrowschurDeviceFacts{};
  facts->compute_major = 9;
  facts->multiprocessors = 132, facts->threads_per_multiprocessor = 2048;
  facts->copy_engines = 3;
  facts->ecc = 1, facts->mig = -1, facts->memory_pools = 1;
  facts->shared_bytes_per_block = 49152, facts->shared_bytes_per_block_optin = 232448;
  facts->l2_bytes = 52428800, facts->total_bytes = 1 << 30, facts->free_bytes = 1 << 29;
  facts->driver_version = facts->runtime_version = 13000;
  std::strcpy(facts->name, "fake device");
  return ARROWSCHUR_PROBE_AVAILABLE;
}

constexpr ArrowschurDeviceTable table_of_version(std::uint32_t version) {
  return {
      .version = version,
      .backend = "fake",
      .last_error = last_error,
      .probe = probe,
      .stream_create = stream_create,
      .stream_destroy = stream_destroy,
      .stream_synchronize = stream_synchronize,
      .allocate = allocate,
      .release = release,
      .fill = fill,
      .copy_to_device = copy_to_device,
      .copy_to_host = copy_to_host,
      .event_create = event_create,
      .event_destroy = event_destroy,
      .event_record = event_record,
      .event_elapsed = event_elapsed,
  };
}

}  // namespace

extern "C" const ArrowschurDeviceTable* arrowschur_device_table(const ArrowschurHostTable* host,
                                                                std::uint32_t* own_version) {
  static constexpr ArrowschurDeviceTable table = table_of_version(ARROWSCHUR_DEVICE_API_VERSION);
  for (const char* const* root = host->package_roots; *root != nullptr; ++root) ++counts.package_roots;
  *own_version = ARROWSCHUR_DEVICE_API_VERSION;
  if (script() != "version") return &table;
  *own_version = ARROWSCHUR_DEVICE_API_VERSION + 1;
  return nullptr;
}

extern "C" const FakeDeviceCounts* arrowschur_fake_counts() { return &counts; }
