#include "eliminate/reduce.hpp"

#include <algorithm>

#include "border/assemble.hpp"
#include "eliminate/row_access.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;
using linalg::kPanel;
using linalg::kTile;
using linalg::round_up;

constexpr Index kBlocks = 64;                    // row blocks per kernel call
constexpr Index kThinBytes = Index{256} << 10;   // packed chunk of a thin border: a quarter of a 1 MiB L2
constexpr Index kWideBytes = Index{16} << 20;    // packed super-chunk of a wide border: half of a 32 MiB L3

template <class T>
Index thin_capacity(Index k, Index max_dim) {
  const Index rows = kThinBytes / (std::max<Index>(linalg::padded_ld<T>(k), 1) * static_cast<Index>(sizeof(T)));
  return std::max(std::clamp<Index>(rows, 16, 512), max_dim);
}
template <class T>
Index wide_capacity(Index k, Index total_dim, Index largest_group) {
  const Index rows = kWideBytes / (std::max<Index>(linalg::padded_ld<T>(k), 1) * static_cast<Index>(sizeof(T)));
  return std::max(std::min(std::clamp<Index>(rows, 256, 2048), total_dim), largest_group);
}

// Blocks per whitening call of a run: bounded so that converted rows stay in L2 and capacity is kept.
Index step_of(Index d, Index capacity) {
  return d > linalg::kMaxSmall ? 1 : std::max<Index>(1, std::min(kBlocks, capacity / d));
}

// Whitens the columns [col_begin, col_end) of a run of rows: packs W at `packed` (may be null), r += W'u.
template <class T>
void whiten_run(const RowRun& run, const BucketFactor<T>& f, const double* w_t, Index col_begin, Index col_end,
                T* packed, Index panel_stride, T* r, Buffer<T>& converted) {
  const ArrowSystem& s = *run.system;
  const Index d = f.d, k = s.k(), rows = run.rows(), width = col_end - col_begin;
  const bool large = d > linalg::kMaxSmall;
  const bool in_place = !large && (s.dtype() == DType::float64) == (sizeof(T) == sizeof(double));

  Buffer<T> u(rows);
  run.gather(w_t, u.data());
  solve_blocks(backend::Part::lower, f, run.first, run.count, u.data(), 1);

  linalg::WhitenArgs<T> args;
  Index first[kBlocks];
  args.d = d;
  args.count = run.count;
  args.first = first;
  args.l = f.l.data() + run.first * d * d;
  args.inv = f.inv.data() + run.first * d;
  args.u = u.data();
  args.col_begin = col_begin;
  args.col_end = col_end;
  args.packed = packed;
  args.panel_stride = panel_stride;
  args.r = r;
  if (in_place) {
    args.b = static_cast<const T*>(s.h_tb());
    args.ldb = k;
    for (Index i = 0; i < run.count; ++i) first[i] = run.offset(i);
    linalg::kernels().table<T>().whiten(args, false);
    return;
  }
  // Another stored type, or a block for BLAS: the columns go through a dense copy. The kernel indexes columns from 0
  // of h_tb.
  if (converted.size() < rows * width) converted = Buffer<T>(rows * width);
  with_storage(s.dtype(), s.h_tb(), [&](const auto* data) {
    for (Index i = 0; i < run.count; ++i) {
      for (Index q = 0; q < d; ++q) {
        const auto* from = data + (run.offset(i) + q) * k + col_begin;
        T* to = converted.data() + (i * d + q) * width;
        for (Index j = 0; j < width; ++j) to[j] = static_cast<T>(from[j]);
      }
    }
  });
  args.b = converted.data() - col_begin;
  args.ldb = width;
  if (large) {
    // Whitened by BLAS; the kernel then packs the rows as blocks of size one with factor 1.
    solve_blocks(backend::Part::lower, f, run.first, 1, converted.data(), width);
    Buffer<T> ones(d);
    std::fill(ones.begin(), ones.end(), T(1));
    args.d = 1;
    args.l = ones.data();
    args.inv = ones.data();
    for (Index q = 0; q < d; q += kBlocks) {
      args.count = std::min(kBlocks, d - q);
      args.u = u.data() + q;
      args.packed = packed == nullptr ? nullptr : packed + q * kPanel<T>;
      for (Index i = 0; i < args.count; ++i) first[i] = q + i;
      linalg::kernels().table<T>().whiten(args, false);
    }
    return;
  }
  for (Index i = 0; i < run.count; ++i) first[i] = i * d;
  linalg::kernels().table<T>().whiten(args, false);
}

