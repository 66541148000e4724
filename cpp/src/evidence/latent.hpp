// Rows of the inverse. With A_i = L_i L_i', S^-1 = G G', V_i = L_i^-1 and Z_i = G' (A_i^-1 B_i)' (root_rows x d_i):
//
//     (H^-1)_ii = A_i^-1 + A_i^-1 B_i S^-1 B_i' A_i^-1 = V_i' V_i + Z_i' Z_i
//     (H^-1)_ib = -A_i^-1 B_i S^-1                     = -(G Z_i)'
//
// Sums of squares: nothing cancels, and the result is positive semi-definite. Rows are taken in batches, so that G' is
// applied to several hundred columns at a time (one triangular solve with many right-hand sides, T k^2 flops in all)
// and scratch does not grow with n.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::evidence {

// Entries of Z of a batch (32 MiB): 768 flat rows at k = 5120, 4096 at k <= 1024.
inline constexpr Index kBatchEntries = Index{4} * 1024 * 1024;
inline constexpr Index kBatchRowsMin = 256;
inline constexpr Index kBatchRowsMax = 4096;

// Right-hand sides of a batch for k unknowns, a multiple of 128 (the widest panel of a triangular solve).
Index batch_columns(Index k) noexcept;

// The rows that were asked for: all, or a list in any order.
class RowList {
 public:
  RowList(const ArrowSystem& system, std::span<const Index> rows) : system_(system), rows_(rows) {}
  Index count() const noexcept { return rows_.empty() ? system_.n() : static_cast<Index>(rows_.size()); }
  Index row(Index position) const { return rows_.empty() ? position : rows_[static_cast<std::size_t>(position)]; }
  Index dim(Index position) const { return system_.row_dim(row(position)); }

 private:
  const ArrowSystem& system_;
  std::span<const Index> rows_;
};

// Positions [begin, end) of a list; `flat` scalar rows, none of a block larger than max_dim.
struct RowBatch {
  Index begin = 0, end = 0, flat = 0, max_dim = 0;
};

// Consecutive rows [row_begin, row_end): what one task whitens while they are in its cache.
struct RowPiece {
  Index row_begin = 0, row_end = 0;
  Index first = 0, flat = 0;  // scalar rows: the first inside the batch, and how many
};

class LatentBatches {
 public:
  LatentBatches(const backend::Frame&, RowList);

  // Moves to the next batch; false at the end. Polls for interrupts.
  bool next();
  const RowBatch& batch() const noexcept { return batch_; }

  void solve_z();  // Z of the batch, [root_rows, flat]
  // out [flat]: diagonal of (H^-1)_tt; out [sum d_i^2]: its blocks, exactly symmetric. After solve_z().
  void diagonal(double* out);
  void blocks(double* out);
  // out [flat, k]: scale * A^-1 B S^-1. After solve_z(), which it overwrites.
  void cross(double* out, double scale);

 private:
  void solve_v();  // V_i of each row of the batch in the first d_i columns of v_ [flat, max_dim]

  const backend::Frame& frame_;
  RowList rows_;
  Index k_ = 0, root_rows_ = 0;
  RowBatch batch_;
  std::vector<RowPiece> pieces_;
  linalg::Buffer<double> x_, z_, v_;  // x_: right-hand sides of a root that cannot work in place
};

// Trace of all blocks, one after another.
double trace_of_blocks(const ArrowSystem&, std::span<const double> blocks);

}  // namespace arrowschur::evidence
