// Waiting for a flag that another task of the same parallel_for sets. Safe only for flags of lower tasks: those have
// been claimed already (pool.hpp).
#pragma once

#include <atomic>
#include <thread>

namespace arrowschur::linalg {

// Returns false when `stop` became non-zero first.
inline bool wait_for(const std::atomic<int>& flag, int value, const std::atomic<int>& stop) noexcept {
  for (int spin = 0; flag.load(std::memory_order_acquire) < value; ++spin) {
    if (stop.load(std::memory_order_relaxed) != 0) return false;
    if (spin < 2048) {
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();  // more threads than cores
    }
  }
  return true;
}

}  // namespace arrowschur::linalg
