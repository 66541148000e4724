// Incomplete Cholesky with zero fill (E8), per bounded group of border blocks that hang together: L has the pattern of
// S,
//
//     S_ij = sum_{k <= j} L_ik L_jk    for every (i, j), i >= j, with |S_ij| > 1e-13 sqrt(S_ii S_jj),
//
// and for all entries of a pair of narrow border blocks that has one
// (J. A. Meijerink, H. A. van der Vorst, Math. Comp. 31, 1977). Exact, so one iteration, where elimination in the given
// order makes no fill: chains, trees from the leaves. The pivots of a positive definite S may break down nevertheless;
// then S + alpha diag(S) is tried, alpha growing (T. A. Manteuffel, Math. Comp. 34, 1980), and in the end scalars. A
// pattern that is nearly full is completed: the whole factor then costs less time, by dense arithmetic.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "border/preconditioner.hpp"
#include "border/subblocks.hpp"
#include "linalg/buffer.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/pool.hpp"
#include "linalg/triangular.hpp"

namespace arrowschur::border {
namespace {

constexpr Index kPartColumns = 4096;
constexpr double kDrop = 1e-13;  // relative to sqrt(S_ii S_jj)
// Border blocks up to this width are tiles of the pattern: a camera's few unknowns fill up among themselves anyway, and
// entries that happen to vanish in S would spoil the factor of a chain. In wider blocks each entry counts for itself.
constexpr Index kTileColumns = 16;
// Share of the lower triangle from which dense factorisation is faster: zero fill costs about share^2 c^3 / 6
// multiply-adds with indirect access, the whole factor c^3 / 6 of those that run near peak.
constexpr double kDenseShare = 0.25;
// A pivot at or below this share of S_ii is a breakdown: rounding alone could have made it.
constexpr double kSmallestPivot = 0x1p-46;
constexpr double kFirstShift = 1e-6, kShiftGrowth = 10.0, kLastShift = 0.2;

std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }

// One group: L by rows (strictly lower part and reciprocal diagonal), or dense in padded storage.
struct Part {
  std::vector<std::int32_t> ptr, col;
  std::vector<double> value, reciprocal;
  linalg::Buffer<double> dense;

  bool scalar() const noexcept { return reciprocal.empty() && dense.size() == 0; }
  Index nbytes() const {
    return static_cast<Index>(4 * (ptr.size() + col.size()) + 8 * (value.size() + reciprocal.size())) + dense.nbytes();
  }

  void solve(Index c, double* x) const {
    if (dense.size() > 0) {
      linalg::solve_lower_vector(c, dense.data(), x);
      linalg::solve_upper_vector(c, dense.data(), x);
      return;
    }
    for (Index i = 0; i < c; ++i) {
      double sum = x[i];
      for (auto e = at(ptr[at(i)]); e < at(ptr[at(i) + 1]); ++e) sum -= value[e] * x[col[e]];
      x[i] = sum * reciprocal[at(i)];
    }
    for (Index i = c - 1; i >= 0; --i) {
      x[i] *= reciprocal[at(i)];
      for (auto e = at(ptr[at(i)]); e < at(ptr[at(i) + 1]); ++e) x[col[e]] -= value[e] * x[i];
    }
  }
};

// The pattern of the lower triangle of s [c, c] by whole tiles, whose bounds are `tiles`; false when a diagonal entry
// is not positive and finite.
bool take_pattern(Index c, const double* s, const std::vector<Index>& tiles, Part& part) {
  std::vector<double> scale(at(c));
  for (Index i = 0; i < c; ++i) {
    const double diagonal = s[i * c + i];
    if (!(diagonal > 0.0) || !std::isfinite(diagonal)) return false;
    scale[at(i)] = std::sqrt(diagonal);
  }
  const auto couples = [&](Index row_tile, Index col_tile) {
    for (Index i = tiles[at(row_tile)]; i < tiles[at(row_tile) + 1]; ++i) {
      for (Index j = tiles[at(col_tile)]; j < tiles[at(col_tile) + 1]; ++j) {
        if (std::fabs(s[i * c + j]) > kDrop * scale[at(i)] * scale[at(j)]) return true;
      }
    }
    return false;
  };
  part.ptr.assign(1, 0);
  std::vector<Index> coupled;
  for (Index r = 0; r + 1 < static_cast<Index>(tiles.size()); ++r) {
    coupled.clear();
    for (Index t = 0; t < r; ++t) {
      if (couples(r, t)) coupled.push_back(t);
    }
    coupled.push_back(r);
    for (Index i = tiles[at(r)]; i < tiles[at(r) + 1]; ++i) {
      for (const Index t : coupled) {
        for (Index j = tiles[at(t)]; j < std::min(i, tiles[at(t) + 1]); ++j) {
          part.col.push_back(static_cast<std::int32_t>(j));
        }
      }
      part.ptr.push_back(static_cast<std::int32_t>(part.col.size()));
    }
  }
  return true;
}

// L of s + shift diag(s) on the pattern, row by row; false at a bad pivot.
bool factor_zero_fill(Index c, const double* s, double shift, Part& part) {
  part.value.resize(part.col.size());
  part.reciprocal.resize(at(c));
  std::vector<double> row(at(c), 0.0);  // L_i, scattered
  for (Index i = 0; i < c; ++i) {
    const auto begin = at(part.ptr[at(i)]), end = at(part.ptr[at(i) + 1]);
    double pivot = (1.0 + shift) * s[i * c + i];
    const double floor = kSmallestPivot * pivot;
    for (auto e = begin; e < end; ++e) {
      const Index j = part.col[e];
      double sum = s[i * c + j];
      for (auto f = at(part.ptr[at(j)]); f < at(part.ptr[at(j) + 1]); ++f) {
        sum -= part.value[f] * row[at(part.col[f])];
      }
      const double entry = sum * part.reciprocal[at(j)];
      part.value[e] = row[at(j)] = entry;
      pivot -= entry * entry;
    }
    for (auto e = begin; e < end; ++e) row[at(part.col[e])] = 0.0;
    if (!(pivot > floor)) return false;
    part.reciprocal[at(i)] = 1.0 / std::sqrt(pivot);
  }
  return true;
}

bool factor_dense(Index c, const double* s, Part& part) {
  const Index ld = linalg::padded_ld<double>(c);
  linalg::Buffer<double> l(linalg::padded_size<double>(c));
  std::fill(l.begin(), l.end(), 0.0);
  for (Index i = 0; i < c; ++i) std::copy(s + i * c, s + i * c + i + 1, l.data() + i * ld);
  if (linalg::cholesky<double>(c, l.data())) return false;
  part.dense = std::move(l);
  return true;
}

Part factor(Index c, const double* s, const std::vector<Index>& tiles) {
  Part part;
  if (!take_pattern(c, s, tiles, part)) return Part{};
  if (static_cast<double>(part.col.size()) > kDenseShare * static_cast<double>(c * (c - 1) / 2)) {
    Part whole;
    if (factor_dense(c, s, whole)) return whole;
  }
  double shift = 0.0;
  while (!factor_zero_fill(c, s, shift, part)) {
    shift = shift == 0.0 ? kFirstShift : kShiftGrowth * shift;
    if (shift > kLastShift) return Part{};
  }
  return part;
}

// Positions in `cols` at which a tile begins, and the end.
std::vector<Index> tiles_of(const BorderGraph& graph, std::span<const Index> cols) {
  const std::span<const Index> offsets = graph.offsets();
  std::vector<Index> tiles;
  Index tile_end = 0;  // the first column beyond the current tile
  for (std::size_t i = 0; i < cols.size(); ++i) {
    if (cols[i] < tile_end) continue;
    const auto next = std::upper_bound(offsets.begin(), offsets.end(), cols[i]);
    tile_end = *next - *(next - 1) <= kTileColumns ? *next : cols[i] + 1;
    tiles.push_back(static_cast<Index>(i));
  }
  tiles.push_back(static_cast<Index>(cols.size()));
  return tiles;
}

class IncompleteCholesky final : public Preconditioner {
 public:
  IncompleteCholesky(Index k, eliminate::ColumnSets sets)
      : Preconditioner("incomplete_cholesky"), k_(k), sets_(std::move(sets)), parts_(at(sets_.count())) {}

