// The cross block B behind one interface, whatever its form (architecture: dense, block-sparse, gather-Kronecker,
// operator). Vectors are float64, row-major, in the caller's row order.
//
// All reductions over rows have an order fixed by the structure: the same bits for every number of threads.
#pragma once

#include <memory>
#include <vector>

#include "arrowschur/system.hpp"

namespace arrowschur::cross {

// Numbers that the form stores (T k, the blocks, J and the support weights; min(T, k) for an operator: unknown).
Index stored_entries(const ArrowSystem&);
// Columns of B that may be non-zero, summed over rows: sum_i d_i nnz_i (k for dense and operator rows).
Index structural_entries(const ArrowSystem&);
// Bytes of the values and the index arrays, without what callbacks hold.
Index nbytes(const ArrowSystem&) noexcept;
// True when B is best seen as a dense slab (dense, operator).
bool is_dense(const ArrowSystem&);

// y = B x for rows [row_begin, row_end): x [k, m], y [those flat rows, m], assigned. An operator is called for the
// whole batch, whatever the range.
void apply(const ArrowSystem&, Index row_begin, Index row_end, const double* x, double* y, Index m);
// x = B' y over all rows: y [T, m], x [k, m], assigned.
void transpose(const ArrowSystem&, const double* y, double* x, Index m);
// How transpose() sums one column over the rows of a block-sparse B: a partial of B_i' y_i for the rows groups[g] ..
// groups[g + 1], in their order, and the partials in theirs. Who has the rows in hand for another reason adds them to
// partials of his own, and gets the same bits.
std::vector<Index> transpose_groups(const ArrowSystem&);
void add_transposed(const ArrowSystem&, Index row_begin, Index row_end, const double* y, double* partial);
// The same for abs_sums(): row_abs has the flat rows of the range, assigned.
void add_abs_sums(const ArrowSystem&, Index row_begin, Index row_end, double* row_abs, double* partial);
// out [flat rows, ld] = dense B of the rows; columns 0 .. k. For an operator: min(rows, k) calls.
void materialize(const ArrowSystem&, Index row_begin, Index row_end, double* out, Index ld);
// row_abs [T] = sum_j |B[r, j]|, col_abs [k] = sum_r |B[r, j]|, both assigned. Returns true when they are only bounds
// (or, for a bare operator, zero: nothing is known without probing).
bool abs_sums(const ArrowSystem&, double* row_abs, double* col_abs);
// max |B|. Kronecker: exact too. An operator: an estimate of the size of its entries from one product, 0 only for B =
// 0.
double max_abs(const ArrowSystem&);
// sum_r B[r, j]^2 / m_j over the rows of block i and the columns with m_j > 0 (the coupling of a lifted row).
double coupling(const ArrowSystem&, Index row, const double* m_diagonal);
double row_norm_sq(const ArrowSystem&, Index row);  // |B_i|_F^2

// The border blocks that each row touches, ascending: rows [n + 1] into blocks. Forms without blocks of their own use
// system.border_blocks(), or when there are none single columns; the Kronecker form then the columns between places
// where a pair of any row begins or ends. Dense and operator rows touch every block: then `everything` is true and the
// lists are empty.
struct Support {
  std::vector<Index> offsets;  // [blocks + 1] column offsets of the blocks
  std::vector<Index> ptr, blocks;
  bool everything = false;
};
Support support(const ArrowSystem&);

// A system with the same parts whose cross block is a dense float64 or float32 slab (of the system's dtype) owned by
// it. An operator costs min(T, k) calls.
ArrowSystem densified(const ArrowSystem&);

// ---- derived data ---------------------------------------------------------------------------------------------------

// What ArrowSystem::make() works out once (ArrowSystem::cross_layout()).
struct Layout {
  // Block-sparse: first value of row i. Kronecker: first value of its matrices in j. [n + 1]; empty for other forms.
  std::vector<Index> first_value;
  Index stored = 0, structural = 0;  // as stored_entries() and structural_entries()
  Index width = 0;  // block-sparse: the one width of all blocks, 0 when they differ

  // Kronecker. A slot is one matrix J: row i has the slots slot_begin(i) .. slot_begin(i + 1). With z_s = sum phi
  // x[base ..] over the pairs of slot s, B_i x = sum over its slots J_s z_s. The pairs by base offset: target t is the
  // columns [target_base[t], target_base[t] + p), ascending and distinct, and gets the pairs target_pair[target_ptr[t]]
  // .. of the slots target_slot[..], ascending. Targets may overlap.
  Index slots = 0;
  std::vector<Index> target_base, target_ptr, target_pair, target_slot;
  Index stride = 0;  // target_base[t] = target_base[0] + t stride, stride >= p; 0: not evenly spaced
  bool dense_weights = false;  // evenly spaced, and the weights fill a slots x targets matrix well enough for GEMM

  std::shared_ptr<const Layout> supplement;  // of an operator
};

// ---- gather and scatter of the Kronecker form -----------------------------------------------------------------------
// For the staged products of 10.1: z = P x for the slots of rows [row_begin, row_end) and x = P' v for all slots,
// assigned, with x [k, m] and z, v [slots, p m].
Index slot_begin(const ArrowSystem&, Index row);
void gather(const ArrowSystem&, Index row_begin, Index row_end, const double* x, double* z, Index m);
void scatter(const ArrowSystem&, const double* v, double* x, Index m);

}  // namespace arrowschur::cross
