#include "linalg/cholesky.hpp"

#include <atomic>
#include <cmath>
#include <new>

#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/spin.hpp"

namespace arrowschur::linalg {
namespace {

constexpr Index kOuter = 4;  // tile columns per outer step

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
void unpack_rows(const T* packed, Index panel_stride, Index rows, Index cols, T* l, Index ld, bool lower_only) {
  constexpr Index kWidth = kPanel<T>;
  for (Index i0 = 0; i0 < rows; i0 += kWidth, packed += panel_stride) {
    const Index live = std::min(kWidth, rows - i0);
    for (Index c0 = 0; c0 < cols; c0 += 8) {  // 8 columns: whole cache lines on both sides
      for (Index i = 0; i < live; ++i) {
        const Index width = std::min<Index>(8, (lower_only ? std::min(cols, i0 + i + 1) : cols) - c0);
        for (Index c = 0; c < width; ++c) l[(i0 + i) * ld + c0 + c] = packed[(c0 + c) * kWidth + i];
      }
    }
  }
}

// Scalar Cholesky of the kStrip x kStrip block whose columns are the rows of `x` (a packed panel, from the block's first
// lane on); only `n` of them are real, the rest becomes the identity. Returns the first bad pivot, or -1.
template <class T>
Index factor_strip(const T* x, Index n, T* l) {
  for (Index i = 0; i < kStrip * kStrip; ++i) l[i] = T(0);
  for (Index c = 0; c < kStrip; ++c) {
    T pivot = c < n ? x[c * kPanel<T> + c] : T(1);
    for (Index q = 0; q < c; ++q) pivot -= l[c * kStrip + q] * l[c * kStrip + q];
    if (!(pivot > T(0)) || !std::isfinite(pivot)) return c;
    l[c * kStrip + c] = std::sqrt(pivot);
    for (Index i = c + 1; i < n; ++i) {
      T s = x[c * kPanel<T> + i];
      for (Index q = 0; q < c; ++q) s -= l[i * kStrip + q] * l[c * kStrip + q];
      l[i * kStrip + c] = s / l[c * kStrip + c];
    }
  }
  return -1;
}

// Left-looking Cholesky of a diagonal tile on packed panels (rows of the tile are lanes), a strip of columns at a time:
// one product with the columns before it, a scalar block, one substitution. Lanes above the diagonal hold anything.
template <class T>
std::optional<Index> factor_packed(const KernelTable<T>& kernel, Index n, T* packed, Index panel_stride) {
  const PackedPanels<T> panels{packed, panel_stride};
  for (Index c = 0; c < n; c += kStrip) {
    const Index width = std::min(kStrip, n - c);
    T l[kStrip * kStrip];
    for (Index i = c / kPanel<T> * kPanel<T>; i < n; i += kPanel<T>) {
      T* panel = packed + i / kPanel<T> * panel_stride;
      T* strip = panel + c * kPanel<T>;
      std::fill(strip + width * kPanel<T>, strip + kStrip * kPanel<T>, T(0));
      if (c > 0) kernel.rank_update(c, panel, panels.at(0, c), T(-1), strip, kPanel<T>);
      if (i <= c) {
        const Index bad = factor_strip(strip + c % kPanel<T>, width, l);
        if (bad >= 0) return c + bad;
      }
      kernel.solve_strip(l, kStrip, strip);
      if (i <= c) {  // the diagonal block itself, as factored
        for (Index q = 0; q < width; ++q) {
          for (Index r = q; r < width; ++r) strip[q * kPanel<T> + c % kPanel<T> + r] = l[r * kStrip + q];
        }
      }
    }
  }
  return std::nullopt;
}

template <class T>
std::optional<Index> factor_small(Index k, T* s) {
  const Index ld = padded_ld<T>(k), panel_stride = round_up(k, kStrip) * kPanel<T>;
  Buffer<T> packed(ld / kPanel<T> * panel_stride);
  pack_rows(s, ld, k, k, packed.data(), panel_stride);
  const auto bad = factor_packed(kernels().table<T>(), k, packed.data(), panel_stride);
  if (!bad) unpack_rows(packed.data(), panel_stride, k, k, s, ld, true);
  return bad;
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
    const Index offset = begin(j) - begin(j0);  // of this tile column inside the packed panels
    T* out = buffer(outer) + begin(i) / kPanel<T> * panel_stride + offset * kPanel<T>;
    pack_rows(tile, ld, rows, cols, out, panel_stride);
    if (i == j) {
      if (const auto bad = factor_packed(kernel, cols, out, panel_stride)) {
        bad_pivot.store(begin(j) + *bad, std::memory_order_relaxed);
        failed.store(1, std::memory_order_release);
        return;
      }
    } else {
      if (!wait_for(done(j, j), 1, failed)) return;
      solve_packed(outer, j, offset, rows, out);
    }
    unpack_rows(out, panel_stride, rows, cols, tile, ld, i == j);
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
  if (k <= kTile) {
    const auto bad = factor_small(k, s);
    return bad ? std::optional(BadPivot{*bad}) : std::nullopt;
  }
  Factorization<T> f(k, s);
  parallel_for(f.task_count(), [&f](Index task) { f.run(task); });
  const Index bad = f.bad_pivot.load();
  if (bad >= 0) return BadPivot{bad};
  return std::nullopt;
}

template std::optional<BadPivot> cholesky<double>(Index, double*);
template std::optional<BadPivot> cholesky<float>(Index, float*);

}  // namespace arrowschur::linalg
