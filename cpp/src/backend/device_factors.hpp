// Factors of one device system, kept by their pair of ridges.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "arrowschur/options.hpp"
#include "backend/device_factor.hpp"

namespace arrowschur::device {

// Bytes that a call may hold on the device: SolveOptions::device_memory_limit, else what is free and at most half of all
// there is, so that a second fit and the libraries find room.
std::size_t byte_budget(const Table&, std::optional<Index> limit, std::size_t held);

// What a request for a factor has led to.
struct FactorAnswer {
  std::shared_ptr<DeviceFactor> factor;  // null: the failure
  std::optional<BuildFailure> failure;
  bool made = false;  // built for this request
};

// Up to `entries` factors, the one that was used longest ago going first, within the byte budget. What a factor that goes
// held is used for the one that comes. Factors that others hold live on.
class FactorCache {
 public:
  explicit FactorCache(DeviceSystem& system) : system_(system) {}

  // The route of the factors to come; those of another are dropped. may_leave: where M or C of the dual route has no factor
  // the direct one is tried, as far as memory allows.
  void set_route(BorderRoute route, bool may_leave);

  void configure(Index entries, std::optional<Index> memory_limit) {
    entries_ = entries;
    memory_limit_ = memory_limit;
  }
  FactorAnswer get(double ridge_t, double ridge_beta);
  // Keeps no factor any more; their memory is given back.
  void clear() noexcept;
  std::size_t bytes() const noexcept;  // of the factors that are kept

 private:
  std::shared_ptr<DeviceFactor> find(double ridge_t, double ridge_beta);
  std::shared_ptr<RowPart> rows_at(double ridge_t, BorderRoute) const;
  void make_room(std::size_t wanted, BorderRoute);
  std::shared_ptr<DeviceFactor> place_for(double ridge_t, BorderRoute);
  FactorAnswer make(double ridge_t, double ridge_beta, BorderRoute);
  void require_room(std::size_t bytes);

  DeviceSystem& system_;
  Index entries_ = 4;
  std::optional<Index> memory_limit_;
  BorderRoute route_ = BorderRoute::direct;
  bool may_leave_ = false;
  std::vector<std::shared_ptr<DeviceFactor>> factors_;  // most recently used first
  std::shared_ptr<DeviceFactor> spare_;  // one that has gone, for its memory
};

}  // namespace arrowschur::device
