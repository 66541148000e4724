// Gradient solves at a frozen linearization: the resident workspace, the inner loop, outer sequences.
//
// The slabs of a workspace define, with z = (t, beta), g0 = (g_t, g_beta) and H the arrow matrix without ridges,
//
//     phi(z) = phi(0) + 0.5 z'Hz - g0'z,        r(z) = Hz - g0,        minimiser  H z* = g0.
//
// The loop is the trust-region loop of a nonlinear driver on this quadratic: it solves (H + ridges) delta = -r, accepts
// or rejects, and lets the ridges grow and shrink. Factors are kept by their pair of ridges, so a loop that revisits a
// pair, a sequence of gradients, or ridges of zero factor once. Rows are never lifted: that would change the operator.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"
#include "arrowschur/telemetry.hpp"

namespace arrowschur {

struct ResidentShape {
  Index n = 0, p = 0, basis_cols = 0, d = 0;  // rows, border width, basis functions per row, size of a row

  static constexpr ResidentShape qwen() noexcept { return {2000, 2048, 8, 2}; }
  static constexpr ResidentShape color_arm() noexcept { return {180, 5120, 9, 2}; }
  // Numbers of entries; InvalidArgument when one overflows.
  Index target() const, basis() const, gates() const;  // n p, n basis_cols, n basis_cols
  Index row_hessian() const, row_cross() const, row_gradient() const, border_hessian() const;  // n d d, n d p, n d, p p
  bool operator==(const ResidentShape&) const = default;
};

enum class Convergence { absolute, relative };  // |r| / (1 + |z|) < tolerance, or |r| < tolerance |g0|
enum class ShrinkRule { relevant, always };  // shrink a ridge only while it matters (see inner_loop.cpp), or always

struct InnerOptions {
  int max_iterations = 16;  // >= 1; a failed or rejected attempt counts
  double convergence_tolerance = 1e-9;  // > 0
  double initial_ridge_t = 0.0, initial_ridge_beta = 0.0;  // >= 0
  double lm_grow = 4.0;  // > 1; a ridge of 0 grows to 1e-6
  double lm_shrink = 0.5;  // in (0, 1]
  double max_ridge = 1e9;  // > 0
  Convergence convergence = Convergence::absolute;
  ShrinkRule shrink_rule = ShrinkRule::relevant;
  SolveOptions solve;  // mode, threads, limits, frame_cache_entries, device; row_lift and certificates are not used

  std::optional<Complaint> complaint() const;  // the first broken rule
};

enum class InnerStatus { converged, max_iterations, ridge_exhausted, no_progress };
const char* to_string(InnerStatus) noexcept;

struct InnerFit {
  std::vector<double> t, beta;  // [T], [k]: the returned point z
  double objective = 0.0;  // phi(z)
  double gradient_norm = 0.0;  // |r(z)| at the returned z, recomputed from z
  double step_gradient_norm = 0.0;  // |r| at the last linearization that was solved; gradient_norm when there was none
  double log_det_hessian = 0.0;  // of H + ridges as last factored; NaN when nothing was factored
  int iterations = 0, accepted_iterations = 0;
  InnerStatus status = InnerStatus::max_iterations;
  double ridge_t = 0.0, ridge_beta = 0.0;  // where the schedule ended
  const char* route =
      "";  // of the last factor: a plan's on the CPU, direct or dual on a device; empty: none, or a reference
  const char* execution_path = "cpu";  // where the accepted work ran
  const char* backend = "cpu";  // cpu, cuda; fake in tests only
  const char* unproven_path = "";  // the path that a stand-in of tests stands for; its results are no device's
  Telemetry telemetry;

  bool converged() const noexcept { return status == InnerStatus::converged; }
};

struct OuterSequence {
  std::vector<InnerFit> fits;  // one per gradient, in order
  std::int64_t frame_builds = 0;  // 0 on the CPU
  std::int64_t factorizations = 0;  // of the whole sequence: its members share one cache
};

// One step at the workspace's linearization, from z = 0: delta = -(H + ridges)^-1 g0.
struct InnerStep {
  std::vector<double> delta_t, delta_beta;
  double objective = 0.0;  // phi(0)
  double gradient_norm = 0.0;  // |g0|
  double log_det_hessian = 0.0;
  double certificate = 0.0;  // normwise backward error against H + ridges
  const char* route = "";  // as of InnerFit
  const char* execution_path = "cpu";
  const char* backend = "cpu";
  const char* unproven_path = "";
  Telemetry telemetry;  // of this call
};

// The loop ended without one accepted step and without having converged.
class InnerLoopError : public ArrowError {
 public:
  struct Facts {
    InnerStatus status = InnerStatus::max_iterations;
    int iterations = 0;
    double rho = 0.0;  // of the last attempt; NaN when no step was computed
    // The schedule: the ridges of the first attempt, then what they had become after each attempt (iterations + 1).
    std::vector<double> ridges_t, ridges_beta;
    std::string last_failure;  // text of the last numerical failure; empty when every step was rejected
  };
  explicit InnerLoopError(Facts facts);
  const Facts& facts() const noexcept { return facts_; }

