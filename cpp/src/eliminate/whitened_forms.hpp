// The four forms of W (whitened.hpp), each in a file of its own, and what they share.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>

#include "eliminate/partition.hpp"
#include "eliminate/row_access.hpp"
#include "eliminate/whitened.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::eliminate {

std::unique_ptr<Whitened> whiten_dense(const ArrowSystem&, const RowFactors<double>&, WhitenedStorage);
std::unique_ptr<Whitened> whiten_block_sparse(const ArrowSystem&, const RowFactors<double>&, WhitenedStorage,
                                              TransposeAlong*);
std::unique_ptr<Whitened> whiten_kronecker(const ArrowSystem&, const RowFactors<double>&, WhitenedStorage);
std::unique_ptr<Whitened> whiten_operator(const ArrowSystem&, const RowFactors<double>&);
Index whitened_bytes_block_sparse(const ArrowSystem&, WhitenedStorage);
Index whitened_bytes_kronecker(const ArrowSystem&, WhitenedStorage);

constexpr Index bytes_of(WhitenedStorage storage) noexcept { return storage == WhitenedStorage::float64 ? 8 : 4; }

// y -= sum of groups partials [stride apart] in group order.
inline void subtract_partials(Index k, Index groups, Index stride, const double* partial, double* y) {
  constexpr Index kBlock = 512;
  linalg::parallel_for_if(groups * k >= linalg::kParallelWork, (k + kBlock - 1) / kBlock, [&](Index b) {
    const Index begin = b * kBlock, end = std::min(k, begin + kBlock);
    double sum[kBlock];
    std::copy(partial + begin, partial + end, sum);
    for (Index g = 1; g < groups; ++g) {
      const double* p = partial + g * stride + begin;
      for (Index j = 0; j < end - begin; ++j) sum[j] += p[j];
    }
    for (Index j = begin; j < end; ++j) y[j] -= sum[j - begin];
  });
}

// Writes `rows` rows of a row-major matrix (leading dimension ld, stored type In) as packed panels; column j of the
// packed matrix is column cols[j] of the other, or j itself when cols is null.
template <class In>
void pack_rows(Index rows, Index k, const In* from, Index ld, const Index* cols, double* packed, Index panel_stride) {
  constexpr Index kWidth = linalg::kPanel<double>;
  for (Index p = 0; p * kWidth < k; ++p) {
    const Index live = std::min(kWidth, k - p * kWidth);
    double* to = packed + p * panel_stride;
    for (Index r = 0; r < rows; ++r, to += kWidth) {
      const In* row = from + r * ld + (cols == nullptr ? p * kWidth : 0);
      if (cols == nullptr) {
        for (Index j = 0; j < live; ++j) to[j] = static_cast<double>(row[j]);
      } else {
        for (Index j = 0; j < live; ++j) to[j] = static_cast<double>(row[cols[p * kWidth + j]]);
      }
      for (Index j = live; j < kWidth; ++j) to[j] = 0.0;
    }
  }
}

// s[i, j] += alpha (W'W)[i, j] for j <= i, padded storage. pack(begin, end, packed, panel_stride) writes those rows of
// W as panels; it is called for ascending stretches of at most 64 rows, in parallel.
template <class F>
void gram_of_packed(Index rows, Index k, double alpha, double* s, Index ld, F&& pack) {
  constexpr Index kPackRows = 64;
  constexpr Index kBytes = Index{16} << 20;  // packed rows: half of a 32 MiB L3
  if (rows == 0 || k == 0) return;
  const Index width = linalg::padded_ld<double>(k);
  const Index capacity = std::min(std::clamp<Index>(kBytes / (width * 8) / linalg::kDepth, 1, 10) * linalg::kDepth,
                                  linalg::round_up(rows, linalg::kDepth));
  const Index stride = capacity * linalg::kPanel<double>;
  linalg::Buffer<double> packed(capacity * width);
  const auto& kernel = linalg::kernels().f64;
  const Index tiles = (k + linalg::kTile - 1) / linalg::kTile;
  const bool parallel = rows * k * std::min(k, Index{64}) >= linalg::kParallelWork * 16;
  for (Index begin = 0; begin < rows; begin += capacity) {
    const Index filled = std::min(capacity, rows - begin);
    linalg::parallel_for_if(parallel, (filled + kPackRows - 1) / kPackRows, [&](Index task) {
      const Index r0 = task * kPackRows, r1 = std::min(filled, r0 + kPackRows);
      pack(begin + r0, begin + r1, packed.data() + r0 * linalg::kPanel<double>, stride);
    });
    linalg::parallel_for_if(parallel, linalg::lower_tiles(tiles), [&](Index task) {
      const auto [i, j] = linalg::lower_tile(linalg::lower_tiles(tiles) - 1 - task);
      const Index i0 = i * linalg::kTile, i1 = std::min(k, i0 + linalg::kTile), j0 = j * linalg::kTile;
      linalg::rank_update_tile<double>(kernel, {packed.data(), stride}, 0, filled, i0,
                                       linalg::round_up(i1, linalg::kStrip), j0, std::min(k, j0 + linalg::kTile), alpha,
                                       s, ld, false);
    });
  }
}

// out [c, c] -= the symmetric matrix whose lower triangle is in `gram` (leading dimension ld).
inline void subtract_symmetric(Index c, const double* gram, Index ld, double* out) {
  for (Index i = 0; i < c; ++i) {
    for (Index j = 0; j <= i; ++j) {
      out[i * c + j] -= gram[i * ld + j];
      if (j < i) out[j * c + i] -= gram[i * ld + j];
    }
  }
}

// Products of a dense [rows, k] slab of W with everything that whitened.hpp asks for; the slab is borrowed.
template <class In>
class DenseProducts {
 public:
  DenseProducts(const In* w, Index rows, Index k) : w_(w), rows_(rows), k_(k) {}
  void apply(const double* x, double* y, Index m) const;
  void transpose(const double* y, double* x, Index m) const;
  void subtract_gram_apply(const double* x, double* y) const;
  void column_squares(double* out) const;
  void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const;
  void subtract_gram(double* s, Index ld) const;

 private:
  Index groups() const;

  const In* w_;
  Index rows_, k_;
};

// The rows of `out` [T, ld], which hold B, become those of W; columns 0 .. k.
void whiten_slab(const ArrowSystem&, const RowFactors<double>&, double* out, Index ld);

}  // namespace arrowschur::eliminate
