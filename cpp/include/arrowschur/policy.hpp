// Dispatch: where a piece of work runs, in which precision, and how a throughput claim may be stated.
//
// Everything here is a pure function of sizes, a policy record and a machine profile: no allocation, no lock, no driver in
// a predicate. A predicate never changes a number that a solver returns; it only chooses where or how it is computed.
// What depends on time rather than on flops (the route of a solve) is in plan.hpp and profile.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {
namespace policy {

using Size = std::uint64_t;

// Unsigned 128-bit count that saturates at 2^128 - 1: a shape can never wrap into a small number. One multiply-add
// counts as two flops. Two words, so that no compiler extension is needed.
struct Count {
  std::uint64_t high = 0, low = 0;

  constexpr Count() noexcept = default;
  constexpr Count(Size value) noexcept : low(value) {}
  constexpr Count(std::uint64_t upper, std::uint64_t lower) noexcept : high(upper), low(lower) {}
  static constexpr Count largest() noexcept { return {~std::uint64_t{0}, ~std::uint64_t{0}}; }

  constexpr auto operator<=>(const Count&) const noexcept = default;  // high word first
  friend constexpr Count operator+(Count a, Count b) noexcept {
    const std::uint64_t low = a.low + b.low, carry = low < a.low ? 1 : 0;
    const std::uint64_t high = a.high + b.high;
    if (high < a.high || (carry == 1 && high == ~std::uint64_t{0})) return largest();
    return {high + carry, low};
  }
  friend constexpr Count operator*(Count a, Count b) noexcept {
    if (a.high != 0 && b.high != 0) return largest();
    if (a.high == 0) std::swap(a, b);  // now b < 2^64
    const Count upper = product(a.high, b.low);
    if (upper.high != 0) return largest();
    return Count{upper.low, 0} + product(a.low, b.low);
  }
  friend constexpr Count operator/(Count a, std::uint32_t divisor) noexcept {  // truncates
    std::uint64_t words[4] = {a.high >> 32, a.high & kHalf, a.low >> 32, a.low & kHalf}, rest = 0;
    for (std::uint64_t& word : words) {
      const std::uint64_t value = rest << 32 | word;
      word = value / divisor;
      rest = value % divisor;
    }
    return {words[0] << 32 | words[1], words[2] << 32 | words[3]};
  }
  constexpr double to_double() const noexcept {
    return static_cast<double>(high) * 18446744073709551616.0 + static_cast<double>(low);
  }

 private:
  static constexpr std::uint64_t kHalf = 0xffffffff;
  static constexpr Count product(std::uint64_t a, std::uint64_t b) noexcept {
    const std::uint64_t al = a & kHalf, ah = a >> 32, bl = b & kHalf, bh = b >> 32;
    const std::uint64_t ll = al * bl, lh = al * bh, hl = ah * bl, hh = ah * bh;
    const std::uint64_t middle = (ll >> 32) + (lh & kHalf) + (hl & kHalf);
    return {hh + (lh >> 32) + (hl >> 32) + (middle >> 32), middle << 32 | (ll & kHalf)};
  }
};

// ---- constants ------------------------------------------------------------------------------------------------------
inline constexpr Size kRefinementMinP = 64;  // residual 2 p^2 against factor p^3 / 3: ten times cheaper from here
inline constexpr int kRefinementMaxSteps = 3;  // corrections after the first solve
inline constexpr double kRefinementTolerance = 1e-12;
inline constexpr Size kDeviceLoopMinP = 32;  // narrowest matrix for device loops and border products
// Floors of summed product work. Ten times below the dense floor: the rows are uploaded once and read by every
// iteration. Lower for scalar rows, whose gathers and scatters the lower bound does not see.
inline constexpr Size kMatvecOffloadFlopsMin = 10'000'000;
inline constexpr Size kThinCurveMatvecOffloadFlopsMin = 1'000'000;
inline constexpr Size kMatvecOffloadMinCgIters = 8;  // when no iteration count is known
inline constexpr double kThroughputTargetRowsPerSec = 100'000.0;
inline constexpr Size kMinCalibratableGemmFlops = 524'288;  // 2 * 64^3
inline constexpr Size kMinCalibratablePotrfP = 64;
inline constexpr Size kMinCalibratableRowKernelN = 2'048;
inline constexpr Size kMinCalibratableFusedKernelN = 4'096;
inline constexpr Size kMultiDeviceBatchFloor = 64;
inline constexpr Size kWidthCut = 2'000;  // route_rule = width_cut: wider borders are iterated on

constexpr Count xtwx_flops(Size n, Size p) noexcept { return Count{2} * n * p * p; }
constexpr Count xtwy_flops(Size n, Size px, Size q) noexcept { return Count{2} * n * px * q; }

}  // namespace policy

