// Border to rows: delta_t_i = -A_i^-1 (g_i + B_i delta_beta), and in the same pass over h_tb everything that the
// certificate needs from the rows (backend::ExpandOutputs).
#pragma once

#include "backend/backend.hpp"
#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"

namespace arrowschur::eliminate {

// Products with a cross block that is not dense: made for all rows at once before and after (system/cross.hpp).
struct CrossProducts {
  const double* z = nullptr;        // [T]: B db
  const double* row_abs = nullptr;  // [T]: absolute row sums of B; null without norms
};

// With `products` the cross block itself is not touched: the caller fills out->cross_t and out->col_abs. Without them it
// is dense, or block-sparse with rows of one size.
template <class T>
void expand(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double* g_t, const double* db, double* dt,
            backend::ExpandOutputs* out, const CrossProducts* products = nullptr);

}  // namespace arrowschur::eliminate
