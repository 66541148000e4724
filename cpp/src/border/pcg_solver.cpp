// The matrix-free border solve (arrow_schur 10): conjugate gradients on S = M - W'W + diag(shift), of which only
// products are formed, with the preconditioners of the ladder (ladder.hpp).
//
// What later solves of a factor inherit from earlier ones: the preconditioners, the tier that converged, the curvature
// ridge, and recycled directions (recorded from the third solve on; from the first when deflation was asked for or
// several solves are expected). All of it is a function of the sequence of calls. The first solve inherits nothing.
//
// Thread safety: const members may be called from several threads; a user's schur_apply must then allow it too. What is
// kept is guarded by a mutex that is never held while a callback runs: the work that needs one (building a
// preconditioner, measuring S) is serialised by another.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "border/ladder.hpp"
#include "border/solver.hpp"
#include "linalg/lanczos.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using linalg::Buffer;
using Kind = PreconditionerKind;

constexpr double kAskedTolerance = 1e-4;  // of a caller who asked for inexact_pcg
constexpr double kCertifiedTolerance = 0x1p-44;  // of the plan: the certificate at 1e-12 follows
constexpr double kAbsoluteFloor = 1e-14;  // PCG_ABS_FLOOR
constexpr double kNoise = 1e-8;  // relative tolerances below it need the error of a product
// Curvature ridge, 10.6
constexpr double kCurvatureMargin = 1.01, kRelativeFloor = 1e-12, kCeiling = 1e12, kGrowth = 10.0;
constexpr int kRaises = 24;
// Recycled directions
constexpr Index kRecycled = 16;
constexpr int kMostAbsorptions = 4;  // each costs a few products

// What one solve is run with (10.2).
struct Parameters {
  double relative_tolerance = 0.0;
  Index max_iterations = 0;
  double radius = 0.0;  // 0: none
};

class PcgSolver final : public Solver {
 public:
  explicit PcgSolver(const SolverInputs& in) : Solver(in.system->k()), in_(in) {}

  BorderReport factor(const double* shift, double ridge_beta, Guards guards, bool) override {
    const std::scoped_lock lock(mutex_);
    shift_ = Buffer<double>(k_);
    std::copy(shift, shift + k_, shift_.data());
    if (user_shift_ == nullptr) user_shift_ = std::make_shared<const std::vector<double>>(shift, shift + k_);
    ridge_beta_ = ridge_beta;
    guards_ = guards;
    kept_ = {};
    norm_bound_ = apply_error_ = -1.0;
    return {};
  }

  std::unique_ptr<Solver> unfactored_copy() const override {
    auto copy = std::make_unique<PcgSolver>(in_);
    copy->user_shift_ = user_shift_;
    return copy;
  }

  void solve(double* x, Index m, BorderAccount* account) const override {
    solve_columns(x, m, parameters({}), account);
  }

  void step(double* x, const TrustRegionOptions& trust, BorderAccount& account) const override {
    solve_columns(x, 1, parameters(trust), &account);
  }

  void apply(const double* x, double* y, Index m) const override {
    if (m == 1) return product(x, y, 0.0);
    if (in_.options.schur_apply) {
      Buffer<double> column(k_), image(k_);
      for (Index c = 0; c < m; ++c) {
        for (Index j = 0; j < k_; ++j) column[j] = x[j * m + c];
        product(column.data(), image.data(), 0.0);
        for (Index j = 0; j < k_; ++j) y[j * m + c] = image[j];
      }
      return;
    }
    const auto size = static_cast<std::size_t>(k_ * m);
    Buffer<double> rows(in_.w->rows() * m), gram(k_ * m);
    in_.w->apply(x, rows.data(), m);
    in_.w->transpose(rows.data(), gram.data(), m);
    for (Index j = 0; j < k_; ++j) {
      for (Index c = 0; c < m; ++c) y[j * m + c] = shift_[j] * x[j * m + c] - gram[j * m + c];
    }
    in_.system->border().matvec_add({x, size}, {y, size}, m);
  }