// ---- the record -----------------------------------------------------------------------------------------------------
// off: not wanted by default; never: somebody decided so. Both forbid a float32 factor, and stay apart when stored.
enum class MixedPrecision { off, refinement, never };
enum class RouteRule { cost, width_cut };
const char* to_string(MixedPrecision) noexcept;
const char* to_string(RouteRule) noexcept;

// The defaults are deliberately cautious: what a build without a device, a failed calibration and tests see.
struct DispatchPolicy {
  policy::Size xtwx_flops_min = 100'000'000;  // calibrated
  policy::Size gemm_min_flops = 100'000'000;  // calibrated
  policy::Size potrf_min_p = 512;  // calibrated
  policy::Size small_dense_batched_potrf_max_p = 32;
  policy::Size small_dense_batched_potrf_min_batch = 8;
  MixedPrecision mixed_precision = MixedPrecision::refinement;
  RouteRule route_rule = RouteRule::cost;

  bool operator==(const DispatchPolicy&) const = default;

  // ---- dense work; equality with a floor admits ----
  constexpr policy::Size dense_reduction_flops_min() const noexcept { return std::min(xtwx_flops_min, gemm_min_flops); }
  constexpr bool dense_gemv_target_is_gpu(policy::Size n, policy::Size p, bool resident) const noexcept {
    return resident || policy::Count{2} * n * p >= policy::Count{gemm_min_flops};
  }
  constexpr bool xtwx_target_is_gpu(policy::Size n, policy::Size p, bool materialized) const noexcept {
    return materialized && n > 0 && p > 0 && policy::xtwx_flops(n, p) >= policy::Count{dense_reduction_flops_min()};
  }
  constexpr bool xtwy_target_is_gpu(policy::Size n, policy::Size px, policy::Size q, bool materialized) const noexcept {
    return materialized && n > 0 && px > 0 && q > 0 &&
           policy::xtwy_flops(n, px, q) >= policy::Count{dense_reduction_flops_min()};
  }
  // A lone matrix that would have to be uploaded is never admitted.
  constexpr bool potrf_target_is_gpu(policy::Size p, bool resident) const noexcept {
    return resident && p >= potrf_min_p;
  }
  constexpr bool dense_hessian_work_target_is_gpu(policy::Size n, policy::Size p) const noexcept {
    return p >= policy::kDeviceLoopMinP && xtwx_target_is_gpu(n, p, true);
  }
  // Whether record and size permit the low-precision factor that a caller asked for.
  constexpr bool iterative_refinement_should_attempt(policy::Size p) const noexcept {
    return mixed_precision == MixedPrecision::refinement && p >= policy::kRefinementMinP;
  }

  std::string to_json() const;
  static DispatchPolicy from_json(std::string_view text);  // InvalidArgument naming the field; all fields are required
};

