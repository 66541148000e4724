#include "border/border_root.hpp"

#include <algorithm>
#include <cmath>

#include "linalg/blas.hpp"
#include "linalg/buffer.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/pool.hpp"
#include "linalg/triangular.hpp"

namespace arrowschur::border {
namespace {

constexpr Index kDenseColumns = 4096;
constexpr Index kPanelColumns = 8;

class DenseRoot final : public BorderFactor {
 public:
  DenseRoot(Index k, linalg::Buffer<double> l) : k_(k), l_(std::move(l)) {}
  // Row-major L is column-major U = L': L x = b is x' U = b'.
  void solve_lower(double* x, Index ldx, Index m) const override { solve('N', x, ldx, m); }
  void solve_upper(double* x, Index ldx, Index m) const override { solve('T', x, ldx, m); }
  double log_det() const override {
    double sum = 0.0;
    for (Index i = 0; i < k_; ++i) sum += 2.0 * std::log(diagonal(i));
    return sum;
  }
  void pivots(double& smallest, double& largest) const override {
    smallest = largest = diagonal(0) * diagonal(0);
    for (Index i = 1; i < k_; ++i) {
      smallest = std::min(smallest, diagonal(i) * diagonal(i));
      largest = std::max(largest, diagonal(i) * diagonal(i));
    }
  }
  Index nbytes() const override { return l_.nbytes(); }

 private:
  double diagonal(Index i) const { return l_[i * (linalg::padded_ld<double>(k_) + 1)]; }
  void solve(char trans, double* x, Index ldx, Index m) const {
    if (m == 1 && ldx == 1) {
      trans == 'N' ? linalg::solve_lower_vector(k_, l_.data(), x) : linalg::solve_upper_vector(k_, l_.data(), x);
    } else {
      linalg::blas_table<double>().trsm('R', 'U', trans, m, k_, 1.0, l_.data(), linalg::padded_ld<double>(k_), x, ldx);
    }
  }
  Index k_;
  linalg::Buffer<double> l_;
};

template <class Solve>
void by_panels(Index k, double* x, Index m, Solve&& solve) {
  linalg::parallel_for_if(k * m >= linalg::kParallelWork, (m + kPanelColumns - 1) / kPanelColumns, [&](Index panel) {
    const Index begin = panel * kPanelColumns;
    solve(x + begin, std::min(kPanelColumns, m - begin));
  });
}

}  // namespace

std::unique_ptr<BorderFactor> border_root(const PreconditionerInputs& in, std::string& why) {
  const Border& border = in.system->border();
  FactorOutcome outcome;
  if (cheap_to_factor(border)) outcome = factor(border, in.shift);
  if (outcome.factor != nullptr) return std::move(outcome.factor);
  Index bad = outcome.bad_pivot;
  if (bad < 0) {
    const Index k = border.k, ld = linalg::padded_ld<double>(k);
    if (!has_dense(border) || k > kDenseColumns) {
      why = "the border block has no cheap factor";
      return nullptr;
    }
    linalg::Buffer<double> m(linalg::padded_size<double>(k));
    std::fill(m.begin(), m.end(), 0.0);
    to_dense_add(border, m.data(), ld);
    for (Index j = 0; j < k; ++j) m[j * (ld + 1)] += in.shift[j];
    const auto failure = linalg::cholesky<double>(k, m.data());
    if (!failure) return std::make_unique<DenseRoot>(k, std::move(m));
    bad = failure->index;
  }
  why = "the border block is not positive definite at column " + std::to_string(bad);
  return nullptr;
}

void solve_lower(const BorderFactor& root, Index k, double* x, Index m) {
  by_panels(k, x, m, [&](double* panel, Index width) { root.solve_lower(panel, m, width); });
}

void solve_upper(const BorderFactor& root, Index k, double* x, Index m) {
  by_panels(k, x, m, [&](double* panel, Index width) { root.solve_upper(panel, m, width); });
}

}  // namespace arrowschur::border
