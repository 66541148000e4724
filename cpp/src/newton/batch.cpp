#include "arrowschur/batch.hpp"

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "linalg/pool.hpp"
#include "newton/batch_device.hpp"
#include "newton/solver.hpp"

namespace arrowschur {

std::vector<BatchResult> solve_batch(std::span<const ArrowSystem> systems, double ridge_t, double ridge_beta,
                                     const SolveOptions& options) {
  newton::check_options(options);
  if (options.schur_apply) {
    throw UnsupportedConfiguration("schur_apply", "solve_batch", "a product of the caller's belongs to one system");
  }
  newton::check_ridges(ArrowSystem::make({}), {ridge_t, ridge_beta});
  const linalg::ThreadScope threads(options.num_threads);
  std::vector<BatchResult> results(systems.size());
  const std::vector<char> done = newton::solve_on_device(systems, ridge_t, ridge_beta, options, results);
  SolveOptions host = options;
  host.device = Device::off;  // who runs this was decided above
  linalg::parallel_for(static_cast<Index>(systems.size()), [&](Index i) {
    const auto at = static_cast<std::size_t>(i);
    if (done[at] != 0) return;
    BatchResult& result = results[at];
    try {
      const ArrowFactor factor = factorize(systems[at], {ridge_t, ridge_beta}, host);
      result.step = factor.step();
      const bool exact = factor.route() != Route::inexact_pcg && result.step->diagnostics.rows_lifted == 0;
      if (exact) result.log_det_hessian = factor.log_det();
    } catch (const Interrupted&) {
      throw;
    } catch (...) {
      result.step.reset();
      result.error = std::current_exception();
    }
  });
  return results;
}

}  // namespace arrowschur
