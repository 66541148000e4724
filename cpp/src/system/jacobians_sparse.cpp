// Normal equations of residual blocks that touch few border blocks: one pass over the Jacobians, in the order of the
// rows.
//
// The rows (h_tt, g_t, the cross block) are owned by whoever works on them. The border is a sum over all residual
// blocks: groups of rows with a partial each when no residual block touches two border blocks and the border is small
// against the Jacobians (bundle adjustment), else block rows of the border, each with its residual blocks in ascending
// order.
#include <algorithm>
#include <array>
#include <numeric>

#include "arrowschur/error.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "system/cross_make.hpp"
#include "system/examine.hpp"
#include "system/jacobians.hpp"

namespace arrowschur {
namespace {

using jacobians::BlocksOfRows;
using jacobians::weight;
using linalg::Buffer;

constexpr Index kMaxGroups = 16;  // partials of the border
constexpr Index kRowChunk = 256;  // rows per symbolic task
constexpr Index kMaxTasks = 64;  // over block rows of the border

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Everything the result points to.
struct Owner {
  Buffer<Index> indptr, block_index;
  Buffer<double> values, h_tt, g_t, g_beta, h_bb;
};

// The inputs in normal form, and where they go.
struct Problem {
  const JacobianParts& p;
  const BlockSparseCross& j;  // of each residual block distinct blocks, ascending
  const cross::Layout& layout;  // of j
  const BlocksOfRows& of;
  Buffer<Index> place;  // entry of j -> entry of the cross block
  Buffer<Index> value_ptr;  // entry of the cross block -> first value
  Index width(Index block) const { return j.block_offsets[at(block + 1)] - j.block_offsets[at(block)]; }
  Index blocks() const { return static_cast<Index>(j.block_offsets.size()) - 1; }
  bool large() const { return layout.stored * (p.d + layout.width) >= linalg::kParallelWork; }
};

// The union of the blocks that the residual blocks of a row touch.
void find_pattern(Problem& problem, Owner& out) {
  const JacobianParts& p = problem.p;
  const BlockSparseCross& j = problem.j;
  const Index entries = j.indptr[p.r];
  std::vector<Index> begin(at(p.n + 1), 0), count(at(p.n), 0);  // of each row's list before and after merging
  for (Index b = 0; b < p.r; ++b) {
    begin[at((p.row_index == nullptr ? b : p.row_index[b]) + 1)] += j.indptr[b + 1] - j.indptr[b];
  }
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  Buffer<Index> touched(entries);
  const Index chunks = (p.n + kRowChunk - 1) / kRowChunk;
  const auto for_rows = [&](auto&& f) {
    linalg::parallel_for_if(problem.large(), chunks, [&](Index c) {
      for (Index i = c * kRowChunk; i < std::min(p.n, (c + 1) * kRowChunk); ++i) f(i);
    });
  };
  for_rows([&](Index i) {
    Index* const first = touched.data() + begin[at(i)];
    Index* last = first;
    problem.of.for_each(p, i, [&](Index b) {
      for (Index e = j.indptr[b]; e < j.indptr[b + 1]; ++e) *last++ = j.block_index[e];
    });
    if (std::adjacent_find(first, last, std::greater_equal<>()) != last) {
      std::sort(first, last);
      last = std::unique(first, last);
    }
    count[at(i)] = last - first;
  });
  out.indptr = Buffer<Index>(p.n + 1);
  out.indptr[0] = 0;
  std::partial_sum(count.begin(), count.end(), out.indptr.data() + 1);
  const Index merged = out.indptr[p.n];
  out.block_index = Buffer<Index>(merged);
  problem.place = Buffer<Index>(entries);
  problem.value_ptr = Buffer<Index>(merged + 1);
  for_rows([&](Index i) {
    Index* const own = out.block_index.data() + out.indptr[i];
    std::copy(touched.data() + begin[at(i)], touched.data() + begin[at(i)] + count[at(i)], own);
    Index next = 0;  // where the entry is when the residual blocks of the row come in the order of their border blocks
    problem.of.for_each(p, i, [&](Index b) {
      for (Index e = j.indptr[b]; e < j.indptr[b + 1]; ++e, ++next) {
        if (next >= count[at(i)] || own[next] != j.block_index[e]) {
          next = std::lower_bound(own, own + count[at(i)], j.block_index[e]) - own;
        }
        problem.place[e] = out.indptr[i] + next;
      }
    });
  });
  const char* what = "the block-sparse cross block h_tb";
  problem.value_ptr[0] = 0;
  if (problem.layout.width > 0) {
    const Index size = checked_product(p.d, problem.layout.width, what);
    checked_product(merged, size, what);
    for (Index e = 1; e <= merged; ++e) problem.value_ptr[e] = e * size;
    return;
  }
  for (Index e = 0; e < merged; ++e) {
    problem.value_ptr[e + 1] = checked_sum(problem.value_ptr[e], p.d * problem.width(out.block_index[e]), what);
  }
}

// Sizes D, Q, B below are known when the library is compiled, or 0: as given.

// a [rows, cols] += u' v, u [depth, rows], v [depth, cols]
template <Index Rows, Index Depth, Index Cols>
inline void add_product(Index rows_given, Index depth_given, Index cols_given, const double* u, const double* v,
                        double* a) {
  const Index rows = Rows > 0 ? Rows : rows_given, depth = Depth > 0 ? Depth : depth_given;
  const Index cols = Cols > 0 ? Cols : cols_given;
  if constexpr (Rows > 0 && Depth > 0 && Cols > 0) {
    for (Index r = 0; r < rows; ++r) {
      std::array<double, Cols> sum;
      for (Index c = 0; c < cols; ++c) sum[at(c)] = a[r * cols + c];
      for (Index s = 0; s < depth; ++s) {
        for (Index c = 0; c < cols; ++c) sum[at(c)] += u[s * rows + r] * v[s * cols + c];
      }
      for (Index c = 0; c < cols; ++c) a[r * cols + c] = sum[at(c)];
    }
  } else {
    for (Index r = 0; r < rows; ++r) {
      for (Index s = 0; s < depth; ++s) {
        for (Index c = 0; c < cols; ++c) a[r * cols + c] += u[s * rows + r] * v[s * cols + c];
      }
    }
  }
}

// The lower triangle of a [rows, rows] += u' v from row R on; what rows of a few columns more leave above it is
// dropped.
template <Index Rows, Index Depth, Index R = 0>
inline void add_lower(Index rows_given, Index depth, const double* u, const double* v, double* a) {
  if constexpr (R < Rows) {
    constexpr Index kCols = std::min(Rows, R / 4 * 4 + 4);
    std::array<double, kCols> sum;
    for (Index c = 0; c < kCols; ++c) sum[at(c)] = a[R * Rows + c];
    for (Index s = 0; s < Depth; ++s) {
      for (Index c = 0; c < kCols; ++c) sum[at(c)] += u[s * Rows + R] * v[s * Rows + c];
    }
    for (Index c = 0; c < kCols; ++c) a[R * Rows + c] = sum[at(c)];
    add_lower<Rows, Depth, R + 1>(rows_given, depth, u, v, a);
  } else if constexpr (Rows == 0) {
    for (Index r = 0; r < rows_given; ++r) {
      for (Index s = 0; s < depth; ++s) {
        for (Index c = 0; c <= r; ++c) a[r * rows_given + c] += u[s * rows_given + r] * v[s * rows_given + c];
      }
    }
  }
}

// The parts of one row; with `h_bb`, what its residual blocks add to the border as well: lower triangles of the blocks
// at border_at[block], and g_beta.
template <Index D, Index Q, Index B>
void add_row(const Problem& problem, Index row, double* weighted, Owner& out, const Index* border_at, double* h_bb,
             double* g_beta) {
  const JacobianParts& p = problem.p;
  const BlockSparseCross& j = problem.j;
  const Index d = D > 0 ? D : p.d, q = Q > 0 ? Q : p.q;
  double* h_tt = out.h_tt.data() + row * d * d;
  double* g_t = out.g_t.data() + row * d;
  std::fill(h_tt, h_tt + d * d, 0.0);
  std::fill(g_t, g_t + d, 0.0);
  std::fill(out.values.data() + problem.value_ptr[out.indptr[row]],
            out.values.data() + problem.value_ptr[out.indptr[row + 1]], 0.0);
  problem.of.for_each(p, row, [&](Index block) {
    const double* j_t = p.j_t + block * q * d;
    const double* e = p.residual + block * q;
    for (Index s = 0; s < q; ++s) {
      const double w = weight(p, block, s);
      for (Index c = 0; c < d; ++c) weighted[s * d + c] = w * j_t[s * d + c];
    }
    add_lower<D, Q>(d, q, weighted, j_t, h_tt);
    add_product<D, Q, 1>(d, q, 1, weighted, e, g_t);
    const double* j_beta = static_cast<const double*>(j.values) + problem.layout.first_value[at(block)];
    for (Index entry = j.indptr[block]; entry < j.indptr[block + 1]; ++entry) {
      const Index of = j.block_index[entry], b = B > 0 ? B : problem.width(of);
      add_product<D, Q, B>(d, q, b, weighted, j_beta, out.values.data() + problem.value_ptr[problem.place[entry]]);
      if (h_bb != nullptr) {
        double* border = weighted + q * d;
        for (Index s = 0; s < q; ++s) {
          const double w = weight(p, block, s);
          for (Index c = 0; c < b; ++c) border[s * b + c] = w * j_beta[s * b + c];
        }
        add_lower<B, Q>(b, q, border, j_beta, h_bb + border_at[of]);
        add_product<B, Q, 1>(b, q, 1, border, e, g_beta + j.block_offsets[at(of)]);
      }
      j_beta += q * b;
    }
  });
  for (Index c = 0; c < d; ++c) {
    for (Index a = 0; a < c; ++a) h_tt[a * d + c] = h_tt[c * d + a];
  }
}

// f(add_row of the sizes): those of mixed models, and any. Those of bundle adjustment are kernels.
template <class F>
void with_sizes(const Problem& problem, F&& f) {
  const Index d = problem.p.d, q = problem.p.q, b = problem.layout.width;
  const auto is = [&](Index d_, Index q_, Index b_) { return d == d_ && q == q_ && b == b_; };
  if (is(1, 1, 1)) return f(&add_row<1, 1, 1>);
  f(&add_row<0, 0, 0>);
}

// Rows [begin, end) by the kernel of their sizes, the border as `h_bb` and `g_beta` when these are given; false without
// such a kernel.
bool add_rows_by_kernel(const Problem& problem, Index begin, Index end, Owner& out, double* h_bb, double* g_beta) {
  const JacobianParts& p = problem.p;
  const Index b = problem.layout.width;
  const linalg::Float64Kernels& kernel = linalg::kernels().only64;
  linalg::NormalRowsArgs args;
  if (b == 0 || !kernel.normal_rows(p.d, p.q, b, args)) return false;  // no rows yet: only asks
  Buffer<double> tiles(h_bb == nullptr ? 0 : problem.blocks() * linalg::kGramTile);
  std::fill(tiles.begin(), tiles.end(), 0.0);
  args.begin = begin;
  args.end = end;
  args.first = p.row_index == nullptr ? nullptr : problem.of.first.data();
  args.blocks = problem.of.blocks.data();
  args.j_t = p.j_t;
  args.residual = p.residual;
  args.weights = p.weights;
  args.weights_per_line = p.weights_per_residual;
  args.j_ptr = problem.j.indptr;
  args.j_block = problem.j.block_index;
  args.j_beta = static_cast<const double*>(problem.j.values);
  args.place = problem.place.data();
  args.ptr = out.indptr.data();
  args.distinct = out.indptr[p.n] == problem.j.indptr[p.r];
  args.h_tt = out.h_tt.data();
  args.g_t = out.g_t.data();
  args.values = out.values.data();
  args.tiles = h_bb == nullptr ? nullptr : tiles.data();
  kernel.normal_rows(p.d, p.q, b, args);
  if (h_bb != nullptr) kernel.read_tiles(b, problem.blocks(), tiles.data(), h_bb, g_beta);
  return true;
}

// Group g of `groups` equal shares of the residual blocks, as rows: [first(g), first(g + 1)).
Index first_row(const Problem& problem, Index g, Index groups) {
  const JacobianParts& p = problem.p;
  if (g == groups) return p.n;
  if (p.row_index == nullptr) return p.n / groups * g + p.n % groups * g / groups;
  const Index block = p.r / groups * g + p.r % groups * g / groups;
  const std::vector<Index>& first = problem.of.first;
  return std::min(p.n, static_cast<Index>(std::lower_bound(first.begin(), first.end(), block) - first.begin()));
}

// ---- the border by its block rows -----------------------------------------------------------------------------------

// Blocks (row, col) of the lower triangle, col <= row, where some residual block touches both; diagonal blocks always.
struct BorderPattern {
  std::vector<Index> ptr, cols, data;  // ptr [blocks + 1]; data [blocks of the triangle + 1]: first values
};

// Entries of j by border block, ascending residual blocks.
struct ByBlock {
  std::vector<Index> ptr, entry, residual;

