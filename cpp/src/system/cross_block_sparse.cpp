// The block-sparse form: the entries of a row one after another, d_i x b_j values each. A product reads them once.
#include <array>
#include <cmath>

#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "system/cross_forms.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;

constexpr Index kTaskValues = Index{1} << 14;  // stored numbers per task
constexpr Index kMaxGroups = 64;               // partials of k entries
constexpr Index kPanel = 24;                   // right-hand sides per task of a transposed product
constexpr Index kCoefficients = 32;            // entries of a block that are in float64 at a time

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// f(first, last): rows [begin, end) in tasks of about kTaskValues numbers, cut by the structure.
template <class F>
void for_row_tasks(const Layout& l, Index begin, Index end, Index m, F&& f) {
  const Index values = l.first_value[at(end)] - l.first_value[at(begin)];
  const Index tasks = std::clamp<Index>(values * m / kTaskValues, 1, std::max<Index>(end - begin, 1));
  linalg::parallel_for_if(values * m >= linalg::kParallelWork, tasks, [&](Index t) {
    f(begin + (end - begin) * t / tasks, begin + (end - begin) * (t + 1) / tasks);
  });
}

template <class In>
struct Blocks {
  const ArrowSystem& s;
  const BlockSparseCross& c;
  const Layout& l;
  const In* values;

  Blocks(const ArrowSystem& system, const BlockSparseCross& cross, const Layout& layout)
      : s(system), c(cross), l(layout), values(static_cast<const In*>(cross.values)) {}

  // f(first column, width, block) for the entries of a row.
  template <class F>
  void row(Index i, F&& f) const {
    const In* v = values + l.first_value[at(i)];
    const Index d = s.row_dim(i);
    for (Index e = c.indptr[i]; e < c.indptr[i + 1]; ++e) {
      const Index first = c.block_offsets[at(c.block_index[e])];
      const Index width = c.block_offsets[at(c.block_index[e] + 1)] - first;
      f(first, width, v);
      v += d * width;
    }
  }
};

template <class F>
void with_blocks(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, F&& f) {
  with_dtype(s.dtype(), [&]<class In>(In) { f(Blocks<In>(s, c, l)); });
}

template <class In>
const linalg::DataKernelTable<In>& kernel_of(const linalg::BlockRowsArgs<In>&) {
  return linalg::kernels().data<In>();
}

// f(kernel arguments, first flat row) for runs of rows of one size within [first, last).
template <class In, class F>
void for_runs(const Blocks<In>& b, Index first, Index last, F&& f) {
  const bool uniform = b.s.is_uniform();
  while (first < last) {
    linalg::BlockRowsArgs<In> args;
    args.d = b.s.row_dim(first);
    Index end = uniform ? last : first + 1;
    while (end < last && b.s.row_dim(end) == args.d) ++end;
    args.count = end - first;
    args.b = b.l.width;
    args.ptr = b.c.indptr + first;
    args.block = b.c.block_index;
    args.offsets = b.c.block_offsets.data();
    args.values = b.values + b.l.first_value[at(first)];
    f(args, b.s.row_offset(first));
    first = end;
  }
}

// Products of each row of a block with the rows of x or y: m columns, or `cols` of matrices with leading dimension m.
template <class In>
void apply_columns(const Blocks<In>& b, Index i, Index d, const double* x, double* y, Index m) {
  const auto& kernel = linalg::kernels().data<double>();
  std::array<double, kCoefficients> a;
  std::fill(y, y + d * m, 0.0);
  b.row(i, [&](Index first, Index width, const In* v) {
    for (Index r = 0; r < d; ++r) {
      for (Index j = 0; j < width; j += kCoefficients) {
        const Index live = std::min(kCoefficients, width - j);
        std::copy(v + r * width + j, v + r * width + j + live, a.begin());
        kernel.rows_axpy(live, m, x + (first + j) * m, m, a.data(), y + r * m, nullptr);
      }
    }
  });
}
template <class In>
void transpose_columns_add(const Blocks<In>& b, Index i, Index d, const double* y, double* x, Index m, Index cols) {
  const auto& kernel = linalg::kernels().data<double>();
  std::array<double, kCoefficients> a;
  b.row(i, [&](Index first, Index width, const In* v) {
    for (Index j = 0; j < width; ++j) {
      for (Index r = 0; r < d; r += kCoefficients) {
        const Index live = std::min(kCoefficients, d - r);
        for (Index q = 0; q < live; ++q) a[at(q)] = static_cast<double>(v[(r + q) * width + j]);
        kernel.rows_axpy(live, cols, y + r * m, m, a.data(), x + (first + j) * m, nullptr);
      }
    }
  });
}

