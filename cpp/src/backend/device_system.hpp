// The blocks of a system on the device, without ridges, as they were handed over: uploaded once, read by every stage.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arrowschur/frame.hpp"
#include "arrowschur/system.hpp"
#include "backend/device_border.hpp"
#include "backend/device_memory.hpp"

namespace arrowschur::device {

// What keeps a system off the device, whatever device it is.
struct Unsupported {
  bool needs_dense_system = false;  // it lives in callbacks or in a form that the dense route has no arrays of
  bool had_border_operator = false, had_cross_operator = false;
  const char* what = "";
  [[noreturn]] void raise() const;  // UnsupportedConfiguration
};
std::optional<Unsupported> unsupported(const ArrowSystem&);

// Of which factor of a border the whole inverse is kept instead of that of its diagonal blocks.
struct FullInverse {
  bool direct = false, dual = false;
};

class DeviceSystem {
 public:
  // The system must be supported, and outlive the call only.
  DeviceSystem(Lane&, const ArrowSystem&, FullInverse);
  // Reads the caller's blocks where they are, as far as they are aligned; check() has passed them.
  DeviceSystem(Lane&, const DeviceParts&, FullInverse);
  ~DeviceSystem();
  DeviceSystem(const DeviceSystem&) = delete;
  DeviceSystem& operator=(const DeviceSystem&) = delete;

  // Other numbers in the same places, for a system whose shapes require_same() has found equal (InvalidArgument,
  // UnsupportedConfiguration). Where overwrite() ends early the blocks are a mixture, and whole() is false until it
  // succeeds.
  void require_same(const ArrowSystem&) const;
  void require_same(const DeviceParts&) const;
  void overwrite(const ArrowSystem&);
  void overwrite(const DeviceParts&);
  bool adopts() const noexcept { return adopts_; }  // its blocks are the caller's
  bool whole() const noexcept { return whole_; }

  const ArrowschurDeviceSystem* view() const noexcept { return &view_; }
  Lane& lane() const noexcept { return lane_; }
  Index n() const noexcept { return n_; }
  Index total_dim() const noexcept { return view_.total; }
  Index k() const noexcept { return view_.k; }
  Index size() const noexcept { return view_.total + view_.k; }  // of a vector
  Index row_entries() const noexcept { return row_entries_; }  // sum d^2
  Index max_dim() const noexcept;
  // What keeps the dual route from this system; null: nothing does.
  const char* dual_obstacle() const noexcept;
  bool full_inverse(bool dual) const noexcept { return dual ? full_inverse_.dual : full_inverse_.direct; }
  std::size_t inverse_bytes(bool dual) const noexcept { return dual ? dual_inverse_ : sizes_.inverse; }
  Index border_entries() const noexcept { return border_.entries; }
  Index band_entries() const noexcept { return dual_obstacle() == nullptr ? border_.entries : 0; }
  void* workspace() const noexcept { return memory_.at<std::byte>(workspace_); }
  std::size_t bytes() const noexcept { return memory_.bytes() + copies_.bytes(); }

 private:
  void describe(const ArrowSystem&);
  void describe(const DeviceParts&);
  void find_sizes();
  void adopt(const DeviceParts&);
  ArrowschurDeviceSizes sizes_of(bool dual) const;
  void place();
  void copy(const ArrowSystem&);

  Lane& lane_;
  FullInverse full_inverse_;
  ArrowschurDeviceSystem view_{};
  std::vector<ArrowschurDeviceRows> rows_;
  // line, entry and row of each group in turn, at `index_at_`; empty for uniform rows
  std::vector<std::vector<Index>> index_;
  std::vector<std::size_t> index_at_;
  std::vector<Index> row_dims_;
  BorderForm border_;
  bool whole_ = true;
  Index n_ = 0;  // rows; those without unknowns are not the device's
  Index row_entries_ = 0;
  ArrowschurDeviceSizes sizes_{};  // the workspace is that of either route
  std::size_t dual_inverse_ = 0;
  Memory memory_;
  std::size_t a_ = 0, b_ = 0, m_ = 0, workspace_ = 0;
  bool adopts_ = false;
  std::shared_ptr<const void> owner_;  // of what is read in place
  Memory copies_;  // of what is not aligned
};

// What is queued on the caller's streams comes before what the lane is given from now on.
void wait_for(Lane&, const std::vector<std::uint64_t>& streams);
// InvalidArgument naming the argument for memory that is not that of the device; memory of no entries is not looked at.
void require_on_device(const Table&, const char* name, const void* memory, Index entries);

// What keeps the dual route from a border of this form with T rows; null: nothing does.
const char* dual_obstacle(const BorderForm&, Index total_dim, Index k) noexcept;

// Bytes that the blocks take on the device, for a choice among routes: no device is asked.
Index system_bytes(const ArrowSystem&);

}  // namespace arrowschur::device
