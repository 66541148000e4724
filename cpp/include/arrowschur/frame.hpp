// Frames: factors that stay on the device between solves.
//
// With the rows A_i = h_tt[i] + ridge_t I, the cross block B and the border M = h_bb + ridge_beta I,
//
//     A_i = L_i L_i'     W_i = L_i^-1 B_i     S = M - W'W = L_S L_S'
//     step:  u = L^-1 g_t     S dbeta = W'u - g_beta     dt_i = -L_i^-T (u_i + W_i dbeta)
//
// a frame holds L, W and L_S on the device. A step sends T + k numbers and gets as many back, and factors nothing. Where M
// is diagonal or banded and T < k, the dual route needs no k x k matrix (Woodbury):
//
//     V = M^-1 W'     C = I - W V = L_C L_C'
//     step:  C w = u - W M^-1 g_beta     dt_i = -L_i^-T w_i     dbeta = V w - M^-1 g_beta
//
// Frames need a device: DeviceUnavailableError without one, never a solve on the CPU. They take dense cross blocks, every
// border without callbacks, and rows of at most 32 unknowns; UnsupportedConfiguration otherwise. Rows are never lifted: one
// that is not positive definite is RowFactorError, whose suggested_ridge counts the coupling to the border too, and a
// border that is not SchurFactorError, on the iterative route PcgError. A fault of the device is DeviceError. After any of these a frame can be used on.
//
// Thread safety: calls on one frame are serialised by a mutex; distinct frames are independent. A frame does not keep the
// system that it was built from: its numbers are on the device.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"
#include "arrowschur/telemetry.hpp"

namespace arrowschur {

// What a border solve works with. blocks: the inverses of the diagonal blocks of L_S. full: the whole of L_S^-1, k^3 / 3
// flops more per build for solves without a chain of dependent blocks. automatic: full where that is predicted to be paid
// back by FrameOptions::expected_solves. The two differ in their rounding.
enum class BorderInverse { blocks, full, automatic };

// automatic: direct or dual, whichever the time model predicts to be faster over FrameOptions::expected_solves, within the
// memory; dual is left for direct at ridges where M or C has no factor. dual: that or an error. inexact_pcg: conjugate
// gradients on S, preconditioned by its diagonal; no k x k matrix and no log-determinant, W read once per iteration.
enum class FrameRoute { automatic, direct, dual, inexact_pcg };
const char* to_string(FrameRoute) noexcept;

// What the choice of a route was made from. Predicted seconds; bytes on the device, blocks included.
struct FrameCandidate {
  FrameRoute route = FrameRoute::direct;
  double up_seconds = 0.0, build_seconds = 0.0, solve_seconds = 0.0, seconds = 0.0;  // seconds: up + build + N solve
  Index peak_bytes = 0;
  std::string why_not;  // empty: it was possible
};
struct FramePlan {
  FrameRoute route = FrameRoute::direct;  // of the factors, unless they leave it
  Index expected_solves = 0;  // N
  std::vector<FrameCandidate> candidates;
  std::string profile;  // of the device
};

struct FrameOptions {
  FrameRoute route = FrameRoute::automatic;
  Index expected_solves = 8;  // >= 1, per factor
  BorderInverse border_inverse = BorderInverse::blocks;
  std::optional<Index> device_memory_limit = {};  // bytes; none: what is free, at most half of the device
  Index cache_entries = 4;  // >= 0: factors that a BaseArrowFrame keeps by itself
  PcgOptions pcg = {};  // of inexact_pcg; W is in float64
  bool accept_truncated = false;  // inexact_pcg: hand out a step whose iterations were used up; PcgError otherwise