template <class T>
const BucketFactor<T>& factor_of(const RowFactors<T>& rows, const Group& g) {
  return rows.buckets[static_cast<std::size_t>(g.bucket)];
}

// One group: chunks of rows that fit L2 are whitened and added to this group's partial of S (null: right-hand side
// only).
template <class T>
void thin_group(const ArrowSystem& s, const Group& g, const RowFactors<T>& rows, const double* w_t, T* partial_s,
                T* r) {
  const Index k = s.k(), ld = linalg::padded_ld<T>(k), d = factor_of(rows, g).d;
  const Index capacity = thin_capacity<T>(k, s.max_dim());
  const RowRun run = Partition::run(s, g);
  const auto& kernel = linalg::kernels().table<T>();
  Buffer<T> packed(partial_s == nullptr ? 0 : capacity * ld), converted;
  const Index stride = capacity * kPanel<T>;
  const Index step = step_of(d, capacity);
  for (Index i = 0; i < run.count;) {
    Index filled = 0;
    while (i < run.count && filled + std::min(step, run.count - i) * d <= capacity) {
      const RowRun part{&s, run.bucket, run.first + i, std::min(step, run.count - i)};
      T* out = partial_s == nullptr ? nullptr : packed.data() + filled * kPanel<T>;
      whiten_run(part, factor_of(rows, g), w_t, 0, k, out, stride, r, converted);
      filled += part.rows();
      i += part.count;
      if (partial_s == nullptr) filled = 0;
    }
    if (partial_s == nullptr) continue;
    for (Index it = 0; it < k; it += kTile) {
      for (Index jt = 0; jt <= it; jt += kTile) {
        linalg::rank_update_tile<T>(kernel, {packed.data(), stride}, 0, filled, it,
                                    round_up(std::min(k, it + kTile), linalg::kStrip), jt, std::min(k, jt + kTile),
                                    T(-1), partial_s, ld, false);
      }
    }
  }
}

template <class T>
void reduce_thin(const ArrowSystem& s, const Partition& p, const RowFactors<T>& rows, const double* w_t, T* out,
                 double* wu) {
  const Index k = s.k(), ld = linalg::padded_ld<T>(k), size = linalg::padded_size<T>(k);
  const auto groups = static_cast<Index>(p.groups.size());
  const Index stride = round_up(k, kPanel<T>);
  Buffer<T> partial_r(std::max<Index>(groups, 1) * stride), partial_s(std::max<Index>(groups - 1, 0) * size);
  if (out != nullptr) border::assemble_tile(s.border(), 0, k, 0, k, out, ld);
  linalg::parallel_for_if(p.parallel, groups, [&](Index g) {
    T* r = partial_r.data() + g * stride;
    std::fill(r, r + stride, T(0));
    T* target = out;  // the first group adds to the border itself
    if (out != nullptr && g > 0) {
      target = partial_s.data() + (g - 1) * size;
      std::fill(target, target + size, T(0));
    }
    thin_group(s, p.groups[static_cast<std::size_t>(g)], rows, w_t, target, r);
  });
  if (out != nullptr && groups > 1) {
    const Index block = 16;
    linalg::parallel_for_if(groups * k * k >= 2 * linalg::kParallelWork, (k + block - 1) / block, [&](Index b) {
      for (Index i = b * block; i < std::min(k, (b + 1) * block); ++i) {
        for (Index g = 0; g + 1 < groups; ++g) {
          const T* from = partial_s.data() + g * size + i * ld;
          T* to = out + i * ld;
          for (Index j = 0; j <= i; ++j) to[j] += from[j];
        }
      }
    });
  }
  linalg::sum_partials(k, groups, stride, partial_r.data(), wu);
}

