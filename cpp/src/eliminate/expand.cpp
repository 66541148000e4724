#include "eliminate/expand.hpp"

#include <algorithm>
#include <cmath>

#include "eliminate/row_access.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"
#include "system/cross.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;
using linalg::worse;

constexpr Index kBlocks = 64;                   // row blocks per chunk at most
constexpr Index kChunkBytes = Index{256} << 10;  // rows of h_tb that are read twice while they lie in L2

// Returns the largest absolute row sum of the group's lines (0 without norms).
template <class T, class In>
double expand_group(const RowRun& run, const BucketFactor<T>& f, const double* g_t, const double* db, double* dt,
                    backend::ExpandOutputs* out, const CrossProducts* products, double* cross, double* col_abs,
                    double* lines) {
  const ArrowSystem& s = *run.system;
  const In* h_tt = static_cast<const In*>(s.h_tt());
  const In* h_tb = static_cast<const In*>(s.h_tb());
  const auto& data = linalg::kernels().data<In>();
  const Index d = f.d, k = products == nullptr ? s.k() : 0;
  const bool sparse = products == nullptr && std::holds_alternative<BlockSparseCross>(s.cross());
  const Index fit = kChunkBytes / (std::max<Index>(1, d * k) * static_cast<Index>(sizeof(In)));
  const Index chunk = sparse ? kBlocks : std::clamp<Index>(fit, 1, kBlocks), rows = chunk * d;
  const bool norms = out != nullptr && out->norms;

  Buffer<double> work(6 * rows);
  double *z = work.data(), *g = z + rows, *step = g + rows, *applied = step + rows, *block_abs = applied + rows,
         *row_abs = block_abs + rows;
  Buffer<T> solve(rows);
  Buffer<In> blocks(out == nullptr || run.bucket->rows.empty() ? 0 : chunk * d * d);
  double norm_rows = 0.0;
  for (Index i0 = 0; i0 < run.count; i0 += chunk) {
    const RowRun part{run.system, run.bucket, run.first + i0, std::min(chunk, run.count - i0)};
    const Index live = part.rows();
    if (products != nullptr) {
      part.gather(products->z, z);
      if (norms) part.gather(products->row_abs, row_abs);
    } else if (sparse) {
      cross::apply(s, part.first, part.first + part.count, db, z, 1);
      if (norms) cross::add_abs_sums(s, part.first, part.first + part.count, row_abs, col_abs);
    } else {
      part.stretches([&](Index i, Index count) {
        data.rows_dot(count * d, k, h_tb + part.offset(i) * k, k, db, z + i * d, norms ? row_abs + i * d : nullptr);
      });
    }
    part.gather(g_t, g);
    if (out != nullptr && out->given) {
      part.gather(dt, step);
    } else {
      for (Index j = 0; j < live; ++j) solve[j] = static_cast<T>(g[j] + z[j]);
      solve_blocks(backend::Part::full, f, part.first, part.count, solve.data(), 1);
      for (Index j = 0; j < live; ++j) step[j] = -static_cast<double>(solve[j]);
      part.scatter(step, dt);
    }
    if (out == nullptr) continue;

    data.block_matvec(d, part.count, part.blocks(h_tt, blocks.data()), f.shift.data() + part.first * d, step, applied,
                      norms ? block_abs : nullptr);
    for (Index j = 0; j < live; ++j) applied[j] += z[j] + g[j];
    part.scatter(applied, out->residual_t);
    if (norms) {
      for (Index j = 0; j < live; ++j) {
        block_abs[j] += row_abs[j];
        norm_rows = worse(norm_rows, block_abs[j]);
      }
      if (lines != nullptr) part.scatter(block_abs, lines);
    }
    if (products != nullptr) continue;
    if (sparse) {
      cross::add_transposed(s, part.first, part.first + part.count, dt, cross);
      continue;
    }
    part.stretches([&](Index i, Index count) {
      data.rows_axpy(count * d, k, h_tb + part.offset(i) * k, k, step + i * d, cross, norms ? col_abs : nullptr);
    });
  }
  return norm_rows;
}

// The rows of a block-sparse cross block as its sums over rows have them: their partials are small against it.
std::vector<Group> groups_of(const ArrowSystem& s) {
  const std::vector<Index> bounds = cross::transpose_groups(s);
  std::vector<Group> groups;
  for (std::size_t g = 1; g < bounds.size(); ++g) {
    if (bounds[g] > bounds[g - 1]) groups.push_back({0, bounds[g - 1], bounds[g] - bounds[g - 1], 0});
  }
  return groups;
}

}  // namespace

