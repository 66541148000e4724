// Bounded clusters and symmetric additive Schwarz (arrow_schur 10.7, E8): with R_c the restriction to the columns of
// cluster c, S_c = R_c S R_c' = L_c L_c' and D = diag(1 / number of clusters that hold the column),
//
//     z = sum_c R_c' D_c^1/2 S_c^-1 D_c^1/2 R_c r
//
// which is block Jacobi with clusters as blocks when they are disjoint. Symmetric positive definite: a sum of
// congruences of positive definite matrices whose ranges span everything. (Weighting on one side only, "restricted"
// Schwarz, is not symmetric: CG would need luck.)
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "border/preconditioner.hpp"
#include "border/subblocks.hpp"
#include "linalg/buffer.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/pool.hpp"
#include "linalg/triangular.hpp"

namespace arrowschur::border {
namespace {

constexpr Index kClusterColumns = 512;  // of a cluster
constexpr Index kOverlapColumns = 1024;  // of a cluster that has been grown

std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }

class SubblockSolves final : public Preconditioner {
 public:
  SubblockSolves(std::string name, Index k, Index widest, eliminate::ColumnSets sets)
      : Preconditioner(std::move(name)), k_(k), widest_(widest), sets_(std::move(sets)), factors_(at(sets_.count())) {
    column_ptr_.assign(at(k) + 1, 0);
    for (const Index c : sets_.cols) ++column_ptr_[at(c) + 1];
    std::partial_sum(column_ptr_.begin(), column_ptr_.end(), column_ptr_.begin());
    position_.resize(sets_.cols.size());
    std::vector<Index> next(column_ptr_.begin(), column_ptr_.end() - 1);
    for (std::size_t e = 0; e < sets_.cols.size(); ++e)
      position_[at(next[at(sets_.cols[e])]++)] = static_cast<Index>(e);
    for (Index s = 0; s < sets_.count(); ++s) work_ += width(s) * width(s);
  }

  // False when nothing but scalars is to be had, or not even those; `why` says which.
  bool factor(const PreconditionerInputs& in, std::string& why) {
    for_each_subblock(in, factored_sets(), [this](Index s, const double* block) {
      const Index set = candidates_[at(s)], c = width(set), ld = linalg::padded_ld<double>(c);
      linalg::Buffer<double> l(linalg::padded_size<double>(c));
      for (Index i = 0; i < c; ++i) {
        std::copy(block + i * c, block + i * c + i + 1, l.data() + i * ld);
        std::fill(l.data() + i * ld + i + 1, l.data() + (i + 1) * ld, 0.0);
      }
      std::fill(l.data() + c * ld, l.end(), 0.0);
      if (!linalg::cholesky<double>(c, l.data())) factors_[at(set)] = std::move(l);
    });
    const auto missing = [](const linalg::Buffer<double>& l) { return l.size() == 0; };
    if (std::all_of(factors_.begin(), factors_.end(), missing)) {
      why = "every cluster is wider than " + std::to_string(widest_) + " columns or not positive definite";
      return false;
    }
    if (std::none_of(factors_.begin(), factors_.end(), missing)) return true;
    auto scalars = scalar_reciprocals(in, why);
    if (!scalars) return false;
    reciprocal_ = std::move(*scalars);
    return true;
  }

  void apply(const double* r, double* z) const override {
    linalg::Buffer<double> parts(static_cast<Index>(sets_.cols.size()));
    linalg::parallel_for_if(work_ >= linalg::kParallelWork && sets_.count() > 1, sets_.count(), [&](Index s) {
      double* x = parts.data() + sets_.ptr[at(s)];
      const std::span<const Index> cols = sets_.set(s);
      for (std::size_t i = 0; i < cols.size(); ++i) x[i] = root_weight(cols[i]) * r[cols[i]];
      const linalg::Buffer<double>& l = factors_[at(s)];
      if (l.size() > 0) {
        linalg::solve_lower_vector(width(s), l.data(), x);
        linalg::solve_upper_vector(width(s), l.data(), x);
      } else {
        for (std::size_t i = 0; i < cols.size(); ++i) x[i] *= reciprocal_[at(cols[i])];
      }
    });
    for (Index j = 0; j < k_; ++j) {
      double sum = 0.0;
      for (Index e = column_ptr_[at(j)]; e < column_ptr_[at(j) + 1]; ++e) sum += parts[position_[at(e)]];
      z[j] = root_weight(j) * sum;
    }
  }

  Index nbytes() const override {
    Index doubles = static_cast<Index>(reciprocal_.size());
    for (const auto& l : factors_) doubles += l.size();
    return 8 *
           (doubles + static_cast<Index>(sets_.ptr.size() + sets_.cols.size() + column_ptr_.size() + position_.size()));
  }

 private:
  Index width(Index s) const { return sets_.ptr[at(s) + 1] - sets_.ptr[at(s)]; }
  double root_weight(Index column) const {  // D^1/2
    const Index sharing = column_ptr_[at(column) + 1] - column_ptr_[at(column)];
    return sharing == 1 ? 1.0 : 1.0 / std::sqrt(static_cast<double>(sharing));
  }
  // A border block wider than the bound is a set of its own and gets scalars.
  eliminate::ColumnSets factored_sets() {
    eliminate::ColumnSets narrow;
    for (Index s = 0; s < sets_.count(); ++s) {
      if (width(s) > widest_) continue;
      candidates_.push_back(s);
      const std::span<const Index> cols = sets_.set(s);
      narrow.cols.insert(narrow.cols.end(), cols.begin(), cols.end());
      narrow.ptr.push_back(static_cast<Index>(narrow.cols.size()));
    }
    return narrow;
  }

  Index k_, widest_, work_ = 0;
  eliminate::ColumnSets sets_;
  std::vector<linalg::Buffer<double>> factors_;  // L_c in padded storage; empty: scalars
  std::vector<Index> candidates_;
  std::vector<double> reciprocal_;  // [k], when some set needs it
  std::vector<Index> column_ptr_, position_;  // where the columns are in sets_.cols
};

Built build(const PreconditionerInputs& in, const char* name, Index overlap, std::string& why) {
  if (only_products(in, why)) return nullptr;
  const std::optional<BorderGraph> graph = BorderGraph::make(*in.system);
  if (!graph) {
    why = "every row touches every border column: the border has no clusters";
    return nullptr;
  }
  BlockGroups groups = graph->partition(kClusterColumns);
  const Index widest = overlap > 0 ? kOverlapColumns : kClusterColumns;
  if (overlap > 0) {
    for (std::vector<Index>& group : groups) group = graph->grown(group, overlap, widest);
  }
  auto out = std::make_unique<SubblockSolves>(name, in.w->cols(), widest, columns_of(*graph, groups));
  if (!out->factor(in, why)) return nullptr;
  return out;
}

}  // namespace

Built clusters(const PreconditionerInputs& in, std::string& why) { return build(in, "cluster", 0, why); }

Built schwarz(const PreconditionerInputs& in, Index overlap, std::string& why) {
  return build(in, "schwarz", overlap, why);
}

}  // namespace arrowschur::border
