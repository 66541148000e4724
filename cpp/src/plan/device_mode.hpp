// Whether a plan goes to a device: mode, size, and then, and only then, the loader.
#pragma once

#include <functional>
#include <string>

#include "arrowschur/device.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"

namespace arrowschur::policy {

inline constexpr const char* kHostOnly =
    "this call runs on the host; ArrowFrame, newton_step_reupload, ResidentWorkspace and solve_batch run on a device";

// The constants of section 12's reference device; without float64 matrix units its two rates are a 64th.
MachineProfile device_profile(const DeviceFacts&);

// What a seam tells about one call.
struct DeviceQuestion {
  const char* route = "";  // a literal: what is told of this seam, once per process
  Index n = 0, total_dim = 0, k = 0;
  const char* missing = nullptr;  // what no device kernel of this route can do; null: nothing
  double cpu_seconds = 0.0;       // predicted, for the route it would take on the CPU
  bool admissible = false;        // by a gate of its seam, under some reachable policy
  // Predicted for the device. Empty: the seam has no device route, and an available device is declined.
  std::function<double(const MachineProfile&)> device_seconds;
  Calibrate calibrate = Calibrate::cache;  // of the call: it counts where this is the first plan after the probe
};
// Counts the call, and asks for a device when it is large enough. Under automatic an available one is taken where it is
// predicted to be faster, by more than a tenth (the nearer machine wins what is close). Throws DeviceError for a fault of
// the probe, whatever the mode that asked.
Decision consider_device(Device of_call, const DeviceQuestion& question);

// A note of this route and event, if there has been none; text() is called then.
void note_once(const char* route, const char* event, bool warning, const std::function<std::string()>& text);
void note_decision(const char* route, const Decision&, Index n, Index total_dim, Index k);

// While it lives, calls of this thread are judged by their own size: who has run before in the process does not reach the
// decision. For sweeps, whose two arms must make the same ones.
class OwnSizeScope {
 public:
  OwnSizeScope() noexcept;
  ~OwnSizeScope();
  OwnSizeScope(const OwnSizeScope&) = delete;
  OwnSizeScope& operator=(const OwnSizeScope&) = delete;

 private:
  bool outer_;
};

}  // namespace arrowschur::policy
