// Border to rows: delta_t_i = -A_i^-1 (g_i + B_i delta_beta), and in the same pass over h_tb everything that the
// certificate needs from the rows (backend::ExpandOutputs).
#pragma once

#include "backend/backend.hpp"
#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"

namespace arrowschur::eliminate {

template <class T>
void expand(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double* g_t, const double* db, double* dt,
            backend::ExpandOutputs* out);

}  // namespace arrowschur::eliminate
