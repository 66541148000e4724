// A lane: a stream of the device with its library handles, the pinned memory through which it talks to the host, and its
// counters. Lanes are made once and lent: who works on the device holds one for as long as it has memory there.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "arrowschur/telemetry.hpp"
#include "arrowschur/types.hpp"
#include "backend/device_status.hpp"

namespace arrowschur::device {

// Thread safety: used by one thread at a time, as the stream is.
class Lane {
 public:
  explicit Lane(const Table&);
  ~Lane();  // gives everything back
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  const Table& table() const noexcept { return table_; }
  void* stream() const noexcept { return stream_; }
  // A failed call leaves the lane unfit for others.
  void require(int status, const char* stage);
  bool broken() const noexcept { return broken_; }
  bool settle() noexcept;  // waits, and forgets what was not counted; false: it has failed
  void synchronize();

  // Copies whose host side is free again on return. Small ones go through the mailbox; larger ones through two staging
  // buffers, one being filled by the library's threads while the other is on the link.
  void upload(void* to, const void* from, std::size_t bytes);
  // The same for bytes that are made on the way: fill(place, begin, size) writes bytes begin .. begin + size of the whole.
  using Fill = std::function<void(std::byte* place, std::size_t begin, std::size_t size)>;
  void upload_made(void* to, std::size_t bytes, const Fill& fill);
  void download(void* to, const void* from, std::size_t bytes);  // waits

  // Pinned places for one vector in, one out, and a record, that stay where they are: a graph may hold their addresses.
  // A larger reservation moves the first two.
  void reserve_vectors(std::size_t bytes);
  double* vector_in() noexcept { return vector_in_; }
  double* vector_out() noexcept { return vector_out_; }
  void* record() noexcept { return mailbox_ + kMailbox; }
  static constexpr std::size_t kRecord = 64;  // bytes

  // Work issued since the counters were last taken.
  Telemetry take_telemetry();
  void count_capture_failure() noexcept { ++capture_failures_; }
  void forgive() noexcept { broken_ = false; }  // a failure that was a capture's

 private:
  static constexpr std::size_t kMailbox = std::size_t{64} << 10, kStaging = std::size_t{8} << 20;

  std::byte* staging(int which);

  const Table& table_;
  void* stream_ = nullptr;
  std::byte* mailbox_ = nullptr;  // kMailbox bytes for small uploads, then the record
  std::size_t mailbox_used_ = 0;  // on their way since the stream was last waited for
  std::byte* staging_[2] = {};
  int next_staging_ = 0;
  bool staging_busy_ = false;
  double *vector_in_ = nullptr, *vector_out_ = nullptr;
  std::size_t vector_bytes_ = 0;
  ArrowschurDeviceCounters counted_{};
  std::int64_t capture_failures_ = 0;  // since they were last taken
  bool broken_ = false;
};

// A lane from the pool, or a new one; back into the pool at the end, unless it has failed. The pool is dropped without
// freeing when the process ends.
struct LaneReturn {
  void operator()(Lane*) const noexcept;
};
using LaneLease = std::unique_ptr<Lane, LaneReturn>;
LaneLease lease_lane();  // throws as table(), and OutOfMemory

}  // namespace arrowschur::device
