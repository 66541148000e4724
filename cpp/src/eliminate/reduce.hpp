// Rows to border: S_0 = H_bb - sum_i W_i' W_i and the reduced right-hand side sum_i W_i' u_i, W_i = L_i^-1 B_i,
// u_i = L_i^-1 w_i.
//
// h_tb is read once. W is written straight into packed panels (kernels.hpp) and consumed there: thin borders keep a
// chunk of it in L2, wide ones a super-chunk of about 16 MiB; it is never stored whole. Only the lower triangle of
// S_0 is formed.
#pragma once

#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"

namespace arrowschur::eliminate {

// s: padded storage (rank_update.hpp), lower triangle overwritten. w_t: [T]. wu: [k], overwritten.
template <class T>
void reduce(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double* w_t, T* s, double* wu);

// wu alone, with the bits that reduce() gives.
template <class T>
void reduce_rhs(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double* w_t, double* wu);

}  // namespace arrowschur::eliminate
