// Many fits: multiplexed over host threads, with the bits of the sequential run.
#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "arrowschur/inner_loop.hpp"

namespace arrowschur {

enum class Runner { fit, device, cpu_reference };  // ResidentWorkspace::fit, device_fit, cpu_reference_fit

struct FitResult {
  std::optional<InnerFit> fit;  // none: error
  std::exception_ptr error;
  bool succeeded() const noexcept { return fit.has_value(); }
};

struct SweepThroughput {
  Index fits = 0, succeeded = 0;
  double wall_seconds = 0.0;
  double fits_per_second() const noexcept;  // fits / max(wall_seconds, 1e-9)
};

struct SweepResult {
  std::vector<FitResult> results;  // in input order
  SweepThroughput throughput;
};

struct SweepOptions {
  Runner runner = Runner::fit;
  Index max_concurrent = 0;  // 0: as many as cores, fits and memory allow
  // Called on the calling thread with the number of finished fits after each of them. false ends the sweep with
  // Interrupted, as an InterruptScope of the calling thread does: fits under way are stopped, workers joined.
  std::function<bool(Index finished, Index total)> progress;
};

// Every fit with one thread and one BLAS thread, and (under automatic) on a device for its own size only, so that a result
// does not depend on who else runs. One failing fit disturbs no other. The same workspace may not be given twice (InvalidArgument). The factors of the workspaces are
// released, so that no more are held than fits are under way.
SweepResult run_fits_multiplexed(std::span<ResidentWorkspace* const>, const InnerOptions& = {},
                                 const SweepOptions& = {});
SweepResult run_fits_sequential(std::span<ResidentWorkspace* const>, const InnerOptions& = {},
                                const SweepOptions& = {});

// Index of the first fit whose t, beta or objective differ in a bit between the two, or where only one succeeded; none
// when all agree. InvalidArgument when the lengths differ.
std::optional<std::size_t> first_difference(std::span<const FitResult>, std::span<const FitResult>);

}  // namespace arrowschur
