// Many small systems in one call: on the CPU a thread works on one system, not all threads on one; on a device one block
// of threads does.
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
  const char* backend = "cpu";  // cuda; fake in tests only, and then the path that it stands for:
  const char* unproven_path = "";
  std::exception_ptr error;  // of a system without a step
};

// The steps of independent systems at the same ridges, in order. A failure stays with its system; what is wrong with the
// call (ridges, options, a device that is required) is thrown, and Interrupted. Cost: the sum of the systems'.
//
// On the CPU they are bit for bit those of newton_step() planned for a factor; systems are dealt out to threads one by one,
// those with callbacks too: a callback is called from one thread at a time as its form says.
//
// On a device: systems with a dense cross block, rows of one size of at most 32 unknowns, a border of at most 32 without
// callbacks, under mode automatic, direct or sqrt_ba in float64. SolveOptions::device automatic takes it for eight such
// systems or more with sum n (2 d k + d^2) >= 1e6 where the time model predicts it faster; the other systems, those whose
// rows are to be lifted, and those whose certificate, where it is asked for, misses 1e-12 are the CPU's. Everything is sent
// at once and nothing kept: execution_path gpu-reupload. `required`: every system on the device; one that it does not take,
// and a row that is not positive definite, are errors of their systems.
std::vector<BatchResult> solve_batch(std::span<const ArrowSystem> systems, double ridge_t = 0.0,
                                     double ridge_beta = 0.0, const SolveOptions& = {});

}  // namespace arrowschur
