#include "border/ladder.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "arrowschur/error.hpp"

namespace arrowschur::border {
namespace {

using Kind = PreconditionerKind;

constexpr Index kLadderFrom = 100;  // PRECOND_ESCALATE_MIN_K: columns above which the ladder climbs
constexpr Index kWindow = 32;       // directions kept of a solve
constexpr Index kWindowBytes = Index{64} << 20;
constexpr Index kWorthRecycling = 16;  // iterations

// The tiers of a solve, in order.
std::vector<Kind> tiers_of(const SolveOptions& options, Index k) {
  if (options.preconditioner != Kind::ladder) return {options.preconditioner};
  if (k <= kLadderFrom) return {Kind::block};
  return {Kind::block,        Kind::cluster, Kind::schwarz, Kind::incomplete_cholesky,
          Kind::power_series, Kind::nystrom, Kind::deflated};
}

// One tier of a solve.
struct Attempt {
  std::size_t tier = 0;
  std::string name;
  PcgOutcome outcome;
  double decades = 0.0;  // of the residual per iteration
};

class Climb {
 public:
  Climb(const LadderInputs& in, double* x, PcgWorkspace& workspace)
      : in_(in),
        options_(*in.options),
        tiers_(tiers_of(options_, in.problem.k)),
        x_(x),
        workspace_(workspace),
        problem_(in.problem),
        deflation_(in.deflation) {
    d_.matvec_calls = in.products;
    if (in.record) open_window();
  }

  LadderOutcome run() {
    for (std::size_t t = in_.first_tier; t < tiers_.size(); ++t) {
      if (t > in_.first_tier && recycles(options_, problem_.k) && !window_) open_window();
      if (attempt(t, in_.problem.max_iterations, t + 1 < tiers_.size())) return finish(t);
      if (in_.problem.max_iterations == 0) return give_up();
    }
    // Later solves may start where nothing can be built any more (with a radius, say).
    if (attempts_.empty() && attempt(0, in_.problem.max_iterations, false)) return finish(0);
    // Of the tiers that were left early, the fastest gets the rest of its budget.
    std::vector<Attempt*> early;
    for (Attempt& a : attempts_) {
      if (a.outcome.hopeless) early.push_back(&a);
    }
    if (!early.empty()) {
      const Attempt best = **std::max_element(
          early.begin(), early.end(), [](const Attempt* a, const Attempt* b) { return a->decades < b->decades; });
      if (attempt(best.tier, in_.problem.max_iterations - best.outcome.iterations, false)) return finish(best.tier);
    }
    return give_up();
  }

 private:
  void open_window() {
    const Index capacity = std::min(kWindow, kWindowBytes / (16 * problem_.k));
    if (capacity < 2) return;
    window_ = std::make_shared<RecycledWindow>(problem_.k, capacity);
    problem_.window = {capacity, window_->directions.data(), window_->images.data()};
  }

  // True when the solve is over.
  bool attempt(std::size_t t, Index budget, bool may_give_up) {
    const Kind kind = tiers_[t];
    const bool named = tiers_.size() == 1 || options_.preconditioner != Kind::ladder;
    std::shared_ptr<const Deflation> deflation = deflation_;
    if (kind == Kind::deflated && !named) {
      if (!window_ || window_->recorded == 0) return skip("deflated", "no directions recorded");
      deflation = in_.absorb(deflation, *window_);
      if (!deflation) return skip("deflated", "no directions worth keeping");
      window_->recorded = 0;
      deflation_ = deflation;
    }
    const LadderInputs::Tier slot = in_.preconditioner(kind);
    if (!slot.preconditioner && kind != Kind::none) {
      if (named) {
        throw UnsupportedConfiguration(std::string("preconditioner='") + arrowschur::to_string(kind) + "'",
                                       "inexact_pcg", slot.why + "; use preconditioner='ladder'");
      }
      return skip(arrowschur::to_string(kind), slot.why);
    }
    const Preconditioner* base = slot.preconditioner.get();
    Attempt a;
    a.tier = t;
    a.name = base == nullptr ? "none" : base->name();
    if (deflation) {
      a.name = kind == Kind::deflated ? "deflated" : a.name + ", deflated";
      problem_.precondition = [base, deflation](const double* r, double* z) {
        base->apply(r, z);
        deflation->correct(r, z);
      };
      if (!problem_.warm_start && problem_.radius == 0.0) {
        deflation->initial(problem_.rhs, x_);
        problem_.warm_start = true;
      }
    } else if (base != nullptr) {
      problem_.precondition = [base](const double* r, double* z) { base->apply(r, z); };
    } else {
      problem_.precondition = {};
    }
    problem_.max_iterations = budget;
    problem_.may_give_up = may_give_up;
    const double before = residual_;
    a.outcome = pcg(problem_, x_, workspace_);
    count(a, before);
    problem_.warm_start = true;
    const PcgOutcome& out = attempts_.back().outcome;
    const bool last = !may_give_up;
    if (out.negative_curvature && !(out.refused_preconditioner && !last)) {
      throw NegativeCurvature(facts(PcgFailure::not_pd), out.curvature, out.direction_norm_sq, out.direction);
    }
    if (out.stop == PcgStop::stagnation && last) throw PcgError(facts(PcgFailure::stagnation));
    return out.stop != PcgStop::max_iter && out.stop != PcgStop::stagnation && !out.negative_curvature;
  }

