#include "plan/shape.hpp"

#include <algorithm>
#include <variant>

#include "system/border.hpp"
#include "system/cross.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace {

double as_double(Index i) { return static_cast<double>(i); }

// Flops of one solve with a cheap M, each term for itself; a factor may fill in, a Kronecker one is applied p times.
double solve_flops(const Border& border) {
  const auto squares = [](const std::vector<Index>& sizes) {
    double sum = 0.0;
    for (const Index size : sizes) sum += as_double(size) * as_double(size);
    return sum;
  };
  double flops = 0.0;
  for (const BorderTerm& term : border.terms) {
    if (const auto* diagonal = std::get_if<DiagonalBorder>(&term); diagonal != nullptr) {
      flops += as_double(border.k);
    } else if (const auto* banded = std::get_if<BandedBorder>(&term)) {
      flops += 4.0 * as_double(border.k) * as_double(banded->bandwidth + 1);
    } else if (const auto* blocks = std::get_if<BlockDiagonalBorder>(&term)) {
      flops += 2.0 * squares(blocks->sizes);
    } else if (const auto* kronecker = std::get_if<KroneckerBorder>(&term)) {
      flops += 2.0 * as_double(kronecker->p) * squares(kronecker->sizes);
    } else if (const auto* product = std::get_if<KroneckerProductBorder>(&term)) {
      flops += 2.0 * as_double(product->pa) * as_double(product->pb) * as_double(product->pa + product->pb);
    } else if (const auto* sparse = std::get_if<SparseBlockKroneckerBorder>(&term)) {
      flops += 4.0 * as_double(sparse->p) * as_double(sparse->entries);
    } else if (const auto* framed = std::get_if<FramedKroneckerBorder>(&term)) {
      flops += 4.0 * as_double(framed->p) * as_double(framed->entries);
    } else {
      flops += 2.0 * as_double(border.k) * as_double(border.k);
    }
  }
  return flops;
}

bool only_dense(const Border& border) {
  return std::all_of(border.terms.begin(), border.terms.end(),
                     [](const BorderTerm& term) { return std::holds_alternative<DenseBorder>(term); });
}

// Block-sparse rows: entry counts row by row. nnz_i columns of d_i entries each.
void count_rows(const ArrowSystem& s, const Index* indptr, const cross::Layout& layout, policy::CostShape& cost) {
  cost.entries = cost.apply_entries = as_double(layout.stored);
  cost.whiten_flops = cost.gram_flops = 0.0;
  for (Index i = 0; i < s.n(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double d = as_double(s.row_dim(i));
    const double entries = as_double(layout.first_value[at + 1] - layout.first_value[at]);
    if (entries == 0.0) continue;
    cost.whiten_flops += d * entries;
    cost.gram_flops += entries * (entries / d + 1.0);
    const double blocks = as_double(indptr[i + 1] - indptr[i]);
    cost.block_pairs += blocks * blocks;
  }
  cost.scattered = true;
}

// Kronecker rows keep Y = L^-1 J (n d p) and read it and J once per product; the p x p products J'Y are spread over the
// pairs of a row: nnz_i columns, as if the row were stored.
void count_slots(const ArrowSystem& s, const KroneckerCross& form, const cross::Layout& layout,
                 policy::CostShape& cost) {
  const double stored = as_double(layout.stored), structural = as_double(layout.structural);
  const double pairs = s.n() == 0 ? 0.0 : as_double(form.support_ptr[s.n()]);
  cost.entries = stored;
  cost.apply_entries = 2.0 * stored + 2.0 * pairs * as_double(form.p);
  cost.whiten_flops = stored * as_double(s.max_dim());
  cost.gram_flops = cost.total_dim > 0.0 ? structural * (structural / cost.total_dim + 1.0) : 0.0;
  cost.scattered = true;
}

}  // namespace

PlanShape shape_of(const ProblemShape& problem, const SolveOptions&) {
  PlanShape shape;
  shape.problem = problem;
  const double d = as_double(problem.max_dim), t = as_double(problem.total_dim), k = as_double(problem.k);
  policy::CostShape& cost = shape.cost;
  cost = policy::dense_shape(d > 0.0 ? t / d : 0.0, d, k, k * k);  // exact for rows of one size
  cost.n = as_double(problem.n);
  shape.row_flops = t * d * d / 3.0;
  shape.memory.total_dim = t;
  shape.memory.k = k;
  shape.memory.row_entries = cost.row_entries;
  shape.memory.whitened_values = t * k;
  shape.memory.slab_bytes = 8.0 * t * k;
  return shape;
}

PlanShape shape_of(const ArrowSystem& s, const SolveOptions& options) {
  PlanShape shape = shape_of(ProblemShape{s.n(), s.k(), s.total_dim(), s.max_dim()}, options);
  policy::CostShape& cost = shape.cost;
  if (!s.is_uniform()) {
    cost.row_entries = shape.row_flops = 0.0;
    for (const RowBucket& bucket : s.buckets()) {
      const double d = as_double(bucket.d), count = as_double(bucket.count);
      cost.row_entries += count * d * d;
      shape.row_flops += count * d * d * d / 3.0;
    }
    cost.whiten_flops = cost.row_entries * cost.k;
    shape.memory.row_entries = cost.row_entries;
  }
  const Border& border = s.border();
  shape.operator_border = !border::has_dense(border);
  if (!only_dense(border) && !shape.operator_border) {
    cost.border_entries = as_double(border::stored_entries(border));
    cost.border_solve_flops = solve_flops(border);
  }
  const bool low_rank = options.mode == Mode::low_rank || (options.mode == Mode::automatic && s.total_dim() < s.k());
  if (low_rank && !only_dense(border) && !shape.operator_border) {
    shape.cheap_border = border::cheap_to_factor(border);
    if (shape.cheap_border) shape.memory.border_factor_bytes = as_double(border::factor_bytes(border));
  }

  if (s.h_tb() == nullptr && s.total_dim() > 0 && s.k() > 0) {
    const cross::Layout& layout = s.cross_layout();
    if (const auto* sparse = std::get_if<BlockSparseCross>(&s.cross())) {
      shape.form = CrossForm::block_sparse;
      shape.cross_form = "block-sparse";
      count_rows(s, sparse->indptr, layout, cost);
      shape.memory.whitened_index_bytes = 8.0 * as_double(sparse->indptr[s.n()]);
      shape.system = &s;
    } else if (const auto* kronecker = std::get_if<KroneckerCross>(&s.cross())) {
      shape.form = CrossForm::kronecker;
      shape.cross_form = "Kronecker";
      count_slots(s, *kronecker, layout, cost);
      shape.memory.product_bytes = 8.0 * as_double(layout.slots) * as_double(kronecker->p);
    } else {
      shape.form = CrossForm::callback;
      shape.cross_form = "operator";
    }
    shape.memory.slab_bytes = as_double(static_cast<Index>(size_of(s.dtype()))) * cost.total_dim * cost.k;
    shape.memory.whitened_values = shape.form == CrossForm::callback ? 0.0 : cost.entries;
    shape.memory.dense_whitened = false;
  }
  return shape;
}

}  // namespace arrowschur