  double log_det() const override { return unsupported<double>("the log-determinant"); }
  void pivots(double&, double&) const override { unsupported<void>("pivots of the border"); }
  Index root_rows() const override { return unsupported<Index>("a factor of S"); }
  void root(const double*, double*, Index) const override { unsupported<void>("a factor of S"); }
  void root_transpose(const double*, double*, Index) const override { unsupported<void>("a factor of S"); }
  bool exact() const noexcept override { return false; }

  Index nbytes() const override {
    const std::scoped_lock lock(mutex_);
    Index bytes = shift_.nbytes();
    for (const auto& by_radius : kept_.slots) {
      for (const Slot& slot : by_radius) bytes += slot.preconditioner ? slot.preconditioner->nbytes() : 0;
    }
    if (kept_.deflation) bytes += kept_.deflation->nbytes();
    if (kept_.window) bytes += kept_.window->nbytes();
    return bytes;
  }

 private:
  struct Slot {
    bool tried = false;
    double extra = 0.0;  // curvature ridge it was built with
    std::shared_ptr<const Preconditioner> preconditioner;
    std::string why;  // why there is none
  };
  // What the solves of one factor leave for later ones.
  struct Kept {
    double extra = 0.0;  // curvature ridge
    int raises = 0;  // of it
    std::size_t first_tier = 0;
    Index solves = 0;
    int absorptions = 0;
    std::array<std::array<Slot, 10>, 2> slots;  // [with a radius][kind]
    std::shared_ptr<const Deflation> deflation;
    std::shared_ptr<const RecycledWindow> window;  // of the last solve, not yet absorbed
  };
  // The part of it that one solve works with.
  struct Inherited {
    double extra = 0.0;
    std::size_t first_tier = 0;
    std::shared_ptr<const Deflation> deflation;
    bool record = false;
  };

  template <class T>
  [[noreturn]] static T unsupported(const char* feature) {
    throw UnsupportedConfiguration(feature, "inexact_pcg",
                                   "the iterative border solve has no factor of S; use mode='direct'");
  }

  Parameters parameters(const TrustRegionOptions& trust) const {
    const PcgOptions& pcg = in_.options.pcg;
    Parameters p;
    p.max_iterations = pcg.max_iterations;
    p.relative_tolerance = in_.chosen_by_plan ? std::min(pcg.relative_tolerance.value_or(1.0), kCertifiedTolerance)
                                              : pcg.relative_tolerance.value_or(kAskedTolerance);
    if (!trust.bounded()) return p;
    p.radius = *trust.radius;
    p.max_iterations = std::min(p.max_iterations, trust.max_iterations);
    // A step inside the region has to meet the certificate of a plan all the same.
    if (!in_.chosen_by_plan) p.relative_tolerance = std::max(p.relative_tolerance, trust.relative_tolerance);
    return p;
  }

  // y = (S + extra I) x
  void product(const double* x, double* y, double extra) const {
    const auto size = static_cast<std::size_t>(k_);
    if (in_.options.schur_apply) {
      in_.options.schur_apply(x, y);
      for (std::size_t j = 0; j < size; ++j) y[j] += (shift_.data()[j] - (*user_shift_)[j] + extra) * x[j];
      return;
    }
    for (Index j = 0; j < k_; ++j) y[j] = (shift_[j] + extra) * x[j];
    in_.system->border().matvec_add({x, size}, {y, size});
    if (in_.w->rows() > 0) in_.w->subtract_gram_apply(x, y);
  }