 private:
  Facts facts_;
};

// One base gradient of an outer sequence.
struct BaseGradient {
  std::span<const double> g_t, g_beta;  // [T], [k]
};

// On a device, the first call that needs it binds the workspace: the slabs are uploaded once, to dense or banded arrays that
// every later call reads, and the factors are kept there. That takes a dense cross block, a border without callbacks, rows
// of at most 32 unknowns, a mode other than inexact_pcg (low_rank is the dual route of frame.hpp), and float64 arithmetic.
//
// Owns references to a system's buffers (nothing is copied) and the factors that its calls have made, up to
// SolveOptions::frame_cache_entries and the memory limit; a call with other options that reach a factor (mode, precision,
// guards, ...) drops them. Thread safety: calls on one workspace are serialised by a mutex; distinct workspaces are
// independent, also when they share a border array.
//
// Routes: as newton_step(), planned for a factor. Where the border has none (mode inexact_pcg, operator borders) the loop
// runs on conjugate gradients, started anew for each attempt, and log_det_hessian is NaN. What the loop has no use for is
// refused with UnsupportedConfiguration: a trust-region radius and a product of the caller's (SolveOptions::schur_apply).
// Errors besides InvalidArgument and InnerLoopError: those of plan(), Interrupted.
class ResidentWorkspace {
 public:
  // From slabs: target [n, p], basis [n, basis_cols], gates [n, basis_cols] and the system of the other five; phi(0) is
  // 0.5 |target|^2, evaluated once. InvalidArgument names the first field of wrong length (in the order target, basis,
  // gates, row_hessian, row_cross, row_gradient, border_hessian, border_gradient) and any zero dimension.
  ResidentWorkspace(const ResidentShape& shape, std::span<const double> target, std::span<const double> basis,
                    std::span<const double> gates, ArrowSystem slabs);
  // n, d and p = k from the system, basis_cols 1; phi(0) given. InvalidArgument for rows of different sizes, a zero
  // dimension, or an objective that is not finite.
  static ResidentWorkspace from_system(ArrowSystem system, double objective_at_zero = 0.0);

  ResidentWorkspace(ResidentWorkspace&&) noexcept;
  ResidentWorkspace& operator=(ResidentWorkspace&&) noexcept;
  ~ResidentWorkspace();

  const ResidentShape& shape() const noexcept;
  const ArrowSystem& system() const noexcept;
  double objective_at_zero() const noexcept;
  Index host_shadow_bytes() const noexcept;  // all host arrays, target, basis and gates included
  Index frame_upload_bytes() const noexcept;  // the five slabs
  Index resident_device_bytes() const noexcept;  // really held on a device; 0 when unbound
  bool device_resident() const noexcept;
  std::string device_reason() const;  // why not; "" when bound. Asks no driver.
  void release_factors() noexcept;  // frees what calls have kept, on the device too; the next one starts anew

  // The production forms: on the device where that is predicted to be faster, else on the CPU with kept factors. A
  // `device` of automatic leaves the choice to SolveOptions::device, and that to the environment (policy.hpp). Where the
  // device declines for want of memory or fails, automatic runs the call on the CPU, from the beginning, and counts it;
  // after a second failure of a process it does not try again.
  InnerFit fit(const InnerOptions& = {}, Device = Device::automatic);
  OuterSequence fit_outer_sequence(std::span<const BaseGradient>, const InnerOptions& = {}, Device = Device::automatic);
  InnerStep inner_iteration(double ridge_t = 0.0, double ridge_beta = 0.0, Device = Device::automatic);
  // On the device, or DeviceUnavailableError; UnsupportedConfiguration for what a device cannot hold, DeviceError for its
  // faults. Never on the CPU.
  InnerStep one_inner_iteration(double ridge_t = 0.0, double ridge_beta = 0.0);
  InnerFit device_fit(const InnerOptions& = {});
  InnerFit device_reupload_fit(const InnerOptions& = {});
  OuterSequence device_fit_outer_sequence(std::span<const BaseGradient>, const InnerOptions& = {});
  // By the dense reference below, never on a device; nothing is kept between solves.
  InnerFit cpu_reference_fit(const InnerOptions& = {}) const;
  OuterSequence cpu_reference_fit_outer_sequence(std::span<const BaseGradient>, const InnerOptions& = {}) const;
  InnerStep cpu_reference_step(double ridge_t = 0.0, double ridge_beta = 0.0) const;

 private:
  struct Impl;
  explicit ResidentWorkspace(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

struct DenseReferenceStep {
  std::vector<double> delta_t, delta_beta;
  double log_det = 0.0;
};
// The oracle of parity tests: the whole (T + k) matrix with the ridges on its diagonal, one dense Cholesky, no code in
// common with the elimination. 8 (T + k)^2 bytes, (T + k)^3 / 3 flops. A pivot that is not positive is a RowFactorError
// (a column of a row block) or a SchurFactorError (of the border).
DenseReferenceStep newton_step_dense_reference(const ArrowSystem&, double ridge_t = 0.0, double ridge_beta = 0.0);

// By how much ridge_t must grow so that a symmetric d x d block (row-major, both triangles) at ridge_t has a Cholesky
// factor: Gershgorin's bound on its deficit, and the rounding of the factorization (device.md D-6.5 gives the derivation
// in the source). Positive, and of rounding size for blocks that are singular but not indefinite.
double ridge_bump(std::span<const double> block, Index d, double ridge_t) noexcept;

// What a frame says about rows that have no Cholesky factor at ridge_t.
struct RowBump {
  Index failing_rows = 0, first_row = -1, first_pivot = -1;  // pivot: 0-based index inside the row block; -1: none
  double bump = 0.0;  // the largest ridge_bump: every row factors at ridge_t + bump
  double suggested_bump = 0.0;  // also leaves the border positive: what to add to ridge_t (advice, not a guarantee)
};
RowBump examine_rows(const ArrowSystem&, double ridge_t = 0.0);

}  // namespace arrowschur
