// Conjugate gradients on S dbeta = b, with S = M + ridge_beta I - W'W applied from W and never formed, on the device.
//
// Vectors and scalars stay there. Iterations are queued in blocks, a graph from the second block on, and between two blocks
// the host looks at a record of 64 bytes; what has stopped does not move any more, so the length of a block is in no
// result.
#pragma once

#include <optional>

#include "arrowschur/result.hpp"
#include "backend/device_factor.hpp"

namespace arrowschur::device {

class DevicePcg {
 public:
  explicit DevicePcg(DeviceSystem&);

  // Solves for b [k] on the device and leaves dbeta in its place. Throws PcgError: an entry of the diagonal of S or a
  // curvature that is not positive, with its value, or a budget that is used up and not accepted. An empty border and a
  // right-hand side of zero take no iteration.
  PcgDiagnostics solve(DeviceSystem&, DeviceFactor&, const PcgOptions&, bool accept_truncated, double* b);

  std::size_t bytes() const noexcept { return memory_.bytes(); }
  static std::size_t bytes(const DeviceSystem&);

 private:
  ArrowschurPcgRecord iterate(DeviceSystem&, DeviceFactor&, Index max_iterations);
  double true_residual(DeviceSystem&, const DeviceFactor&, const double* b);

  Memory memory_;
  double *x_ = nullptr, *y_ = nullptr, *vectors_ = nullptr;
  ArrowschurPcgRecord* record_ = nullptr;
};

}  // namespace arrowschur::device
