// The device side of a resident workspace: what keeps it off a device, its binding, and the calls that run there.
#pragma once

#include <optional>
#include <string>

#include "arrowschur/inner_loop.hpp"
#include "arrowschur/profile.hpp"
#include "newton/device_provider.hpp"
#include "newton/solver.hpp"

namespace arrowschur::newton {

class WorkspaceDevice {
 public:
  // Both outlive it.
  WorkspaceDevice(const ArrowSystem& system, const ResidentShape& shape) : system_(system), shape_(shape) {}

  bool bound() const noexcept { return provider_.has_value(); }
  std::string reason() const;  // why not
  Index bytes() const noexcept { return bound() ? static_cast<Index>(provider_->resident().bytes()) : 0; }
  void release() noexcept;  // unbinds: everything on the device is given back

  // What no device of this version does for this system or under these options; null: nothing is in the way.
  const char* obstacle(const SolveOptions&) const;
  // Whether the shape clears one of the gates of the seam, under some reachable policy.
  bool admissible() const;
  double seconds(const SolveOptions&, const MachineProfile&) const;  // predicted
  // For those who take no other place: DeviceUnavailableError, UnsupportedConfiguration.
  void require(const SolveOptions&) const;

  // Bind on first need. Any failure of the device unbinds.
  InnerFit fit(const Gradient&, bool own, double objective_at_zero, const InnerOptions&);
  InnerFit reupload_fit(const Gradient&, double objective_at_zero, const InnerOptions&);
  void step(const Gradient& own, double ridge_t, double ridge_beta, InnerStep&);

 private:
  DeviceProvider& bind(const SolveOptions&);
  void count(Telemetry& call);
  template <class Work>
  void guarded(Telemetry& call, Work&& work);

  const ArrowSystem& system_;
  const ResidentShape& shape_;
  std::optional<DeviceProvider> provider_;
  bool own_gradient_there_ = false;
  std::string reason_;  // of the last attempt to bind
};

// By time alone, where the mode leaves the choice.
FrameRoute predicted_route(const ArrowSystem&, const SolveOptions&, const MachineProfile&);

// For a sweep on the device: what a fit holds there, and what all may hold together. Asks the device, which is so awake
// before a worker could wake it; without one the budget is that of one fit.
Index device_bytes_of_a_fit(const ArrowSystem&, const SolveOptions&);
Index device_budget(const SolveOptions&);
// Streams with their library handles for `count` fits at a time, where there is a device.
void make_lanes(Index count);

// Faults of the device that calls of this process have survived on the CPU. From the second on nothing is sent there any
// more unless it is required.
void note_device_fault() noexcept;
bool device_is_given_up() noexcept;

}  // namespace arrowschur::newton
