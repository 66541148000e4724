#include "newton/solver.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "arrowschur/error.hpp"
#include "eliminate/row_access.hpp"
#include "linalg/buffer.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"
#include "system/validate.hpp"

namespace arrowschur::newton {
namespace {

using backend::ExpandOutputs;
using backend::Frame;
using backend::Part;
using linalg::Buffer;
using linalg::worse;

class StageTimer {
 public:
  StageTimer(SolveDiagnostics& d, Stage stage) : seconds_(d.seconds[static_cast<std::size_t>(stage)]) {}
  ~StageTimer() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double max_abs(const std::vector<double>& x) { return linalg::max_abs(x.data(), static_cast<Index>(x.size())); }

// The level at which an exact route is expected to arrive without being asked (section 4 of the guide).
double working_level(Precision p) { return p == Precision::float32 ? 64.0 * 0x1p-24 : 1e-12; }

// Backward errors of (dt, db) and the residuals, from what expand() measured.
struct Measured {
  double requested = 0.0, effective = 0.0;
  bool bound = false;
};

class Certifier {
 public:
  Certifier(const Frame& frame, const Ridges& effective, const Ridges& requested, const Gradient& g)
      : s_(frame.system()),
        effective_(effective),
        requested_(requested),
        g_(g),
        residual_t_(s_.total_dim()),
        residual_beta_(s_.k()),
        cross_(s_.k()),
        col_abs_(s_.k()),
        off_diagonal_(s_.k()),
        diagonal_(s_.k()) {
    out_.residual_t = residual_t_.data();
    out_.cross_t = cross_.data();
    out_.col_abs = col_abs_.data();
    out_.above_requested = effective.t - requested.t;
  }

  ExpandOutputs& outputs() { return out_; }
  const double* residual_t() const { return residual_t_.data(); }
  const double* residual_beta() const { return residual_beta_.data(); }

  // After expand(): adds the border line, forms (8) of the specification.
  Measured measure(const NewtonStep& step) {
    const Index k = s_.k();
    const auto size = static_cast<std::size_t>(k);
    for (Index j = 0; j < k; ++j) residual_beta_[j] = g_.beta[static_cast<std::size_t>(j)] + cross_[j];
    if (have_border_) {
      s_.border().matvec_add(step.delta_beta, {residual_beta_.data(), size});
    } else {
      std::fill(off_diagonal_.begin(), off_diagonal_.end(), 0.0);
      std::fill(diagonal_.begin(), diagonal_.end(), 0.0);
      bound_ = border::matvec_and_abs_sums_add(s_.border(), step.delta_beta.data(), residual_beta_.data(),
                                               off_diagonal_.data());
      s_.border().diagonal_add({diagonal_.data(), size});
      norm_rows_ = out_.norm_rows;
      norm_rows_requested_ = out_.norm_rows_requested;
      have_border_ = true;
    }
    const double above = effective_.beta - requested_.beta;
    double r_eff = 0.0, r_req = out_.residual_requested, h_eff = norm_rows_, h_req = norm_rows_requested_;
    r_eff = linalg::max_abs(residual_t_.data(), s_.total_dim());
    for (Index j = 0; j < k; ++j) {
      const double damping =
          effective_.damping_beta.empty() ? 0.0 : effective_.damping_beta[static_cast<std::size_t>(j)];
      const double shift = effective_.beta + damping, x = step.delta_beta[static_cast<std::size_t>(j)];
      residual_beta_[j] += shift * x;
      r_eff = worse(r_eff, std::abs(residual_beta_[j]));
      r_req = worse(r_req, std::abs(residual_beta_[j] - above * x));
      const double rest = off_diagonal_[j] + col_abs_[j];
      h_eff = worse(h_eff, rest + std::abs(diagonal_[j] + shift));
      h_req = worse(h_req, rest + std::abs(diagonal_[j] + shift - above));
    }
    const double x = worse(max_abs(step.delta_t), max_abs(step.delta_beta));
    const double b = worse(max_abs(g_.t), max_abs(g_.beta));
    const auto ratio = [&](double r, double h) {
      const double scale = h * x + b;
      return scale == 0.0 ? r : r / scale;
    };
    return {ratio(r_req, h_req), ratio(r_eff, h_eff), bound_ || out_.norm_is_bound};
  }

