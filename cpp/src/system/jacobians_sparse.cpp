// Normal equations of residual blocks that touch few border blocks: one pass over the Jacobians, in the order of the
// rows.
//
// The rows (h_tt, g_t, the cross block) are owned by whoever works on them. The border is a sum over all residual
// blocks: groups of rows with a partial each when no residual block touches two border blocks and the border is small
// against the Jacobians (bundle adjustment), else block rows of the border, each with its residual blocks in ascending
// order.
#include <algorithm>
#include <array>
#include <tuple>

#include "arrowschur/error.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "system/cross_make.hpp"
#include "system/examine.hpp"
#include "system/jacobian_pattern.hpp"

namespace arrowschur {
namespace {

using jacobians::weight;
using linalg::Buffer;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Everything the result points to, and the pattern.
struct Owner {
  std::shared_ptr<const JacobianPattern> pattern;
  Buffer<double> values, h_tt, g_t, g_beta, h_bb;
};

// The numbers, and where they go.
struct Problem {
  const JacobianParts& p;
  const JacobianPattern& pattern;
  const double* j_beta;  // values in the order of the pattern
};

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
  const JacobianPattern& pattern = problem.pattern;
  const Buffer<Index>& indptr = pattern.cross->indptr;
  const Index d = D > 0 ? D : p.d, q = Q > 0 ? Q : p.q;
  double* h_tt = out.h_tt.data() + row * d * d;
  double* g_t = out.g_t.data() + row * d;
  std::fill(h_tt, h_tt + d * d, 0.0);
  std::fill(g_t, g_t + d, 0.0);
  std::fill(out.values.data() + pattern.value_ptr[indptr[row]], out.values.data() + pattern.value_ptr[indptr[row + 1]],
            0.0);
  pattern.of.for_each(row, [&](Index block) {
    const double* j_t = p.j_t + block * q * d;
    const double* e = p.residual + block * q;
    for (Index s = 0; s < q; ++s) {
      const double w = weight(p, block, s);
      for (Index c = 0; c < d; ++c) weighted[s * d + c] = w * j_t[s * d + c];
    }
    add_lower<D, Q>(d, q, weighted, j_t, h_tt);
    add_product<D, Q, 1>(d, q, 1, weighted, e, g_t);
    const double* j_beta = problem.j_beta + pattern.layout->first_value[at(block)];
    for (Index entry = pattern.j_ptr[block]; entry < pattern.j_ptr[block + 1]; ++entry) {
      const Index of = pattern.j_block[entry], b = B > 0 ? B : pattern.width(of);
      add_product<D, Q, B>(d, q, b, weighted, j_beta, out.values.data() + pattern.value_ptr[pattern.place[entry]]);
      if (h_bb != nullptr) {
        double* border = weighted + q * d;
        for (Index s = 0; s < q; ++s) {
          const double w = weight(p, block, s);
          for (Index c = 0; c < b; ++c) border[s * b + c] = w * j_beta[s * b + c];
        }
        add_lower<B, Q>(b, q, border, j_beta, h_bb + border_at[of]);
        add_product<B, Q, 1>(b, q, 1, border, e, g_beta + pattern.offsets[at(of)]);
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
  const Index d = problem.p.d, q = problem.p.q, b = problem.pattern.layout->width;
  const auto is = [&](Index d_, Index q_, Index b_) { return d == d_ && q == q_ && b == b_; };
  if (is(1, 1, 1)) return f(&add_row<1, 1, 1>);
  f(&add_row<0, 0, 0>);
}

// Rows [begin, end) by the kernel of their sizes, the border as `h_bb` and `g_beta` when these are given; false without
// such a kernel.
bool add_rows_by_kernel(const Problem& problem, Index begin, Index end, Owner& out, double* h_bb, double* g_beta) {
  const JacobianParts& p = problem.p;
  const JacobianPattern& pattern = problem.pattern;
  const Index b = pattern.layout->width;
  const linalg::Float64Kernels& kernel = linalg::kernels().only64;
  linalg::NormalRowsArgs args;
  if (b == 0 || !kernel.normal_rows(p.d, p.q, b, args)) return false;  // no rows yet: only asks
  Buffer<double> tiles(h_bb == nullptr ? 0 : pattern.blocks() * linalg::kGramTile);
  std::fill(tiles.begin(), tiles.end(), 0.0);
  args.begin = begin;
  args.end = end;
  args.first = pattern.own_rows ? nullptr : pattern.of.first.data();
  args.blocks = pattern.of.blocks.data();
  args.j_t = p.j_t;
  args.residual = p.residual;
  args.weights = p.weights;
  args.weights_per_line = p.weights_per_residual;
  args.j_ptr = pattern.j_ptr.data();
  args.j_block = pattern.j_block.data();
  args.j_beta = problem.j_beta;
  args.place = pattern.place.data();
  args.ptr = pattern.cross->indptr.data();
  args.distinct = pattern.cross->indptr[p.n] == pattern.j_ptr[p.r];
  args.h_tt = out.h_tt.data();
  args.g_t = out.g_t.data();
  args.values = out.values.data();
  args.tiles = h_bb == nullptr ? nullptr : tiles.data();
  kernel.normal_rows(p.d, p.q, b, args);
  if (h_bb != nullptr) kernel.read_tiles(b, pattern.blocks(), tiles.data(), h_bb, g_beta);
  return true;
}

// Group g of `groups` equal shares of the residual blocks, as rows: [first(g), first(g + 1)).
Index first_row(const JacobianPattern& pattern, Index g) {
  const Index n = pattern.n, r = pattern.r, groups = pattern.groups;
  if (g == groups) return n;
  if (pattern.own_rows) return n / groups * g + n % groups * g / groups;
  const Index block = r / groups * g + r % groups * g / groups;
  const std::vector<Index>& first = pattern.of.first;
  return std::min(n, static_cast<Index>(std::lower_bound(first.begin(), first.end(), block) - first.begin()));
}

// The border by its block rows.
void add_border(const Problem& problem, double* h_bb, double* g_beta) {
  const JacobianParts& p = problem.p;
  const JacobianPattern& pattern = problem.pattern;
  const JacobianPattern::BorderRows& border = pattern.border;
  pattern.for_block_rows([&](Index row, std::vector<Index>& mark) {
    const Index b = pattern.width(row);
    double* gradient = g_beta + pattern.offsets[at(row)];
    const Index begin = border.ptr[at(row)], end = border.ptr[at(row + 1)];
    for (Index e = begin; e < end; ++e) mark[at(border.cols[at(e)])] = e;
    std::fill(h_bb + border.data[at(begin)], h_bb + border.data[at(end)], 0.0);
    std::fill(gradient, gradient + b, 0.0);
    Buffer<double> weighted(p.q * b);
    for (Index i = border.entry_ptr[at(row)]; i < border.entry_ptr[at(row + 1)]; ++i) {
      const Index residual = border.residual[at(i)], own = border.entry[at(i)];
      const double* const first = problem.j_beta + pattern.layout->first_value[at(residual)];
      const double* values = first;
      for (Index e = pattern.j_ptr[residual]; e < own; ++e) values += p.q * pattern.width(pattern.j_block[e]);
      for (Index s = 0; s < p.q; ++s) {
        const double w = weight(p, residual, s);
        for (Index c = 0; c < b; ++c) weighted[s * b + c] = w * values[s * b + c];
      }
      add_product<0, 0, 0>(b, p.q, 1, weighted.data(), p.residual + residual * p.q, gradient);
      values = first;
      for (Index e = pattern.j_ptr[residual]; e <= own; ++e) {
        const Index block = pattern.j_block[e], cols = pattern.width(block);
        add_product<0, 0, 0>(b, p.q, cols, weighted.data(), values, h_bb + border.data[at(mark[at(block)])]);
        values += p.q * cols;
      }
    }
    for (Index e = begin; e < end; ++e) mark[at(border.cols[at(e)])] = -1;
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
  jacobians::require_finite(problem.j_beta, problem.pattern.layout->stored, "j_beta", 1, 1);
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
  jacobians::require_sizes(p, 0);
  if (p.j_beta != nullptr) throw InvalidArgument("j_beta", "a dense and a block-sparse Jacobian", "one of them");
  const std::shared_ptr<const JacobianPattern> pattern = jacobian_pattern(p, j_beta);
  JacobianParts values = p;
  values.j_beta = static_cast<const double*>(j_beta.values);
  return normal_equations(pattern, values);
}

SparseNormalEquations normal_equations(const std::shared_ptr<const JacobianPattern>& shared, const JacobianParts& p) {
  const JacobianPattern& pattern = *shared;
  const std::tuple<const char*, Index, Index> sizes[] = {{"n", p.n, pattern.n},
                                                         {"d", p.d, pattern.d},
                                                         {"k", p.k, pattern.k},
                                                         {"r", p.r, pattern.r},
                                                         {"q", p.q, pattern.q}};
  for (const auto& [name, got, expected] : sizes) {
    if (got == expected) continue;
    throw InvalidArgument(name, std::to_string(got), std::to_string(expected) + ", as in the pattern");
  }
  jacobians::require_rows(p);
  validate::require_buffer(p.j_beta, pattern.j_ptr[p.r], "j_beta");
  jacobians::require_weights(p);
  std::vector<std::shared_ptr<const void>> copies;
  Problem problem{p, pattern, p.j_beta};
  Cross given;
  if (pattern.merged) {
    given = BlockSparseCross{pattern.given_ptr.data(), pattern.given_block.data(), p.j_beta, pattern.offsets, nullptr};
    cross::examine({p.r, p.k, p.q, p.r * p.q, nullptr, nullptr, DType::float64}, given, false, copies);
    problem.j_beta = static_cast<const double*>(std::get<BlockSparseCross>(given).values);
  }

  const cross::Pattern& rows = *pattern.cross;
  auto out = std::make_shared<Owner>();
  out->pattern = shared;
  out->values = Buffer<double>(rows.layout->stored);
  out->h_tt = Buffer<double>(p.n * p.d * p.d);
  out->g_t = Buffer<double>(p.n * p.d);
  out->g_beta = Buffer<double>(p.k);

  const Index squares = pattern.border_at.back(), border_size = squares + p.k;
  const bool fused = pattern.fused;
  Buffer<double> sums(fused ? pattern.groups * border_size : 0);
  with_sizes(problem, [&](auto add) {
    linalg::parallel_for_if(pattern.large(), pattern.groups, [&](Index g) {
      double* own = fused ? sums.data() + g * border_size : nullptr;
      if (fused) std::fill(own, own + border_size, 0.0);
      const Index begin = first_row(pattern, g), end = first_row(pattern, g + 1);
      if (add_rows_by_kernel(problem, begin, end, *out, own, fused ? own + squares : nullptr)) return;
      Buffer<double> weighted(p.q * (p.d + pattern.widest));
      for (Index i = begin; i < end; ++i) {
        add(problem, i, weighted.data(), *out, pattern.border_at.data(), own, fused ? own + squares : nullptr);
      }
    });
  });

  SparseNormalEquations equations;
  equations.border = {p.k, DType::float64, {}, out};
  const auto mirror_diagonal = [&](auto&& first_value) {
    for (Index b = 0; b < pattern.blocks(); ++b) mirror(out->h_bb.data() + first_value(b), pattern.width(b));
  };
  if (fused) {
    out->h_bb = Buffer<double>(border_size);
    linalg::sum_partials(border_size, pattern.groups, border_size, sums.data(), out->h_bb.data());
    std::copy(out->h_bb.data() + squares, out->h_bb.data() + border_size, out->g_beta.data());
    mirror_diagonal([&](Index b) { return pattern.border_at[at(b)]; });
  } else {
    const JacobianPattern::BorderRows& border = pattern.border;
    out->h_bb = Buffer<double>(border.data.back());
    add_border(problem, out->h_bb.data(), out->g_beta.data());
    mirror_diagonal([&](Index b) { return border.data[at(border.ptr[at(b + 1)] - 1)]; });
  }
  if (pattern.diagonal) {
    equations.border.terms.push_back(BlockDiagonalBorder{out->h_bb.data(), pattern.sizes});
  } else {
    const JacobianPattern::BorderRows& border = pattern.border;
    SparseBlockKroneckerBorder lower;
    lower.mirror = true;
    lower.values = out->h_bb.data();
    lower.entries = border.data.back();
    for (Index row = 0; row < pattern.blocks(); ++row) {
      for (Index e = border.ptr[at(row)]; e < border.ptr[at(row + 1)]; ++e) {
        const Index col = border.cols[at(e)];
        lower.blocks.push_back({pattern.offsets[at(row)], pattern.offsets[at(col)], pattern.width(row),
                                pattern.width(col), border.data[at(e)]});
      }
    }
    equations.border.terms.push_back(std::move(lower));
  }
  require_finite_sums(problem, *out);
  equations.n = p.n;
  equations.d = p.d;
  equations.k = p.k;
  equations.h_tt = out->h_tt.data();
  equations.g_t = out->g_t.data();
  equations.g_beta = out->g_beta.data();
  equations.cross_values = rows.layout->stored;
  equations.cross = {rows.indptr.data(), rows.block_index.data(), out->values.data(), pattern.offsets, pattern.cross};
  equations.pattern = shared;
  equations.owner = out;
  return equations;
}

}  // namespace arrowschur
