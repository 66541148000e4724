// What the fake device has counted; arrowschur_fake_counts() of its library returns it.
#pragma once

#include <atomic>
#include <cstddef>

struct FakeDeviceCounts {
  std::atomic<int> probes{0};
  std::atomic<int> package_roots{0};
  std::atomic<int> allocations{0}, streams{0};  // alive
  std::atomic<int> syncs{0};
  std::atomic<std::size_t> h2d_bytes{0}, d2h_bytes{0};
};
