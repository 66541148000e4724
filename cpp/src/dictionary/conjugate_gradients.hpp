// Conjugate gradients for all columns of one component at once, Jacobi preconditioned: A (sparse, symmetric) is read once
// per iteration for a tile of columns; steps and stopping are per column, so that tiles and threads change no bit.
// (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., 2003, algorithm 9.1.)
#pragma once

#include <cstdint>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur::dictionary {

// Both triangles of A without the diagonal, by rows; the diagonal with the ridge.
struct SparseSymmetric {
  Index n = 0;
  std::vector<Index> ptr;  // [n + 1]
  std::vector<std::uint32_t> columns;  // ascending in a row
  std::vector<double> values;
  std::vector<double> diagonal;  // [n]
};

struct ColumnsReport {
  Index iterations = 0;  // the most of any column
  std::vector<Index> failed;  // columns that hit the cap, ascending
  double residual = 0.0, size = 0.0;  // squared Frobenius norms of A X - B (failed columns left out) and of B
};

// min(m, ceil(sqrt(kappa) / 2 ln(2 sqrt(kappa) / 1e-10))), kappa the Gershgorin bound of the scaled operator, its lower
// end at least ridge / max diagonal.
Index iteration_cap(const SparseSymmetric& a, double ridge);

// b [n, p] becomes X, x0 [n, p] is where it starts; a column that failed stays the right-hand side that it is. `width`
// columns at a time.
ColumnsReport solve_columns(const SparseSymmetric& a, Index cap, Index p, double* b, const float* const* x0,
                            Index width);

}  // namespace arrowschur::dictionary