// First row that begins at or behind number `value`: where a group of rows starts.
Index row_at(const Layout& l, Index value) {
  return static_cast<Index>(std::lower_bound(l.first_value.begin(), l.first_value.end(), value) -
                            l.first_value.begin());
}

// Groups of rows with a partial of [k] each: fixed by the structure, and all partials together smaller than what is
// read.
std::vector<Index> groups_of(const ArrowSystem& s, const Layout& l) {
  const Index groups = std::clamp<Index>(l.stored / std::max<Index>(4 * s.k(), kTaskValues), 1, kMaxGroups);
  std::vector<Index> bounds(at(groups + 1), 0);
  for (Index g = 1; g < groups; ++g) bounds[at(g)] = row_at(l, l.stored / groups * g);
  bounds.back() = s.n();
  return bounds;
}

// Sums over all rows into [k, width]: add(first row, last row, partial) for these groups.
template <class F>
void sum_over_rows(const ArrowSystem& s, const Layout& l, Index width, double* out, F&& add) {
  const Index size = s.k() * width;
  const std::vector<Index> bounds = groups_of(s, l);
  const Index groups = static_cast<Index>(bounds.size()) - 1;
  if (groups == 1) {
    std::fill(out, out + size, 0.0);
    return add(0, s.n(), out);
  }
  Buffer<double> partials(groups * size);
  linalg::parallel_for_if(l.stored * width >= linalg::kParallelWork, groups, [&](Index g) {
    double* own = partials.data() + g * size;
    std::fill(own, own + size, 0.0);
    add(bounds[at(g)], bounds[at(g + 1)], own);
  });
  linalg::sum_partials(size, groups, size, partials.data(), out);
}

template <class In>
void add_transposed_to(const Blocks<In>& blocks, Index first, Index last, const double* y, double* partial) {
  for_runs(blocks, first, last, [&](auto& args, Index t) {
    args.v = y + t;
    args.acc = partial;
    kernel_of(args).block_rows(args);
  });
}

template <class In>
void add_abs_sums_to(const Blocks<In>& blocks, Index first, Index last, double* row_abs, double* partial) {
  const Index base = blocks.s.row_offset(first);
  for_runs(blocks, first, last, [&](auto& args, Index t) {
    args.z = row_abs + t - base;
    args.acc = partial;
    kernel_of(args).block_abs_sums(args);
  });
}

}  // namespace

void apply(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, Index row_begin, Index row_end,
           const double* x, double* y, Index m) {
  const Index base = s.row_offset(row_begin);
  if (s.k() == 0) return std::fill(y, y + (s.row_offset(row_end) - base) * m, 0.0);  // x may be null
  with_blocks(s, c, l, [&](const auto& blocks) {
    for_row_tasks(l, row_begin, row_end, m, [&](Index first, Index last) {
      if (m > 1) {
        for (Index i = first; i < last; ++i) {
          apply_columns(blocks, i, s.row_dim(i), x, y + (s.row_offset(i) - base) * m, m);
        }
        return;
      }
      for_runs(blocks, first, last, [&](auto& args, Index t) {
        args.x = x;
        args.z = y + t - base;
        kernel_of(args).block_rows(args);
      });
    });
  });
}