  std::optional<Complaint> complaint() const;  // the first broken rule
};

// ---- what is on the device already --------------------------------------------------------------------------------------
// Blocks of a system in the memory of the device, in the layout of the host: float64, row-major, rows of one size. They are
// read in place (what is not aligned to 256 bytes is copied once, on the device), never written, and must stay as they are
// for as long as a frame reads them. They are not looked at for symmetry or finiteness: of a symmetric block the lower
// triangle is the matrix.
struct DeviceParts {
  Index n = 0, d = 0, k = 0;
  const double* h_tt = nullptr;  // [n, d, d]
  const double* h_tb = nullptr;  // [n, d, k]
  // [k, k], or with a bandwidth w the bands [w + 1, k] of BandedBorder; w = 0 is a diagonal
  const double* h_bb = nullptr;
  std::optional<Index> bandwidth = {};
  const double* g_t = nullptr;  // [n, d]
  const double* g_beta = nullptr;  // [k]
  // The caller's streams on which they are made (a cudaStream_t as a number; 1 the legacy default stream, 2 the per-thread
  // one): what is queued there is waited for. Empty: they are complete.
  std::vector<std::uint64_t> streams = {};
  std::shared_ptr<const void> owner = {};  // keeps them alive
};
// DeviceUnavailableError without a device; InvalidArgument for a size, or for memory that is not that of the device.
void check(const DeviceParts&);

// A vector of T + k entries on the device. It is read before the call returns.
struct DeviceVector {
  const double* t = nullptr;  // [T]
  const double* beta = nullptr;  // [k]
  std::vector<std::uint64_t> streams = {};  // as of DeviceParts
};

// What a frame has left on the device: complete, for whoever reads it on whatever stream. Copies share it. Its memory is
// given back after the last of them, in the order of the frame's work and after what is queued on the legacy default stream
// then: work of other streams that reads it must be waited for before.
class DeviceArrays {
 public:
  const double* t() const noexcept;  // [T]
  const double* beta() const noexcept;  // [k]
  Index total_dim() const noexcept;
  Index k() const noexcept;
  int device_ordinal() const noexcept;
  void copy_to_host(std::span<double> t, std::span<double> beta) const;  // either may be empty

  struct Held;
  explicit DeviceArrays(std::shared_ptr<const Held> held) : held_(std::move(held)) {}

 private:
  std::shared_ptr<const Held> held_;
};

struct FrameStep {
  std::vector<double> delta_t, delta_beta;  // [T], [k]; empty where the inputs were on the device
  std::optional<DeviceArrays> on_device;  // in their place
  double log_det_hessian = 0.0;  // log|H + ridges|; NaN of inexact_pcg
  double ridge_t = 0.0, ridge_beta = 0.0;
  double certificate = std::numeric_limits<double>::quiet_NaN();  // normwise backward error, where it was asked for
  FrameRoute route = FrameRoute::direct;  // of the factors: direct where the dual route of the plan was left
  const char* execution_path = "cpu";  // gpu-resident-linearization, gpu-reupload
  const char* backend = "cpu";  // cuda; fake in tests only
  const char* unproven_path = "";  // what a stand-in of tests stands for
  // Of inexact_pcg. final_relative_residual is the true one, residual_gap its distance from that of the recurrence.
  std::optional<PcgDiagnostics> pcg;
  Telemetry telemetry;  // of this call
};

// Factors of a BaseArrowFrame at one pair of ridges. Copies share them. They belong to the frame that made them, are of no
// use after its refresh(), and keep its memory on the device.
class FrameFactors {
 public:
  double ridge_t() const noexcept;
  double ridge_beta() const noexcept;
  FrameRoute route() const noexcept;
  double log_det_hessian() const noexcept;

 private:
  friend class BaseArrowFrame;
  struct Held;
  explicit FrameFactors(std::shared_ptr<Held> held) : held_(std::move(held)) {}
  std::shared_ptr<Held> held_;
};

// The factors at one pair of ridges.
class ArrowFrame {
 public:
  static ArrowFrame build(const ArrowSystem&, double ridge_t = 0.0, double ridge_beta = 0.0, const FrameOptions& = {});
  static ArrowFrame build(const DeviceParts&, double ridge_t = 0.0, double ridge_beta = 0.0, const FrameOptions& = {});
  ArrowFrame(ArrowFrame&&) noexcept;
  ArrowFrame& operator=(ArrowFrame&&) noexcept;
  ~ArrowFrame();