  bool skip(const char* name, const std::string& why) {
    d_.tiers.push_back(std::string(name) + ": not built, " + why);
    return false;
  }

  void count(Attempt& a, double before) {
    const PcgOutcome& out = a.outcome;
    d_.iterations += out.iterations;
    d_.matvec_calls += out.matvecs;
    d_.precond_apply_calls += out.preconditioner_applies;
    d_.stopping_reason = to_string(out.stop);
    d_.final_relative_residual = out.relative_residual;
    d_.residual_gap = out.residual_gap;
    d_.preconditioner = out.cauchy_restart ? "none" : a.name;
    std::string line = a.name + ": " + d_.stopping_reason + " after " + std::to_string(out.iterations);
    if (out.hopeless) line += ", too slow for its budget";
    if (out.refused_preconditioner) line = a.name + ": not positive definite";
    d_.tiers.push_back(std::move(line));
    residual_ = out.relative_residual;
    if (out.iterations > 0) a.decades = std::log10(before / residual_) / static_cast<double>(out.iterations);
    if (window_) window_->recorded = std::max(window_->recorded, out.recorded);
    attempts_.push_back(std::move(a));
  }

  PcgError::Facts facts(PcgFailure kind) const {
    PcgError::Facts f;
    f.kind = kind;
    f.iterations = d_.iterations;
    f.relative_residual = residual_;
    f.preconditioner = d_.preconditioner;
    f.suggested_ridge = std::numeric_limits<double>::quiet_NaN();
    return f;
  }

  LadderOutcome finish(std::size_t tier) {
    LadderOutcome out;
    // The deflated tier is the first one with directions, which the next solve has from the start.
    out.next_tier = tiers_.size() > 1 && tiers_[tier] == Kind::deflated ? in_.first_tier : tier;
    out.deflation = deflation_;
    // Directions are worth keeping where the tier that ended it was slow.
    const bool slow = attempts_.back().outcome.iterations >= kWorthRecycling;
    if (slow && window_ && window_->recorded > 0) out.window = window_;
    const PcgStop stop = attempts_.back().outcome.stop;
    out.account.boundary = stop == PcgStop::trust_region || stop == PcgStop::indefinite;
    out.account.pcg = std::move(d_);
    return out;
  }

  LadderOutcome give_up() {
    if (!options_.accept_truncated) throw PcgError(facts(PcgFailure::budget));
    LadderOutcome out;
    out.next_tier = in_.first_tier;
    out.account.truncated = true;
    d_.stopping_reason = to_string(PcgStop::max_iter);
    out.account.pcg = std::move(d_);
    return out;
  }

  const LadderInputs& in_;
  const SolveOptions& options_;
  const std::vector<Kind> tiers_;
  double* x_;
  PcgWorkspace& workspace_;
  PcgProblem problem_;
  PcgDiagnostics d_;
  std::vector<Attempt> attempts_;
  std::shared_ptr<const Deflation> deflation_;
  std::shared_ptr<RecycledWindow> window_;
  double residual_ = 1.0;
};

}  // namespace

Built build_preconditioner(PreconditionerKind kind, const PreconditionerInputs& in, std::string& why) {
  switch (kind) {
    case Kind::cluster:
      return clusters(in, why);
    case Kind::schwarz:
      return schwarz(in, 1, why);
    case Kind::incomplete_cholesky:
      return incomplete_cholesky(in, why);
    case Kind::power_series:
      return power_series(in, 0, why);
    case Kind::nystrom:
      return nystrom(in, 0, why);
    case Kind::diagonal:
      return scalar_jacobi(in);
    case Kind::none:
      return nullptr;
    case Kind::ladder:
    case Kind::block:
    case Kind::deflated:
      break;
  }
  if (Built blocks = block_jacobi(in, why)) return blocks;
  return scalar_jacobi(in);
}

bool recycles(const SolveOptions& options, Index k) {
  return options.preconditioner == Kind::deflated || (options.preconditioner == Kind::ladder && k > kLadderFrom);
}

LadderOutcome climb(const LadderInputs& in, double* x, PcgWorkspace& workspace) {
  return Climb(in, x, workspace).run();
}

}  // namespace arrowschur::border
