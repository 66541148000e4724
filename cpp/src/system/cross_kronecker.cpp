// The gather-Kronecker form: B_i = sum over the slots s of row i of J_s P_s, P_s the gather of its pairs (base, phi).
//
// Products are staged, and nothing of size d k is formed: z = P x, y = J z, and v = J' y, x = P' v. When the weights
// fill a slots x targets matrix, the gather and the scatter are matrix products (every token active in every group);
// else they are sums of scaled stretches of x.
#include <cmath>
#include <type_traits>

#include "linalg/blas.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/cross_forms.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;

constexpr Index kStage = Index{1} << 20;  // entries of z or v per chunk of rows
constexpr Index kTile = 512;  // columns of a stretch that stay in L1
constexpr Index kGemmSlots = 256, kGemmTargets = 64, kGemmColumns = 512;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

bool large(Index entries) { return entries >= linalg::kParallelWork; }

template <class In>
struct View {
  const ArrowSystem& s;
  const KroneckerCross& c;
  const Layout& l;
  const In* j;
  const In* phi;

  View(const ArrowSystem& system, const KroneckerCross& cross, const Layout& layout)
      : s(system),
        c(cross),
        l(layout),
        j(static_cast<const In*>(cross.j)),
        phi(static_cast<const In*>(cross.support_phi)) {}

  Index first_slot(Index row) const { return c.j_ptr == nullptr ? row : c.j_ptr[row]; }
  Index slot_of(Index row, Index pair) const { return c.j_ptr == nullptr ? row : c.j_ptr[row] + c.support_j[pair]; }
  const In* matrix(Index row, Index slot) const {
    return j + l.first_value[at(row)] + (slot - first_slot(row)) * s.row_dim(row) * c.p;
  }
};

template <class F>
auto with_view(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, F&& f) {
  return with_dtype(s.dtype(), [&]<class In>(In) { return f(View<In>(s, c, l)); });
}

// f(first, last): rows [begin, end) in tasks; `work` flops for all of them.
template <class F>
void for_row_tasks(Index begin, Index end, Index work, F&& f) {
  const Index tasks = std::clamp<Index>(work / (linalg::kParallelWork / 8), 1, std::max<Index>(end - begin, 1));
  linalg::parallel_for_if(large(work), tasks, [&](Index t) {
    f(begin + (end - begin) * t / tasks, begin + (end - begin) * (t + 1) / tasks);
  });
}

// The weights as a dense matrix [slots of the range, targets].
template <class In, class Weight>
Buffer<double> dense_weights(const View<In>& v, Index slot_begin, Index slot_end, Weight weight) {
  const Index targets = static_cast<Index>(v.l.target_base.size());
  Buffer<double> phi((slot_end - slot_begin) * targets);
  std::fill(phi.begin(), phi.end(), 0.0);
  for (Index t = 0; t < targets; ++t) {
    const auto first = v.l.target_slot.begin() + v.l.target_ptr[at(t)];
    const auto last = v.l.target_slot.begin() + v.l.target_ptr[at(t + 1)];
    for (auto slot = std::lower_bound(first, last, slot_begin); slot != last && *slot < slot_end; ++slot) {
      const Index pair = v.l.target_pair[at(static_cast<Index>(slot - v.l.target_slot.begin()))];
      phi[(*slot - slot_begin) * targets + t] = weight(static_cast<double>(v.phi[pair]));
    }
  }
  return phi;
}

