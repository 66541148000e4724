// Solves with the lower factor L of cholesky.hpp (row-major, leading dimension padded_ld<T>(k)).
#pragma once

#include "linalg/rank_update.hpp"

namespace arrowschur::linalg {

// x <- L^-1 x, x <- L^-T x; one right-hand side in float64. Memory-bound: one pass over the triangle on all threads.
template <class T>
void solve_lower_vector(Index k, const T* l, double* x);
template <class T>
void solve_upper_vector(Index k, const T* l, double* x);

// x is [k, m] row-major. Column panels go to the threads, each a BLAS triangular solve.
template <class T>
void solve_lower_matrix(Index k, const T* l, T* x, Index m);
template <class T>
void solve_upper_matrix(Index k, const T* l, T* x, Index m);

}  // namespace arrowschur::linalg
