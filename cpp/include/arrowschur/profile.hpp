// The machine in a dozen numbers, the time that each route takes on it, and where those numbers come from: built in,
// measured, or read from a record in the user's cache.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrowschur/device.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

// Rates in float64. A CPU has an infinite link and no launch or synchronisation times.
struct MachineProfile {
  std::string name;
  double mem_bw = 0.0;       // bytes per second
  double rate_vec = 0.0;     // flops per second of row-wise work
  double rate_mat = 0.0;     // flops per second of matrix products, for large sizes
  double link_bw = 0.0;      // bytes per second to the device
  double t_launch = 0.0;     // seconds
  double t_sync = 0.0;       // seconds
  double half_reduce = 0.0;  // width at which a symmetric update reaches half of rate_mat
  double half_factor = 0.0;  // width at which a Cholesky factor does
  double panel = 256.0;      // columns per panel of a factor
  double t_panel = 0.0;      // seconds per panel

  bool operator==(const MachineProfile&) const = default;
  std::string to_json() const;
  static MachineProfile from_json(std::string_view text);  // InvalidArgument naming the field
};

namespace policy {

MachineProfile reference_profile();     // "reference": a device without a record, and tests
MachineProfile built_in_cpu_profile();  // "built-in"

// The profile in force: fixed by the first plan of the process (SolveOptions::calibrate says how), changed by
// calibrate() and set_profile() only, so that the route of a shape does not flip in the middle of a process.
std::shared_ptr<const MachineProfile> profile_in_force(Calibrate at_first = Calibrate::cache);
void set_profile(const MachineProfile&);  // InvalidArgument for constants that are not positive
// Measures this CPU (a fraction of a second, with get_num_threads() threads) and, where there is one, the device beside it,
// writes the records and puts them in force. Looks for a device. An unwritable cache is not an error; where the device fails
// its thresholds keep their defaults, and calibration_failure() has the reason.
MachineProfile calibrate();
// The device's part: at the first plan after the probe the policy of the record for this CPU and device takes force, as
// `at_first` says (measure: where there is none, it is made). Later calls change nothing.
void fix_device_policy(Calibrate at_first);
std::string calibration_failure();  // of the device's part; empty: none

// ---- the record -------------------------------------------------------------------------------------------------------
inline constexpr int kRecordSchema = 1;
// What a record belongs to; anything else in it makes it foreign. Fields of the device are empty without one.
struct Fingerprint {
  std::vector<std::pair<std::string, std::string>> fields;  // in a fixed order
  bool operator==(const Fingerprint&) const = default;
  std::string digest() const;  // 32 hexadecimal digits
};
Fingerprint machine_fingerprint();  // of this CPU alone
Fingerprint machine_fingerprint(const DeviceFacts&);  // and its device
// <cache>/arrowschur_native/policy/v<schema>/<fingerprint>.json below $XDG_CACHE_HOME or ~/.cache; empty without either.
std::string record_path(const Fingerprint&);

struct Measurement {
  std::string operation;  // "gemm", "xtwx", "potrf"
  std::vector<Size> sizes;
  double cpu_seconds = 0.0, gpu_seconds = 0.0;
};
struct CalibrationRecord {
  Fingerprint fingerprint;
  DispatchPolicy policy;
  MachineProfile profile;
  std::vector<Measurement> measurements;
};
std::string to_json(const CalibrationRecord&);
// None for text that is truncated, of another schema or of another fingerprint.
std::optional<CalibrationRecord> read_record(std::string_view text, const Fingerprint&);

// ---- thresholds from measurements --------------------------------------------------------------------------------------
inline constexpr Size kGemmGrid[] = {64, 128, 256};
inline constexpr Size kPotrfGrid[] = {64, 128, 256};
inline constexpr std::array<Size, 2> kGramGrid[] = {{2048, 32}, {4096, 64}, {8192, 96}};
static_assert(Count{2} * kGemmGrid[0] * kGemmGrid[0] * kGemmGrid[0] == Count{kMinCalibratableGemmFlops});
static_assert(kPotrfGrid[0] == kMinCalibratablePotrfP);
static_assert(kGramGrid[0][0] == kMinCalibratableRowKernelN);
static_assert(2 * kMinCalibratableRowKernelN == kMinCalibratableFusedKernelN);
static_assert(xtwx_flops(kGramGrid[0][0], kGramGrid[0][1]) >= Count{kMinCalibratableGemmFlops});

struct Timing {
  Size size = 0;  // what the threshold is in: flops, or a width; ascending
  double cpu_seconds = 0.0, gpu_seconds = 0.0;
};
// The device wins a size when it takes at most 0.95 of the CPU's time. The first size from which on it wins every one;
// when it loses the largest, max(fallback, 2 * largest).
Size crossover(std::span<const Timing> timings, Size fallback);
// gemm sets gemm_min_flops, xtwx xtwx_flops_min, potrf potrf_min_p, never below the calibration floors. Operations without
// a measurement keep their value.
DispatchPolicy calibrated(const DispatchPolicy& base, std::span<const Measurement> measurements);

// ---- time model ---------------------------------------------------------------------------------------------------------
// Seconds of a route: up + build + N solve, N solves per factor.
struct RouteTime {
  double up = 0.0, build = 0.0, solve = 0.0;
  double total(double solves) const noexcept { return up + build + solves * solve; }
};
enum class BorderForm { dense, diagonal, tridiagonal };
struct RouteQuery {
  Size n = 0, d = 0, k = 0;
  BorderForm border = BorderForm::dense;
  double solves = 1.0, cg_iters = 8.0;
};
// direct, low_rank and inexact_pcg for a dense cross block. What is no candidate says why.
std::vector<PlanCandidate> route_table(const RouteQuery&, const MachineProfile&);
// The smallest total; within 10 % direct, then low_rank, then inexact_pcg. -1: none is feasible.
int choose(std::span<const PlanCandidate> candidates) noexcept;

}  // namespace policy
}  // namespace arrowschur
