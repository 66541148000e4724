// The whitened cross block W = L^-1 B (T x k, A_i = L_i L_i'), kept in the form of the cross block, and the products
// with it that every border solver is made of: S = M - W'W.
//
//   form          stored                                         products cost
//   dense         W [T, k] in float64 or float32                 2 T k
//   block-sparse  W_i per block, the pattern of B                2 nnz
//   Kronecker     L_i^-1 J per row (n d p), the gather lists     staged: gather, d x p, d x p, scatter
//   operator      nothing: B by calls, L by solves               one forward and one transpose call
//
// Vectors are float64, row-major, in the caller's row order. Reductions over rows have an order fixed by the structure.
// Thread safety: const members may be called from several threads.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "arrowschur/system.hpp"
#include "eliminate/block_index.hpp"
#include "eliminate/row_factor.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::eliminate {

enum class WhitenedStorage { float64, float32 };

// Sets of border columns, each ascending: set s has cols[ptr[s]] .. cols[ptr[s + 1]].
struct ColumnSets {
  std::vector<Index> ptr{0}, cols;
  Index count() const { return static_cast<Index>(ptr.size()) - 1; }
  std::span<const Index> set(Index s) const {
    const auto begin = static_cast<std::size_t>(ptr[static_cast<std::size_t>(s)]);
    return std::span(cols).subspan(begin, static_cast<std::size_t>(ptr[static_cast<std::size_t>(s) + 1]) - begin);
  }
};

class BlockSparseWhitened;

class Whitened {
 public:
  virtual ~Whitened() = default;
  Index rows() const noexcept { return rows_; }  // T
  Index cols() const noexcept { return cols_; }  // k

  virtual void apply(const double* x, double* y, Index m) const = 0;  // y [T, m] = W x
  virtual void transpose(const double* y, double* x, Index m) const = 0;  // x [k, m] = W' y
  // y -= W'(W x), one vector; W is read once.
  virtual void subtract_gram_apply(const double* x, double* y) const = 0;
  // out[j] = sum_r W[r, j]^2, [k]
  virtual void column_squares(double* out) const = 0;
  // Full symmetric sub-blocks: out[s] [c_s, c_s] -= (W'W)[cols_s, cols_s] for all sets in one pass. Sets may overlap.
  virtual void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const = 0;
  // Lower triangle of padded storage (linalg/rank_update.hpp): s[i, j] -= (W'W)[i, j], j <= i.
  virtual void subtract_gram(double* s, Index ld) const = 0;
  // Dense copy [T, ld].
  virtual void to_dense(double* out, Index ld) const = 0;
  virtual Index nbytes() const = 0;
  virtual const char* form() const noexcept = 0;  // "dense", "block_sparse", "kronecker", "operator"
  virtual const BlockSparseWhitened* block_sparse() const noexcept { return nullptr; }
  // The stored slab of the dense form, [T, k] with leading dimension k, in its storage type; null otherwise.
  virtual const double* dense64() const noexcept { return nullptr; }
  virtual const float* dense32() const noexcept { return nullptr; }
  // False for an operator that is not probed (arrow_schur 10.4: min(T, k) > 64): then column_squares is zero and
  // subtract_gram_blocks subtracts nothing, and M alone stands for S.
  virtual bool knows_gram() const noexcept { return true; }

 protected:
  Whitened(Index rows, Index cols) : rows_(rows), cols_(cols) {}
  Index rows_, cols_;
};

// The block-sparse form is open to those who work on its pattern (sparse Schur complement, incomplete Cholesky,
// selected inverse). Entry e of row i (indptr[i] <= e < indptr[i + 1], ascending distinct blocks) is the d_i x b block
// W_ie, row-major, at values + value_ptr[e], of border block block_index[e].
class BlockSparseWhitened : public Whitened {
 public:
  const BlockSparseWhitened* block_sparse() const noexcept override { return this; }
  const char* form() const noexcept override { return "block_sparse"; }
  std::span<const Index> indptr() const noexcept { return indptr_; }
  std::span<const Index> block_index() const noexcept { return block_index_; }
  std::span<const Index> value_ptr() const noexcept { return view(index_->value_ptr); }  // [entries + 1]
  std::span<const Index> offsets() const noexcept { return offsets_; }  // columns of the border blocks
  const double* values() const noexcept { return values_.data(); }  // null when stored in float32
  const float* values32() const noexcept { return values32_.data(); }  // null when stored in float64
  // The same pattern by border block: entries of block b are by_block[block_ptr[b]] .. , ascending rows; row_of[e].
  std::span<const Index> block_ptr() const noexcept { return view(index_->block_ptr); }
  std::span<const Index> by_block() const noexcept { return view(index_->by_block); }
  std::span<const Index> row_of() const noexcept { return view(index_->row_of); }

 protected:
  BlockSparseWhitened(Index rows, Index cols, std::shared_ptr<const BlockIndex> index)
      : Whitened(rows, cols), index_(std::move(index)) {}
  static std::span<const Index> view(const linalg::Buffer<Index>& b) noexcept {
    return {b.data(), static_cast<std::size_t>(b.size())};
  }
  std::span<const Index> indptr_, block_index_, offsets_;
  std::shared_ptr<const BlockIndex> index_;
  linalg::Buffer<double> values_;
  linalg::Buffer<float> values32_;
};

// B'y, for who has it made while B is read for W: the bits of cross::transpose().
struct TransposeAlong {
  const double* y = nullptr;  // [T]
  double* out = nullptr;  // [k]
  bool done = false;
};
// W from the row factors, in the form of the system's cross block. `rows` and `system` must outlive the result. The
// block-sparse form takes `along` along.
std::unique_ptr<Whitened> whiten(const ArrowSystem& system, const RowFactors<double>& rows,
                                 WhitenedStorage storage = WhitenedStorage::float64, TransposeAlong* along = nullptr);
// Bytes that whiten() will hold, for the plan.
Index whitened_bytes(const ArrowSystem& system, WhitenedStorage storage);

}  // namespace arrowschur::eliminate
