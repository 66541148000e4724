#include "backend/device_factors.hpp"

#include <algorithm>
#include <utility>

#include "arrowschur/error.hpp"
#include "backend/device_loader.hpp"

namespace arrowschur::device {

std::size_t byte_budget(const Table& table, std::optional<Index> limit, std::size_t held) {
  if (limit) return static_cast<std::size_t>(*limit);
  std::size_t available = 0;
  require(table, table.free_memory(&available), "free_memory");
  const auto total = static_cast<std::size_t>(runtime().info.facts->total_bytes);
  return std::min(available + held, total / 2);
}

std::shared_ptr<DeviceFactor> FactorCache::find(double ridge_t, double ridge_beta) {
  const auto at = std::find_if(factors_.begin(), factors_.end(),
                               [&](const auto& factor) { return factor->at(ridge_t, ridge_beta); });
  if (at == factors_.end()) return nullptr;
  std::rotate(factors_.begin(), at, at + 1);
  return factors_.front();
}

void FactorCache::set_route(BorderRoute route, bool may_leave) {
  if (route != route_ || may_leave != may_leave_) clear();
  route_ = route;
  may_leave_ = may_leave;
}

// Rows at this ridge_t that a factor of this route can share. A direct one without S_0 would save the whitening alone, and
// keep memory from going: not those of another factor.
std::shared_ptr<RowPart> FactorCache::rows_at(double ridge_t, BorderRoute route) const {
  const auto fit = [&](const RowPart& rows) {
    return rows.built && rows.ridge_t == ridge_t && (route != BorderRoute::direct || rows.keeps_s0);
  };
  for (const auto& factor : factors_) {
    if (fit(*factor->rows())) return factor->rows();
  }
  // A border that has failed leaves its rows behind, for the next ridge_beta or the next route.
  if (spare_ && spare_->rows()->built && spare_->rows()->ridge_t == ridge_t &&
      (fit(*spare_->rows()) || spare_->route() != route)) {
    return spare_->rows();
  }
  return nullptr;
}

std::size_t FactorCache::bytes() const noexcept {
  std::size_t sum = 0;
  std::vector<const RowPart*> seen;
  const auto add = [&](const DeviceFactor& factor) {
    sum += factor.bytes();
    if (std::find(seen.begin(), seen.end(), factor.rows().get()) != seen.end()) return;
    seen.push_back(factor.rows().get());
    sum += factor.rows()->memory.bytes();
  };
  for (const auto& factor : factors_) add(*factor);
  if (spare_) add(*spare_);
  return sum;
}

void FactorCache::clear() noexcept {
  factors_.clear();
  spare_.reset();
}

// Before a factor is built, so that no more are held at any time than may be kept.
void FactorCache::make_room(std::size_t wanted, BorderRoute route) {
  if (spare_ && spare_->route() != route) spare_.reset();
  const auto drop_last = [&] {
    const bool reusable = factors_.back().use_count() == 1 && factors_.back()->route() == route;
    spare_ = reusable ? std::move(factors_.back()) : nullptr;
    factors_.pop_back();
  };
  const auto entries = static_cast<std::size_t>(std::max<Index>(entries_, 1));
  while (factors_.size() >= entries) drop_last();
  // The memory of a spare one is what the new one takes.
  while (!spare_ && !factors_.empty()) {
    const std::size_t held = system_.bytes() + bytes();
    if (held + wanted <= byte_budget(system_.lane().table(), memory_limit_, held)) return;
    drop_last();
  }
}

void FactorCache::require_room(std::size_t bytes_wanted) {
  const std::size_t held = system_.bytes() + bytes();
  const std::size_t budget = byte_budget(system_.lane().table(), memory_limit_, held);
  if (held + bytes_wanted > budget) {
    throw OutOfMemory(std::to_string(held + bytes_wanted) + " bytes needed, " + std::to_string(budget) + " allowed");
  }
}

// A factor with room for everything at this ridge_t: rows of another factor where there are such, the memory of one that
// has gone where there is one.
std::shared_ptr<DeviceFactor> FactorCache::place_for(double ridge_t, BorderRoute route) {
  const std::shared_ptr<RowPart> shared = rows_at(ridge_t, route);
  const bool wants_s0 = route == BorderRoute::direct;
  const std::size_t border = DeviceFactor::bytes(system_, route), rows = RowPart::bytes(system_, wants_s0);
  make_room(border + (shared ? 0 : rows), route);
  std::shared_ptr<DeviceFactor> place = std::exchange(spare_, nullptr);
  if (place && place->rows() == shared) return place;
  if (place && shared) {
    place->take_rows(shared);
    return place;
  }
  if (shared) {
    const bool counted = shared.use_count() > 1;  // among what is held
    require_room(border + (counted ? 0 : shared->memory.bytes()));
    return std::make_shared<DeviceFactor>(system_, route, shared);
  }
  // Rows that a kept factor shares stay with it.
  if (place && place->rows().use_count() == 1) return place;
  const std::size_t held = system_.bytes() + bytes() + (place ? place->bytes() : 0);
  const std::size_t wanted = (place ? 0 : border) + rows;
  const bool keep = wants_s0 && held + wanted <= byte_budget(system_.lane().table(), memory_limit_, held);
  if (!keep) require_room((place ? 0 : border) + RowPart::bytes(system_, false));
  auto own = std::make_shared<RowPart>(system_, keep);
  if (!place) return std::make_shared<DeviceFactor>(system_, route, std::move(own));
  place->take_rows(std::move(own));
  return place;
}

FactorAnswer FactorCache::make(double ridge_t, double ridge_beta, BorderRoute route) {
  FactorAnswer answer;
  std::shared_ptr<DeviceFactor> factor = place_for(ridge_t, route);
  answer.failure = factor->build(system_, ridge_t, ridge_beta);
  if (answer.failure) {
    spare_ = std::move(factor);
    return answer;
  }
  answer.made = true;
  factors_.insert(factors_.begin(), factor);
  answer.factor = std::move(factor);
  return answer;
}

FactorAnswer FactorCache::get(double ridge_t, double ridge_beta) {
  if (!system_.whole()) throw DeviceError("refresh", "ended early: the blocks are a mixture until refresh() succeeds");
  if (entries_ == 0 && !factors_.empty()) make_room(0, route_);
  FactorAnswer answer;
  if ((answer.factor = find(ridge_t, ridge_beta)) != nullptr) return answer;
  answer = make(ridge_t, ridge_beta, route_);
  if (!answer.failure || answer.failure->rows_failed || route_ != BorderRoute::dual || !may_leave_) return answer;
  // In exact arithmetic M and C have factors wherever S has one. Rounding may know better, and the pivot of S is what others
  // report.
  try {
    return make(ridge_t, ridge_beta, BorderRoute::direct);
  } catch (const OutOfMemory&) {
    return answer;
  }
}

}  // namespace arrowschur::device
