// Predicted seconds of a route: sizes in, time out. What structure changes is in CostShape; the rest is one formula for
// CPU and device alike.
#pragma once

#include "arrowschur/profile.hpp"

namespace arrowschur::policy {

// A system as the cost model sees it. For dense parts: entries = T k, whiten_flops = n d^2 k, gram_flops = T k (k + 1).
struct CostShape {
  double n = 0.0, total_dim = 0.0, k = 0.0;  // T = total_dim
  double row_entries = 0.0;  // sum d_i^2
  double entries = 0.0;  // stored by the whitened cross block: T k for a dense one
  double whiten_flops = 0.0;  // sum d_i * entries of row i
  double apply_entries = 0.0;  // read by one product with W'W: entries, and J again for Kronecker rows
  double gram_flops = 0.0;  // of W'W: sum d_i nnz_i (nnz_i + 1)
  double block_pairs = 0.0;  // sum s_i^2, s_i the border blocks of row i
  bool scattered = false;  // W'W is added block by block: at the rate of row-wise work
  double border_entries = 0.0;  // s_M: doubles that store the border
  double border_solve_flops = 0.0;  // of one solve with M, for low_rank
  double build_bytes = 0.0;  // moved before the build: expanding the cross block to a slab
};
// n rows of size d, dense cross block.
CostShape dense_shape(double n, double d, double k, double border_entries);

// S with a sparse Cholesky factor.
struct SparseFactorCost {
  double s_entries = 0.0, l_entries = 0.0, flops = 0.0;
};
// Seconds to find the pattern of S.
double pattern_seconds(const CostShape&);

// The part of a route that a dense m x m factor takes.
RouteTime dense_factor_time(double m, const MachineProfile&);
RouteTime direct_time(const CostShape&, const MachineProfile&);
RouteTime sparse_direct_time(const CostShape&, const SparseFactorCost&, const MachineProfile&);
RouteTime low_rank_time(const CostShape&, const MachineProfile&);
RouteTime inexact_pcg_time(const CostShape&, const MachineProfile&, double cg_iters);

}  // namespace arrowschur::policy
