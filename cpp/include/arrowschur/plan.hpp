// Shape -> route, with the cost model behind it (profile.hpp).
#pragma once

#include <array>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

// sqrt_ba: the arithmetic of direct under the name that was asked for.
enum class Route { direct, sqrt_ba, low_rank, inexact_pcg };
const char* to_string(Route) noexcept;

// Why a candidate is none.
enum class Obstacle {
  none,
  border_not_cheap,  // low_rank: M has no cheap factor
  rows_not_fewer,    // low_rank: T >= k
  operator_border,   // every route with a factor of S or M
  precision,         // no float32 arithmetic on this route
  factor_wanted,     // inexact_pcg: a factor was asked for, and there is none
  budget_too_small,  // inexact_pcg under auto: fewer iterations than the certificate is expected to take
  memory,            // options.memory_limit
  machine_memory,    // auto without a limit: four fifths of the physical memory
};

struct PlanCandidate {
  Route route = Route::direct;
  bool sparse_schur = false, materialize = false;  // as in SolvePlan
  Obstacle obstacle = Obstacle::none;
  double up_seconds = 0.0, build_seconds = 0.0, solve_seconds = 0.0;  // solve: one of them
  double seconds = 0.0;                                               // up + build + N solve
  double flops = 0.0;                                                 // build
  Index peak_bytes = 0;                                               // workspace plus factor
  bool feasible() const noexcept { return obstacle == Obstacle::none; }
  std::string why_not() const;  // empty when feasible
};

struct MachineProfile;  // profile.hpp

// Copied into every account: plain data. Sentences are made when somebody asks.
struct SolvePlan {
  Route route = Route::direct;
  const char* backend = "cpu";
  bool sparse_schur = false;  // direct: S is block-sparse and has a sparse Cholesky factor
  bool materialize = false;  // the cross block is expanded to a dense slab, because that is cheaper (or an operator)
  bool thin_border = false;  // one fused pass per chunk of rows, W never stored whole
  bool low_rank = false;  // T < k: the capacitance form would be smaller than S
  Index peak_bytes = 0;
  double predicted_seconds = 0.0;  // of the chosen candidate
  double measured_seconds = std::numeric_limits<double>::quiet_NaN();  // filled in by the solve

  std::span<const PlanCandidate> candidates() const noexcept { return {slots.data(), count}; }
  std::vector<std::string> reasons() const;
  std::string profile_name() const;

  // What the reasons are made of.
  struct Facts {
    Index n = 0, k = 0, total_dim = 0;
    Mode mode = Mode::automatic;
    bool width_cut = false;  // the route is that of route_rule = width_cut
    const char* cross_form = "";  // "dense", "block-sparse", "Kronecker", "operator"
    Index stored_entries = 0;  // of the cross block
    Index solves = 1, cg_iters = 0;
    const char* device_reason = "";  // reason code of the decision (policy.hpp)
  };
  Facts facts;
  std::array<PlanCandidate, 4> slots{};
  std::size_t count = 0;
  std::shared_ptr<const MachineProfile> profile;
};

struct ProblemShape {
  Index n = 0, k = 0, total_dim = 0, max_dim = 0;
};

// What the solve is for: a factor serves log-determinants and selected inverses, which an iteration cannot.
enum class PlanPurpose { step, factor };

// Throws UnsupportedConfiguration for combinations that no route carries, DeviceUnavailableError for a device that is
// not there, and MemoryBudgetExceeded with the bytes of the cheapest candidate when none fits options.memory_limit. A
// shape stands for dense parts.
SolvePlan plan(const ProblemShape&, const SolveOptions& = {}, PlanPurpose = PlanPurpose::step);
SolvePlan plan(const ArrowSystem&, const SolveOptions& = {}, PlanPurpose = PlanPurpose::step);

}  // namespace arrowschur
