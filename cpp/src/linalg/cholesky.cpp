#include "linalg/cholesky.hpp"

#include <atomic>
#include <cmath>
#include <new>

#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/spin.hpp"

namespace arrowschur::linalg {
namespace {

constexpr Index kOuter = 4;  // tile columns per outer step

// The first bad pivot of a factored diagonal tile whose LAPACK status was 0: NaN and Inf pass LAPACK's comparison.
template <class T>
Index first_non_finite(Index n, const T* l, Index ld) {
  for (Index c = 0; c < n; ++c) {
    if (!(l[c * ld + c] > T(0)) || !std::isfinite(l[c * ld + c])) return c;
  }
  return -1;
}

template <class T>
std::optional<BadPivot> factor_tile(Index n, T* s, Index ld, Index first) {
  // A row-major lower triangle is a column-major upper one.
  const Index info = blas_table<T>().potrf('U', n, s, ld);
  if (info > 0) return BadPivot{first + info - 1};
  const Index bad = first_non_finite(n, s, ld);
  if (bad >= 0) return BadPivot{first + bad};
  return std::nullopt;
}

// Rows of L (row-major, leading dimension ld) become columns of packed panels.
template <class T>
void pack_rows(const T* l, Index ld, Index rows, Index cols, T* out, Index panel_stride) {
  constexpr Index kWidth = kPanel<T>;
  for (Index i0 = 0; i0 < rows; i0 += kWidth, out += panel_stride) {
    const Index live = std::min(kWidth, rows - i0);
    if (live < kWidth) std::fill(out, out + cols * kWidth, T(0));
    for (Index i = 0; i < live; i += 4) {
      const Index group = std::min<Index>(4, live - i);
      const T* row = l + (i0 + i) * ld;
      if (group == 4) {
        for (Index c = 0; c < cols; ++c) {
          T* p = out + c * kWidth + i;
          p[0] = row[c];
          p[1] = row[ld + c];
          p[2] = row[2 * ld + c];
          p[3] = row[3 * ld + c];
        }
      } else {
        for (Index g = 0; g < group; ++g) {
          for (Index c = 0; c < cols; ++c) out[c * kWidth + i + g] = row[g * ld + c];
        }
      }
    }
  }
}

template <class T>
void unpack_rows(const T* packed, Index panel_stride, Index rows, Index cols, T* l, Index ld) {
  constexpr Index kWidth = kPanel<T>;
  for (Index i0 = 0; i0 < rows; i0 += kWidth, packed += panel_stride) {
    const Index live = std::min(kWidth, rows - i0);
    for (Index c0 = 0; c0 < cols; c0 += 8) {  // 8 columns: whole cache lines on both sides
      const Index width = std::min<Index>(8, cols - c0);
      for (Index i = 0; i < live; ++i) {
        for (Index c = 0; c < width; ++c) l[(i0 + i) * ld + c0 + c] = packed[(c0 + c) * kWidth + i];
      }
    }
  }
}

template <class T>
struct Factorization {
  Index k, ld, tiles, outers;
  T* s;
  const KernelTable<T>& kernel = kernels().table<T>();
  Index panel_stride, buffer_size;
  Buffer<T> packed;                  // two outer steps, alternating
  Buffer<std::atomic<int>> flags;    // done[i, j] then level[i, j] of the lower tiles, then trail[outer]
  std::atomic<int> failed{0};
  std::atomic<Index> bad_pivot{-1};

  Factorization(Index size, T* matrix)
      : k(size),
        ld(padded_ld<T>(size)),
        tiles((size + kTile - 1) / kTile),
        outers((tiles + kOuter - 1) / kOuter),
        s(matrix) {
    panel_stride = kOuter * kTile * kPanel<T>;
    buffer_size = round_up(k, kPanel<T>) / kPanel<T> * panel_stride;
    packed = Buffer<T>(std::min<Index>(outers, 2) * buffer_size);
    const Index count = 2 * lower_tiles(tiles) + outers;
    flags = Buffer<std::atomic<int>>(count);
    for (Index i = 0; i < count; ++i) new (&flags[i]) std::atomic<int>(0);
  }

  static Index at(Index i, Index j) { return i * (i + 1) / 2 + j; }
  std::atomic<int>& done(Index i, Index j) { return flags[at(i, j)]; }
  std::atomic<int>& level(Index i, Index j) { return flags[lower_tiles(tiles) + at(i, j)]; }
  std::atomic<int>& trail(Index outer) { return flags[2 * lower_tiles(tiles) + outer]; }
  Index begin(Index tile) const { return tile * kTile; }
  Index end(Index tile) const { return std::min(k, (tile + 1) * kTile); }
  Index first_tile(Index outer) const { return outer * kOuter; }
  Index last_tile(Index outer) const { return std::min(tiles, (outer + 1) * kOuter); }
  Index trailing_tasks(Index outer) const { return lower_tiles(tiles - last_tile(outer)); }
  T* buffer(Index outer) { return packed.data() + (outer % 2) * buffer_size; }

