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
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/types.hpp"

namespace arrowschur {

namespace cross {
struct Layout;
struct Pattern;
}  // namespace cross

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
// Block-diagonal of S_j (x) I_p: index mu p + c inside a block. Factors one after another, each size x size.
struct KroneckerBorder {
  const void* factors = nullptr;
  std::vector<Index> sizes;  // p * sum = k
  Index p = 1;
};
// A (x) B at columns [offset, offset + pa pb): index offset + i_a pb + i_b. Applied as two small products.
struct KroneckerProductBorder {
  const void* a = nullptr;  // [pa, pa]
  const void* b = nullptr;  // [pb, pb]
  Index pa = 0, pb = 0, offset = 0;
};
// A (x) I_p, A symmetric and given by blocks in left-factor coordinates; repeated blocks add. Only blocks with equal
// offsets touch the diagonal, and they are square and symmetric. What is given is A, entry by entry: both halves, or with
// `mirror` one of them, each block off the diagonal then standing for its transpose too. Without `mirror` the blocks
// above the diagonal are checked against the others by ArrowSystem::make() and not read.
struct SparseBlockKroneckerBorder {
  struct Block {
    Index row = 0, col = 0, rows = 0, cols = 0;  // offsets and size in left-factor coordinates
    Index data = 0;                              // first entry in `values`, row-major
  };
  std::vector<Block> blocks;
  const void* values = nullptr;
  Index entries = 0;  // of `values`
  Index p = 1;        // left dimension = k / p
  bool mirror = false;
  // Set by ArrowSystem::make(): > 0 when the blocks are in ascending order of max(row, col), none of them taller.
  Index tallest = 0;
};
// Groups a with basis size m_a and width r_a, offset_a = sum of m_b r_b before it, index offset_a + l r_a + c. Block
// (a, b) adds G_ab (x) (U_a' U_b); frame U_a is p x r_a, and a missing frame stands for I_p (r_a = p).
struct FramedKroneckerBorder {
  struct Group {
    Index basis = 0, width = 0;
    const void* frame = nullptr;  // [p, width] or null
  };
  struct Block {
    Index a = 0, b = 0;
    Index data = 0;  // first entry of G_ab [basis_a, basis_b] in `values`
  };
  std::vector<Group> groups;
  std::vector<Block> blocks;  // as in SparseBlockKroneckerBorder: both halves, or one with `mirror`
  const void* values = nullptr;
  Index entries = 0, p = 1;
  bool mirror = false;
  // W_ab = U_a' U_b [width_a, width_b] of block e at (*grams)[gram_at[e]], where both frames are given. Filled by
  // ArrowSystem::make() when products through W_ab are cheaper than through the frames.
  std::shared_ptr<const std::vector<double>> grams = nullptr;
  std::vector<Index> gram_at = {};
};
// The caller's product and its diagonal. Called from one thread at a time unless thread_safe (a lock sees to it: a
// callback that needs another lock, as Python's, must not be waited for with that lock held). Without a tag its content
// is unknown: identity stands for it, and no cache is shared.
struct OperatorBorder {
  std::function<void(std::span<const double> x, std::span<double> y)> matvec;  // y = P x, both [k]
  std::vector<double> diagonal;                                               // [k]
  std::optional<std::uint64_t> tag;
  bool thread_safe = false;
  std::shared_ptr<std::recursive_mutex> lock = std::make_shared<std::recursive_mutex>();  // one for all copies
};
using BorderTerm =
    std::variant<DenseBorder, DiagonalBorder, BandedBorder, BlockDiagonalBorder, KroneckerBorder,
                 KroneckerProductBorder, SparseBlockKroneckerBorder, FramedKroneckerBorder, OperatorBorder>;

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

// ---- cross block ---------------------------------------------------------------------------------------------------
// B, stacked T x k, in one of four forms. Buffers of values have the system's dtype.
struct DenseCross {
  const void* data = nullptr;  // [T, k]
};
// CSR of d_i x b_j blocks: row i has the entries indptr[i] .. indptr[i + 1]; entry e covers the columns of border block
// block_index[e], block_offsets[b] .. block_offsets[b + 1]. Values are the blocks one after another, row-major. Repeated
// blocks of a row add. In a system (after make) the entries of a row are distinct and ascending.
struct BlockSparseCross {
  const Index* indptr = nullptr;       // [n + 1]
  const Index* block_index = nullptr;  // [indptr[n]]
  const void* values = nullptr;
  std::vector<Index> block_offsets;  // [blocks + 1], 0 .. k
  // Of normal_equations(): what systems of one pattern share. Not to be copied onto other index arrays.
  std::shared_ptr<const cross::Pattern> pattern = nullptr;
};
// Gather-Kronecker rows B_i = sum over pairs s of row i:  phi_s J at columns [base_s, base_s + p), J d_i x p. One J per
// row (j_ptr null: j is [T, p]), or several: row i owns the matrices j_ptr[i] .. j_ptr[i + 1], d_i x p each, one after
// another in j, and pair s uses number support_j[s] of its row. Pairs of one row address disjoint columns; equal bases
// with the same J are merged by make(), anything else that overlaps is InvalidArgument.
struct KroneckerCross {
  const void* j = nullptr;
  const Index* support_base = nullptr;  // [support_ptr[n]]
  const void* support_phi = nullptr;
  const Index* support_ptr = nullptr;  // [n + 1]
  Index p = 0;
  const Index* j_ptr = nullptr;      // [n + 1] or null
  const Index* support_j = nullptr;  // with j_ptr
};
// Callbacks for the whole batch, the last resort: forward y = B x ([k] -> [T]), transpose x = B' y ([T] -> [k]); both
// assign. Called from one thread at a time unless thread_safe (a lock as of OperatorBorder). B is the operator plus the
// supplement, everywhere.
struct OperatorCross {
  std::function<void(std::span<const double> x, std::span<double> y)> forward, transpose;
  std::optional<std::uint64_t> tag;  // content hash; none: identity
  bool thread_safe = false;
  std::variant<std::monostate, DenseCross, BlockSparseCross> supplement;
  std::shared_ptr<std::recursive_mutex> lock = std::make_shared<std::recursive_mutex>();  // one for all copies
};
using Cross = std::variant<DenseCross, BlockSparseCross, KroneckerCross, OperatorCross>;

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
  // Recognise structure in what is handed over dense: a diagonal, banded or block-diagonal border, a cross block with
  // many exact zeros. What was recognised is used (in a compact copy) and named by ArrowSystem::detected().
  bool detect_structure = true;
};

