#include "arrowschur/plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "arrowschur/error.hpp"
#include "arrowschur/profile.hpp"
#include "plan/device_mode.hpp"
#include "plan/memory.hpp"
#include "plan/schur_pattern.hpp"
#include "plan/shape.hpp"
#include "plan/time_model.hpp"
#include "system/border.hpp"
#include "system/format.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur {
namespace {

constexpr Index kThinBorder = 512;  // below: fused chunks of rows; above: one symmetric update on the packed W

// What the plan expects an iteration to take that must meet the certificate: enough to 1e-12 for a preconditioned
// condition number of 200 (sqrt(kappa) / 2 * log(2e12)). An unknown that is guessed on the careful side: the exact routes
// have no such risk.
constexpr Index kExpectedIterations = 200;

void require_shape(const ProblemShape& s) {
  const std::pair<Index, const char*> sizes[] = {
      {s.n, "n"}, {s.k, "k"}, {s.total_dim, "total_dim"}, {s.max_dim, "max_dim"}};
  for (const auto& [value, name] : sizes) {
    if (value < 0) throw InvalidArgument(name, std::to_string(value), "an integer >= 0");
  }
  checked_product(s.total_dim, s.k, "the cross block h_tb (T x k)");
  checked_product(s.k, s.k, "the Schur complement (k x k)");
}

std::string dimensions(const SolvePlan::Facts& s) {
  return "T = " + std::to_string(s.total_dim) + ", k = " + std::to_string(s.k);
}

// The candidates in the order of preference: exact before iterative.
class Planner {
 public:
  Planner(const PlanShape& shape, const SolveOptions& options, PlanPurpose purpose)
      : shape_(shape), options_(options), purpose_(purpose) {}

  SolvePlan run() {
    plan_.profile = policy::profile_in_force(options_.calibrate);
    fill_facts();
    const Mode mode = options_.mode;
    const bool automatic = mode == Mode::automatic;
    if (automatic || mode == Mode::direct || mode == Mode::sqrt_ba) add_direct();
    if (mode == Mode::low_rank || (automatic && consider_low_rank())) add_low_rank();
    if (automatic || mode == Mode::inexact_pcg) add_inexact_pcg();
    if (!automatic) require_carried();
    apply_memory_limit();
    take(chosen());
    ask_for_device();
    return std::move(plan_);
  }

 private:
  void fill_facts() {
    SolvePlan::Facts& f = plan_.facts;
    f.n = shape_.problem.n;
    f.k = shape_.problem.k;
    f.total_dim = shape_.problem.total_dim;
    f.mode = options_.mode;
    f.cross_form = shape_.cross_form;
    f.stored_entries = static_cast<Index>(shape_.cost.entries);
    f.solves = options_.expected_solves;
    // Asked for by name the tolerance is 1e-4 by default, and the budget a limit that the caller set.
    f.cg_iters = options_.mode == Mode::inexact_pcg ? std::min(kExpectedIterations, options_.pcg.max_iterations)
                                                    : kExpectedIterations;
    plan_.thin_border = f.k <= kThinBorder;
    plan_.low_rank = f.total_dim < f.k;
  }

  bool single() const { return options_.precision == Precision::float32; }
  bool float32_whitened(const PlanCandidate& c) const {
    return c.route == Route::inexact_pcg && (single() || options_.pcg.float32_storage);
  }
  const DispatchPolicy& record() {
    if (options_.policy != nullptr) return *options_.policy;
    if (!in_force_) in_force_ = policy::in_force();
    return *in_force_;
  }

  PlanCandidate& add(Route route, const policy::RouteTime& time, double flops) {
    PlanCandidate& c = plan_.slots[plan_.count++];
    c.route = route;
    c.up_seconds = time.up;
    c.build_seconds = time.build;
    c.solve_seconds = time.solve;
    c.seconds = time.total(static_cast<double>(options_.expected_solves));
    c.flops = flops;
    return c;
  }