void transpose(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, const double* y, double* x, Index m) {
  with_blocks(s, c, l, [&](const auto& blocks) {
    const auto add_columns = [&](Index first, Index last, Index q, Index cols, double* out) {
      for (Index i = first; i < last; ++i) {
        transpose_columns_add(blocks, i, s.row_dim(i), y + s.row_offset(i) * m + q, out + q, m, cols);
      }
    };
    const Index panels = (m + kPanel - 1) / kPanel;
    if (panels >= 4) {  // tasks own panels of columns
      std::fill(x, x + s.k() * m, 0.0);
      linalg::parallel_for_if(l.stored * m >= linalg::kParallelWork, panels,
                              [&](Index p) { add_columns(0, s.n(), p * kPanel, std::min(kPanel, m - p * kPanel), x); });
    } else if (m > 1) {
      sum_over_rows(s, l, m, x, [&](Index first, Index last, double* out) { add_columns(first, last, 0, m, out); });
    } else {
      sum_over_rows(s, l, 1, x,
                    [&](Index first, Index last, double* out) { add_transposed_to(blocks, first, last, y, out); });
    }
  });
}

std::vector<Index> transpose_groups(const ArrowSystem& s) { return groups_of(s, s.cross_layout()); }

void add_transposed(const ArrowSystem& s, Index row_begin, Index row_end, const double* y, double* partial) {
  with_blocks(s, std::get<BlockSparseCross>(s.cross()), s.cross_layout(),
              [&](const auto& blocks) { add_transposed_to(blocks, row_begin, row_end, y, partial); });
}

void add_abs_sums(const ArrowSystem& s, Index row_begin, Index row_end, double* row_abs, double* partial) {
  with_blocks(s, std::get<BlockSparseCross>(s.cross()), s.cross_layout(),
              [&](const auto& blocks) { add_abs_sums_to(blocks, row_begin, row_end, row_abs, partial); });
}

void materialize(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, Index row_begin, Index row_end,
                 double* out, Index ld) {
  const Index base = s.row_offset(row_begin);
  with_blocks(s, c, l, [&](const auto& blocks) {
    const Index rows = row_end - row_begin, tasks = std::clamp<Index>(rows / 16, 1, 64);
    linalg::parallel_for_if((s.row_offset(row_end) - base) * s.k() >= linalg::kParallelWork, tasks, [&](Index t) {
      for (Index i = row_begin + rows * t / tasks; i < row_begin + rows * (t + 1) / tasks; ++i) {
        const Index d = s.row_dim(i);
        double* to = out + (s.row_offset(i) - base) * ld;
        for (Index r = 0; r < d; ++r) std::fill(to + r * ld, to + r * ld + s.k(), 0.0);
        blocks.row(i, [&](Index first, Index width, const auto* v) {
          for (Index r = 0; r < d; ++r) std::copy(v + r * width, v + (r + 1) * width, to + r * ld + first);
        });
      }
    });
  });
}

bool abs_sums(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, double* row_abs, double* col_abs) {
  with_blocks(s, c, l, [&](const auto& blocks) {
    sum_over_rows(s, l, 1, col_abs, [&](Index first, Index last, double* out) {
      add_abs_sums_to(blocks, first, last, row_abs + s.row_offset(first), out);
    });
  });
  return false;
}

double max_abs(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l) {
  return with_dtype(s.dtype(), [&]<class In>(In) {
    const In* v = static_cast<const In*>(c.values);
    double m = 0.0;
    for (Index e = 0; e < l.stored; ++e) m = std::max(m, std::abs(static_cast<double>(v[e])));
    return m;
  });
}

double row_squares(const ArrowSystem& s, const BlockSparseCross& c, const Layout& l, Index row, const double* m) {
  double sum = 0.0;
  with_blocks(s, c, l, [&](const auto& blocks) {
    blocks.row(row, [&](Index first, Index width, const auto* v) {
      for (Index j = 0; j < width; ++j) {
        double squares = 0.0;
        for (Index r = 0; r < s.row_dim(row); ++r) {
          const double a = static_cast<double>(v[r * width + j]);
          squares += a * a;
        }
        sum += column_share(squares, m, first + j);
      }
    });
  });
  return sum;
}

}  // namespace arrowschur::cross
