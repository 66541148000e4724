// A sequence of work that runs more than once: queued call by call the first time, captured the second, then replayed.
#pragma once

#include <utility>

#include "backend/device_lane.hpp"

namespace arrowschur::device {

class Graph {
 public:
  Graph() = default;
  Graph(Graph&& other) noexcept { swap(other); }
  Graph& operator=(Graph&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Graph() { forget(); }

  // queue() issues the work: the same calls on the same memory every time, `key` standing for what that memory is. Throws
  // what queue() throws. Where capturing fails the work is queued as before, and the failure counted.
  template <class Queue>
  void run(Lane& lane, const void* key, Queue&& queue) {
    if (key != key_) forget();
    lane_ = &lane;
    key_ = key;
    if (graph_ == nullptr && runs_++ == 1) capture(std::forward<Queue>(queue));
    if (graph_ != nullptr) {
      lane.require(lane.table().graph_launch(graph_, lane.stream()), "graph_launch");
    } else {
      queue();
    }
  }
  bool captured() const noexcept { return graph_ != nullptr; }

 private:
  template <class Queue>
  void capture(Queue&& queue) {
    const Table& table = lane_->table();
    const bool sound = !lane_->broken();
    bool good = table.capture_begin(lane_->stream()) == ARROWSCHUR_DEVICE_OK;
    if (!good) return lane_->count_capture_failure();
    try {
      queue();
    } catch (const DeviceError&) {
      good = false;
      if (sound) lane_->forgive();  // queued anew, call by call, it will say so again if it was not the capture's fault
    }
    void* graph = nullptr;
    if (table.capture_end(lane_->stream(), &graph) != ARROWSCHUR_DEVICE_OK) graph = nullptr;
    if (!good && graph != nullptr) table.graph_destroy(std::exchange(graph, nullptr));
    if (graph == nullptr) return lane_->count_capture_failure();
    graph_ = graph;
  }
  void forget() noexcept {
    if (graph_ != nullptr && handles_are_valid()) lane_->table().graph_destroy(graph_);
    graph_ = nullptr;
    runs_ = 0;
  }
  void swap(Graph& other) noexcept {
    std::swap(lane_, other.lane_);
    std::swap(key_, other.key_);
    std::swap(graph_, other.graph_);
    std::swap(runs_, other.runs_);
  }

  Lane* lane_ = nullptr;
  const void* key_ = nullptr;
  void* graph_ = nullptr;
  long runs_ = 0;
};

}  // namespace arrowschur::device