template <class T>
void expand(const ArrowSystem& s, const Partition& p, const RowFactors<T>& rows, const double* g_t, const double* db,
            double* dt, backend::ExpandOutputs* out, const CrossProducts* products) {
  const Index k = products == nullptr ? s.k() : 0;  // columns that are summed here
  const bool sparse = products == nullptr && std::holds_alternative<BlockSparseCross>(s.cross());
  const std::vector<Group> own = sparse ? groups_of(s) : std::vector<Group>();
  const std::vector<Group>& listed = own.empty() ? p.groups : own;
  const auto groups = static_cast<Index>(listed.size());
  const bool norms = out != nullptr && out->norms;
  Buffer<double> cross(out == nullptr ? 0 : groups * k), col_abs(norms ? groups * k : 0);
  Buffer<double> norm_rows(groups);
  const bool differs = out != nullptr && (!rows.lifted.empty() || out->above_requested != 0.0);
  Buffer<double> lines(norms && differs ? s.total_dim() : 0);  // absolute row sums, effective
  linalg::parallel_for_if(p.parallel, groups, [&](Index g) {
    const Group& group = listed[static_cast<std::size_t>(g)];
    const auto& f = rows.buckets[static_cast<std::size_t>(group.bucket)];
    double* own_cross = out == nullptr || k == 0 ? nullptr : cross.data() + g * k;
    double* own_abs = norms && k > 0 ? col_abs.data() + g * k : nullptr;
    if (own_cross != nullptr) std::fill(own_cross, own_cross + k, 0.0);
    if (own_abs != nullptr) std::fill(own_abs, own_abs + k, 0.0);
    const RowRun run = Partition::run(s, group);
    norm_rows[g] = s.dtype() == DType::float64
                       ? expand_group<T, double>(run, f, g_t, db, dt, out, products, own_cross, own_abs, lines.data())
                       : expand_group<T, float>(run, f, g_t, db, dt, out, products, own_cross, own_abs, lines.data());
  });
  if (out == nullptr) return;
  if (products == nullptr) linalg::sum_partials(k, groups, k, cross.data(), out->cross_t);
  if (norms) {
    if (products == nullptr) linalg::sum_partials(k, groups, k, col_abs.data(), out->col_abs);
    out->norm_rows = 0.0;
    for (Index g = 0; g < groups; ++g) out->norm_rows = worse(out->norm_rows, norm_rows[g]);
    out->norm_rows_requested = out->norm_rows;
  }

  double residual = 0.0;
  if (!differs) {
    out->residual_requested = linalg::max_abs(out->residual_t, s.total_dim());
    return;
  }
  // With `extra` less on its diagonal a line's residual shrinks by extra dt, its absolute sum by what the diagonal
  // loses.
  double norm = 0.0;
  for (const Group& group : p.groups) {
    const RowRun run = Partition::run(s, group);
    const auto& f = rows.buckets[static_cast<std::size_t>(group.bucket)];
    for (Index i = 0; i < run.count; ++i) {
      const Index row = run.row(i), d = f.d;
      const auto found = std::lower_bound(rows.lifted.begin(), rows.lifted.end(), row,
                                          [](const LiftedRow& lifted, Index r) { return lifted.row < r; });
      const bool lifted = found != rows.lifted.end() && found->row == row;
      const double extra = out->above_requested + (lifted ? found->lift : 0.0);
      for (Index r = 0; r < d; ++r) {
        const Index j = s.row_offset(row) + r;
        residual = worse(residual, std::abs(out->residual_t[j] - extra * dt[j]));
        if (!norms) continue;
        const double diagonal =
            f.shift[(run.first + i) * d + r] + with_storage(s.dtype(), s.h_tt(), [&](const auto* a) {
              return static_cast<double>(a[s.block_offset(row) + r * d + r]);
            });
        norm = worse(norm, lines[j] - std::abs(diagonal) + std::abs(diagonal - extra));
      }
    }
  }
  out->residual_requested = residual;
  if (norms) out->norm_rows_requested = norm;
}

#define ARROWSCHUR_INSTANTIATE(T)                                                                                   \
  template void expand<T>(const ArrowSystem&, const Partition&, const RowFactors<T>&, const double*, const double*, \
                          double*, backend::ExpandOutputs*, const CrossProducts*);
ARROWSCHUR_INSTANTIATE(double)
ARROWSCHUR_INSTANTIATE(float)
#undef ARROWSCHUR_INSTANTIATE

}  // namespace arrowschur::eliminate
