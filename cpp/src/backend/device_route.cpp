#include "backend/device_route.hpp"

#include <algorithm>

#include "backend/device_pcg.hpp"

namespace arrowschur {

const char* to_string(FrameRoute route) noexcept {
  switch (route) {
    case FrameRoute::automatic:
      return "auto";
    case FrameRoute::direct:
      return "direct";
    case FrameRoute::dual:
      return "dual";
    case FrameRoute::inexact_pcg:
      return "inexact_pcg";
  }
  return "";
}

namespace device {
namespace {

policy::CostShape cost_shape(Index n, Index total_dim, Index k, Index row_entries, Index border_entries) {
  policy::CostShape s;
  s.n = static_cast<double>(n);
  s.total_dim = static_cast<double>(total_dim);
  s.k = static_cast<double>(k);
  s.row_entries = static_cast<double>(row_entries);
  s.entries = s.apply_entries = s.total_dim * s.k;
  s.whiten_flops = s.row_entries * s.k;
  s.gram_flops = s.total_dim * s.k * (s.k + 1.0);
  s.border_entries = static_cast<double>(border_entries);
  s.border_solve_flops = 2.0 * s.border_entries;
  return s;
}

policy::RouteTime time_of(FrameRoute route, const policy::CostShape& shape, const MachineProfile& profile) {
  if (route == FrameRoute::dual) return policy::low_rank_time(shape, profile);
  if (route == FrameRoute::direct) return policy::direct_time(shape, profile);
  return policy::inexact_pcg_time(shape, profile, static_cast<double>(policy::kMatvecOffloadMinCgIters));
}

FrameCandidate candidate(FrameRoute route, const policy::CostShape& shape, Index solves,
                         const MachineProfile& profile) {
  const policy::RouteTime time = time_of(route, shape, profile);
  FrameCandidate c;
  c.route = route;
  c.up_seconds = time.up;
  c.build_seconds = time.build;
  c.solve_seconds = time.solve;
  c.seconds = time.total(static_cast<double>(solves));
  return c;
}

// The first within a tenth of the fastest: the plainer route wins what is close.
const FrameCandidate* choose(const std::vector<FrameCandidate>& candidates) {
  double least = std::numeric_limits<double>::infinity();
  for (const FrameCandidate& c : candidates) {
    if (c.why_not.empty()) least = std::min(least, c.seconds);
  }
  for (const FrameCandidate& c : candidates) {
    if (c.why_not.empty() && c.seconds <= 1.1 * least) return &c;
  }
  return nullptr;
}

}  // namespace

BorderRoute border_route(FrameRoute route) noexcept {
  if (route == FrameRoute::inexact_pcg) return BorderRoute::iterative;
  return route == FrameRoute::dual ? BorderRoute::dual : BorderRoute::direct;
}

FrameRoute frame_route(BorderRoute route) noexcept {
  if (route == BorderRoute::iterative) return FrameRoute::inexact_pcg;
  return route == BorderRoute::dual ? FrameRoute::dual : FrameRoute::direct;
}

policy::CostShape cost_shape(const ArrowSystem& s) {
  Index row_entries = 0;
  for (const RowBucket& bucket : s.buckets()) row_entries += bucket.count * bucket.d * bucket.d;
  return cost_shape(s.n(), s.total_dim(), s.k(), row_entries, border_form(s.border()).entries);
}

FrameRoute faster_route(const policy::CostShape& shape, const char* obstacle, Index solves,
                        const MachineProfile& profile) {
  std::vector<FrameCandidate> candidates{candidate(FrameRoute::direct, shape, solves, profile)};
  if (obstacle == nullptr) candidates.push_back(candidate(FrameRoute::dual, shape, solves, profile));
  return choose(candidates)->route;
}

FramePlan plan_route(const DeviceSystem& s, FrameRoute wanted, Index solves, std::size_t held, std::size_t budget,
                     const MachineProfile& profile) {
  const policy::CostShape shape = cost_shape(s.n(), s.total_dim(), s.k(), s.row_entries(), s.border_entries());
  FramePlan plan;
  plan.expected_solves = solves;
  plan.profile = profile.name;
  Index cheapest = std::numeric_limits<Index>::max();
  for (const FrameRoute route : {FrameRoute::direct, FrameRoute::dual, FrameRoute::inexact_pcg}) {
    FrameCandidate c = candidate(route, shape, solves, profile);
    const char* const obstacle = route == FrameRoute::dual ? s.dual_obstacle() : nullptr;
    if (obstacle != nullptr && wanted == route) {
      throw UnsupportedConfiguration("route='dual'", std::string("this system: ") + obstacle, "use route='auto'");
    }
    std::size_t bytes = held + s.bytes() + RowPart::bytes(s, false) + DeviceFactor::bytes(s, border_route(route));
    if (route == FrameRoute::inexact_pcg) bytes += DevicePcg::bytes(s);
    c.peak_bytes = obstacle == nullptr ? static_cast<Index>(bytes) : 0;
    const bool considered = wanted == route || (wanted == FrameRoute::automatic && route != FrameRoute::inexact_pcg);
    if (obstacle != nullptr) {
      c.why_not = obstacle;
    } else if (!considered && wanted == FrameRoute::automatic) {
      c.why_not = "an iteration has no factor: it is taken by name only";
    } else if (!considered) {
      c.why_not = std::string("route='") + to_string(wanted) + "' was asked for";
    } else {
      cheapest = std::min(cheapest, c.peak_bytes);
      if (bytes > budget) c.why_not = std::to_string(bytes) + " bytes needed, " + std::to_string(budget) + " allowed";
    }
    plan.candidates.push_back(std::move(c));
  }
  const FrameCandidate* chosen = choose(plan.candidates);
  if (chosen == nullptr) {
    throw OutOfMemory(std::to_string(cheapest) + " bytes needed, " + std::to_string(budget) + " allowed");
  }
  plan.route = chosen->route;
  return plan;
}

}  // namespace device
}  // namespace arrowschur