  void add_direct() {
    const Route route = options_.mode == Mode::sqrt_ba ? Route::sqrt_ba : Route::direct;
    const policy::CostShape& s = shape_.cost;
    const double k_cubed = s.k * s.k * s.k / 3.0;
    const policy::RouteTime own = policy::direct_time(s, *plan_.profile);
    bool materialize = shape_.form == CrossForm::callback;
    policy::RouteTime time = own;
    double flops = s.gram_flops;
    if (shape_.form != CrossForm::dense) {
      const policy::CostShape slab = expanded(s, shape_.form == CrossForm::callback);
      const policy::RouteTime expanded_time = policy::direct_time(slab, *plan_.profile);
      const double n = static_cast<double>(options_.expected_solves);
      materialize = materialize || single() || expanded_time.total(n) < own.total(n);
      if (materialize) {
        time = expanded_time;
        flops = slab.gram_flops;
      }
    }
    PlanCandidate& dense = add(route, time, flops + k_cubed + shape_.row_flops);
    dense.materialize = materialize;
    if (shape_.form == CrossForm::dense || materialize) {
      dense.peak_bytes = direct_peak_bytes(shape_.problem, options_);
      if (materialize) dense.peak_bytes = plus(dense.peak_bytes, shape_.memory.slab_bytes);
    } else {
      dense.peak_bytes = structured_peak_bytes(dense, shape_.memory, float32_whitened(dense));
    }
    if (shape_.operator_border) dense.obstacle = Obstacle::operator_border;

    if (shape_.system != nullptr && dense.feasible()) add_sparse_direct(dense);
  }

  // The pattern of S costs a fraction of a solve to find: worth it when what a sparse S could save, the dense factor and
  // its solves, is a good part of the whole, or when S itself is what does not fit.
  void add_sparse_direct(const PlanCandidate& dense) {
    constexpr double kWorthALook = 0.25;
    const policy::CostShape& s = shape_.cost;
    const double saved =
        policy::dense_factor_time(s.k, *plan_.profile).total(static_cast<double>(options_.expected_solves));
    const bool too_large = dense.peak_bytes > budget();
    if (!too_large && saved < std::max(kWorthALook * dense.seconds, 4.0 * policy::pattern_seconds(s))) return;
    const SchurPattern pattern = schur_pattern(*shape_.system);
    if (!pattern.sparse) return;
    const policy::SparseFactorCost f{pattern.s_entries, pattern.l_entries, pattern.flops};
    PlanCandidate& sparse =
        add(dense.route, policy::sparse_direct_time(s, f, *plan_.profile), s.gram_flops + f.flops + shape_.row_flops);
    sparse.sparse_schur = true;
    StructuredMemory memory = shape_.memory;
    memory.sparse_bytes = static_cast<double>(pattern.peak_bytes);
    sparse.peak_bytes = structured_peak_bytes(sparse, memory, float32_whitened(sparse));
    if (single()) sparse.obstacle = Obstacle::precision;
  }

  // T >= k is no news to anybody who looks at the shape: no candidate at all, and no look at the border.
  bool consider_low_rank() const { return plan_.low_rank && plan_.facts.total_dim > 0; }

  void add_low_rank() {
    const policy::CostShape& s = shape_.cost;
    const double t = s.total_dim;
    PlanCandidate& c = add(Route::low_rank, policy::low_rank_time(s, *plan_.profile),
                           s.k * t * (t + 1.0) + t * t * t / 3.0 + t * s.border_solve_flops + shape_.row_flops);
    c.materialize = shape_.form == CrossForm::callback;
    c.peak_bytes = structured_peak_bytes(c, shape_.memory, float32_whitened(c));
    if (shape_.operator_border) {
      c.obstacle = Obstacle::operator_border;
    } else if (!shape_.cheap_border) {
      c.obstacle = Obstacle::border_not_cheap;
    } else if (single()) {
      c.obstacle = Obstacle::precision;
    }
  }