namespace policy {

// The policy in force: the default, or the one of the calibration record (profile.hpp).
DispatchPolicy in_force();

// ---- mixed precision: the acceptance of a low-precision factor ----------------------------------------------------------
// x = correct(b), then up to kRefinementMaxSteps corrections x += correct(b - A x). Accepted when
//     |b - A x| <= max(kRefinementTolerance |b|, band(x)),   band(x) = gamma_{p+1} (|A|_F |x| + |b|),
// gamma_m = m u / (1 - m u), u = 2^-53: no correction resolves a residual below its own rounding. With a fixed factor the
// error contracts linearly, by about kappa(A) 2^-24 per correction.
enum class RefinementEnd { accepted, not_reduced, not_finite, steps_used_up };
struct RefinementOutcome {
  RefinementEnd end = RefinementEnd::accepted;
  int steps = 0;  // corrections made
  double residual = 0.0, tolerance = 0.0;
  bool accepted() const noexcept { return end == RefinementEnd::accepted; }
  std::string message() const;
};
struct RefinementProblem {
  std::span<const double> b;
  double norm_a = 0.0;  // Frobenius
  std::function<void(std::span<const double> x, std::span<double> y)> multiply;  // y = A x, float64
  std::function<void(std::span<const double> r, std::span<double> e)> correct;  // e = low-precision A^-1 r
  int max_steps = kRefinementMaxSteps;
};
RefinementOutcome refine(const RefinementProblem&, std::span<double> x);
// (kappa 2^-24)^(steps + 1) <= tolerance: what planning code must use.
bool refinement_can_succeed(double kappa, int steps = kRefinementMaxSteps) noexcept;

// ---- offloading the product with the reduced border matrix -----------------------------------------------------------
// Counts the forward half only: a dispatch threshold, never to be reported as speed.
constexpr Count admission_work_lower_bound(Size n, Size k, Size d) noexcept {
  return Count{n} * (Count{2} * d * k + Count{d} * d);
}
constexpr Count reduced_schur_apply_flops(Size n, Size k, Size d) noexcept {
  return Count{n} * (Count{4} * d * k + Count{d} * d);
}
constexpr bool reduced_schur_matvec_should_offload(Size n, Size k, Size d, Size cg_iters) noexcept {
  if (n == 0 || d == 0 || cg_iters == 0 || k < kDeviceLoopMinP) return false;
  const Size floor = d == 1 ? kThinCurveMatvecOffloadFlopsMin : kMatvecOffloadFlopsMin;
  return Count{cg_iters} * admission_work_lower_bound(n, k, d) >= Count{floor};
}

// ---- plan of the published cost model: a diagnostic (the route of a solve is chosen by time, plan.hpp) ----------------
enum class BorderStrategy { dense_direct, reduced_iterative };
const char* to_string(BorderStrategy) noexcept;
struct BorderSolvePlan {
  Size n = 0, k = 0, d = 0, cg_iters = 0;
  Size data_fit_rank = 0;  // min(n d, k): the data can inform no more border directions
  bool dense_border_rank_deficient = false;
  Count assembly_flops, border_cholesky_flops, dense_direct_flops, reduced_iterative_flops;
  BorderStrategy recommended = BorderStrategy::dense_direct;
  bool device_favorable = false;

