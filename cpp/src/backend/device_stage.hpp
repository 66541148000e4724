// Times work that is queued on a lane, by events, while a window of stage records is open; closed, it costs one relaxed
// load. Nothing is waited for: the lane's own wait comes between end() and the destructor.
#pragma once

#include <chrono>

#include "backend/device_lane.hpp"
#include "telemetry.hpp"

namespace arrowschur::device {

class DeviceStage {
 public:
  DeviceStage(Lane& lane, const telemetry::StageCost& cost) noexcept : lane_(lane), cost_(cost) {
    if (!telemetry::window_open()) return;
    start_ = std::chrono::steady_clock::now();
    const Table& table = lane_.table();
    open_ = table.event_create(&begin_) == ARROWSCHUR_DEVICE_OK && table.event_create(&end_) == ARROWSCHUR_DEVICE_OK &&
            table.event_record(begin_, lane_.stream()) == ARROWSCHUR_DEVICE_OK;
  }
  // The work has been queued.
  void end() noexcept {
    if (open_) ended_ = lane_.table().event_record(end_, lane_.stream()) == ARROWSCHUR_DEVICE_OK;
  }
  // The lane has been waited for, or the work has failed.
  ~DeviceStage() {
    double milliseconds = 0.0;
    if (ended_ && lane_.table().event_elapsed(begin_, end_, &milliseconds) == ARROWSCHUR_DEVICE_OK) {
      const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start_;
      telemetry::record_stage(cost_, elapsed.count(), milliseconds);
    }
    for (void* event : {begin_, end_}) {
      if (event != nullptr) lane_.table().event_destroy(event);
    }
  }
  DeviceStage(const DeviceStage&) = delete;
  DeviceStage& operator=(const DeviceStage&) = delete;

 private:
  Lane& lane_;
  telemetry::StageCost cost_;
  std::chrono::steady_clock::time_point start_;
  void *begin_ = nullptr, *end_ = nullptr;
  bool open_ = false, ended_ = false;
};

}  // namespace arrowschur::device