  void add_inexact_pcg() {
    const bool automatic = options_.mode == Mode::automatic;
    PlanCandidate& c =
        add(Route::inexact_pcg,
            policy::inexact_pcg_time(shape_.cost, *plan_.profile, static_cast<double>(plan_.facts.cg_iters)),
            shape_.cost.whiten_flops + shape_.row_flops);
    c.peak_bytes = structured_peak_bytes(c, shape_.memory, float32_whitened(c));
    if (!automatic) return;
    if (purpose_ == PlanPurpose::factor && !shape_.operator_border) {
      c.obstacle = Obstacle::factor_wanted;
    } else if (options_.pcg.max_iterations < kExpectedIterations && !shape_.operator_border) {
      c.obstacle = Obstacle::budget_too_small;
    }
  }

  static policy::CostShape expanded(const policy::CostShape& s, bool by_calls) {
    policy::CostShape slab = s;
    slab.entries = slab.apply_entries = s.total_dim * s.k;
    slab.whiten_flops = s.row_entries * s.k;
    slab.gram_flops = s.total_dim * s.k * (s.k + 1.0);
    slab.scattered = false;
    // One write of the slab; an operator gives it up call by call.
    slab.build_bytes = 8.0 * slab.entries * (by_calls ? std::min(s.total_dim, s.k) : 1.0);
    return slab;
  }

  static Index plus(Index bytes, double more) {
    const double sum = static_cast<double>(bytes) + more;
    return sum < 9e18 ? bytes + static_cast<Index>(more) : std::numeric_limits<Index>::max();
  }

  // A route that was asked for by name, and that this system or precision does not allow.
  void require_carried() const {
    const std::string name = to_string(options_.mode);
    const bool possible =
        std::any_of(plan_.slots.begin(), plan_.slots.begin() + static_cast<std::ptrdiff_t>(plan_.count),
                    [](const PlanCandidate& c) { return c.feasible(); });
    if (possible) return;
    const PlanCandidate& c = plan_.slots[0];
    const bool precision = c.obstacle == Obstacle::precision;
    throw UnsupportedConfiguration(precision ? "precision='float32'" : "mode='" + name + "'", name,
                                   c.why_not() + "; " +
                                       (precision                ? "use precision='float64'"
                                        : shape_.operator_border ? "use mode='inexact_pcg' or 'auto'"
                                                                 : "use mode='direct' or 'auto'"));
  }

  // The caller's limit; without one, auto does not choose what this machine cannot hold.
  Index budget() const {
    if (options_.memory_limit) return *options_.memory_limit;
    return options_.mode == Mode::automatic ? machine_budget() : std::numeric_limits<Index>::max();
  }

  void apply_memory_limit() {
    const Index limit = budget();
    const PlanCandidate* cheapest = nullptr;
    bool fits = false;
    for (std::size_t i = 0; i < plan_.count; ++i) {
      PlanCandidate& c = plan_.slots[i];
      if (!c.feasible()) continue;
      if (cheapest == nullptr || c.peak_bytes < cheapest->peak_bytes) cheapest = &c;
      if (c.peak_bytes <= limit) fits = true;
    }
    if (!fits && cheapest != nullptr) {
      throw MemoryBudgetExceeded(
          cheapest->peak_bytes, limit,
          "the " + std::string(to_string(cheapest->route)) + " route (" + dimensions(plan_.facts) + ")");
    }
    for (std::size_t i = 0; i < plan_.count; ++i) {
      PlanCandidate& c = plan_.slots[i];
      if (c.feasible() && c.peak_bytes > limit) {
        c.obstacle = options_.memory_limit ? Obstacle::memory : Obstacle::machine_memory;
      }
    }
  }

