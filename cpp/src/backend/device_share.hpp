// A lane that a system on the device shares with what it has left there: arrays that outlive their frame, and give their
// memory back from whatever thread their last holder is in.
#pragma once

#include <mutex>
#include <vector>

#include "backend/device_memory.hpp"

namespace arrowschur::device {

class LaneShare {
 public:
  explicit LaneShare(LaneLease lane) : lane_(std::move(lane)) {}
  ~LaneShare() { give_back(); }
  LaneShare(const LaneShare&) = delete;
  LaneShare& operator=(const LaneShare&) = delete;

  Lane& lane() const noexcept { return *lane_; }
  std::mutex& mutex() noexcept { return mutex_; }  // of whoever works on the lane

  // Memory that nobody holds any more. It goes back at the next call on the lane, or with it: who drops it waits for no
  // call, which may be waiting for what that thread holds.
  void bury(Memory&& memory) {
    const std::lock_guard lock(buried_mutex_);
    buried_.push_back(std::move(memory));
  }
  // At the beginning of a call, with the mutex held. What others have queued on the legacy default stream may still read
  // the memory: it is reused after that.
  void give_back() noexcept {
    const std::lock_guard lock(buried_mutex_);
    if (buried_.empty()) return;
    constexpr std::uint64_t kLegacyDefault = 1;
    if (handles_are_valid()) lane_->table().stream_wait_external(lane_->stream(), kLegacyDefault);
    buried_.clear();
  }

 private:
  LaneLease lane_;
  std::mutex mutex_, buried_mutex_;
  std::vector<Memory> buried_;  // destroyed before the lane
};

}  // namespace arrowschur::device
