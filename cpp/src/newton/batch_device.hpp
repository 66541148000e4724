// The device's share of a batch.
#pragma once

#include <span>
#include <vector>

#include "arrowschur/batch.hpp"

namespace arrowschur::newton {

// Solves what the device takes of a batch, as mode, gate and time model say, and fills in those results: steps with their
// certificates, or errors. Returns for each system whether that was done; the others are the CPU's. Under `required`
// nothing is left to the CPU: what a device does not take is an error of its system.
std::vector<char> solve_on_device(std::span<const ArrowSystem> systems, double ridge_t, double ridge_beta,
                                  const SolveOptions&, std::vector<BatchResult>& results);

}  // namespace arrowschur::newton