 private:
  const ArrowSystem& s_;
  Ridges effective_, requested_;
  const Gradient& g_;
  Buffer<double> residual_t_, residual_beta_, cross_, col_abs_, off_diagonal_, diagonal_;
  ExpandOutputs out_;
  double norm_rows_ = 0.0, norm_rows_requested_ = 0.0;
  bool have_border_ = false, bound_ = false;
};

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", x);
  return text;
}

void check_damping(const char* name, std::span<const double> values, Index size) {
  if (values.empty()) return;
  check_vector(name, values, size);
  bool negative = false;
  for (const double v : values) negative |= v < 0.0;  // without a branch
  if (!negative) return;
  const auto bad = std::ranges::find_if(values, [](double v) { return v < 0.0; });
  throw InvalidArgument(name, number(*bad) + " at index " + std::to_string(bad - values.begin()),
                        "entries that are >= 0");
}

bool all_finite(const std::vector<double>& x) {
  return validate::first_non_finite(x.data(), static_cast<Index>(x.size())) < 0;
}

}  // namespace

void check_options(const SolveOptions& options) {
  if (const auto complaint = check(options)) throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
}

void check_vector(const char* name, std::span<const double> values, Index size) {
  if (static_cast<Index>(values.size()) != size) {
    throw InvalidArgument(name, std::to_string(values.size()) + " entries", std::to_string(size) + " entries");
  }
  const Index bad = validate::first_non_finite(values.data(), size);
  if (bad < 0) return;
  throw InvalidArgument(name, number(values[static_cast<std::size_t>(bad)]) + " at index " + std::to_string(bad),
                        "finite entries");
}

void check_ridges(const ArrowSystem& s, const Ridges& r) {
  const auto check_one = [](const char* name, double value) {
    if (!(value >= 0.0) || !std::isfinite(value)) throw InvalidArgument(name, number(value), "a finite number >= 0");
  };
  check_one("ridge_t", r.t);
  check_one("ridge_beta", r.beta);
  check_damping("damping_t", r.damping_t, s.total_dim());
  check_damping("damping_beta", r.damping_beta, s.k());
}

Gradient gradient_of(const ArrowSystem& s) {
  Gradient g;
  g.t.resize(static_cast<std::size_t>(s.total_dim()));
  g.beta.resize(static_cast<std::size_t>(s.k()));
  eliminate::with_storage(s.dtype(), s.g_t(), [&](const auto* x) { std::copy(x, x + g.t.size(), g.t.begin()); });
  eliminate::with_storage(s.dtype(), s.g_beta(),
                          [&](const auto* x) { std::copy(x, x + g.beta.size(), g.beta.begin()); });
  return g;
}

std::unique_ptr<Frame> eliminate_rows(const ArrowSystem& s, const Ridges& ridges, const SolveOptions& options,
                                      SolveDiagnostics& diagnostics, PlanPurpose purpose) {
  diagnostics.plan = plan(s, options, purpose);
  diagnostics.structure = s.detected();
  diagnostics.precision = options.precision;
  diagnostics.ridge_t = ridges.t;
  diagnostics.ridge_beta = ridges.beta;
  auto frame = backend::choose_backend(options.device).make_frame(s, options, diagnostics.plan);
  backend::RowReport rows;
  {
    const StageTimer timer(diagnostics, Stage::factor_rows);
    rows = frame->factor_rows(ridges, {options.guards, options.row_lift, options.tolerate_ill_conditioning});
  }
  if (!rows.ok) {
    if (rows.ill_conditioned) throw RowIllConditioned(rows.facts, rows.kappa, rows.min_pivot);
    throw RowFactorError(rows.facts);
  }
  diagnostics.rows_lifted = rows.rows_lifted;
  diagnostics.row_ridge_max = rows.row_ridge_max;
  diagnostics.kappa_rows_max = rows.kappa_max;
  linalg::poll_interrupt();
  {
    const StageTimer timer(diagnostics, Stage::reduce);
    frame->reduce();
  }
  linalg::poll_interrupt();
  return frame;
}

void factor_border(Frame& frame, const Ridges& ridges, const SolveOptions& options, SolveDiagnostics& diagnostics) {
  diagnostics.ridge_beta = ridges.beta;
  backend::BorderReport border;
  {
    const StageTimer timer(diagnostics, Stage::factor_border);
    border = frame.factor_border(ridges, options.guards, options.tolerate_ill_conditioning);
  }
  if (!border.ok) throw SchurFactorError(border.kind, border.pivot_index, border.kappa, border.suggested_ridge);
  diagnostics.kappa_schur = border.kappa;
  linalg::poll_interrupt();
}

NewtonStep step_on(const Frame& frame, const Ridges& effective, const Ridges& requested, const SolveOptions& options,
                   const Gradient& g, bool own, SolveDiagnostics diagnostics) {
  const ArrowSystem& s = frame.system();
  const Index k = s.k();
  NewtonStep step;
  step.delta_t.resize(static_cast<std::size_t>(s.total_dim()));
  step.delta_beta.resize(static_cast<std::size_t>(k));
  // r = -g_beta + W'u
  const auto border_rhs = [&](const double* g_t, const double* g_beta, bool kept, double* db) {
    kept ? frame.own_reduction(db) : frame.reduce_rhs(g_t, db);
    for (Index j = 0; j < k; ++j) db[j] -= g_beta[j];
  };
  const auto finite = [&] {
    if (!all_finite(step.delta_t) || !all_finite(step.delta_beta)) {
      throw SchurFactorError(SchurFailure::non_finite, -1, diagnostics.kappa_schur,
                             std::numeric_limits<double>::quiet_NaN());
    }
  };
  backend::BorderAccount account;
  {
    const StageTimer timer(diagnostics, Stage::solve_border);
    border_rhs(g.t.data(), g.beta.data(), own, step.delta_beta.data());
    frame.step_border(step.delta_beta.data(), options.trust_region, account);
  }
  diagnostics.pcg = account.pcg;
  Ridges solved = effective;
  if (account.added_ridge > 0.0) {
    solved.beta += account.added_ridge;
    diagnostics.ridge_beta += account.added_ridge;
    diagnostics.schur_conditioning = SchurConditioning::curvature_ridge;
  }
  // Marked otherwise, and not to be certified: a boundary step, a truncated or deliberately inexact iteration.
  const bool exempt = account.boundary || account.truncated || account.inexact;
  if (!options.certificate && !options.certificate_tolerance) {
    {
      const StageTimer timer(diagnostics, Stage::expand);
      frame.expand(g.t.data(), step.delta_beta.data(), step.delta_t.data(), nullptr);
    }
    finite();
    step.diagnostics = std::move(diagnostics);
    return step;
  }

  Certifier certifier(frame, solved, requested, g);
  {
    const StageTimer timer(diagnostics, Stage::expand);
    frame.expand(g.t.data(), step.delta_beta.data(), step.delta_t.data(), &certifier.outputs());
  }
  finite();
  const auto measure = [&] {
    const StageTimer timer(diagnostics, Stage::certificate);
    const Measured m = certifier.measure(step);
    diagnostics.backward_error = m.requested;
    diagnostics.backward_error_effective = m.effective;
    diagnostics.norm_is_bound = m.bound;
  };
  measure();

  const double level = working_level(options.precision);
  const double wanted = std::min(level, options.certificate_tolerance.value_or(level));
  if (!exempt && !(diagnostics.backward_error_effective <= wanted)) {
    // One refinement in float64 with the same factors: c = -H^-1 (H x + g), x += c.
    std::vector<double> db(static_cast<std::size_t>(k)), dt(step.delta_t.size());
    border_rhs(certifier.residual_t(), certifier.residual_beta(), false, db.data());
    frame.solve_border(db.data(), 1);
    frame.expand(certifier.residual_t(), db.data(), dt.data(), nullptr);
    for (std::size_t j = 0; j < db.size(); ++j) step.delta_beta[j] += db[j];
    for (std::size_t j = 0; j < dt.size(); ++j) step.delta_t[j] += dt[j];
    finite();
    certifier.outputs().given = true;
    certifier.outputs().norms = false;
    frame.expand(g.t.data(), step.delta_beta.data(), step.delta_t.data(), &certifier.outputs());
    measure();
    diagnostics.refinement_steps = 1;
  }
  const double reached = diagnostics.backward_error_effective;
  if (exempt) {
    step.diagnostics = std::move(diagnostics);
    return step;
  }
  if (options.certificate_tolerance && !(reached <= *options.certificate_tolerance)) {
    throw CertificateError(reached, *options.certificate_tolerance);
  }
  // A border beyond the trusted condition (2^26, float32: 2^11) is accepted on its certificate alone.
  const double trusted = options.precision == Precision::float32 ? 0x1p11 : 0x1p26;
  if (!(reached <= level) && options.guards == Guards::relative && diagnostics.kappa_schur > trusted) {
    double smallest = 0.0, largest = 0.0;
    frame.border_pivots(smallest, largest);
    throw SchurFactorError(SchurFailure::ill_conditioned, -1, diagnostics.kappa_schur,
                           effective.beta + largest / trusted);
  }
  step.diagnostics = std::move(diagnostics);
  return step;
}

}  // namespace arrowschur::newton