  void update(Index outer, Index i, Index j, Index depth) {
    const PackedPanels<T> panels{buffer(outer), panel_stride};
    rank_update_tile<T>(kernel, panels, 0, depth, begin(i), round_up(end(i), kStrip), begin(j), end(j), T(-1), s, ld,
                        i == j);
  }

  // X L_jj' = A_ij on packed panels: X' is found kStrip rows at a time, each strip by one product with the rows
  // before it (the kernel of the updates, with the packed L_jj as its broadcast operand) and a small substitution.
  void solve_packed(Index outer, Index j, Index offset, Index rows, T* x) {
    const PackedPanels<T> panels{buffer(outer), panel_stride};
    const T* diagonal = s + begin(j) * ld + begin(j);
    for (Index i = 0; i < rows; i += kPanel<T>, x += panel_stride) {
      for (Index c = 0; c < kTile; c += kStrip) {
        T* strip = x + c * kPanel<T>;
        if (c > 0) kernel.rank_update(c, x, panels.at(offset, begin(j) + c), T(-1), strip, kPanel<T>);
        kernel.solve_strip(diagonal + c * ld + c, ld, strip);
      }
    }
  }

  // Tile (i, j) of the outer step that contains column j: becomes part of L and is packed for the updates.
  void panel(Index outer, Index i, Index j) {
    const Index j0 = first_tile(outer);
    if (outer >= 2 && !wait_for(trail(outer - 2), static_cast<int>(trailing_tasks(outer - 2)), failed)) return;
    if (!wait_for(level(i, j), static_cast<int>(outer), failed)) return;
    for (Index c = j0; c < j; ++c) {
      if (!wait_for(done(i, c), 1, failed) || !wait_for(done(j, c), 1, failed)) return;
    }
    if (j > j0) update(outer, i, j, begin(j) - begin(j0));

    T* tile = s + begin(i) * ld + begin(j);
    const Index rows = end(i) - begin(i), cols = end(j) - begin(j);
    if (i == j) {
      if (const auto bad = factor_tile(cols, tile, ld, begin(j))) {
        bad_pivot.store(bad->index, std::memory_order_relaxed);
        failed.store(1, std::memory_order_release);
        return;
      }
    }
    const Index offset = begin(j) - begin(j0);  // of this tile column inside the packed panels
    T* out = buffer(outer) + begin(i) / kPanel<T> * panel_stride + offset * kPanel<T>;
    pack_rows(tile, ld, rows, cols, out, panel_stride);
    if (i == j) {  // above the diagonal the triangle holds something else
      for (Index r = 0; r < rows; ++r) {
        T* p = out + r / kPanel<T> * panel_stride + r % kPanel<T>;
        for (Index c = r + 1; c < cols; ++c) p[c * kPanel<T>] = T(0);
      }
    } else {
      if (!wait_for(done(j, j), 1, failed)) return;
      solve_packed(outer, j, offset, rows, out);
      unpack_rows(out, panel_stride, rows, cols, tile, ld);
    }
    done(i, j).store(1, std::memory_order_release);
  }

  void trailing(Index outer, Index i, Index j) {
    const Index j0 = first_tile(outer), j1 = last_tile(outer);
    bool ready = wait_for(level(i, j), static_cast<int>(outer), failed);
    for (Index c = j0; ready && c < j1; ++c) ready = wait_for(done(i, c), 1, failed) && wait_for(done(j, c), 1, failed);
    if (!ready) return;
    update(outer, i, j, end(j1 - 1) - begin(j0));
    level(i, j).store(static_cast<int>(outer) + 1, std::memory_order_release);
    trail(outer).fetch_add(1, std::memory_order_acq_rel);
  }

  void run(Index task) {
    for (Index outer = 0;; ++outer) {
      const Index j0 = first_tile(outer), j1 = last_tile(outer);
      for (Index j = j0; j < j1; ++j) {  // panel tasks, column by column
        if (task < tiles - j) return panel(outer, j + task, j);
        task -= tiles - j;
      }
      for (Index j = j1; j < tiles; ++j) {  // trailing tasks, the next panel's columns first
        if (task < tiles - j) return trailing(outer, j + task, j);
        task -= tiles - j;
      }
    }
  }

  Index task_count() const {
    Index count = 0;
    for (Index outer = 0; outer < outers; ++outer) {
      for (Index j = first_tile(outer); j < last_tile(outer); ++j) count += tiles - j;
      count += trailing_tasks(outer);
    }
    return count;
  }
};

}  // namespace

template <class T>
std::optional<BadPivot> cholesky(Index k, T* s) {
  if (k <= 0) return std::nullopt;
  if (k <= kTile) return factor_tile(k, s, padded_ld<T>(k), Index{0});
  Factorization<T> f(k, s);
  parallel_for(f.task_count(), [&f](Index task) { f.run(task); });
  const Index bad = f.bad_pivot.load();
  if (bad >= 0) return BadPivot{bad};
  return std::nullopt;
}

template std::optional<BadPivot> cholesky<double>(Index, double*);
template std::optional<BadPivot> cholesky<float>(Index, float*);

}  // namespace arrowschur::linalg
