#include "backend/device_lane.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/device_loader.hpp"
#include "linalg/pool.hpp"
#include "telemetry.hpp"

namespace arrowschur::device {
namespace {

struct Pool {
  std::mutex mutex;
  std::vector<Lane*> idle;
};
Pool& pool() {
  static Pool* const all = new Pool;  // leaked, with what is idle in it
  return *all;
}

void copy_in_pieces(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  linalg::parallel_for(static_cast<Index>((bytes + kPiece - 1) / kPiece), [&](Index piece) {
    const std::size_t begin = static_cast<std::size_t>(piece) * kPiece;
    std::memcpy(to + begin, from + begin, std::min(kPiece, bytes - begin));
  });
}

}  // namespace

Lane::Lane(const Table& table) : table_(table) {
  watch_for_the_end();
  device::require(table_, table_.stream_create(&stream_), "stream_create");
  void* pinned = nullptr;
  if (const int status = table_.host_allocate(&pinned, kMailbox + kRecord); status != ARROWSCHUR_DEVICE_OK) {
    const std::string words = table_.last_error();
    table_.stream_destroy(stream_);
    if (status == ARROWSCHUR_DEVICE_OUT_OF_MEMORY) throw OutOfMemory("pinned memory: " + words);
    throw DeviceError("host_allocate", words);
  }
  mailbox_ = static_cast<std::byte*>(pinned);
}

Lane::~Lane() {
  if (!handles_are_valid()) return;
  table_.stream_destroy(stream_);
  for (void* pinned : {static_cast<void*>(mailbox_), static_cast<void*>(staging_[0]), static_cast<void*>(staging_[1]),
                       static_cast<void*>(vector_in_), static_cast<void*>(vector_out_)}) {
    if (pinned != nullptr) table_.host_release(pinned);
  }
}

void Lane::require(int status, const char* stage) {
  if (status == ARROWSCHUR_DEVICE_OK) return;
  if (status != ARROWSCHUR_DEVICE_OUT_OF_MEMORY) broken_ = true;
  device::require(table_, status, stage);
}

void Lane::synchronize() {
  require(table_.stream_synchronize(stream_), "stream_synchronize");
  mailbox_used_ = 0;
  staging_busy_ = false;
}

std::byte* Lane::staging(int which) {
  if (staging_[which] == nullptr) {
    void* pinned = nullptr;
    require(table_.host_allocate(&pinned, kStaging), "host_allocate");
    staging_[which] = static_cast<std::byte*>(pinned);
  }
  return staging_[which];
}

void Lane::upload(void* to, const void* from, std::size_t bytes) {
  const auto* source = static_cast<const std::byte*>(from);
  upload_made(to, bytes, [source](std::byte* place, std::size_t begin, std::size_t size) {
    copy_in_pieces(place, source + begin, size);
  });
}

void Lane::upload_made(void* to, std::size_t bytes, const Fill& fill) {
  if (bytes == 0) return;
  if (bytes <= kMailbox) {
    if (mailbox_used_ + bytes > kMailbox) synchronize();
    std::byte* const place = mailbox_ + mailbox_used_;
    fill(place, 0, bytes);
    require(table_.copy_to_device(to, place, bytes, stream_), "copy_to_device");
    mailbox_used_ += (bytes + 63) / 64 * 64;
    return;
  }
  for (std::size_t begin = 0; begin < bytes; begin += kStaging) {
    const std::size_t size = std::min(kStaging, bytes - begin);
    std::byte* const place = staging(next_staging_);
    fill(place, begin, size);  // while the other one is on the link
    if (staging_busy_) synchronize();
    require(table_.copy_to_device(static_cast<std::byte*>(to) + begin, place, size, stream_), "copy_to_device");
    staging_busy_ = true;
    next_staging_ = 1 - next_staging_;
  }
}

void Lane::download(void* to, const void* from, std::size_t bytes) {
  const std::size_t room = bytes <= kMailbox ? kMailbox : kStaging;
  for (std::size_t begin = 0; begin < bytes; begin += room) {
    const std::size_t size = std::min(room, bytes - begin);
    std::byte* place = mailbox_;
    if (room == kMailbox) {
      if (mailbox_used_ + size > kMailbox) synchronize();
      place += mailbox_used_;
    } else {
      if (staging_busy_) synchronize();
      place = staging(0);
    }
    require(table_.copy_to_host(place, static_cast<const std::byte*>(from) + begin, size, stream_), "copy_to_host");
    synchronize();
    std::memcpy(static_cast<std::byte*>(to) + begin, place, size);
  }
}

void Lane::reserve_vectors(std::size_t bytes) {
  if (bytes <= vector_bytes_) return;
  synchronize();
  void* fresh[2] = {};
  for (void*& pinned : fresh) {
    const int status = table_.host_allocate(&pinned, bytes);
    if (status != ARROWSCHUR_DEVICE_OK && fresh[0] != nullptr && &pinned == &fresh[1]) table_.host_release(fresh[0]);
    require(status, "host_allocate");
  }
  for (double* old : {std::exchange(vector_in_, static_cast<double*>(fresh[0])),
                      std::exchange(vector_out_, static_cast<double*>(fresh[1]))}) {
    if (old != nullptr) table_.host_release(old);
  }
  vector_bytes_ = bytes;
}

bool Lane::settle() noexcept {
  if (table_.stream_synchronize(stream_) != ARROWSCHUR_DEVICE_OK) return false;
  mailbox_used_ = 0;
  staging_busy_ = false;
  capture_failures_ = 0;
  return table_.counters(stream_, &counted_) == ARROWSCHUR_DEVICE_OK;
}

Telemetry Lane::take_telemetry() {
  Telemetry work;
  ArrowschurDeviceCounters now{};
  if (table_.counters(stream_, &now) != ARROWSCHUR_DEVICE_OK) return work;
  work.h2d_bytes = now.h2d_bytes - counted_.h2d_bytes;
  work.d2h_bytes = now.d2h_bytes - counted_.d2h_bytes;
  work.kernel_launches = now.kernel_launches - counted_.kernel_launches;
  work.graph_replays = now.graph_replays - counted_.graph_replays;
  work.syncs = now.syncs - counted_.syncs;
  work.allocations = now.allocations - counted_.allocations;
  work.handle_creations = now.handle_creations - counted_.handle_creations;
  work.capture_failures = std::exchange(capture_failures_, 0);
  counted_ = now;
  if (!is_stand_in(table_)) work.device_ordinal = runtime().info.facts->ordinal;
  return work;
}

void LaneReturn::operator()(Lane* lane) const noexcept {
  if (handles_are_valid()) {
    Telemetry nobodys;  // of a call that ended early: still work of the process
    telemetry::count(nobodys, lane->take_telemetry());
  }
  // What is in the pool is idle: memory that was released has been given back, the pinned places are free.
  const bool fit = !lane->broken() && handles_are_valid() && lane->settle();
  if (!fit) {
    delete lane;
    return;
  }
  Pool& all = pool();
  const std::lock_guard lock(all.mutex);
  try {
    all.idle.push_back(lane);
  } catch (...) {
    delete lane;
  }
}

LaneLease lease_lane() {
  const Table& found = table();
  Pool& all = pool();
  {
    const std::lock_guard lock(all.mutex);
    if (!all.idle.empty()) {
      LaneLease lane(all.idle.back());
      all.idle.pop_back();
      return lane;
    }
  }
  return LaneLease(new Lane(found));
}

}  // namespace arrowschur::device
