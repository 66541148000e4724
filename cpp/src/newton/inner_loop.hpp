// The inner loop: which steps are accepted, how the ridges move, when it ends. One implementation for every provider.
#pragma once

#include <span>

#include "arrowschur/inner_loop.hpp"
#include "newton/step_provider.hpp"

namespace arrowschur::newton {

// InvalidArgument for an option out of range.
void check_inner_options(const InnerOptions&);

// From z = 0 to the end of the loop. Fills everything but execution_path, backend and telemetry, which are the
// provider's owner's to say. Throws InnerLoopError, and what the provider throws.
InnerFit run_inner_loop(StepProvider&, std::span<const double> g_t, std::span<const double> g_beta,
                        double objective_at_zero, const InnerOptions&);

}  // namespace arrowschur::newton
