// A system that lives on the device: its lane, its blocks, its factors, and the vectors that solves work on. What frames,
// resident workspaces and one-shot steps have in common.
#pragma once

#include <memory>
#include <span>

#include "backend/device_factors.hpp"
#include "backend/device_pcg.hpp"
#include "backend/device_route.hpp"
#include "backend/device_share.hpp"

namespace arrowschur::device {

// What the owner of a system on the device wants of it.
struct Binding {
  int vectors = 0;  // of T + k entries that it works on
  std::optional<Index> memory_limit = {};
  FrameRoute route = FrameRoute::automatic;
  Index expected_solves = 8;
  FullInverse full_inverse = {};
  PcgOptions pcg = {};  // of the iterative route
  bool accept_truncated = false;
};

// Thread safety: one thread at a time.
class ResidentDevice {
 public:
  // Uploads the blocks and chooses a route. Throws DeviceUnavailableError (no device; memory), UnsupportedConfiguration,
  // DeviceError.
  ResidentDevice(const ArrowSystem&, const Binding&);
  ResidentDevice(const DeviceParts&, const Binding&);  // which check() has passed; nothing is uploaded

  // Chooses again, for other wishes. Factors of another route are dropped.
  void choose_route(FrameRoute wanted, Index expected_solves, std::optional<Index> memory_limit);
  const FramePlan& plan() const noexcept { return plan_; }

  const std::shared_ptr<LaneShare>& share() const noexcept { return share_; }
  Lane& lane() noexcept { return *lane_; }
  const Table& table() const noexcept { return lane_->table(); }
  DeviceSystem& system() noexcept { return system_; }
  FactorCache& factors() noexcept { return factors_; }
  Index size() const noexcept { return system_.size(); }
  // Vectors of a solve and its certificate are the first three; what else an owner needs follows.
  static constexpr int kSolveVectors = 3;
  double* vector(int which) const noexcept { return vectors_.at<double>(static_cast<std::size_t>(which) * stride_); }
  double* border_part(double* x) const noexcept { return x + system_.total_dim(); }
  void* record() const noexcept { return vectors_.at<void>(record_); }  // Lane::kRecord bytes
  std::size_t bytes() const noexcept {
    return system_.bytes() + vectors_.bytes() + factors_.bytes() + (pcg_ ? pcg_->bytes() : 0);
  }

  // Work queued on the lane. Nothing is allocated and nothing waited for.
  void queue_step(const DeviceFactor&, const double* g, double* x);  // x = -(H + ridges)^-1 g
  void queue_product(const double* z, double* q);  // q = H z
  void queue_sum(std::span<const double> coefficients, std::span<const double* const> inputs, double* out);
  void queue_sum(Index size, std::span<const double> coefficients, std::span<const double* const> inputs, double* out);

  // x = -sign (H + ridges)^-1 (w_t, w_beta) for one vector, by a graph from the second time on: up, solved, down, one wait.
  // w_t and x_t may be strided columns of [T, m] arrays, w_beta and x_beta of [k, m].
  struct Column {
    const double *w_t = nullptr, *w_beta = nullptr;
    double *x_t = nullptr, *x_beta = nullptr;
    Index stride = 1;
    double sign = 1.0;
  };
  // The account of the iterations where the factor has no factor of the border; PcgError then, too.
  std::optional<PcgDiagnostics> solve(DeviceFactor&, const Column&);

  // The same for one vector of the device, to x_t and x_beta there, which are complete on return. InvalidArgument named by
  // `name` ("g" of g_t and g_beta) for an entry that is not finite.
  std::optional<PcgDiagnostics> solve(DeviceFactor&, const DeviceVector&, double sign, const char* name, double* x_t,
                                      double* x_beta);

  // Other numbers, same shapes (DeviceSystem::require_same); no factor survives. Where it ends early none can be made until
  // another refresh succeeds.
  template <class System>
  void refresh(const System& s) {
    factors_.clear();
    norm_ridge_t_ = norm_ridge_beta_ = -1.0;
    system_.overwrite(s);
  }

  // |Hx + g|_inf / (|H|_inf |x|_inf + |g|_inf) of the step that was solved last, H with the factor's ridges.
  double certificate(const DeviceFactor&);

 private:
  static constexpr int kG = 0, kX = 1, kQ = 2;

  void set_up(const Binding&);
  std::optional<PcgDiagnostics> queue_iterations(DeviceFactor&);
  double* norms() const noexcept { return vectors_.at<double>(record_ + aligned(Lane::kRecord)); }

  std::shared_ptr<LaneShare> share_;
  Lane* lane_;
  DeviceSystem system_;
  FactorCache factors_;
  FramePlan plan_;
  std::size_t stride_ = 0, record_ = 0;  // bytes
  Memory vectors_;
  PcgOptions pcg_options_;
  bool accept_truncated_ = false;
  std::optional<DevicePcg> pcg_;  // of the iterative route
  double norm_ridge_t_ = -1.0, norm_ridge_beta_ = -1.0;  // of the |H + ridges|_inf that the device holds; -1: none
};

}  // namespace arrowschur::device
