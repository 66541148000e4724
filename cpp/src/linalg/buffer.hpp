// Owning, aligned, uninitialised memory with a per-thread cache of freed blocks.
//
// Blocks of 4 MiB and more ask for huge pages. A freed block goes to the cache of the thread that frees it, so that a
// repeated solve touches no fresh memory (page faults cost as much as the arithmetic on it). The cache of a thread
// holds at most workspace_cache_bytes().
#pragma once

#include <cstddef>
#include <utility>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

struct Block {
  void* data = nullptr;
  std::size_t bytes = 0;  // capacity
};
Block acquire_block(std::size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void release_block(Block) noexcept;

// Bytes in live Buffers that this thread acquired, and the largest value since reset_peak().
Index live_bytes() noexcept;
Index peak_bytes() noexcept;
void reset_peak() noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index size) : size_(size) {
    if (size > 0) block_ = acquire_block(static_cast<std::size_t>(size) * sizeof(T));
  }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (block_.data != nullptr) release_block(block_);
  }
  T* data() noexcept { return static_cast<T*>(block_.data); }
  const T* data() const noexcept { return static_cast<const T*>(block_.data); }
  Index size() const noexcept { return size_; }
  Index nbytes() const noexcept { return size_ * static_cast<Index>(sizeof(T)); }
  T& operator[](Index i) noexcept { return data()[i]; }
  const T& operator[](Index i) const noexcept { return data()[i]; }
  T* begin() noexcept { return data(); }
  T* end() noexcept { return data() + size_; }

 private:
  Block block_;
  Index size_ = 0;
};

}  // namespace arrowschur::linalg
