// The seam between what is computed and where. A Backend makes Frames; a Frame owns the factors of one system and runs
// the stages. One virtual call per stage, never per row. The algorithms above (newton/, evidence/) are written once.
//
// All vectors at this seam are float64 in the caller's row order: [T] or [T, m], [k] or [k, m], row-major.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur::backend {

// Which part of a solve with A = L L' (or S = L L'): L^-1, L^-T, or both.
enum class Part { lower, upper, full };

struct RowPolicy {
  Guards guards = Guards::relative;
  RowLift lift = RowLift::indefinite;
  bool evidence = false;  // no guards, no lifts
};

struct RowReport {
  bool ok = true;
  bool ill_conditioned = false;  // failed by its guard, not by a pivot
  RowFactorError::Facts facts;   // of the lowest failing row
  double kappa = 0.0, min_pivot = 0.0;  // of that row
  double kappa_max = 0.0;        // over all rows, as the guard measures it; 0 when nothing was measured
  Index rows_lifted = 0;
  double row_ridge_max = 0.0;
};

struct BorderReport {
  bool ok = true;
  SchurFailure kind = SchurFailure::non_pd;
  Index pivot_index = -1;
  double kappa = 0.0;  // condition estimate (relative: equilibrated 1-norm; absolute: pivot ratio); 0 for k = 0
  double suggested_ridge = 0.0;  // when not ok
};

// What the pass over h_tb that expands a border step leaves for the certificate. "Effective" is the operator that the
// frame factored; "requested" lacks the row lifts and `above_requested` on the row diagonals.
struct ExpandOutputs {
  bool given = false;  // dt is an input: nothing is solved, only measured
  bool norms = true;  // fill col_abs and the norms
  double above_requested = 0.0;  // ridge_t of the frame minus the ridge_t that the caller asked for
  double* residual_t = nullptr;  // [T]: A_i dt_i + B_i db + g_i, effective
  double* cross_t = nullptr;  // [k]: sum_i B_i' dt_i
  double* col_abs = nullptr;  // [k]: sum over rows of |B|
  bool norm_is_bound = false;  // the sums over |B| are only bounds, or unknown (operator rows)
  double norm_rows = 0.0;  // max over row lines of |H|, effective
  double norm_rows_requested = 0.0;
  double residual_requested = 0.0;  // max |residual| over row lines, requested
};

// What a border solve tells about itself.
struct BorderAccount {
  std::optional<PcgDiagnostics> pcg;
  bool boundary = false;            // the step ends on a trust region
  bool truncated = false;           // ran out of budget, accepted
  double added_ridge = 0.0;         // curvature ridge on top of the shift (10.6)
  bool inexact = false;             // asked for by name: its accuracy is its own tolerance
};

class Frame {
 public:
  virtual ~Frame() = default;
  explicit Frame(ArrowSystem system) : system_(std::move(system)) {}
  const ArrowSystem& system() const noexcept { return system_; }

  // ---- build, in this order ----
  // A_i = L_i L_i' at ridge_t, damping_t; rows that fail are lifted as the policy allows.
  virtual RowReport factor_rows(const Ridges&, const RowPolicy&) = 0;
  // S_0 = H_bb - W'W (without border ridges), and W'u for the system's own gradient.
  virtual void reduce() = 0;
  // S = S_0 + ridge_beta I + diag(damping_beta) = L L'. May be called again with other ridges.
  virtual BorderReport factor_border(const Ridges&, Guards, bool evidence) = 0;
  // A new frame with the same row factors and S_0, ready for factor_border().
  virtual std::unique_ptr<Frame> with_rows_of_this() const = 0;

  // ---- use; const and thread-safe ----
  virtual void own_reduction(double* wu) const = 0;  // [k]: W'u of the system's own gradient
  virtual void reduce_rhs(const double* w_t, double* wu) const = 0;  // W' L^-1 w_t; same bits as own_reduction
  virtual void solve_border(double* x, Index m, BorderAccount* account = nullptr) const = 0;  // x [k, m] <- S^-1 x
  // The border part of a step: one column, within the trust region.
  virtual void step_border(double* x, const TrustRegionOptions&, BorderAccount&) const = 0;
  virtual bool exact_border() const noexcept = 0;  // a factor of S exists: log_det and the root below
  // S^-1 = G G', G k x root_rows(): z [root_rows, m] = G' x and x [k, m] = G z. A dense S = L L' has G = L^-T.
  virtual Index root_rows() const = 0;
  virtual bool root_is_lower() const noexcept = 0;  // G' is lower triangular (k x k): in-place use is allowed then
  virtual void border_root(const double* x, double* z, Index m) const = 0;
  virtual void border_root_transpose(const double* z, double* x, Index m) const = 0;
  // (H^-1)_tt blocks of the rows (empty: all) where the frame has a way of its own; false when it has not.
  virtual bool latent_blocks(std::span<const Index> rows, double* out) const = 0;
  virtual bool latent_blocks_cheap() const noexcept = 0;  // latent_blocks() would return true
  virtual void schur_apply(const double* x, double* y, Index m) const = 0;  // y = S x
  // dt_i = -A_i^-1 (g_i + B_i db) and what the certificate needs; one pass over h_tb. `out` null: dt only.
  virtual void expand(const double* g_t, const double* db, double* dt, ExpandOutputs* out) const = 0;
  // x_i <- L_i^-1 x_i, L_i^-T x_i or A_i^-1 x_i for rows [row_begin, row_end): x holds only those rows, [rows, m].
  virtual void solve_rows(Part, Index row_begin, Index row_end, double* x, Index m) const = 0;
  // y = B x for rows [row_begin, row_end) ([rows, m]); x = B' y over all rows ([k, m], overwritten).
  virtual void cross_apply(Index row_begin, Index row_end, const double* x, double* y, Index m) const = 0;
  virtual void cross_transpose(const double* y, double* x, Index m) const = 0;
  // out = dense B of rows [row_begin, row_end), [rows, k].
  virtual void cross_block(Index row_begin, Index row_end, double* out) const = 0;

  virtual double log_det_rows() const = 0;  // sum_i log|A_i|
  virtual double log_det_border() const = 0;  // log|S|
  virtual void row_pivots(double& smallest, double& largest) const = 0;  // squared diagonals; NaN when there are none
  virtual void border_pivots(double& smallest, double& largest) const = 0;
  virtual Index nbytes() const = 0;

 protected:
  ArrowSystem system_;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const noexcept = 0;  // "cpu"
  virtual std::unique_ptr<Frame> make_frame(const ArrowSystem&, const SolveOptions&, const SolvePlan&) const = 0;
};

// The only place where backends are enumerated. Throws DeviceUnavailableError for Device::required on a host without
// one.
const Backend& choose_backend(Device);

}  // namespace arrowschur::backend
