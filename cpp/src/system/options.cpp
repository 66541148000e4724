#include "arrowschur/options.hpp"

#include <cmath>

#include "system/format.hpp"

namespace arrowschur {
namespace {

// Enumerators are contiguous from 0; a cast integer may be anything.
template <class E>
bool known(E value, E last) noexcept {
  return static_cast<int>(value) >= 0 && static_cast<int>(value) <= static_cast<int>(last);
}
template <class E>
std::string number_of(E value) {
  return std::to_string(static_cast<int>(value));
}

}  // namespace

const char* to_string(Mode mode) noexcept {
  switch (mode) {
    case Mode::automatic:
      return "auto";
    case Mode::direct:
      return "direct";
    case Mode::sqrt_ba:
      return "sqrt_ba";
    case Mode::low_rank:
      return "low_rank";
    case Mode::inexact_pcg:
      return "inexact_pcg";
  }
  return "unknown";
}

const char* to_string(PreconditionerKind kind) noexcept {
  switch (kind) {
    case PreconditionerKind::ladder:
      return "ladder";
    case PreconditionerKind::none:
      return "none";
    case PreconditionerKind::diagonal:
      return "diagonal";
    case PreconditionerKind::block:
      return "block";
    case PreconditionerKind::cluster:
      return "cluster";
    case PreconditionerKind::schwarz:
      return "schwarz";
    case PreconditionerKind::incomplete_cholesky:
      return "incomplete_cholesky";
    case PreconditionerKind::power_series:
      return "power_series";
    case PreconditionerKind::nystrom:
      return "nystrom";
    case PreconditionerKind::deflated:
      return "deflated";
  }
  return "unknown";
}

const char* to_string(Precision precision) noexcept {
  switch (precision) {
    case Precision::float64:
      return "float64";
    case Precision::mixed:
      return "mixed";
    case Precision::float32:
      return "float32";
  }
  return "unknown";
}

// Comparisons are written so that NaN breaks every rule.
std::optional<Complaint> check(const PcgOptions& o) {
  if (o.max_iterations < 0) {
    return Complaint{"max_iterations", std::to_string(o.max_iterations), "an integer >= 0"};
  }
  if (o.relative_tolerance && !(*o.relative_tolerance >= 0.0 && *o.relative_tolerance < 1.0)) {
    return Complaint{"relative_tolerance", format_number(*o.relative_tolerance), "none or in [0, 1)"};
  }
  return std::nullopt;
}

std::optional<Complaint> check(const TrustRegionOptions& o) {
  if (o.radius && !(*o.radius > 0.0)) return Complaint{"radius", format_number(*o.radius), "none or a number > 0"};
  if (!(o.relative_tolerance >= 0.0 && o.relative_tolerance < 1.0)) {
    return Complaint{"relative_tolerance", format_number(o.relative_tolerance), "in [0, 1)"};
  }
  if (o.max_iterations < 0) {
    return Complaint{"max_iterations", std::to_string(o.max_iterations), "an integer >= 0"};
  }
  return std::nullopt;
}

std::optional<Complaint> check(const SolveOptions& o) {
  if (!known(o.mode, Mode::inexact_pcg)) {
    return Complaint{"mode", number_of(o.mode), "one of 'auto', 'direct', 'sqrt_ba', 'low_rank', 'inexact_pcg'"};
  }
  if (!known(o.device, Device::required)) {
    return Complaint{"device", number_of(o.device), "one of 'auto', 'off', 'required'"};
  }
  if (!known(o.precision, Precision::float32)) {
    return Complaint{"precision", number_of(o.precision), "one of 'float64', 'mixed', 'float32'"};
  }
  if (!known(o.guards, Guards::absolute)) {
    return Complaint{"guards", number_of(o.guards), "one of 'relative', 'absolute'"};
  }
  if (!known(o.row_lift, RowLift::never)) {
    return Complaint{"row_lift", number_of(o.row_lift), "one of 'indefinite', 'guard', 'never'"};
  }
  if (o.certificate_tolerance && !(*o.certificate_tolerance > 0.0)) {
    return Complaint{"certificate_tolerance", format_number(*o.certificate_tolerance), "none or a number > 0"};
  }
  if (auto complaint = check(o.pcg)) return complaint;
  if (auto complaint = check(o.trust_region)) return complaint;
  if (!known(o.preconditioner, PreconditionerKind::deflated)) {
    return Complaint{"preconditioner", number_of(o.preconditioner), "a known preconditioner"};
  }
  if (o.schur_pd_floor && !(*o.schur_pd_floor > 0.0 && *o.schur_pd_floor < 1.0)) {
    return Complaint{"schur_pd_floor", format_number(*o.schur_pd_floor), "none or in (0, 1)"};
  }
  if (!known(o.calibrate, Calibrate::measure)) {
    return Complaint{"calibrate", number_of(o.calibrate), "one of 'off', 'cache', 'measure'"};
  }
  if (o.expected_solves < 1) {
    return Complaint{"expected_solves", std::to_string(o.expected_solves), "an integer >= 1"};
  }
  if (o.memory_limit && *o.memory_limit < 0) {
    return Complaint{"memory_limit", std::to_string(*o.memory_limit), "none or a number of bytes >= 0"};
  }
  if (o.num_threads && *o.num_threads < 1) {
    return Complaint{"num_threads", std::to_string(*o.num_threads), "none or an integer >= 1"};
  }
  if (o.device_memory_limit && *o.device_memory_limit < 0) {
    return Complaint{"device_memory_limit", std::to_string(*o.device_memory_limit), "an integer >= 0"};
  }
  if (o.frame_cache_entries < 0) {
    return Complaint{"frame_cache_entries", std::to_string(o.frame_cache_entries), "an integer >= 0"};
  }
  return std::nullopt;
}

std::optional<Complaint> check(const EscalationOptions& o) {
  if (!(o.initial_ridge > 0.0 && std::isfinite(o.initial_ridge))) {
    return Complaint{"initial_ridge", format_number(o.initial_ridge), "a finite number > 0"};
  }
  if (!(o.ridge_growth > 1.0 && std::isfinite(o.ridge_growth))) {
    return Complaint{"ridge_growth", format_number(o.ridge_growth), "a finite number > 1"};
  }
  if (o.max_escalations < 0) {
    return Complaint{"max_escalations", std::to_string(o.max_escalations), "an integer >= 0"};
  }
  return std::nullopt;
}

}  // namespace arrowschur
