#include "linalg/triangular.hpp"

#include <algorithm>
#include <atomic>
#include <new>

#include "linalg/blas.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/spin.hpp"

namespace arrowschur::linalg {
namespace {

constexpr Index kBlock = 128;        // unknowns per task
constexpr Index kSegment = 512;      // columns (rows) of finished unknowns taken at once: fixed, so are the bits
constexpr Index kParallelFrom = 768;  // smaller triangles fit one L2

struct Flags {
  Buffer<std::atomic<int>> ready;
  std::atomic<int> never{0};
  explicit Flags(Index blocks) : ready(blocks) {
    for (Index b = 0; b < blocks; ++b) new (&ready[b]) std::atomic<int>(0);
  }
  void wait(Index block) { wait_for(ready[block], 1, never); }
  void set(Index block) { ready[block].store(1, std::memory_order_release); }
};

}  // namespace

// Block b: x_b = L_bb^-1 (x_b - sum_{c < b} L_bc x_c), rows of L contiguous.
template <class T>
void solve_lower_vector(Index k, const T* l, double* x) {
  const Index ld = padded_ld<T>(k), blocks = (k + kBlock - 1) / kBlock;
  const auto& data = kernels().data<T>();
  Flags flags(blocks);
  parallel_for_if(k >= kParallelFrom, blocks, [&](Index block) {
    const Index begin = block * kBlock, end = std::min(k, begin + kBlock);
    double dot[kBlock];
    for (Index c = 0; c < begin; c += kSegment) {
      const Index stop = std::min(begin, c + kSegment);
      for (Index b = c / kBlock; b * kBlock < stop; ++b) flags.wait(b);
      data.rows_dot(end - begin, stop - c, l + begin * ld + c, ld, x + c, dot, nullptr);
      for (Index r = begin; r < end; ++r) x[r] -= dot[r - begin];
    }
    for (Index r = begin; r < end; ++r) {
      data.rows_dot(1, r - begin, l + r * ld + begin, ld, x + begin, dot, nullptr);
      x[r] = (x[r] - dot[0]) / static_cast<double>(l[r * ld + r]);
    }
    flags.set(block);
  });
}

// Block b from the last: x_b = L_bb^-T (x_b - sum_{c > b} L_cb' x_c).
template <class T>
void solve_upper_vector(Index k, const T* l, double* x) {
  const Index ld = padded_ld<T>(k), blocks = (k + kBlock - 1) / kBlock;
  const auto& data = kernels().data<T>();
  Flags flags(blocks);
  parallel_for_if(k >= kParallelFrom, blocks, [&](Index task) {
    const Index block = blocks - 1 - task;
    const Index begin = block * kBlock, end = std::min(k, begin + kBlock), width = end - begin;
    double sum[kBlock] = {};
    for (Index b = blocks - 1; b > block; --b) {
      flags.wait(b);
      const Index first = b * kBlock, last = std::min(k, first + kBlock);
      data.rows_axpy(last - first, width, l + first * ld + begin, ld, x + first, sum, nullptr);
    }
    for (Index c = 0; c < width; ++c) x[begin + c] -= sum[c];
    for (Index r = end - 1; r >= begin; --r) {
      x[r] /= static_cast<double>(l[r * ld + r]);
      const double minus = -x[r];
      data.rows_axpy(1, r - begin, l + r * ld + begin, ld, &minus, x + begin, nullptr);
    }
    flags.set(block);
  });
}

namespace {

constexpr Index kRows = kTile;       // unknowns per task
constexpr Index kFewColumns = 128;   // right-hand sides up to which the triangle is shared out, not the columns

// Few right-hand sides: block of unknowns by block, as for one vector, so that L is read once by all threads together.
// Row-major X [k, m] is column-major X' [m, k]; L X = B reads X' L' = B', L' being the column-major upper triangle.
template <class T>
void solve_blocks_of_unknowns(Index k, const T* l, T* x, Index m, bool lower) {
  const Index ld = padded_ld<T>(k), blocks = (k + kRows - 1) / kRows;
  const BlasTable<T>& blas = blas_table<T>();
  Flags flags(blocks);
  parallel_for_if(k * k * m >= kParallelWork, blocks, [&](Index task) {
    const Index block = lower ? task : blocks - 1 - task;
    const Index begin = block * kRows, end = std::min(k, begin + kRows), width = end - begin;
    if (lower) {
      for (Index b = 0; b < block; ++b) {
        flags.wait(b);
        blas.gemm('N', 'N', m, width, kRows, T(-1), x + b * kRows * m, m, l + begin * ld + b * kRows, ld, T(1),
                  x + begin * m, m);
      }
    } else {
      for (Index b = blocks - 1; b > block; --b) {
        flags.wait(b);
        const Index first = b * kRows, rows = std::min(k, first + kRows) - first;
        blas.gemm('N', 'T', m, width, rows, T(-1), x + first * m, m, l + first * ld + begin, ld, T(1), x + begin * m,
                  m);
      }
    }
    blas.trsm('R', 'U', lower ? 'N' : 'T', m, width, T(1), l + begin * ld + begin, ld, x + begin * m, m);
    flags.set(block);
  });
}

// Many right-hand sides: panels of columns go to the threads.
template <class T>
void solve_matrix(Index k, const T* l, T* x, Index m, bool lower) {
  if (k == 0 || m == 0) return;
  if (m <= kFewColumns) return solve_blocks_of_unknowns(k, l, x, m, lower);
  const Index ld = padded_ld<T>(k);
  const Index panels = (m + kFewColumns - 1) / kFewColumns, panel = round_up((m + panels - 1) / panels, kStrip);
  parallel_for_if(k * k * m >= kParallelWork, panels, [&](Index p) {
    const Index begin = p * panel, cols = std::min(panel, m - begin);
    if (cols > 0) blas_table<T>().trsm('R', 'U', lower ? 'N' : 'T', cols, k, T(1), l, ld, x + begin, m);
  });
}

}  // namespace

template <class T>
void solve_lower_matrix(Index k, const T* l, T* x, Index m) {
  solve_matrix(k, l, x, m, true);
}
template <class T>
void solve_upper_matrix(Index k, const T* l, T* x, Index m) {
  solve_matrix(k, l, x, m, false);
}

#define ARROWSCHUR_INSTANTIATE(T)                                  \
  template void solve_lower_vector<T>(Index, const T*, double*);   \
  template void solve_upper_vector<T>(Index, const T*, double*);   \
  template void solve_lower_matrix<T>(Index, const T*, T*, Index); \
  template void solve_upper_matrix<T>(Index, const T*, T*, Index);
ARROWSCHUR_INSTANTIATE(double)
ARROWSCHUR_INSTANTIATE(float)
#undef ARROWSCHUR_INSTANTIATE

}  // namespace arrowschur::linalg
