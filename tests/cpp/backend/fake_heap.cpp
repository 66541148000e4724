#include "fake_heap.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fake {

FakeDeviceCounts& counts() {
  static FakeDeviceCounts all;
  return all;
}

std::size_t total_bytes() {
  const char* const value = std::getenv("ARROWSCHUR_FAKE_MEMORY");
  return value == nullptr ? std::size_t{1} << 30 : std::strtoull(value, nullptr, 10);
}

std::size_t free_bytes() {
  const std::size_t half = total_bytes() / 2, used = counts().bytes;
  return used < half ? half - used : 0;
}

Heap& heap() {
  static auto* const all = new Heap;
  return *all;
}

void* Heap::allocate(std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;
  if (bytes > total_bytes() || counts().bytes > total_bytes() - bytes) return nullptr;
  void* const space = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return nullptr;
  void* const content = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (content == nullptr) {
    ::munmap(space, bytes);
    return nullptr;
  }
  std::memset(content, 0xA5, bytes);
  blocks_[static_cast<unsigned char*>(space)] = {bytes, static_cast<unsigned char*>(content)};
  ++counts().allocations;
  counts().bytes += bytes;
  counts().most_bytes = std::max<std::size_t>(counts().most_bytes, counts().bytes);
  return space;
}

bool Heap::release(void* memory) {
  const auto block = blocks_.find(static_cast<unsigned char*>(memory));
  if (block == blocks_.end()) return false;
  ::munmap(memory, block->second.bytes);
  std::free(block->second.content);
  counts().bytes -= block->second.bytes;
  --counts().allocations;
  blocks_.erase(block);
  return true;
}

unsigned char* Heap::content(const void* memory, std::size_t bytes) const {
  const auto* const at = static_cast<const unsigned char*>(memory);
  auto after = blocks_.upper_bound(at);
  if (after == blocks_.begin()) return nullptr;
  const auto& [begin, block] = *--after;
  const auto offset = static_cast<std::size_t>(at - begin);
  return offset <= block.bytes && bytes <= block.bytes - offset ? block.content + offset : nullptr;
}

}  // namespace fake
