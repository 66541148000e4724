// The arrow system: non-owning views of its five parts.
//
//     H = [ A_1               B_1 ]     A_i = H_tt^(i)   (d_i x d_i, symmetric)      rows, i = 0..n-1
//         [      ...          ... ]     B_i = H_tb^(i)   (d_i x k)                   cross block, stacked T x k
//         [           A_n     B_n ]     M   = H_bb       (k x k, symmetric)          border
//         [ B_1' ...  B_n'    M   ]     g   = (g_t, g_beta)                          gradient, T + k
//
// with T = sum_i d_i. Ridges and dampings are not part of the system; they come with each solve (Ridges).
//
// Matrices are row-major. An ArrowSystem borrows the caller's buffers: they must outlive it and must not change while
// it is in use (or hand over `owner`, which is kept alive). Copies of an ArrowSystem are cheap and share everything.
// Thread safety: immutable after construction; may be used from any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

// ---- border -------------------------------------------------------------------------------------------------------
// Terms of the border block. Their buffers have the system's dtype. Only the lower triangle of dense data is read once
// the symmetry has been checked.
struct DenseBorder {
  const void* data = nullptr;  // [k, k]
};
struct DiagonalBorder {
  const void* data = nullptr;  // [k]
};
struct BandedBorder {  // lower form of scipy.linalg.solveh_banded: bands[j, i] = M[i + j, i]
  const void* bands = nullptr;  // [bandwidth + 1, k]; entries with i + j >= k are ignored
  Index bandwidth = 0;  // sub-diagonals
};
struct BlockDiagonalBorder {
  const void* data = nullptr;  // blocks one after another, each size x size
  std::vector<Index> sizes;  // sum = k
};
using BorderTerm = std::variant<DenseBorder, DiagonalBorder, BandedBorder, BlockDiagonalBorder>;

// Sum of its terms; no terms mean the zero matrix.
struct Border {
  Index k = 0;
  DType dtype = DType::float64;
  std::vector<BorderTerm> terms;
  std::shared_ptr<const void> owner;  // keeps the buffers alive; may be empty

  // y += P x for m vectors, both [k, m] row-major.
  void matvec_add(std::span<const double> x, std::span<double> y, Index m = 1) const;
  // out += diag(P), [k].
  void diagonal_add(std::span<double> out) const;
  // out += P as a full symmetric matrix, [k, k].
  void to_dense_add(std::span<double> out) const;
  // out += sum_j |P_ij| off the diagonal, [k]. Exact when at most one term has off-diagonal entries, else an upper
  // bound; returns true when it is a bound.
  bool off_diagonal_abs_sums_add(std::span<double> out) const;
};

// ---- rows ---------------------------------------------------------------------------------------------------------
// Rows of equal size, in ascending order of the row index: what a specialised kernel runs over.
struct RowBucket {
  Index d = 0;
  std::vector<Index> rows;  // row indices; empty means all rows 0..n-1 (uniform system)
  Index count = 0;
};

struct ValidationOptions {
  bool check_finite = true;
  Symmetry symmetry = Symmetry::check;
};

// What a caller hands over. Buffers are borrowed; `owner` is optional.
struct SystemParts {
  Index n = 0, k = 0;
  Index d = 0;  // row size when row_dims is empty
  std::vector<Index> row_dims;  // [n] for ragged rows
  DType dtype = DType::float64;
  const void* h_tt = nullptr;  // [n, d, d], or sum d_i^2 entries block after block
  const void* h_tb = nullptr;  // [T, k]
  Border border;  // h_bb
  const void* g_t = nullptr;  // [T]
  const void* g_beta = nullptr;  // [k]
  std::shared_ptr<const void> owner;  // keeps the buffers alive; may be empty
};

class ArrowSystem {
 public:
  // Validates sizes, finiteness and symmetry: one pass over the data, in parallel.
  // Throws InvalidArgument naming the part, and MemoryBudgetExceeded when T*k or k*k overflows.
  static ArrowSystem make(SystemParts parts, const ValidationOptions& = {});

  // The common case in one line: n rows of size d, float64, dense border [k, k].
  static ArrowSystem uniform(Index n, Index d, Index k, const double* h_tt, const double* h_tb, const double* h_bb,
                             const double* g_t, const double* g_beta, const ValidationOptions& = {});