template <class In>
void gather_rows(const View<In>& v, Index row_begin, Index row_end, const double* x, double* z, Index m) {
  const Index width = v.c.p * m, first = v.first_slot(row_begin), slots = v.first_slot(row_end) - first;
  if (slots == 0) return;
  if (v.l.dense_weights) {
    const Index targets = static_cast<Index>(v.l.target_base.size());
    const Buffer<double> phi = dense_weights(v, first, first + slots, [](double a) { return a; });
    const Index slot_tiles = (slots + kGemmSlots - 1) / kGemmSlots;
    const Index column_tiles = (width + kGemmColumns - 1) / kGemmColumns;
    // Row-major Z = Phi X is Z' = X' Phi' column-major.
    linalg::parallel_for_if(large(slots * targets * width), slot_tiles * column_tiles, [&](Index task) {
      const Index a = task / column_tiles * kGemmSlots, col = task % column_tiles * kGemmColumns;
      linalg::blas_table<double>().gemm('N', 'N', std::min(kGemmColumns, width - col), std::min(kGemmSlots, slots - a),
                                        targets, 1.0, x + v.l.target_base.front() * m + col, v.l.stride * m,
                                        phi.data() + a * targets, targets, 0.0, z + a * width + col, width);
    });
    return;
  }
  const Index work = (v.c.support_ptr[row_end] - v.c.support_ptr[row_begin] + slots) * width;
  for_row_tasks(row_begin, row_end, work, [&](Index begin, Index end) {
    double* own = z + (v.first_slot(begin) - first) * width;
    std::fill(own, z + (v.first_slot(end) - first) * width, 0.0);
    // Tile by tile, so that the stretches that neighbouring rows share stay in cache.
    for (Index col = 0; col < width; col += kTile) {
      const Index columns = std::min(kTile, width - col);
      for (Index i = begin; i < end; ++i) {
        for (Index e = v.c.support_ptr[i]; e < v.c.support_ptr[i + 1]; ++e) {
          const double phi = static_cast<double>(v.phi[e]);
          const double* from = x + v.c.support_base[e] * m + col;
          double* to = z + (v.slot_of(i, e) - first) * width + col;
          for (Index j = 0; j < columns; ++j) to[j] += phi * from[j];
        }
      }
    }
  });
}

template <class In, class Weight>
void scatter_slots(const View<In>& view, const double* v, double* x, Index m, Weight weight) {
  const Index width = view.c.p * m, size = view.s.k() * m;
  const Index targets = static_cast<Index>(view.l.target_base.size());
  if (view.l.dense_weights) {
    const Index slots = view.l.slots;
    const Buffer<double> phi = dense_weights(view, 0, slots, weight);
    std::fill(x, x + size, 0.0);
    const Index target_tiles = (targets + kGemmTargets - 1) / kGemmTargets;
    const Index column_tiles = (width + kGemmColumns - 1) / kGemmColumns;
    linalg::parallel_for_if(large(slots * targets * width), target_tiles * column_tiles, [&](Index task) {
      const Index t = task / column_tiles * kGemmTargets, col = task % column_tiles * kGemmColumns;
      linalg::blas_table<double>().gemm('N', 'T', std::min(kGemmColumns, width - col),
                                        std::min(kGemmTargets, targets - t), slots, 1.0, v + col, width, phi.data() + t,
                                        targets, 0.0, x + view.l.target_base[at(t)] * m + col, view.l.stride * m);
    });
    return;
  }
  // Tasks own stretches of x, whatever the targets do to each other.
  const Index tiles = (size + kTile - 1) / kTile;
  const Index pairs = static_cast<Index>(view.l.target_pair.size());
  linalg::parallel_for_if(large(pairs * width + size), tiles, [&](Index tile) {
    const Index begin = tile * kTile, end = std::min(size, begin + kTile);
    std::fill(x + begin, x + end, 0.0);
    auto base = std::upper_bound(view.l.target_base.begin(), view.l.target_base.end(), begin / m - view.c.p);
    for (; base != view.l.target_base.end() && *base * m < end; ++base) {
      const Index first = *base * m, from = std::max(begin, first), to = std::min(end, first + width);
      const Index t = static_cast<Index>(base - view.l.target_base.begin());
      for (Index q = view.l.target_ptr[at(t)]; q < view.l.target_ptr[at(t + 1)]; ++q) {
        const double phi = weight(static_cast<double>(view.phi[view.l.target_pair[at(q)]]));
        const double* stretch = v + view.l.target_slot[at(q)] * width - first;
        for (Index j = from; j < to; ++j) x[j] += phi * stretch[j];
      }
    }
  });
}

