// Small systems, solved at once on a device: packed into one piece of memory, one launch or a few, steps and records back.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "arrowschur/system.hpp"
#include "backend/device_memory.hpp"

namespace arrowschur::device {

// What keeps a system out of a batch; null: nothing does.
const char* batch_obstacle(const ArrowSystem&);

// Numbers that the systems take on the device, and what their solution costs: sum n (d^2 k + d k^2) and the factors.
struct BatchCost {
  double numbers = 0.0, unknowns = 0.0, flops = 0.0;
};
BatchCost batch_cost(const ArrowSystem&);

struct BatchSolution {
  std::vector<ArrowschurBuildRecord> records;  // one per system
  std::vector<double> x;  // dt and dbeta of each system, one behind the other
  std::vector<Index> first;  // of each system in x
};

// Throws as a frame does: DeviceUnavailableError for want of memory, DeviceError. The records tell the rest.
BatchSolution solve_batch(Lane&, std::span<const ArrowSystem* const> systems, double ridge_t, double ridge_beta,
                          std::optional<Index> memory_limit);

}  // namespace arrowschur::device