  Index n() const noexcept { return d_->parts.n; }
  Index k() const noexcept { return d_->parts.k; }
  Index total_dim() const noexcept { return d_->total_dim; }  // T
  Index max_dim() const noexcept { return d_->max_dim; }
  DType dtype() const noexcept { return d_->parts.dtype; }
  bool is_uniform() const noexcept { return d_->parts.row_dims.empty(); }
  Index row_dim(Index i) const { return is_uniform() ? d_->parts.d : d_->parts.row_dims[static_cast<std::size_t>(i)]; }
  // First entry of row i in a flat T-vector, and of its block in h_tt.
  Index row_offset(Index i) const {
    return is_uniform() ? i * d_->parts.d : d_->row_offsets[static_cast<std::size_t>(i)];
  }
  Index block_offset(Index i) const {
    return is_uniform() ? i * d_->parts.d * d_->parts.d : d_->block_offsets[static_cast<std::size_t>(i)];
  }
  const std::vector<RowBucket>& buckets() const noexcept { return d_->buckets; }
  Index nbytes() const noexcept;  // bytes of the five parts

  const void* h_tt() const noexcept { return d_->parts.h_tt; }
  const void* h_tb() const noexcept { return d_->parts.h_tb; }
  const Border& border() const noexcept { return d_->parts.border; }
  const void* g_t() const noexcept { return g_t_; }
  const void* g_beta() const noexcept { return g_beta_; }
  const std::shared_ptr<const void>& gradient_owner() const noexcept { return gradient_owner_; }

  // Shares every block; new gradients of the system's dtype, checked for finiteness unless told otherwise.
  ArrowSystem with_gradient(const void* g_t, const void* g_beta, std::shared_ptr<const void> owner = {},
                            bool check_finite = true) const;

  // y = (H + ridges) x. Spans are [T] and [k]; x and y must not overlap. Cost: one pass over h_tb, one over h_bb.
  void apply(std::span<const double> x_t, std::span<const double> x_beta, std::span<double> y_t,
             std::span<double> y_beta, const Ridges& = {}) const;
  // The whole symmetric matrix, [T + k, T + k] row-major, and the gradient [T + k]. For small systems and tests.
  void to_dense(std::span<double> h, std::span<double> g) const;
  double gradient_norm() const;  // |g|_2
  double gradient_dot(std::span<const double> delta_t, std::span<const double> delta_beta) const;  // g'x

  // 64-bit content hash of everything but the gradients; computed on first use, then kept. A factor serves any
  // gradient.
  std::uint64_t fingerprint() const;

 private:
  struct Data {
    SystemParts parts;
    Index total_dim = 0, max_dim = 0;
    std::vector<Index> row_offsets, block_offsets;  // [n + 1] each, ragged only
    std::vector<RowBucket> buckets;
    std::vector<std::shared_ptr<const void>> copies;  // symmetrised parts (Symmetry::average)
    struct LazyFingerprint;
    std::shared_ptr<LazyFingerprint> fingerprint;
  };
  std::shared_ptr<const Data> d_;
  const void* g_t_ = nullptr;
  const void* g_beta_ = nullptr;
  std::shared_ptr<const void> gradient_owner_;
};

// ---- Gauss-Newton normal equations ----------------------------------------------------------------------------------
// Residual blocks b = 0..r-1 of q residuals each, with Jacobians J_t (q x d) and J_beta (q x k), belong to rows
// row_index[b] (empty: r = n and block b belongs to row b):
//     h_tt[i] += J_t' W J_t,   h_tb[i] += J_t' W J_beta,   h_bb += J_beta' W J_beta,
//     g_t[i] += J_t' W e,      g_beta += J_beta' W e
// W = diag(weights). Outputs are overwritten: h_tt [n,d,d], h_tb [n,d,k], h_bb [k,k] (both triangles), g_t [n,d],
// g_beta [k]. Cost: r q (d^2 + d k) + r q k^2 flops, the last as one symmetric rank-(r q) update.
struct JacobianParts {
  Index n = 0, d = 0, k = 0;  // rows
  Index r = 0, q = 0;  // residual blocks
  const double* j_t = nullptr;  // [r, q, d]
  const double* j_beta = nullptr;  // [r, q, k]
  const double* residual = nullptr;  // [r, q]
  const double* weights = nullptr;  // [r] or [r, q]; null: 1
  bool weights_per_residual = false;  // true: [r, q]
  const Index* row_index = nullptr;  // [r] or null
};
void normal_equations(const JacobianParts&, double* h_tt, double* h_tb, double* h_bb, double* g_t, double* g_beta);

}  // namespace arrowschur