  void solve_columns(double* x, Index m, const Parameters& p, BorderAccount* account) const {
    if (k_ == 0 || m == 0) return;
    Buffer<double> rhs(k_), out(k_), given(m > 1 ? k_ * m : 0);
    if (m > 1) std::copy(x, x + k_ * m, given.data());
    const double* source = m > 1 ? given.data() : x;
    PcgWorkspace workspace(k_);
    BorderAccount own;
    double extra = 0.0;
    for (Index c = 0; c < m; ++c) {
      for (Index j = 0; j < k_; ++j) rhs[j] = source[j * m + c];
      own = solve_one(rhs.data(), out.data(), p, workspace);
      const bool raised = own.added_ridge != extra;
      extra = own.added_ridge;
      if (raised && c > 0) {  // all columns with the same operator: start again, now with the ridge
        c = -1;
        continue;
      }
      for (Index j = 0; j < k_; ++j) x[j * m + c] = out[j];
    }
    own.inexact = !in_.chosen_by_plan;
    if (account != nullptr) *account = std::move(own);
  }

  // With the ridge that the factor needs, raised until S + extra I lets the iteration through (10.6).
  BorderAccount solve_one(const double* rhs, double* x, const Parameters& p, PcgWorkspace& workspace) const {
    double size = 0.0;
    for (Index j = 0; j < k_; ++j) size += rhs[j] * rhs[j];
    if (size == 0.0) {
      BorderAccount account;
      account.pcg = diagnostics_of(PcgOutcome{}, "none");
      std::fill(x, x + k_, 0.0);
      const std::scoped_lock lock(mutex_);
      account.added_ridge = kept_.extra;
      return account;
    }
    Inherited inherited = inherit();
    for (;;) {
      try {
        LadderOutcome out = run(rhs, x, p, inherited, workspace);
        keep(out, inherited.extra);
        out.account.added_ridge = inherited.extra;
        return std::move(out.account);
      } catch (const PcgError& error) {
        const auto* curvature = dynamic_cast<const NegativeCurvature*>(&error);
        const bool indefinite = curvature != nullptr || error.facts.kind == PcgFailure::jacobi_diagonal;
        if (!indefinite) throw;
        const double rayleigh =
            curvature == nullptr ? error.facts.value : curvature->curvature / curvature->direction_norm_sq;
        if (!std::isfinite(rayleigh)) throw;
        if (!in_.options.schur_pd_floor || p.radius > 0.0) advise_and_rethrow(error, rayleigh, inherited.extra);
        if (!raise(curvature == nullptr, rayleigh, std::sqrt(size), inherited.extra)) {
          advise_and_rethrow(error, rayleigh, inherited.extra);
        }
      }
    }
  }

  // Smallest shift of S that turns its most negative curvature -c into +c (6.2, relative).
  double curvature_ridge(double rayleigh) const {
    const linalg::Extremes s = linalg::extreme_eigenvalues(k_, [&](const double* v, double* y) { product(v, y, 0.0); });
    const double smallest = std::min(s.smallest, rayleigh);
    return ridge_beta_ + 2.0 * std::max(0.0, -smallest) + 0x1p-26 * std::max(std::abs(smallest), std::abs(s.largest));
  }

  [[noreturn]] void advise_and_rethrow(const PcgError& error, double rayleigh, double extra) const {
    PcgError::Facts facts = error.facts;
    facts.suggested_ridge = curvature_ridge(rayleigh - extra);
    if (const auto* curvature = dynamic_cast<const NegativeCurvature*>(&error)) {
      throw NegativeCurvature(facts, curvature->curvature, curvature->direction_norm_sq, curvature->direction);
    }
    throw PcgError(facts);
  }

