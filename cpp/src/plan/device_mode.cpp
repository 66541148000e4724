#include "plan/device_mode.hpp"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "arrowschur/device.hpp"
#include "arrowschur/error.hpp"
#include "backend/device_loader.hpp"

namespace arrowschur::policy {
namespace {

constexpr const char* kVariable = "ARROWSCHUR_DEVICE";
constexpr double kNearer = 1.1;  // predictions that are closer than this are no reason to leave the host

std::atomic<Size> g_availability_requests{0}, g_process_ns{0};
thread_local bool t_own_size_only = false;

// Asks the loader, which probes once per process; so is the request counted.
Probe probed() {
  [[maybe_unused]] static const Size first = g_availability_requests.fetch_add(1, std::memory_order_relaxed);
  const DeviceInfo& info = device_info();
  if (info.outcome == DeviceOutcome::fault) {
    throw DeviceError("probe", info.message + " (device='off' does not probe)");
  }
  return {info.outcome == DeviceOutcome::available, info.why()};
}

Size nanoseconds(double seconds) {
  const double ns = std::ceil(seconds * 1e9);
  return ns < 1e15 ? static_cast<Size>(ns) : Size{1} << 50;  // eleven days: sums of them cannot wrap
}

}  // namespace

std::optional<Device> parse_device(std::string_view text) noexcept {
  const auto blank = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  const auto is = [&](std::string_view word) {
    return std::equal(text.begin(), text.end(), word.begin(), word.end(),
                      [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; });
  };
  if (is("auto")) return Device::automatic;
  if (is("off")) return Device::off;
  if (is("required")) return Device::required;
  return std::nullopt;
}

Device device_mode(Device of_call) {
  if (of_call != Device::automatic) return of_call;
  static const std::string text = [] {
    const char* value = std::getenv(kVariable);
    return std::string(value == nullptr ? "" : value);
  }();
  if (text.empty()) return Device::automatic;
  static const std::optional<Device> mode = parse_device(text);
  if (!mode) {
    throw InvalidArgument(kVariable, '\'' + text + '\'', "'auto', 'off' or 'required' (environment variable)");
  }
  return *mode;
}

Decision decide(Device mode, const Eligibility& eligibility, const std::function<Probe()>& probe) {
  if (mode == Device::off) return {false, "policy_off"};
  const bool required = mode == Device::required;
  switch (eligibility.kind) {
    case EligibilityKind::backend_not_compiled:
      if (required) throw DeviceUnavailableError("required_unsupported: " + std::string(device::kNoBackend));
      return {false, "backend_not_compiled"};
    case EligibilityKind::capability_missing:
      if (required) throw DeviceUnavailableError("required_capability_missing: " + eligibility.what);
      return {false, "kernel_lacks_capability"};
    case EligibilityKind::below_threshold:
      if (!required) return {false, "below_threshold"};
      break;
    case EligibilityKind::measured_slower:
      if (!required) return {false, "device_measured_slower"};
      break;
    case EligibilityKind::eligible:
      break;
  }
  const Probe answer = probe();
  if (answer.available) return {true, required ? "required_supported" : "auto_supported"};
  if (required) throw DeviceUnavailableError("runtime_unavailable: " + answer.absent_reason);
  return {false, "runtime_unavailable"};
}

namespace {

Decision considered(Device mode, const DeviceQuestion& question) {
  Eligibility eligibility;
  if (question.missing != nullptr) {
    eligibility.kind = EligibilityKind::capability_missing;
    if (mode == Device::required) eligibility.what = question.missing;
  } else if (mode == Device::automatic) {
    const Size call = nanoseconds(question.cpu_seconds), counted = question.admissible ? call : 0;
    const Size before = g_process_ns.fetch_add(counted, std::memory_order_relaxed);
    // A call that no policy would admit neither adds to the sum nor is carried over the threshold by it.
    const bool history = question.admissible && !t_own_size_only;
    if (!should_probe(call, history ? before : 0)) eligibility.kind = EligibilityKind::below_threshold;
  }
  const Decision decision = decide(mode, eligibility, probed);
  if (!decision.use_device) return decision;
  fix_device_policy(question.calibrate);
  // What follows is known, or matters, only once there is a device: its profile comes from its facts.
  if (!question.device_seconds) return decide(mode, {EligibilityKind::capability_missing, kHostOnly}, probed);
  if (mode == Device::automatic) {
    const double seconds = question.device_seconds(device_profile(*device_info().facts));
    if (!(kNearer * seconds < question.cpu_seconds))
      return decide(mode, {EligibilityKind::measured_slower, {}}, probed);
  }
  return decision;
}

}  // namespace

Decision consider_device(Device of_call, const DeviceQuestion& question) {
  const Device mode = device_mode(of_call);
  const Decision decision = considered(mode, question);
  if (mode != Device::off) note_decision(question.route, decision, question.n, question.total_dim, question.k);
  return decision;
}

// Float64 matrix units are a matter of the chip, not of its generation: 8.0, 9.0 and 10.0 have them, 8.6, 8.9, 12.x not.
MachineProfile device_profile(const DeviceFacts& facts) {
  MachineProfile profile = reference_profile();
  const bool matrix_units =
      facts.compute_minor == 0 && (facts.compute_major == 8 || facts.compute_major == 9 || facts.compute_major == 10);
  if (!matrix_units) {
    profile.rate_mat /= 64.0;
    profile.rate_vec /= 64.0;
  }
  return profile;
}

OwnSizeScope::OwnSizeScope() noexcept : outer_(std::exchange(t_own_size_only, true)) {}
OwnSizeScope::~OwnSizeScope() { t_own_size_only = outer_; }

ProbeCounters probe_counters() noexcept {
  return {g_availability_requests.load(std::memory_order_relaxed), g_process_ns.load(std::memory_order_relaxed)};
}

}  // namespace arrowschur::policy