// y [d, m] += J z, z [p, m]
template <class In>
void multiply_add(Index d, Index p, Index m, const In* j, const double* z, double* y) {
  if (m == 1) {
    double sums[linalg::kMaxSmall];
    for (Index r = 0; r < d; r += linalg::kMaxSmall) {
      const Index rows = std::min(linalg::kMaxSmall, d - r);
      linalg::kernels().data<In>().rows_dot(rows, p, j + r * p, p, z, sums, nullptr);
      for (Index q = 0; q < rows; ++q) y[r + q] += sums[q];
    }
    return;
  }
  for (Index c = 0; c < p; ++c) {
    for (Index r = 0; r < d; ++r) {
      const double a = static_cast<double>(j[r * p + c]);
      for (Index q = 0; q < m; ++q) y[r * m + q] += a * z[c * m + q];
    }
  }
}
// v [p, m] = J' y
template <class In>
void multiply_transposed(Index d, Index p, Index m, const In* j, const double* y, double* v) {
  std::fill(v, v + p * m, 0.0);
  if (m == 1) return linalg::kernels().data<In>().rows_axpy(d, p, j, p, y, v, nullptr);
  for (Index r = 0; r < d; ++r) {
    for (Index c = 0; c < p; ++c) {
      const double a = static_cast<double>(j[r * p + c]);
      for (Index q = 0; q < m; ++q) v[c * m + q] += a * y[r * m + q];
    }
  }
}

template <class In>
void transpose_columns(const View<In>& view, const double* y, double* x, Index m) {
  const ArrowSystem& s = view.s;
  const Index p = view.c.p;
  Buffer<double> v(view.l.slots * p * m);
  for_row_tasks(0, s.n(), view.l.stored * m, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      for (Index slot = view.first_slot(i); slot < view.first_slot(i + 1); ++slot) {
        multiply_transposed(s.row_dim(i), p, m, view.matrix(i, slot), y + s.row_offset(i) * m, v.data() + slot * p * m);
      }
    }
  });
  scatter_slots(view, v.data(), x, m, [](double a) { return a; });
}

}  // namespace

Index slot_begin(const ArrowSystem& s, Index row) {
  const auto& c = std::get<KroneckerCross>(s.cross());
  return c.j_ptr == nullptr ? row : c.j_ptr[row];
}

void gather(const ArrowSystem& s, Index row_begin, Index row_end, const double* x, double* z, Index m) {
  with_view(s, std::get<KroneckerCross>(s.cross()), s.cross_layout(),
            [&](const auto& view) { gather_rows(view, row_begin, row_end, x, z, m); });
}

void scatter(const ArrowSystem& s, const double* v, double* x, Index m) {
  with_view(s, std::get<KroneckerCross>(s.cross()), s.cross_layout(),
            [&](const auto& view) { scatter_slots(view, v, x, m, [](double a) { return a; }); });
}

void apply(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, Index row_begin, Index row_end,
           const double* x, double* y, Index m) {
  const Index base = s.row_offset(row_begin), width = std::max<Index>(c.p * m, 1);
  std::fill(y, y + (s.row_offset(row_end) - base) * m, 0.0);
  with_view(s, c, l, [&](const auto& view) {
    const Index slots = view.first_slot(row_end) - view.first_slot(row_begin);
    const Index rows = std::clamp<Index>(kStage / width * (row_end - row_begin) / std::max<Index>(slots, 1), 1,
                                         std::max<Index>(row_end - row_begin, 1));
    Buffer<double> z;
    for (Index begin = row_begin; begin < row_end; begin += rows) {
      const Index end = std::min(row_end, begin + rows), first = view.first_slot(begin);
      const Index needed = (view.first_slot(end) - first) * c.p * m;
      if (z.size() < needed) z = Buffer<double>(needed);
      gather_rows(view, begin, end, x, z.data(), m);
      for_row_tasks(begin, end, (l.first_value[at(end)] - l.first_value[at(begin)]) * m,
                    [&](Index i_begin, Index i_end) {
                      for (Index i = i_begin; i < i_end; ++i) {
                        for (Index slot = view.first_slot(i); slot < view.first_slot(i + 1); ++slot) {
                          multiply_add(s.row_dim(i), c.p, m, view.matrix(i, slot), z.data() + (slot - first) * c.p * m,
                                       y + (s.row_offset(i) - base) * m);
                        }
                      }
                    });
    }
  });
}

