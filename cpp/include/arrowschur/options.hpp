// Plain option structs. The default stands beside each field; check() returns the first rule that is broken.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur {

enum class Mode { automatic, direct, sqrt_ba, low_rank, inexact_pcg };
enum class Device { automatic, off, required };
enum class Precision { float64, mixed, float32 };
enum class Guards { relative, absolute };
enum class RowLift { indefinite, guard, never };

// Preconditioner of inexact_pcg. ladder: the cheapest that converges, climbing as tiers run out of budget.
enum class PreconditionerKind {
  ladder,
  none,
  diagonal,
  block,
  cluster,
  schwarz,
  incomplete_cholesky,
  power_series,
  nystrom,
  deflated,
};
enum class Calibrate { off, cache, measure };

const char* to_string(Mode) noexcept;
const char* to_string(PreconditionerKind) noexcept;
const char* to_string(Precision) noexcept;

// A field that breaks its rule: InvalidArgument{field, value, rule} at the public boundary.
struct Complaint {
  std::string field, value, rule;
};

struct PcgOptions {
  Index max_iterations = 200;                // >= 0, per tier
  std::optional<double> relative_tolerance;  // [0, 1); none: 1e-4 when inexact_pcg was asked for, else what meets the
  // certificate
  bool float32_storage = false;  // keep W in float32 (the operator of the iteration is then rounded)
};
[[nodiscard]] std::optional<Complaint> check(const PcgOptions&);

struct TrustRegionOptions {
  std::optional<double> radius;  // > 0, bound on |delta_beta|_2; none or infinity: no bound
  double relative_tolerance = 1e-4;  // [0, 1)
  Index max_iterations = 200;  // >= 0
  bool bounded() const noexcept { return radius.has_value() && *radius <= 1.7976931348623157e308; }
};
[[nodiscard]] std::optional<Complaint> check(const TrustRegionOptions&);

struct DispatchPolicy;  // policy.hpp

struct SolveOptions {
  Mode mode = Mode::automatic;
  Device device = Device::automatic;
  Precision precision = Precision::float64;
  bool certificate = true;  // measure the backward error of every returned step
  std::optional<double> certificate_tolerance;  // > 0; a step that misses it is CertificateError
  Guards guards = Guards::relative;  // threshold policy
  RowLift row_lift = RowLift::indefinite;  // which rows may get a ridge of their own
  bool tolerate_ill_conditioning = false;  // evidence mode: no condition guards, no lifts
  PcgOptions pcg = {};
  TrustRegionOptions trust_region = {};
  PreconditionerKind preconditioner = PreconditionerKind::ladder;
  bool accept_truncated = false;  // hand out a step whose iteration ran out of budget, marked
  std::optional<double> schur_pd_floor;  // (0, 1): curvature ridge of inexact_pcg (10.6)
  std::function<void(const double* x, double* y)>
      schur_apply;  // y = S x (base ridges) in place of the library's product
  Calibrate calibrate = Calibrate::cache;
  std::shared_ptr<const DispatchPolicy> policy;  // none: the policy in force
  Index expected_solves = 1;  // N of the time model: solves per factor
  std::optional<Index> memory_limit;  // bytes of workspace and results; >= 0
  std::optional<Index> device_memory_limit;  // the same on a device; none: what is free, at most half of all there is
  std::optional<int> num_threads;  // >= 1; none: the library's setting
  Index frame_cache_entries = 4;  // >= 0: factors that a resident workspace keeps, one per pair of ridges
};
[[nodiscard]] std::optional<Complaint> check(const SolveOptions&);

struct EscalationOptions {
  double initial_ridge = 1e-8;  // > 0; under Guards::relative a factor of max|h_tt|
  double ridge_growth = 10.0;  // > 1
  int max_escalations = 22;  // >= 0
};
[[nodiscard]] std::optional<Complaint> check(const EscalationOptions&);

// What is added to the diagonal of H:  ridge_t I + diag(damping_t) on the rows, ridge_beta I + diag(damping_beta) on
// the border. All entries finite and >= 0. Empty spans mean zero. The spans are borrowed for the call; a factor that is
// kept copies them.
struct Ridges {
  double t = 0.0;
  double beta = 0.0;
  std::span<const double> damping_t = {};  // [T] or empty
  std::span<const double> damping_beta = {};  // [k] or empty
};

}  // namespace arrowschur