  // The next curvature ridge; false beyond its ceiling.
  bool raise(bool from_diagonal, double rayleigh, double rhs_norm, double& extra) const {
    const std::scoped_lock work(work_);
    int raises = 0;
    {
      const std::scoped_lock lock(mutex_);
      if (kept_.extra > extra) {  // another thread has been here
        extra = kept_.extra;
        return true;
      }
      raises = kept_.raises;
    }
    if (raises >= kRaises) return false;
    const double rho = ridge_beta_ + extra;
    double next = 0.0;
    if (guards_ == Guards::relative) {
      next = raises == 0 ? curvature_ridge(rayleigh) : 2.0 * rho;
    } else {
      const double scale = std::max(rhs_norm, 1.0),
                   lift = std::max(*in_.options.schur_pd_floor, kRelativeFloor) * scale;
      next = from_diagonal ? std::max(kGrowth * rho, scale)
                           : std::max(rho + std::max(kCurvatureMargin * std::abs(rayleigh), lift), 2.0 * rho);
      if (next > std::max(ridge_beta_, kCeiling * scale)) return false;
    }
    if (!std::isfinite(next) || !(next > rho)) return false;
    const std::scoped_lock lock(mutex_);
    ++kept_.raises;
    kept_.extra = extra = next - ridge_beta_;
    kept_.first_tier = 0;
    kept_.deflation = nullptr;  // its images belong to another operator
    kept_.window = nullptr;
    return true;
  }

  Inherited inherit() const {
    const std::scoped_lock lock(mutex_);
    Inherited from;
    from.extra = kept_.extra;
    from.first_tier = kept_.first_tier;
    if (kept_.window) {
      kept_.deflation = absorbed(kept_.deflation, *kept_.window);
      kept_.window = nullptr;
      ++kept_.absorptions;
    }
    from.deflation = kept_.deflation;
    const bool early = in_.options.preconditioner == Kind::deflated || in_.options.expected_solves > 1;
    from.record = recycles(in_.options, k_) && kept_.absorptions < kMostAbsorptions && (early || kept_.solves >= 2);
    ++kept_.solves;
    return from;
  }

  std::shared_ptr<const Deflation> absorbed(const std::shared_ptr<const Deflation>& so_far,
                                            const RecycledWindow& window) const {
    auto next =
        so_far ? std::make_shared<Deflation>(*so_far) : std::make_shared<Deflation>(k_, kRecycled, border_diagonal());
    next->absorb(window.recorded, window.directions.data(), window.images.data());
    return next->empty() ? nullptr : next;
  }
  // Positive diagonal of M: the metric of the recycled directions.
  std::vector<double> border_diagonal() const {
    std::vector<double> diagonal(shift_.data(), shift_.data() + k_);
    in_.system->border().diagonal_add(diagonal);
    return std::all_of(diagonal.begin(), diagonal.end(), [](double v) { return v > 0.0; }) ? diagonal
                                                                                           : std::vector<double>{};
  }

  Slot preconditioner(Kind kind, bool bounded, double extra) const {
    const std::scoped_lock work(work_);
    Slot& slot = kept_.slots[bounded ? 1 : 0][static_cast<std::size_t>(kind)];
    {
      const std::scoped_lock lock(mutex_);
      if (slot.tried && slot.extra == extra) return slot;
    }
    std::vector<double> shift(shift_.data(), shift_.data() + k_);
    for (double& v : shift) v += extra;
    Slot fresh;
    fresh.preconditioner =
        build_preconditioner(kind, {in_.system, in_.w.get(), shift.data(), guards_, bounded}, fresh.why);
    fresh.tried = true;
    fresh.extra = extra;
    const std::scoped_lock lock(mutex_);
    return slot = std::move(fresh);
  }

  // N >= |S|_2: a positive definite S is at most M, and |M|_2 <= |M|_inf. Where an operator hides entries of M, Lanczos
  // on S (a lower bound, within a few per cent after so many steps) with a margin.
  double norm_bound(double extra, Index& products) const {
    constexpr int kSteps = 10;
    constexpr double kMargin = 1.5;
    const std::scoped_lock work(work_);
    if (norm_bound_ >= 0.0) return norm_bound_ + extra;
    const Border& border = in_.system->border();
    if (has_dense(border)) {
      std::vector<double> off(static_cast<std::size_t>(k_), 0.0), diagonal(shift_.data(), shift_.data() + k_);
      border.off_diagonal_abs_sums_add(off);
      border.diagonal_add(diagonal);
      norm_bound_ = 0.0;
      for (std::size_t j = 0; j < off.size(); ++j) {
        norm_bound_ = std::max(norm_bound_, off[j] + std::abs(diagonal[j]));
      }
    } else {
      const linalg::Extremes s = linalg::extreme_eigenvalues(
          k_,
          [&](const double* v, double* y) {
            product(v, y, 0.0);
            ++products;
          },
          kSteps);
      norm_bound_ = kMargin * std::max(std::abs(s.smallest), std::abs(s.largest));
    }
    return norm_bound_ + extra;
  }

