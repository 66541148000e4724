#include "newton/frame_state.hpp"

#include <cmath>

#include "arrowschur/device.hpp"
#include "newton/resident_shape.hpp"
#include "plan/time_model.hpp"

namespace arrowschur {

const double* DeviceArrays::t() const noexcept { return held_->t(); }
const double* DeviceArrays::beta() const noexcept { return held_->beta(); }
Index DeviceArrays::total_dim() const noexcept { return held_->total_dim; }
Index DeviceArrays::k() const noexcept { return held_->k; }
int DeviceArrays::device_ordinal() const noexcept { return device_info().facts->ordinal; }

void DeviceArrays::copy_to_host(std::span<double> t, std::span<double> beta) const {
  const std::pair<std::span<double>, const double*> parts[] = {{t, held_->t()}, {beta, held_->beta()}};
  const Index sizes[] = {held_->total_dim, held_->k};
  const std::lock_guard lock(held_->share->mutex());
  device::require_handles();
  for (int i = 0; i < 2; ++i) {
    const auto& [to, from] = parts[i];
    if (to.empty()) continue;
    newton::require_length(i == 0 ? "t" : "beta", static_cast<Index>(to.size()), sizes[i]);
    held_->share->lane().download(to.data(), from, to.size_bytes());
  }
}

namespace newton {
namespace {

// Forming the inverse of a factor of order m takes the flops of a second factorization; what it saves per solve is the
// chain of dependent blocks.
bool full_inverse(const FrameOptions& options, Index m) {
  if (options.border_inverse != BorderInverse::automatic) return options.border_inverse == BorderInverse::full;
  const policy::RouteTime chain = policy::dense_factor_time(static_cast<double>(m), policy::reference_profile());
  const MachineProfile device = policy::reference_profile();
  const double saved = 2.0 * std::ceil(static_cast<double>(m) / device.panel) * device.t_launch;
  return static_cast<double>(options.expected_solves) * saved > chain.build;
}

}  // namespace

device::Binding binding_of(const FrameOptions& options, Index total_dim, Index k) {
  return {.vectors = device::ResidentDevice::kSolveVectors,
          .memory_limit = options.device_memory_limit,
          .route = options.route,
          .expected_solves = options.expected_solves,
          .full_inverse = {full_inverse(options, k), full_inverse(options, total_dim)},
          .pcg = options.pcg,
          .accept_truncated = options.accept_truncated};
}

}  // namespace newton
}  // namespace arrowschur
