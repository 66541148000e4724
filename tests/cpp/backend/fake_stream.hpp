// Streams, graphs and scripts of the fake device. A stream is a queue that runs when it is synchronized, and not before: a
// result that is read too early is missing. A graph is a queue that was recorded.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "backend/device_api.h"

namespace fake {

std::mutex& mutex();  // of everything here and of the heap

int fail(int status, const std::string& words);  // keeps the words for last_error, returns the status
const char* last_error();

// Counts a call; its status by the script, or OK.
int scripted(const char* function);

struct Graph {
  std::vector<std::function<int()>> queue;
  std::int64_t h2d_bytes = 0, d2h_bytes = 0;  // of one replay
};

struct Stream {
  std::vector<std::function<int()>> queue;
  ArrowschurDeviceCounters counters{};
  Graph* capture = nullptr;
  bool capture_broken = false;  // by what may not be recorded
};

// The stream of a handle; null, with its words, where there is none.
Stream* stream_of(void* handle);
int enqueue(Stream& stream, std::function<int()> work);
void count_bytes(Stream& stream, std::int64_t h2d, std::int64_t d2h);
std::int64_t ticks();  // pieces of work that have run

// ---- of the table ------------------------------------------------------------------------------------------------------
int stream_create(void** stream);
int stream_destroy(void* stream);
int stream_synchronize(void* stream);
int counters(void* stream, ArrowschurDeviceCounters* counters);
// Nothing is queued on streams that are not the fake's: these two check what they are given.
int stream_wait_external(void* stream, std::uint64_t external);
int external_wait_stream(std::uint64_t external, void* stream);
int memory_ordinal(const void* memory, std::int32_t* ordinal);
int free_memory(std::size_t* bytes);
int allocate(void** memory, std::size_t bytes, void* stream);
int release(void* memory, void* stream);
int host_allocate(void** memory, std::size_t bytes);
int host_release(void* memory);
int fill(void* memory, std::uint64_t pattern, std::size_t count, void* stream);
int copy_to_device(void* to, const void* from, std::size_t bytes, void* stream);
int copy_to_host(void* to, const void* from, std::size_t bytes, void* stream);
int copy_on_device(void* to, const void* from, std::size_t bytes, void* stream);
int event_create(void** event);
int event_destroy(void* event);
int event_record(void* event, void* stream);
int event_elapsed(void* begin, void* end, double* milliseconds);
int capture_begin(void* stream);
int capture_end(void* stream, void** graph);
int graph_launch(void* graph, void* stream);
int graph_destroy(void* graph);

}  // namespace fake