  bool operator==(const BorderSolvePlan&) const = default;
};
constexpr BorderSolvePlan border_plan(Size n, Size k, Size d, Size cg_iters,
                                      const DispatchPolicy& record = {}) noexcept {
  BorderSolvePlan plan;
  plan.n = n, plan.k = k, plan.d = d, plan.cg_iters = cg_iters;
  if (n == 0 || k == 0 || d == 0) return plan;
  plan.cg_iters = std::max(cg_iters, Size{1});
  const Count rows = Count{n} * d;
  plan.dense_border_rank_deficient = rows < Count{k};
  plan.data_fit_rank = plan.dense_border_rank_deficient ? rows.low : k;
  plan.assembly_flops = Count{2} * rows * k * k;
  plan.border_cholesky_flops = Count{k} * k * k / 3;
  plan.dense_direct_flops = plan.assembly_flops + plan.border_cholesky_flops;
  plan.reduced_iterative_flops = Count{plan.cg_iters} * reduced_schur_apply_flops(n, k, d);
  if (plan.dense_direct_flops > plan.reduced_iterative_flops) {
    plan.recommended = BorderStrategy::reduced_iterative;
    plan.device_favorable = reduced_schur_matvec_should_offload(n, k, d, plan.cg_iters);
  } else {
    // A device that assembles S by n small updates and factors a wide border was measured slower than the CPU.
    plan.device_favorable = plan.assembly_flops >= plan.border_cholesky_flops &&
                            plan.dense_direct_flops >= Count{record.dense_reduction_flops_min()};
  }
  return plan;
}

// ---- gates of single operations ---------------------------------------------------------------------------------------
enum class OperationKind {
  gemm,  // m, n, k
  batched_gemm,  // batch, m, n, k
  gemv,  // m, k
  potrf,  // p, batch
  small_batched_potrf,  // p, batch
  trsm,  // m, n
  xtwx,  // n, p
  xtwy,  // n, px, q
  joint_hessian_2x2,  // n, pa, pb
};
const char* to_string(OperationKind) noexcept;
constexpr int operands(OperationKind kind) noexcept {
  switch (kind) {
    case OperationKind::batched_gemm:
      return 4;
    case OperationKind::gemm:
    case OperationKind::xtwy:
    case OperationKind::joint_hessian_2x2:
      return 3;
    default:
      return 2;
  }
}
struct Operation {
  OperationKind kind = OperationKind::gemm;
  std::array<Size, 4> sizes{};  // in the order above; unused ones are 0
};
constexpr Count flops(const Operation& op) noexcept {
  const auto& s = op.sizes;
  switch (op.kind) {
    case OperationKind::gemm:
      return Count{2} * s[0] * s[1] * s[2];
    case OperationKind::batched_gemm:
      return Count{2} * s[0] * s[1] * s[2] * s[3];
    case OperationKind::gemv:
      return Count{2} * s[0] * s[1];
    case OperationKind::potrf:
    case OperationKind::small_batched_potrf:
      return Count{s[1]} * s[0] * s[0] * s[0] / 3;
    case OperationKind::trsm:
      return Count{s[0]} * s[0] * s[1];
    case OperationKind::xtwx:
      return xtwx_flops(s[0], s[1]);
    case OperationKind::xtwy:
      return xtwy_flops(s[0], s[1], s[2]);
    case OperationKind::joint_hessian_2x2: {
      const Count width = Count{s[1]} + s[2];
      return Count{2} * s[0] * width * width;
    }
  }
  return {};
}
constexpr bool admits(const DispatchPolicy& record, const Operation& op) noexcept {
  const auto& s = op.sizes;
  const bool enough = flops(op) >= Count{record.gemm_min_flops};
  switch (op.kind) {
    case OperationKind::gemm:
    case OperationKind::gemv:
    case OperationKind::trsm:
      return flops(op) > Count{} && enough;
    case OperationKind::batched_gemm:
      return flops(op) > Count{} && enough && s[0] > 1;
    case OperationKind::potrf:
      return s[0] > 0 && s[1] > 0 && (s[0] >= record.potrf_min_p || (s[1] > 1 && enough));
    case OperationKind::small_batched_potrf:
      return s[0] > 0 && s[0] <= record.small_dense_batched_potrf_max_p &&
             s[1] >= record.small_dense_batched_potrf_min_batch;
    case OperationKind::xtwx:
      return record.xtwx_target_is_gpu(s[0], s[1], true);
    case OperationKind::xtwy:
      return record.xtwy_target_is_gpu(s[0], s[1], s[2], true);
    case OperationKind::joint_hessian_2x2:
      return s[0] > 0 && (s[1] > 0 || s[2] > 0) && enough;
  }
  return false;
}
// The record with every calibrated field at its floor: what it refuses, no reachable policy admits.
constexpr DispatchPolicy most_permissive() noexcept {
  DispatchPolicy record;
  record.xtwx_flops_min = record.gemm_min_flops = kMinCalibratableGemmFlops;
  record.potrf_min_p = kMinCalibratablePotrfP;
  return record;
}
constexpr bool admissible_under_any_policy(const Operation& op) noexcept { return admits(most_permissive(), op); }

// ---- fitting loops on a device ------------------------------------------------------------------------------------------
enum class LoopFamily {
  bernoulli_logit,
  bernoulli_probit,
  bernoulli_cloglog,
  poisson_log,
  gaussian_identity,
  gamma_log,
};
enum class LoopCurvature { fisher, observed };
// Only values that are known before anything is allocated.
struct InnerLoopAdmission {
  Size n = 0, p = 0;
  std::optional<LoopFamily> family;  // none: no device row kernel
  LoopCurvature curvature = LoopCurvature::fisher;
  bool gpu_available = false;
};
struct OuterLoopAdmission {
  Size n = 0, p = 0, num_rho = 0;
  std::optional<LoopFamily> family;
  LoopCurvature curvature = LoopCurvature::fisher;
  bool gpu_available = false;
};
constexpr bool should_use_gpu_inner_loop(const InnerLoopAdmission& a, const DispatchPolicy& record = {}) noexcept {
  return a.gpu_available && a.family.has_value() && record.dense_hessian_work_target_is_gpu(a.n, a.p);
}
// With one smoothing parameter the optimiser's state is a handful of scalars.
constexpr bool should_run_outer_on_device(const OuterLoopAdmission& a, const DispatchPolicy& record = {}) noexcept {
  return a.num_rho >= 2 && should_use_gpu_inner_loop({a.n, a.p, a.family, a.curvature, a.gpu_available}, record);
}

// ---- throughput claims ----------------------------------------------------------------------------------------------------
class ThroughputVerdict {
 public:
  // InvalidArgument for a target that is not finite and positive.
  static ThroughputVerdict from_measurement(double rate, double target = kThroughputTargetRowsPerSec);
  double measured_rows_per_sec() const noexcept { return rate_; }
  double target_rows_per_sec() const noexcept { return target_; }
  double fraction_of_target() const noexcept;  // 0 for a rate that is not finite and positive
  bool meets_target() const noexcept;

