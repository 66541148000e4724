// log|H| = sum_i log|A_i| + log|S|, and the pivots behind it.
#include "evidence/log_det.hpp"

#include <cmath>
#include <string>

#include "linalg/pool.hpp"

namespace arrowschur {

void evidence::require_unlifted(const ArrowFactor::Impl& impl, FactorSet set, const char* feature) {
  if (set == FactorSet::evidence || impl.diagnostics.rows_lifted == 0) return;
  throw UnsupportedConfiguration(
      std::string(feature) + " of a factor with " + std::to_string(impl.diagnostics.rows_lifted) + " lifted rows",
      to_string(impl.diagnostics.plan.route), "ask for the evidence set, raise ridge_t, or set row_lift to never");
}

LogDetParts ArrowFactor::log_det_parts(FactorSet set) const {
  evidence::require_unlifted(*impl_, set, "log_det");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "log_det");
  return {frame.log_det_rows(), frame.log_det_border()};
}

double ArrowFactor::log_det(FactorSet set) const {
  const LogDetParts parts = log_det_parts(set);
  return parts.rows + parts.border;
}

PivotRange ArrowFactor::min_pivot(FactorSet set) const {
  const backend::Frame& frame = impl_->exact_frame(set, "min_pivot");
  double rows, border, largest;
  frame.row_pivots(rows, largest);
  frame.border_pivots(border, largest);
  return {rows, border, std::fmin(rows, border)};  // fmin and fmax pass over the NaN of an empty part
}

PivotRange ArrowFactor::max_pivot(FactorSet set) const {
  const backend::Frame& frame = impl_->exact_frame(set, "max_pivot");
  double rows, border, smallest;
  frame.row_pivots(smallest, rows);
  frame.border_pivots(smallest, border);
  return {rows, border, std::fmax(rows, border)};
}

}  // namespace arrowschur
