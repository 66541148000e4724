// Peak memory of a route as one formula, for plan, limit and test alike.
#pragma once

#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"

namespace arrowschur {

// Bytes of workspace and factor that the direct route holds at its peak, beyond the caller's data. Assumes one bucket
// of rows of the largest size. Saturates at the largest Index.
Index direct_peak_bytes(const ProblemShape&, const SolveOptions&) noexcept;

// What the routes of a system hold that does not take that path: sizes, and bytes of what is stored.
struct StructuredMemory {
  double total_dim = 0.0, k = 0.0;
  double row_entries = 0.0;          // sum d_i^2
  double whitened_values = 0.0;      // numbers of W in its form: T k when dense
  double whitened_index_bytes = 0.0; // of one of the three index arrays of a block-sparse W
  bool dense_whitened = true;
  double product_bytes = 0.0;        // scratch of one product with a Kronecker W
  double slab_bytes = 0.0;           // of an expanded cross block
  double border_factor_bytes = 0.0;  // low_rank: M = R R'
  double sparse_bytes = 0.0;         // S and its sparse factor
};
Index structured_peak_bytes(const PlanCandidate&, const StructuredMemory&, bool float32_whitened) noexcept;

Index machine_budget() noexcept;  // four fifths of the physical memory

}  // namespace arrowschur
