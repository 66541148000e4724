// Whether a plan goes to a device: mode, size, and then, and only then, the loader.
#pragma once

#include "arrowschur/policy.hpp"

namespace arrowschur::policy {

// What a seam tells about one call.
struct DeviceQuestion {
  const char* missing = nullptr;  // what no device kernel of this route can do; null: nothing
  double cpu_seconds = 0.0;       // predicted, for the route it would take on the CPU
  bool admissible = false;        // by a gate of its seam, under some reachable policy
};
// Counts the call, and asks for a device when it is large enough. A device whose backend cannot carry a solve is declined.
// Throws DeviceError for a fault of the probe, whatever the mode that asked.
Decision consider_device(Device of_call, const DeviceQuestion& question);

}  // namespace arrowschur::policy