  // nu: S v and 3 S (v / 3) round differently, and so tell what rounding in a product (the user's, or one on stored
  // float32) amounts to, per unit of |v|. A fixed v, and a margin for those it does not meet.
  double apply_error(Index& products) const {
    constexpr double kMargin = 4.0;
    const std::scoped_lock work(work_);
    if (apply_error_ >= 0.0) return apply_error_;
    Buffer<double> v(k_), third(k_), y(k_), other(k_);
    fixtures::SplitMix64 random(2);
    double size = 0.0, error = 0.0;
    for (Index j = 0; j < k_; ++j) {
      v[j] = random.signed_unit();
      third[j] = v[j] / 3.0;
      size += v[j] * v[j];
    }
    product(v.data(), y.data(), 0.0);
    product(third.data(), other.data(), 0.0);
    products += 2;
    for (Index j = 0; j < k_; ++j) error += (y[j] - 3.0 * other[j]) * (y[j] - 3.0 * other[j]);
    return apply_error_ = kMargin * std::sqrt(error / size);
  }

  LadderOutcome run(const double* rhs, double* x, const Parameters& p, const Inherited& inherited,
                    PcgWorkspace& workspace) const {
    LadderInputs in;
    in.options = &in_.options;
    in.problem.k = k_;
    in.problem.rhs = rhs;
    in.problem.apply = [&](const double* v, double* y) { product(v, y, inherited.extra); };
    in.problem.relative_tolerance = p.relative_tolerance;
    in.problem.absolute_floor = guards_ == Guards::absolute ? kAbsoluteFloor : 0.0;
    in.problem.max_iterations = p.max_iterations;
    in.problem.radius = p.radius;
    in.problem.norm_bound = norm_bound(inherited.extra, in.products);
    if (p.relative_tolerance < kNoise) in.problem.apply_error = apply_error(in.products);
    in.first_tier = inherited.first_tier;
    in.record = inherited.record;
    in.deflation = inherited.deflation;
    in.preconditioner = [&](Kind kind) {
      const Slot slot = preconditioner(kind, p.radius > 0.0, inherited.extra);
      return LadderInputs::Tier{slot.preconditioner, slot.why};
    };
    in.absorb = [this](const auto& so_far, const RecycledWindow& window) { return absorbed(so_far, window); };
    return climb(in, x, workspace);
  }

  // What a solve leaves. Not if another thread has raised the ridge meanwhile.
  void keep(const LadderOutcome& out, double extra) const {
    const std::scoped_lock lock(mutex_);
    if (kept_.extra != extra) return;
    kept_.first_tier = std::max(kept_.first_tier, out.next_tier);
    if (out.deflation) kept_.deflation = out.deflation;
    if (out.window) kept_.window = out.window;
  }

  SolverInputs in_;
  Buffer<double> shift_;  // [k]
  std::shared_ptr<const std::vector<double>> user_shift_;  // the one that options.schur_apply has inside: the first one
  double ridge_beta_ = 0.0;
  Guards guards_ = Guards::relative;
  mutable std::mutex work_;  // one at a time builds or measures
  mutable std::mutex mutex_;  // of kept_; taken after work_
  mutable Kept kept_;
  mutable double norm_bound_ = -1.0, apply_error_ = -1.0;  // of S at shift_; < 0: not known yet. Of work_
};

}  // namespace

std::unique_ptr<Solver> make_pcg(const SolverInputs& in) { return std::make_unique<PcgSolver>(in); }

}  // namespace arrowschur::border
