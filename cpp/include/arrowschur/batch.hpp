// Many small systems in one call: a thread works on one system, not all threads on one.
#pragma once

#include <exception>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur {

// One system's step, or what went wrong with it.
struct BatchResult {
  std::optional<NewtonStep> step;
  double log_det_hessian =
      std::numeric_limits<double>::quiet_NaN();  // log det(H + ridges); NaN with lifted rows or an iterative border
  std::exception_ptr error;  // of a system without a step
};

// The steps of independent systems at the same ridges, in order, bit for bit those of newton_step() planned for a factor.
// A failure stays with its system; what is wrong with the call (ridges, options, a device that is required) is thrown, and
// Interrupted. Cost: the sum of the systems'; systems are dealt out to threads one by one, those with callbacks too: a
// callback is called from one thread at a time as its form says.
std::vector<BatchResult> solve_batch(std::span<const ArrowSystem> systems, double ridge_t = 0.0,
                                     double ridge_beta = 0.0, const SolveOptions& = {});

}  // namespace arrowschur