  explicit ByBlock(const Problem& problem) : ptr(at(problem.blocks() + 1), 0) {
    const BlockSparseCross& j = problem.j;
    const Index entries = j.indptr[problem.p.r];
    for (Index e = 0; e < entries; ++e) ++ptr[at(j.block_index[e] + 1)];
    std::partial_sum(ptr.begin(), ptr.end(), ptr.begin());
    std::vector<Index> next(ptr.begin(), ptr.end() - 1);
    entry.resize(at(entries));
    residual.resize(at(entries));
    for (Index b = 0; b < problem.p.r; ++b) {
      for (Index e = j.indptr[b]; e < j.indptr[b + 1]; ++e) {
        const Index to = next[at(j.block_index[e])]++;
        entry[at(to)] = e;
        residual[at(to)] = b;
      }
    }
  }
};

// f(block row) in tasks, each with a workspace of `blocks` indices that are -1.
template <class F>
void for_block_rows(const Problem& problem, F&& f) {
  const Index blocks = problem.blocks(), tasks = std::min(blocks, kMaxTasks);
  linalg::parallel_for_if(problem.large(), tasks, [&](Index t) {
    std::vector<Index> mark(at(blocks), -1);
    for (Index b = blocks * t / tasks; b < blocks * (t + 1) / tasks; ++b) f(b, mark);
  });
}

BorderPattern border_pattern(const Problem& problem, const ByBlock& by) {
  const BlockSparseCross& j = problem.j;
  std::vector<std::vector<Index>> cols(at(problem.blocks()));
  for_block_rows(problem, [&](Index row, std::vector<Index>& mark) {
    std::vector<Index>& own = cols[at(row)];
    own.push_back(row);
    mark[at(row)] = 0;
    for (Index q = by.ptr[at(row)]; q < by.ptr[at(row + 1)]; ++q) {
      for (Index e = j.indptr[by.residual[at(q)]]; e < by.entry[at(q)]; ++e) {
        if (std::exchange(mark[at(j.block_index[e])], 0) < 0) own.push_back(j.block_index[e]);
      }
    }
    std::sort(own.begin(), own.end());
    for (const Index col : own) mark[at(col)] = -1;
  });
  BorderPattern out;
  out.ptr.push_back(0);
  out.data.push_back(0);
  for (Index row = 0; row < problem.blocks(); ++row) {
    for (const Index col : cols[at(row)]) {
      out.cols.push_back(col);
      out.data.push_back(checked_sum(out.data.back(), problem.width(row) * problem.width(col), "the border h_bb"));
    }
    out.ptr.push_back(static_cast<Index>(out.cols.size()));
  }
  return out;
}

void add_border(const Problem& problem, const ByBlock& by, const BorderPattern& pattern, double* h_bb, double* g_beta) {
  const JacobianParts& p = problem.p;
  const BlockSparseCross& j = problem.j;
  for_block_rows(problem, [&](Index row, std::vector<Index>& mark) {
    const Index b = problem.width(row);
    double* gradient = g_beta + j.block_offsets[at(row)];
    for (Index e = pattern.ptr[at(row)]; e < pattern.ptr[at(row + 1)]; ++e) mark[at(pattern.cols[at(e)])] = e;
    std::fill(h_bb + pattern.data[at(pattern.ptr[at(row)])], h_bb + pattern.data[at(pattern.ptr[at(row + 1)])], 0.0);
    std::fill(gradient, gradient + b, 0.0);
    Buffer<double> weighted(p.q * b);
    for (Index i = by.ptr[at(row)]; i < by.ptr[at(row + 1)]; ++i) {
      const Index residual = by.residual[at(i)], own = by.entry[at(i)];
      const double* const first = static_cast<const double*>(j.values) + problem.layout.first_value[at(residual)];
      const double* values = first;
      for (Index e = j.indptr[residual]; e < own; ++e) values += p.q * problem.width(j.block_index[e]);
      for (Index s = 0; s < p.q; ++s) {
        const double w = weight(p, residual, s);
        for (Index c = 0; c < b; ++c) weighted[s * b + c] = w * values[s * b + c];
      }
      add_product<0, 0, 0>(b, p.q, 1, weighted.data(), p.residual + residual * p.q, gradient);
      values = first;
      for (Index e = j.indptr[residual]; e <= own; ++e) {
        const Index cols = problem.width(j.block_index[e]);
        add_product<0, 0, 0>(b, p.q, cols, weighted.data(), values,
                             h_bb + pattern.data[at(mark[at(j.block_index[e])])]);
        values += p.q * cols;
      }
    }
    for (Index e = pattern.ptr[at(row)]; e < pattern.ptr[at(row + 1)]; ++e) mark[at(pattern.cols[at(e)])] = -1;
  });
}

// Every entry of the Jacobians and residuals enters a diagonal entry of h_tt or of the border, or a gradient, where what
// is not finite stays so. So these sums, far fewer than the inputs, tell about the inputs, and about h_tb too:
// |(J_t' W J_beta)_rc|^2 <= (J_t' W J_t)_rr (J_beta' W J_beta)_cc.
void require_finite_sums(const Problem& problem, const Owner& out) {
  const auto finite = [](const Buffer<double>& x) { return validate::first_non_finite(x.data(), x.size()) < 0; };
  const bool rows = finite(out.h_tt) && finite(out.g_t);
  if (rows && finite(out.h_bb) && finite(out.g_beta)) return;
  jacobians::require_row_finite(problem.p);
  jacobians::require_finite(static_cast<const double*>(problem.j.values), problem.layout.stored, "j_beta", 1, 1);
  throw InvalidArgument(rows ? "j_beta" : "j_t", "entries whose squares sum to more than float64 holds",
                        "a problem in other units");
}

// The lower triangle of a square block onto the upper one.
void mirror(double* a, Index size) {
  for (Index r = 0; r < size; ++r) {
    for (Index c = 0; c < r; ++c) a[c * size + r] = a[r * size + c];
  }
}

}  // namespace

SystemParts SparseNormalEquations::parts() const {
  SystemParts out;
  out.n = n;
  out.k = k;
  out.d = d;
  out.h_tt = h_tt;
  out.cross = cross;
  out.border = border;
  out.g_t = g_t;
  out.g_beta = g_beta;
  out.owner = owner;
  return out;
}

SparseNormalEquations normal_equations(const JacobianParts& p, const BlockSparseCross& j_beta) {
  jacobians::require_rows(p, 0);
  if (p.j_beta != nullptr) throw InvalidArgument("j_beta", "a dense and a block-sparse Jacobian", "one of them");
  const cross::Rows residuals{p.r, p.k, p.q, p.r * p.q, nullptr, nullptr, DType::float64};
  if (j_beta.indptr != nullptr && p.r > 0 && j_beta.indptr[p.r] > 0) {
    validate::require_buffer(j_beta.values, 1, "j_beta");
  }
  Cross given = j_beta;
  cross::require_shape(residuals, given);
  jacobians::require_row_values(p);
  std::vector<std::shared_ptr<const void>> copies;
  const std::shared_ptr<const cross::Layout> layout = cross::examine(residuals, given, false, copies);
  const BlockSparseCross& j = std::get<BlockSparseCross>(given);

  const BlocksOfRows of(p);
  auto out = std::make_shared<Owner>();
  Problem problem{p, j, *layout, of, {}, {}};
  find_pattern(problem, *out);
  out->values = Buffer<double>(problem.value_ptr[out->indptr[p.n]]);
  out->h_tt = Buffer<double>(p.n * p.d * p.d);
  out->g_t = Buffer<double>(p.n * p.d);
  out->g_beta = Buffer<double>(p.k);

  Index most = 0, widest = 0, squares = 0;
  for (Index b = 0; b < p.r; ++b) most = std::max(most, j.indptr[b + 1] - j.indptr[b]);
  std::vector<Index> sizes, border_at;
  for (Index b = 0; b < problem.blocks(); ++b) {
    sizes.push_back(problem.width(b));
    border_at.push_back(squares);
    widest = std::max(widest, sizes.back());
    squares = checked_sum(squares, checked_product(sizes.back(), sizes.back(), "the border h_bb"), "the border h_bb");
  }
  const bool diagonal = most <= 1;
  const Index border_size = squares + p.k;
  const Index partials = diagonal ? std::min(kMaxGroups, layout->stored / std::max<Index>(4 * border_size, 1)) : 0;
  const bool fused = partials >= 4;
  const Index groups = fused ? partials : std::clamp<Index>(p.n / kRowChunk, 1, kMaxTasks);

  Buffer<double> sums(fused ? groups * border_size : 0);
  with_sizes(problem, [&](auto add) {
    linalg::parallel_for_if(problem.large(), groups, [&](Index g) {
      double* own = fused ? sums.data() + g * border_size : nullptr;
      if (fused) std::fill(own, own + border_size, 0.0);
      const Index begin = first_row(problem, g, groups), end = first_row(problem, g + 1, groups);
      if (add_rows_by_kernel(problem, begin, end, *out, own, fused ? own + squares : nullptr)) return;
      Buffer<double> weighted(p.q * (p.d + widest));
      for (Index i = begin; i < end; ++i) {
        add(problem, i, weighted.data(), *out, border_at.data(), own, fused ? own + squares : nullptr);
      }
    });
  });

  SparseNormalEquations equations;
  if (fused) {
    Buffer<double> total(border_size);
    linalg::sum_partials(border_size, groups, border_size, sums.data(), total.data());
    std::copy(total.data() + squares, total.data() + border_size, out->g_beta.data());
    for (std::size_t b = 0; b < sizes.size(); ++b) mirror(total.data() + border_at[b], sizes[b]);
    out->h_bb = std::move(total);
    equations.border = {p.k, DType::float64, {BlockDiagonalBorder{out->h_bb.data(), std::move(sizes)}}, out};
  } else {
    const ByBlock by(problem);
    const BorderPattern pattern = border_pattern(problem, by);
    out->h_bb = Buffer<double>(pattern.data.back());
    add_border(problem, by, pattern, out->h_bb.data(), out->g_beta.data());
    SparseBlockKroneckerBorder lower;
    lower.mirror = true;
    lower.values = out->h_bb.data();
    lower.entries = pattern.data.back();
    for (Index row = 0; row < problem.blocks(); ++row) {
      for (Index e = pattern.ptr[at(row)]; e < pattern.ptr[at(row + 1)]; ++e) {
        const Index col = pattern.cols[at(e)];
        if (col == row) mirror(out->h_bb.data() + pattern.data[at(e)], sizes[at(row)]);
        lower.blocks.push_back(
            {j.block_offsets[at(row)], j.block_offsets[at(col)], sizes[at(row)], sizes[at(col)], pattern.data[at(e)]});
      }
    }
    equations.border = {p.k, DType::float64, {}, out};
    if (diagonal) {
      equations.border.terms.push_back(BlockDiagonalBorder{out->h_bb.data(), std::move(sizes)});
    } else {
      equations.border.terms.push_back(std::move(lower));
    }
  }
  require_finite_sums(problem, *out);
  equations.n = p.n;
  equations.d = p.d;
  equations.k = p.k;
  equations.h_tt = out->h_tt.data();
  equations.g_t = out->g_t.data();
  equations.g_beta = out->g_beta.data();
  equations.cross_values = problem.value_ptr[out->indptr[p.n]];
  equations.cross = {out->indptr.data(), out->block_index.data(), out->values.data(), j.block_offsets};
  equations.owner = out;
  return equations;
}

}  // namespace arrowschur