  bool build(const PreconditionerInputs& in, const BorderGraph& graph, std::string& why) {
    eliminate::ColumnSets narrow;
    std::vector<Index> which;
    for (Index s = 0; s < sets_.count(); ++s) {
      const std::span<const Index> cols = sets_.set(s);
      if (static_cast<Index>(cols.size()) > kPartColumns) continue;  // one very wide border block
      which.push_back(s);
      narrow.cols.insert(narrow.cols.end(), cols.begin(), cols.end());
      narrow.ptr.push_back(static_cast<Index>(narrow.cols.size()));
    }
    for_each_subblock(in, narrow, [&](Index s, const double* block) {
      parts_[at(which[at(s)])] =
          factor(static_cast<Index>(narrow.set(s).size()), block, tiles_of(graph, narrow.set(s)));
    });
    const auto scalar = [](const Part& part) { return part.scalar(); };
    if (std::all_of(parts_.begin(), parts_.end(), scalar)) {
      why = "incomplete factorisation broke down everywhere";
      return false;
    }
    for (const Part& part : parts_) work_ += part.nbytes() / 8;
    if (std::none_of(parts_.begin(), parts_.end(), scalar)) return true;
    auto scalars = scalar_reciprocals(in, why);
    if (!scalars) return false;
    reciprocal_ = std::move(*scalars);
    return true;
  }

  void apply(const double* r, double* z) const override {
    linalg::Buffer<double> gathered(k_);
    linalg::parallel_for_if(work_ >= linalg::kParallelWork && sets_.count() > 1, sets_.count(), [&](Index s) {
      const std::span<const Index> cols = sets_.set(s);
      double* x = gathered.data() + sets_.ptr[at(s)];
      const Part& part = parts_[at(s)];
      if (part.scalar()) {
        for (const Index j : cols) z[j] = reciprocal_[at(j)] * r[j];
        return;
      }
      for (std::size_t i = 0; i < cols.size(); ++i) x[i] = r[cols[i]];
      part.solve(static_cast<Index>(cols.size()), x);
      for (std::size_t i = 0; i < cols.size(); ++i) z[cols[i]] = x[i];
    });
  }

  Index nbytes() const override {
    Index bytes = 8 * static_cast<Index>(reciprocal_.size() + sets_.cols.size() + sets_.ptr.size());
    for (const Part& part : parts_) bytes += part.nbytes();
    return bytes;
  }

 private:
  Index k_, work_ = 0;
  eliminate::ColumnSets sets_;
  std::vector<Part> parts_;
  std::vector<double> reciprocal_;  // [k], when some part needs it
};

}  // namespace

Built incomplete_cholesky(const PreconditionerInputs& in, std::string& why) {
  if (only_products(in, why)) return nullptr;
  const std::optional<BorderGraph> graph = BorderGraph::make(*in.system);
  if (!graph) {
    why = "every row touches every border column: zero fill would be the whole Cholesky factor";
    return nullptr;
  }
  auto out = std::make_unique<IncompleteCholesky>(in.w->cols(), columns_of(*graph, graph->partition(kPartColumns)));
  if (!out->build(in, *graph, why)) return nullptr;
  return out;
}

}  // namespace arrowschur::border
