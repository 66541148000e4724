// Memory of the fake device: address space without access rights, so that a host that dereferences it faults; the bytes are
// kept beside it.
#pragma once

#include <cstddef>
#include <map>

#include "fake_device.hpp"

namespace fake {

FakeDeviceCounts& counts();

std::size_t total_bytes();  // ARROWSCHUR_FAKE_MEMORY, or 1 GiB
std::size_t free_bytes();  // what is left of half of them

class Heap {
 public:
  // Null where there is no room.
  void* allocate(std::size_t bytes);
  bool release(void* memory);
  // The content behind [memory, memory + bytes); null where that is not inside one allocation.
  unsigned char* content(const void* memory, std::size_t bytes) const;

 private:
  struct Block {
    std::size_t bytes;
    unsigned char* content;
  };
  std::map<const unsigned char*, Block> blocks_;
};
Heap& heap();

}  // namespace fake