// What a caller hands over. Buffers are borrowed; `owner` is optional.
struct SystemParts {
  Index n = 0, k = 0;
  Index d = 0;  // row size when row_dims is empty
  std::vector<Index> row_dims;  // [n] for ragged rows
  DType dtype = DType::float64;
  const void* h_tt = nullptr;  // [n, d, d], or sum d_i^2 entries block after block
  const void* h_tb = nullptr;  // [T, k]: shorthand for cross = DenseCross{h_tb}
  Cross cross;                 // used when h_tb is null
  // Columns that belong together (a camera, an atom): offsets [blocks + 1], 0 .. k. Empty: none; a block-sparse cross
  // block brings its own.
  std::vector<Index> border_blocks;
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
  const Cross& cross() const noexcept { return d_->parts.cross; }
  // The dense cross block [T, k], null for the other forms.
  const void* h_tb() const noexcept {
    const auto* dense = std::get_if<DenseCross>(&d_->parts.cross);
    return dense == nullptr ? nullptr : dense->data;
  }
  const cross::Layout& cross_layout() const noexcept { return *d_->cross_layout; }  // derived data of the library's own
  // Offsets [blocks + 1] of the border blocks; empty when there are none.
  std::span<const Index> border_blocks() const noexcept { return d_->parts.border_blocks; }
  // What detect_structure recognised, one line each ("h_bb: banded, 1 sub-diagonal").
  const std::vector<std::string>& detected() const noexcept { return d_->detected; }
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
    std::vector<std::shared_ptr<const void>> copies;  // symmetrised, merged or compacted parts
    std::vector<std::string> detected;
    std::shared_ptr<const cross::Layout> cross_layout;
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

struct JacobianPattern;  // see jacobian_pattern()

// The same when each residual block touches few border blocks: j_beta is CSR over the residual blocks (indptr [r + 1], blocks
// of q x b_j, one after another; JacobianParts::j_beta stays null). Cost: r q (d^2 + d b + b^2) flops with b the border
// columns that a residual block touches; nothing of size n d k or k^2 is formed.
struct SparseNormalEquations {
  Index n = 0, d = 0, k = 0;
  const double* h_tt = nullptr;  // [n, d, d]
  const double* g_t = nullptr;  // [n, d]
  const double* g_beta = nullptr;  // [k]
  BlockSparseCross cross;  // of each row the union of the blocks that its residual blocks touch, ascending
  Index cross_values = 0;  // numbers that it stores
  // One block-diagonal term when no residual block touches two border blocks, else one SparseBlockKroneckerBorder with
  // p = 1 and mirror (lower blocks).
  Border border;
  std::shared_ptr<const JacobianPattern> pattern;  // for the next linearization
  std::shared_ptr<const void> owner;  // of all buffers
  SystemParts parts() const;
};
// The result is finite and exactly symmetric: ArrowSystem::make need not check it again (ValidationOptions).
SparseNormalEquations normal_equations(const JacobianParts&, const BlockSparseCross& j_beta);

// What the indices of the residual blocks decide, for a problem that is linearized again and again: the residual blocks
// of each row, the pattern of the cross block and of the border, where each Jacobian goes, and what solvers derive from
// these. Immutable; threads may share it.
//
// Reads the sizes and row_index of the parts, and of j_beta everything but its values; keeps copies. O(r + entries of
// j_beta). Errors: those of normal_equations().
std::shared_ptr<const JacobianPattern> jacobian_pattern(const JacobianParts&, const BlockSparseCross& j_beta);
Index jacobian_values(const JacobianPattern&) noexcept;  // numbers of its j_beta
// The normal equations on a pattern: JacobianParts::j_beta points to the values of its j_beta, row_index is not read, the
// sizes are those of the pattern. The systems share their index arrays, and their cross blocks the pattern.
SparseNormalEquations normal_equations(const std::shared_ptr<const JacobianPattern>&, const JacobianParts&);

}  // namespace arrowschur