template <class T>
void reduce_wide(const ArrowSystem& s, const Partition& p, const RowFactors<T>& rows, const double* w_t, T* out,
                 double* wu) {
  const Index k = s.k(), ld = linalg::padded_ld<T>(k);
  const auto groups = static_cast<Index>(p.groups.size());
  const Index stride = round_up(k, kPanel<T>);
  const Index capacity = out == nullptr ? 0 : wide_capacity<T>(k, s.total_dim(), p.largest_rows);
  const Index panel_stride = capacity * kPanel<T>;
  // Few groups: their columns are shared out as well, so that all threads have whitening to do.
  const Index splits = std::clamp<Index>(16 / std::max<Index>(groups, 1), 1, std::max<Index>(1, k / 768));
  const Index split_width = round_up((k + splits - 1) / splits, kPanel<T>);
  Buffer<T> partial_r(std::max<Index>(groups, 1) * stride), packed(ld * capacity);
  const auto& kernel = linalg::kernels().table<T>();
  const Index tiles = (k + kTile - 1) / kTile;

  bool first = true;
  for (Index begin = 0; begin < groups || first;) {
    Index end = begin, filled = 0;
    const Index first_row = begin < groups ? p.groups[static_cast<std::size_t>(begin)].flat_row : 0;
    while (end < groups) {
      const Index size = Partition::run(s, p.groups[static_cast<std::size_t>(end)]).rows();
      if (out != nullptr && filled + size > capacity) break;
      filled += size;
      ++end;
    }
    linalg::parallel_for_if(p.parallel, (end - begin) * splits, [&](Index task) {
      const Index g = begin + task / splits;
      const Index col_begin = std::min(k, task % splits * split_width), col_end = std::min(k, col_begin + split_width);
      if (col_begin >= col_end) return;
      const Group& group = p.groups[static_cast<std::size_t>(g)];
      const BucketFactor<T>& f = factor_of(rows, group);
      T* r = partial_r.data() + g * stride;
      std::fill(r + col_begin, r + col_end, T(0));
      const RowRun run = Partition::run(s, group);
      Buffer<T> converted;
      const Index step = step_of(f.d, kBlocks * f.d);
      for (Index i = 0; i < run.count; i += step) {
        const RowRun part{&s, run.bucket, run.first + i, std::min(step, run.count - i)};
        T* to = out == nullptr ? nullptr : packed.data() + (group.flat_row - first_row + i * f.d) * kPanel<T>;
        whiten_run(part, f, w_t, col_begin, col_end, to, panel_stride, r, converted);
      }
    });
    if (out != nullptr) {
      linalg::parallel_for_if(p.parallel, linalg::lower_tiles(tiles), [&](Index task) {
        const auto [i, j] = linalg::lower_tile(linalg::lower_tiles(tiles) - 1 - task);  // small tiles come last
        const Index i0 = i * kTile, i1 = std::min(k, i0 + kTile), j0 = j * kTile, j1 = std::min(k, j0 + kTile);
        if (first) border::assemble_tile(s.border(), i0, i1, j0, j1, out, ld);
        linalg::rank_update_tile<T>(kernel, {packed.data(), panel_stride}, 0, filled, i0, round_up(i1, linalg::kStrip),
                                    j0, j1, T(-1), out, ld, false);
      });
    }
    begin = end;
    first = false;
  }
  linalg::sum_partials(k, groups, stride, partial_r.data(), wu);
}

}  // namespace

template <class T>
void reduce(const ArrowSystem& s, const Partition& p, const RowFactors<T>& rows, const double* w_t, T* out,
            double* wu) {
  if (s.k() == 0) return;
  p.thin ? reduce_thin(s, p, rows, w_t, out, wu) : reduce_wide(s, p, rows, w_t, out, wu);
}

template <class T>
void reduce_rhs(const ArrowSystem& s, const Partition& p, const RowFactors<T>& rows, const double* w_t, double* wu) {
  reduce<T>(s, p, rows, w_t, nullptr, wu);
}

#define ARROWSCHUR_INSTANTIATE(T)                                                                                  \
  template void reduce<T>(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double*, T*, double*); \
  template void reduce_rhs<T>(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double*, double*);
ARROWSCHUR_INSTANTIATE(double)
ARROWSCHUR_INSTANTIATE(float)
#undef ARROWSCHUR_INSTANTIATE

}  // namespace arrowschur::eliminate
