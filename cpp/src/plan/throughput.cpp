#include <cmath>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/policy.hpp"
#include "system/format.hpp"

namespace arrowschur::policy {
namespace {

bool usable(double rate) { return std::isfinite(rate) && rate > 0.0; }

void require_target(double target) {
  if (!usable(target)) throw InvalidArgument("target", format_number(target), "a finite number of rows per second > 0");
}

double largest_difference(std::span<const double> a, std::span<const double> b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

void require_size(const char* name, std::size_t got, std::size_t expected) {
  if (got != expected) {
    throw InvalidArgument(name, std::to_string(got) + " entries", std::to_string(expected) + " entries");
  }
}

}  // namespace

ThroughputVerdict ThroughputVerdict::from_measurement(double rate, double target) {
  require_target(target);
  return {rate, target};
}
double ThroughputVerdict::fraction_of_target() const noexcept { return usable(rate_) ? rate_ / target_ : 0.0; }
bool ThroughputVerdict::meets_target() const noexcept { return usable(rate_) && rate_ >= target_; }

const char* to_string(EncodeState state) noexcept {
  switch (state) {
    case EncodeState::met:
      return "met";
    case EncodeState::unmet:
      return "unmet";
    case EncodeState::undetermined:
      return "undetermined";
  }
  return "unknown";
}

const char* to_string(BlockedReason reason) noexcept {
  switch (reason) {
    case BlockedReason::no_device:
      return "no_device";
    case BlockedReason::no_device_encode_kernel:
      return "no_device_encode_kernel";
    case BlockedReason::device_not_engaged:
      return "device_not_engaged";
  }
  return "unknown";
}

EncodeDeploymentDecision EncodeDeploymentDecision::from_device_measurement(bool engaged, double rate, double target) {
  require_target(target);
  if (!engaged || !usable(rate)) return blocked(BlockedReason::device_not_engaged);
  EncodeDeploymentDecision decision;
  decision.state_ = rate >= target ? EncodeState::met : EncodeState::unmet;
  decision.rate_ = rate;
  decision.target_ = target;
  return decision;
}

EncodeDeploymentDecision EncodeDeploymentDecision::blocked(BlockedReason reason) {
  EncodeDeploymentDecision decision;
  decision.reason_ = reason;
  return decision;
}

EncodeQuality encode_quality(const EncodeComparison& c) {
  const std::size_t n = c.n;
  require_size("certified", c.certified.size(), n);
  require_size("reference_certified", c.reference_certified.size(), n);
  require_size("reference_coordinates", c.reference_coordinates.size(), c.coordinates.size());
  require_size("reference_reconstruction", c.reference_reconstruction.size(), c.reconstruction.size());
  EncodeQuality quality;
  if (n == 0) return quality;
  const std::size_t width = c.reconstruction.size() / n;
  require_size("reconstruction", c.reconstruction.size(), n * width);

  Size agree = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (c.certified[i] != 0) ++quality.certified;
    if ((c.certified[i] != 0) == (c.reference_certified[i] != 0)) ++agree;
  }
  quality.fallback_rate = 1.0 - static_cast<double>(quality.certified) / static_cast<double>(n);
  quality.flag_agreement = static_cast<double>(agree) / static_cast<double>(n);
  quality.coordinate_error = largest_difference(c.coordinates, c.reference_coordinates);
  quality.reconstruction_error = largest_difference(c.reconstruction, c.reference_reconstruction);

  double missed = 0.0, total = 0.0;
  for (std::size_t j = 0; j < width; ++j) {
    double mean = 0.0;
    for (std::size_t i = 0; i < n; ++i) mean += c.reference_reconstruction[i * width + j] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double target = c.reference_reconstruction[i * width + j];
      const double off = target - c.reconstruction[i * width + j];
      missed += off * off;
      total += (target - mean) * (target - mean);
    }
  }
  // Columns that do not vary leave nothing to explain.
  quality.explained_variance = total > 0.0 ? 1.0 - missed / total : (missed == 0.0 ? 1.0 : 0.0);
  return quality;
}

}  // namespace arrowschur::policy