  Index n() const noexcept;
  Index k() const noexcept;
  Index total_dim() const noexcept;
  double ridge_t() const noexcept;
  double ridge_beta() const noexcept;
  bool matches_ridge(double ridge_t, double ridge_beta) const noexcept;  // exactly; NaN matches nothing
  double log_det_hessian() const noexcept;
  FrameRoute route() const noexcept;  // of its factors
  const FramePlan& plan() const noexcept;
  Index device_bytes() const noexcept;
  Telemetry telemetry() const;  // since it was built, the build included

  // -(H + ridges)^-1 g: [T] and [k]. InvalidArgument for a wrong length or an entry that is not finite.
  FrameStep step(std::span<const double> g_t, std::span<const double> g_beta, bool certificate = false) const;
  FrameStep step(bool certificate = false) const;  // for the gradient of the system that it was built from
  FrameStep step(const DeviceVector& g, bool certificate = false) const;  // the step stays on the device
  // (H + ridges) x = w for m right-hand sides, [T, m] and [k, m] row-major.
  void solve(std::span<const double> w_t, std::span<const double> w_beta, std::span<double> x_t,
             std::span<double> x_beta, Index m = 1) const;
  DeviceArrays solve(const DeviceVector& w) const;

 private:
  struct Impl;
  explicit ArrowFrame(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// The blocks without ridges, for a ladder of them: uploaded once, factored on the device as often as wanted. Steps have the
// bits of an ArrowFrame at the same ridges.
class BaseArrowFrame {
 public:
  static BaseArrowFrame build(const ArrowSystem&, const FrameOptions& = {});
  static BaseArrowFrame build(const DeviceParts&, const FrameOptions& = {});
  BaseArrowFrame(BaseArrowFrame&&) noexcept;
  BaseArrowFrame& operator=(BaseArrowFrame&&) noexcept;
  ~BaseArrowFrame();

  Index n() const noexcept;
  Index k() const noexcept;
  Index total_dim() const noexcept;
  const FramePlan& plan() const noexcept;
  Index device_bytes() const noexcept;
  Telemetry telemetry() const;  // since it was built

  // Nothing is uploaded; a move of ridge_beta alone factors the border only. What was factored last is kept.
  FrameFactors factor_at(double ridge_t, double ridge_beta);
  FrameStep solve_with(const FrameFactors&, std::span<const double> g_t, std::span<const double> g_beta,
                       bool certificate = false);
  FrameStep solve_with(const FrameFactors&, bool certificate = false);  // for the frame's own gradient
  FrameStep solve_with(const FrameFactors&, const DeviceVector& g, bool certificate = false);
  FrameStep refactor_and_solve(double ridge_t, double ridge_beta, bool certificate = false);
  FrameStep refactor_and_solve(double ridge_t, double ridge_beta, std::span<const double> g_t,
                               std::span<const double> g_beta, bool certificate = false);
  FrameStep refactor_and_solve(double ridge_t, double ridge_beta, const DeviceVector& g, bool certificate = false);
  // The numbers of another system of the same shape in the places of the old ones, gradient included. InvalidArgument for
  // another shape or border form, or for numbers in another place than the old ones (host, device), which leaves the frame
  // untouched. No factor survives.
  void refresh(const ArrowSystem&);
  void refresh(const DeviceParts&);

 private:
  struct Impl;
  explicit BaseArrowFrame(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

// One step on the device with nothing kept there: upload, factors, one solve. The bits of an ArrowFrame's step.
FrameStep newton_step_reupload(const ArrowSystem&, double ridge_t = 0.0, double ridge_beta = 0.0,
                               bool certificate = false, const FrameOptions& = {});

}  // namespace arrowschur