 private:
  ThroughputVerdict(double rate, double target) : rate_(rate), target_(target) {}
  double rate_, target_;
};

// Whether a device encode is fast enough that no surrogate is needed. met and unmet come from a device measurement only:
// no constructor takes a CPU rate.
enum class EncodeState { met, unmet, undetermined };
enum class BlockedReason { no_device, no_device_encode_kernel, device_not_engaged };
const char* to_string(EncodeState) noexcept;
const char* to_string(BlockedReason) noexcept;
class EncodeDeploymentDecision {
 public:
  static EncodeDeploymentDecision from_device_measurement(bool engaged, double rate,
                                                          double target = kThroughputTargetRowsPerSec);
  static EncodeDeploymentDecision blocked(BlockedReason reason);
  EncodeState state() const noexcept { return state_; }
  double measured_rows_per_sec() const noexcept { return rate_; }  // of met and unmet
  double target_rows_per_sec() const noexcept { return target_; }
  std::optional<BlockedReason> reason() const noexcept { return reason_; }
  bool surrogate_unneeded() const noexcept { return state_ == EncodeState::met; }
  bool surrogate_justified() const noexcept { return state_ == EncodeState::unmet; }
  bool is_undetermined() const noexcept { return state_ == EncodeState::undetermined; }

 private:
  EncodeDeploymentDecision() = default;
  EncodeState state_ = EncodeState::undetermined;
  double rate_ = 0.0, target_ = 0.0;
  std::optional<BlockedReason> reason_;
};

// A whole encode: routing, refinement, gates, certificate or fallback, reconstruction.
struct FullEncodeThroughput {
  Size n_rows = 0;
  double seconds = 0.0;
  bool device_engaged = false;
  double rows_per_sec() const noexcept { return seconds > 0.0 ? static_cast<double>(n_rows) / seconds : 0.0; }
};
// How good the encode was; a rate without it is not printed. Matrices are [n, columns], row-major.
struct EncodeQuality {
  Size certified = 0;
  double fallback_rate = 0.0;  // 1 - certified / n
  double flag_agreement = 0.0;  // of the certificate flags with those of the reference
  double coordinate_error = 0.0;  // largest
  double reconstruction_error = 0.0;
  double explained_variance = 0.0;  // 1 - |target - reconstruction|^2 / |target - its column means|^2
};
struct EncodeComparison {
  Size n = 0;
  std::span<const unsigned char> certified, reference_certified;  // [n]
  std::span<const double> coordinates, reference_coordinates;  // [n, c]
  std::span<const double> reconstruction, reference_reconstruction;  // [n, m]
};
EncodeQuality encode_quality(const EncodeComparison&);

// ---- modes and decisions ------------------------------------------------------------------------------------------------
// "auto", "off", "required", whatever the case and the blanks around; none for anything else.
std::optional<Device> parse_device(std::string_view text) noexcept;
// The mode of a call: its own, or where that is automatic the one of the environment variable ARROWSCHUR_DEVICE, read
// once, at the first call that needs it. Throws InvalidArgument naming the variable.
Device device_mode(Device of_call);

enum class EligibilityKind { backend_not_compiled, capability_missing, below_threshold, measured_slower, eligible };
struct Eligibility {
  EligibilityKind kind = EligibilityKind::eligible;
  std::string what = {};  // capability_missing: what is missing
};
// A probe that was answered: available, or absent with a reason. A fault is an exception, the same under auto and
// required.
struct Probe {
  bool available = false;
  std::string absent_reason = {};
};
struct Decision {
  bool use_device = false;
  const char* reason = "";  // policy_off, backend_not_compiled, kernel_lacks_capability, below_threshold, ...
};
// Total; stages in the order of their cost: the probe is called at most once, and only when the rest admits. Throws
// DeviceUnavailableError under `required` when the device cannot be used.
Decision decide(Device mode, const Eligibility&, const std::function<Probe()>& probe);

// What each route says once per process, with reason code and shape: its first run on a device and its first on the CPU
// for want of one, and (warnings) what a device failed in. The core prints nothing: who embeds it may log them.
struct DispatchNote {
  bool warning = false;
  std::string text;
};
bool dispatch_notes_waiting() noexcept;  // one relaxed load
std::vector<DispatchNote> take_dispatch_notes();

// Size before driver: auto asks for a device when this call is predicted to take more than 20 ms on the CPU, or the
// calls of the process, this one included, more than 1 s.
constexpr bool should_probe(Size call_ns, Size process_ns) noexcept {
  return call_ns > 20'000'000 || Count{process_ns} + Count{call_ns} > Count{1'000'000'000};
}
struct ProbeCounters {
  Size availability_requests = 0;  // how often a device was asked for
  Size process_ns = 0;  // predicted CPU time of the calls so far that some policy would admit
};
ProbeCounters probe_counters() noexcept;

}  // namespace policy
}  // namespace arrowschur