  const PlanCandidate& chosen() {
    const std::span<const PlanCandidate> candidates = plan_.candidates();
    if (options_.mode == Mode::automatic && plan_.facts.k > 0 && record().route_rule == RouteRule::width_cut) {
      const bool iterate = plan_.facts.k > static_cast<Index>(policy::kWidthCut);
      for (const PlanCandidate& c : candidates) {
        // The cut is the caller's word: what the certificate is expected to take does not overrule it.
        const bool allowed = c.feasible() || c.obstacle == Obstacle::budget_too_small;
        if (allowed && (c.route == Route::inexact_pcg) == iterate && c.route != Route::low_rank) {
          plan_.facts.width_cut = true;
          return c;
        }
      }
    }
    const int at = policy::choose(candidates);
    if (at < 0) {
      throw UnsupportedConfiguration("mode='auto'", "auto", "no route carries this system: " + candidates[0].why_not());
    }
    return candidates[static_cast<std::size_t>(at)];
  }

  void take(const PlanCandidate& c) {
    plan_.route = c.route;
    plan_.sparse_schur = c.sparse_schur;
    plan_.materialize = c.materialize;
    plan_.peak_bytes = c.peak_bytes;
    plan_.predicted_seconds = c.seconds;
  }

  void ask_for_device() {
    const auto size = [](Index i) { return static_cast<policy::Size>(i); };
    const Index n = plan_.facts.n, k = plan_.facts.k, d = shape_.problem.max_dim;
    policy::DeviceQuestion question;
    question.route = to_string(plan_.route);
    question.n = n, question.total_dim = plan_.facts.total_dim, question.k = k;
    question.cpu_seconds = plan_.predicted_seconds;
    question.calibrate = options_.calibrate;
    if (shape_.operator_border || shape_.form == CrossForm::callback) {
      question.missing = "callbacks run on the host";
    } else if (plan_.route == Route::inexact_pcg) {
      if (options_.schur_apply) question.missing = "the caller's own product runs on the host";
      const Index budget = std::min(options_.pcg.max_iterations, options_.trust_region.max_iterations);
      question.admissible = policy::reduced_schur_matvec_should_offload(size(n), size(k), size(d), size(budget));
    } else {
      question.admissible = policy::most_permissive().dense_hessian_work_target_is_gpu(size(n), size(k));
    }
    plan_.facts.device_reason = policy::consider_device(options_.device, question).reason;
  }

  const PlanShape& shape_;
  const SolveOptions& options_;
  PlanPurpose purpose_;
  SolvePlan plan_;
  std::optional<DispatchPolicy> in_force_;
};

SolvePlan make_plan(const PlanShape& shape, const SolveOptions& options, PlanPurpose purpose) {
  require_shape(shape.problem);
  return Planner(shape, options, purpose).run();
}

// What no route of this version carries.
void require_options(const SolveOptions& options) {
  validate::require(check(options));
  if (options.precision == Precision::mixed) {
    const char* route = options.mode == Mode::sqrt_ba ? to_string(Route::sqrt_ba) : to_string(Route::direct);
    throw UnsupportedConfiguration("precision='mixed'", route, "use precision='float64' or 'float32'");
  }
}

}  // namespace

const char* to_string(Route route) noexcept {
  switch (route) {
    case Route::direct:
      return "direct";
    case Route::sqrt_ba:
      return "sqrt_ba";
    case Route::low_rank:
      return "low_rank";
    case Route::inexact_pcg:
      return "inexact_pcg";
  }
  return "unknown";
}

SolvePlan plan(const ProblemShape& shape, const SolveOptions& options, PlanPurpose purpose) {
  require_options(options);
  require_shape(shape);
  return make_plan(shape_of(shape, options), options, purpose);
}

SolvePlan plan(const ArrowSystem& system, const SolveOptions& options, PlanPurpose purpose) {
  require_options(options);
  return make_plan(shape_of(system, options), options, purpose);
}

}  // namespace arrowschur
