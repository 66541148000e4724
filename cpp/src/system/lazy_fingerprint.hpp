// The content hash of a system, shared by its copies.
#pragma once

#include <cstdint>
#include <mutex>

#include "arrowschur/system.hpp"

namespace arrowschur {

struct ArrowSystem::Data::LazyFingerprint {
  std::once_flag once;
  std::uint64_t value = 0;
};

}  // namespace arrowschur
