// Memory of the device, and how several arrays share one piece of it.
#pragma once

#include <cstddef>
#include <utility>

#include "backend/device_lane.hpp"

namespace arrowschur::device {

inline constexpr std::size_t kAlignment = 256;
constexpr std::size_t aligned(std::size_t bytes) noexcept { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Owned, given back in the order of its lane's work. The lane must outlive it.
class Memory {
 public:
  Memory() = default;
  Memory(Lane& lane, std::size_t bytes) : lane_(&lane), bytes_(bytes) {
    if (bytes > 0) lane.require(lane.table().allocate(&data_, bytes, lane.stream()), "allocate");
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr && handles_are_valid()) lane_->table().release(data_, lane_->stream());
  }

  std::size_t bytes() const noexcept { return bytes_; }
  bool empty() const noexcept { return data_ == nullptr; }
  const void* data() const noexcept { return data_; }
  // The array at an offset; null in an empty piece.
  template <class T>
  T* at(std::size_t offset) const noexcept {
    return data_ == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<std::byte*>(data_) + offset);
  }

 private:
  void swap(Memory& other) noexcept {
    std::swap(lane_, other.lane_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  Lane* lane_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Offsets of arrays that lie one behind the other, each aligned.
class Layout {
 public:
  std::size_t add(std::size_t bytes) noexcept { return std::exchange(bytes_, bytes_ + aligned(bytes)); }
  template <class T>
  std::size_t add_array(Index count) noexcept {
    return add(static_cast<std::size_t>(count) * sizeof(T));
  }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::size_t bytes_ = 0;
};

}  // namespace arrowschur::device
