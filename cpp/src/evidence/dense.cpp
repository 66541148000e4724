#include "evidence/dense.hpp"

#include <algorithm>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::evidence {

using linalg::blas_table;
using linalg::kParallelWork;
using linalg::kTile;
using linalg::parallel_for_if;

namespace {
constexpr Index kStripe = 64;    // columns per task
constexpr Index kChunk = 16384;  // entries per task of a vector operation

constexpr Index pieces(Index size, Index piece) { return (size + piece - 1) / piece; }
}  // namespace

void transpose(Index rows, Index cols, const double* x, double* out, Index ldo, double scale) {
  // 8 x 8 blocks: eight cache lines in and eight out, which fit one set of L1 even where the leading dimensions are
  // powers of two.
  constexpr Index kEdge = 8;
  parallel_for_if(rows * cols >= kParallelWork, pieces(cols, kStripe), [&](Index task) {
    const Index stop = std::min(cols, (task + 1) * kStripe);
    for (Index r = 0; r < rows; r += kEdge) {
      for (Index c = task * kStripe; c < stop; c += kEdge) {
        const Index height = std::min(kEdge, rows - r), width = std::min(kEdge, stop - c);
        double block[kEdge * kEdge];
        for (Index i = 0; i < height; ++i) {
          for (Index j = 0; j < width; ++j) block[j * kEdge + i] = scale * x[(r + i) * cols + c + j];
        }
        for (Index j = 0; j < width; ++j) std::copy_n(block + j * kEdge, height, out + (c + j) * ldo + r);
      }
    }
  });
}

void add_column_squares(Index rows, Index cols, const double* x, double* out) {
  parallel_for_if(rows * cols >= kParallelWork, pieces(cols, kStripe), [&](Index task) {
    const Index begin = task * kStripe, width = std::min(kStripe, cols - begin);
    double sum[kStripe] = {};
    for (Index r = 0; r < rows; ++r) {
      const double* row = x + r * cols + begin;
      for (Index j = 0; j < width; ++j) sum[j] += row[j] * row[j];
    }
    for (Index j = 0; j < width; ++j) out[begin + j] += sum[j];
  });
}

void gram_lower(Index rows, Index cols, const double* x, Index ldx, double* out, bool add,
                std::span<const Index> first) {
  if (cols == 0) return;
  if (rows == 0) {
    if (!add) fill_zero(cols * cols, out);
    return;
  }
  const Index tiles = pieces(cols, kTile);
  std::vector<Index> zeros(static_cast<std::size_t>(tiles), 0);  // rows that are zero in all columns of a tile
  if (!first.empty()) {
    for (Index t = 0; t < tiles; ++t) {
      const auto part = first.subspan(static_cast<std::size_t>(t * kTile),
                                      static_cast<std::size_t>(std::min(kTile, cols - t * kTile)));
      zeros[static_cast<std::size_t>(t)] = *std::ranges::min_element(part);
    }
  }
  // Row-major C = X'X is column-major C' = X X' of the column-major view X [cols, rows].
  const auto gemm = blas_table<double>().gemm;
  const bool parallel = rows * cols >= kParallelWork / std::max<Index>(1, cols);
  parallel_for_if(parallel, linalg::lower_tiles(tiles), [&](Index task) {
    const auto [ti, tj] = linalg::lower_tile(task);
    const Index i = ti * kTile, j = tj * kTile;
    const Index begin = std::max(zeros[static_cast<std::size_t>(ti)], zeros[static_cast<std::size_t>(tj)]);
    gemm('N', 'T', std::min(kTile, cols - j), std::min(kTile, cols - i), rows - begin, 1.0, x + begin * ldx + j, ldx,
         x + begin * ldx + i, ldx, add ? 1.0 : 0.0, out + i * cols + j, cols);
  });
}

void mirror_lower(Index size, double* a) {
  constexpr Index kEdge = 32;
  const Index strips = pieces(size, kStripe);
  parallel_for_if(size * size >= kParallelWork, strips, [&](Index strip) {
    const Index begin = strip * kStripe, end = std::min(size, begin + kStripe);  // columns that are read
    for (Index i = begin; i < size; i += kEdge) {
      const Index i_end = std::min(size, i + kEdge);
      for (Index j = begin; j < end; ++j) {
        for (Index r = std::max(i, j + 1); r < i_end; ++r) a[j * size + r] = a[r * size + j];
      }
    }
  });
}

double dot(Index size, const double* x, const double* y) {
  constexpr Index kLanes = 8;
  const Index chunks = pieces(size, kChunk);
  std::vector<double> partial(static_cast<std::size_t>(chunks), 0.0);
  parallel_for_if(size >= kParallelWork, chunks, [&](Index chunk) {
    const Index end = std::min(size, (chunk + 1) * kChunk);
    double lane[kLanes] = {};
    Index i = chunk * kChunk;
    for (; i + kLanes <= end; i += kLanes) {
      for (Index l = 0; l < kLanes; ++l) lane[l] += x[i + l] * y[i + l];
    }
    for (Index l = 0; i < end; ++i, ++l) lane[l] += x[i] * y[i];
    double sum = 0.0;
    for (const double value : lane) sum += value;
    partial[static_cast<std::size_t>(chunk)] = sum;
  });
  double sum = 0.0;
  for (const double value : partial) sum += value;
  return sum;
}

void fill_zero(Index size, double* x) {
  parallel_for_if(size >= kParallelWork, pieces(size, kChunk),
                  [&](Index chunk) { std::fill(x + chunk * kChunk, x + std::min(size, (chunk + 1) * kChunk), 0.0); });
}

}  // namespace arrowschur::evidence
