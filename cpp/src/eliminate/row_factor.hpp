// Row blocks: A_i = H_tt^(i) + ridges = L_i L_i', bucket by bucket.
#pragma once

#include <memory>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "backend/backend.hpp"
#include "eliminate/partition.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"

namespace arrowschur::eliminate {

template <class T>
struct BucketFactor {
  Index d = 0, count = 0;
  linalg::Buffer<T> l;           // [count, d, d] lower
  linalg::Buffer<T> inv;         // [count, d] reciprocals of the diagonal of L
  linalg::Buffer<double> shift;  // [count, d]: added to the diagonal: ridge_t, damping_t, and the row's lift
};

struct LiftedRow {
  Index row = 0;
  double lift = 0.0;  // beyond the ridges that were asked for
};

template <class T>
struct RowFactors {
  std::vector<BucketFactor<T>> buckets;  // as system.buckets()
  std::vector<LiftedRow> lifted;         // ascending rows
  Index nbytes() const;
  double log_det() const;  // sum_i log|A_i|, bucket by bucket
  void pivots(double& smallest, double& largest) const;  // squared diagonals; NaN when there are none
};

// Factors every row; rows that the policy wants lifted get a ridge of their own (row_lift.cpp). On failure the factors
// are unusable and the report names the lowest failing row.
template <class T>
backend::RowReport factor_rows(const ArrowSystem&, const Partition&, const Ridges&, const backend::RowPolicy&,
                               RowFactors<T>& out);

// x_i <- L_i^-1 x_i, L_i^-T x_i or A_i^-1 x_i for the rows [row_begin, row_end) in the caller's order: x holds only those
// rows, [flat rows, m].
template <class T>
void solve_rows(const ArrowSystem&, const Partition&, const RowFactors<T>&, backend::Part part, Index row_begin,
                Index row_end, double* x, Index m);

// x_i <- L_i^-1 x_i, L_i^-T x_i or A_i^-1 x_i for blocks [first, first + count) of a bucket; x is [count * d, m].
template <class T>
void solve_blocks(backend::Part part, const BucketFactor<T>& f, Index first, Index count, T* x, Index m);

}  // namespace arrowschur::eliminate