// Many right-hand sides go in panels, so that v stays O(n p).
void transpose(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, const double* y, double* x, Index m) {
  const Index k = s.k(), t = s.total_dim();
  with_view(s, c, l, [&](const auto& view) {
    const Index panel = std::clamp<Index>(8 * kStage / std::max<Index>(l.slots * c.p, 1), 1, m);
    if (panel == m) return transpose_columns(view, y, x, m);
    Buffer<double> y_panel(t * panel), x_panel(k * panel);
    for (Index q = 0; q < m; q += panel) {
      const Index live = std::min(panel, m - q);
      for (Index r = 0; r < t; ++r) std::copy(y + r * m + q, y + r * m + q + live, y_panel.data() + r * live);
      transpose_columns(view, y_panel.data(), x_panel.data(), live);
      for (Index j = 0; j < k; ++j) {
        std::copy(x_panel.data() + j * live, x_panel.data() + (j + 1) * live, x + j * m + q);
      }
    }
  });
}

void materialize(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, Index row_begin, Index row_end,
                 double* out, Index ld) {
  const Index base = s.row_offset(row_begin);
  with_view(s, c, l, [&](const auto& view) {
    for_row_tasks(row_begin, row_end, (s.row_offset(row_end) - base) * s.k(), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        double* to = out + (s.row_offset(i) - base) * ld;
        for (Index r = 0; r < s.row_dim(i); ++r) {
          std::fill(to + r * ld, to + r * ld + s.k(), 0.0);
          for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
            const double phi = static_cast<double>(view.phi[e]);
            const auto* j = view.matrix(i, view.slot_of(i, e)) + r * c.p;
            double* stretch = to + r * ld + c.support_base[e];
            for (Index q = 0; q < c.p; ++q) stretch[q] = phi * static_cast<double>(j[q]);
          }
        }
      }
    });
  });
}

// The pairs of a row address disjoint columns: |B| has the weights |phi| and the matrices |J|.
bool abs_sums(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, double* row_abs, double* col_abs) {
  with_view(s, c, l, [&](const auto& view) {
    const Index p = c.p;
    Buffer<double> v(l.slots * p);
    std::fill(row_abs, row_abs + s.total_dim(), 0.0);
    for_row_tasks(0, s.n(), l.stored, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index d = s.row_dim(i), t = s.row_offset(i);
        for (Index slot = view.first_slot(i); slot < view.first_slot(i + 1); ++slot) {
          double weight = 0.0;
          for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
            if (view.slot_of(i, e) == slot) weight += std::abs(static_cast<double>(view.phi[e]));
          }
          double* own = v.data() + slot * p;
          std::fill(own, own + p, 0.0);
          const auto* j = view.matrix(i, slot);
          for (Index r = 0; r < d; ++r) {
            double sum = 0.0;
            for (Index q = 0; q < p; ++q) {
              const double a = std::abs(static_cast<double>(j[r * p + q]));
              sum += a;
              own[q] += a;
            }
            row_abs[t + r] += weight * sum;
          }
        }
      }
    });
    scatter_slots(view, v.data(), col_abs, 1, [](double a) { return std::abs(a); });
  });
  return false;
}

double max_abs(const ArrowSystem& s, const KroneckerCross& c, const Layout& l) {
  return with_view(s, c, l, [&](const auto& view) {
    double largest = 0.0;
    for (Index i = 0; i < s.n(); ++i) {
      for (Index slot = view.first_slot(i); slot < view.first_slot(i + 1); ++slot) {
        double weight = 0.0, entry = 0.0;
        for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
          if (view.slot_of(i, e) == slot) weight = std::max(weight, std::abs(static_cast<double>(view.phi[e])));
        }
        const auto* j = view.matrix(i, slot);
        for (Index q = 0; q < s.row_dim(i) * c.p; ++q) entry = std::max(entry, std::abs(static_cast<double>(j[q])));
        largest = std::max(largest, weight * entry);
      }
    }
    return largest;
  });
}

double row_squares(const ArrowSystem& s, const KroneckerCross& c, const Layout& l, Index row, const double* m) {
  return with_view(s, c, l, [&](const auto& view) {
    double sum = 0.0;
    for (Index e = c.support_ptr[row]; e < c.support_ptr[row + 1]; ++e) {
      const double phi = static_cast<double>(view.phi[e]);
      const auto* j = view.matrix(row, view.slot_of(row, e));
      for (Index q = 0; q < c.p; ++q) {
        double squares = 0.0;
        for (Index r = 0; r < s.row_dim(row); ++r) {
          const double a = phi * static_cast<double>(j[r * c.p + q]);
          squares += a * a;
        }
        sum += column_share(squares, m, c.support_base[e] + q);
      }
    }
    return sum;
  });
}

}  // namespace arrowschur::cross
