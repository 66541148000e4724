#include "linalg/buffer.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"

namespace arrowschur {
namespace linalg {
namespace {

constexpr std::size_t kHuge = std::size_t{1} << 21;       // huge page
constexpr std::size_t kHugeFrom = std::size_t{4} << 20;   // blocks of this size ask for them
std::atomic<Index> g_cache_limit{Index{512} << 20};

Block allocate(std::size_t bytes) {
  const std::size_t align = bytes >= kHugeFrom ? kHuge : 64;
  const std::size_t rounded = (bytes + align - 1) / align * align;
  void* data = std::aligned_alloc(align, rounded);
  if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (align == kHuge) madvise(data, rounded, MADV_HUGEPAGE);  // advice: failure costs speed only
#endif
  return {data, rounded};
}

// Freed blocks, oldest first. Fixed capacity: returning a block never allocates.
struct Cache {
  std::array<Block, 64> blocks{};
  int count = 0;
  std::size_t bytes = 0;
  Index live = 0, peak = 0;

  ~Cache() { clear(); }
  void clear() noexcept {
    for (int i = 0; i < count; ++i) std::free(blocks[static_cast<std::size_t>(i)].data);
    count = 0;
    bytes = 0;
  }
  void remove(int at) noexcept {
    bytes -= blocks[static_cast<std::size_t>(at)].bytes;
    std::move(blocks.begin() + at + 1, blocks.begin() + count, blocks.begin() + at);
    --count;
  }
  void evict_oldest() noexcept {
    std::free(blocks[0].data);
    remove(0);
  }
};
thread_local Cache t_cache;

}  // namespace

Block acquire_block(std::size_t bytes) {
  Cache& cache = t_cache;
  int best = -1;
  for (int i = 0; i < cache.count; ++i) {
    const std::size_t have = cache.blocks[static_cast<std::size_t>(i)].bytes;
    // At most half of a block (and 64 KiB) may lie idle, so that small requests do not sit on large blocks.
    if (have < bytes || have / 2 > bytes + (std::size_t{1} << 16)) continue;
    if (best < 0 || have < cache.blocks[static_cast<std::size_t>(best)].bytes) best = i;
  }
  Block block;
  if (best >= 0) {
    block = cache.blocks[static_cast<std::size_t>(best)];
    cache.remove(best);
  } else {
    block = allocate(bytes);
  }
  cache.live += static_cast<Index>(block.bytes);
  cache.peak = std::max(cache.peak, cache.live);
  return block;
}

void release_block(Block block) noexcept {
  Cache& cache = t_cache;
  cache.live -= static_cast<Index>(block.bytes);
  const auto limit = static_cast<std::size_t>(g_cache_limit.load(std::memory_order_relaxed));
  if (block.bytes > limit) {
    std::free(block.data);
    return;
  }
  while (cache.count > 0 &&
         (cache.bytes + block.bytes > limit || cache.count == static_cast<int>(cache.blocks.size()))) {
    cache.evict_oldest();
  }
  cache.blocks[static_cast<std::size_t>(cache.count++)] = block;
  cache.bytes += block.bytes;
}

Index live_bytes() noexcept { return t_cache.live; }
Index peak_bytes() noexcept { return t_cache.peak; }
void reset_peak() noexcept { t_cache.peak = t_cache.live; }

}  // namespace linalg

void clear_workspaces() { linalg::t_cache.clear(); }
Index workspace_cache_bytes() noexcept { return linalg::g_cache_limit.load(std::memory_order_relaxed); }
void set_workspace_cache_bytes(Index bytes) {
  if (bytes < 0) throw InvalidArgument("workspace_cache_bytes", std::to_string(bytes), "a size in bytes, >= 0");
  linalg::g_cache_limit.store(bytes, std::memory_order_relaxed);
}

}  // namespace arrowschur
