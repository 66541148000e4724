// Shape -> route, with the cost model behind it.
#pragma once

#include <string>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

enum class Route { direct, sqrt_ba };  // sqrt_ba: the same arithmetic under the name that was asked for
const char* to_string(Route) noexcept;

struct PlanCandidate {
  Route route = Route::direct;
  double flops = 0.0;
  double seconds = 0.0;   // predicted from nominal rates per instruction set; orientation, not a promise
  Index peak_bytes = 0;   // workspace plus factor
};

struct SolvePlan {
  Route route = Route::direct;
  std::vector<std::string> reasons;
  std::vector<PlanCandidate> candidates;
  Index peak_bytes = 0;
  const char* backend = "cpu";
  bool thin_border = false;   // one fused pass per chunk of rows, W never stored whole
  bool low_rank = false;      // T < k: the capacitance form would be smaller than S
};

struct ProblemShape {
  Index n = 0, k = 0, total_dim = 0, max_dim = 0;
};

// Throws UnsupportedConfiguration for routes and devices that this build does not have, and MemoryBudgetExceeded when
// the route's peak bytes exceed options.memory_limit.
SolvePlan plan(const ProblemShape&, const SolveOptions& = {});
SolvePlan plan(const ArrowSystem&, const SolveOptions& = {});

}  // namespace arrowschur
