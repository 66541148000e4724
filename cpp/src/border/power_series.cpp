// The truncated Neumann series of S = M - W'W (S. Weber, N. Demmel, T. C. Chan, D. Cremers, Power bundle adjustment for
// large-scale 3D reconstruction, CVPR 2023). With M = R R' and X = W R^-T,
//
//     S = R (I - X'X) R',     P^-1 = R^-T (I + X'X + ... + (X'X)^order) R^-1
//
// Positive definite whatever S is, since X'X is semidefinite. For a positive definite S (|X'X| < 1) the eigenvalues of
// P^-1 S are 1 - l^(order + 1), l those of X'X: the smallest grow by order + 1, at the price of `order` products with W
// and W' per application. No set-up beyond R, no memory: what remains when W is too large for anything else.
#include <algorithm>
#include <utility>

#include "border/border_root.hpp"
#include "border/preconditioner.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::border {
namespace {

// Iterations fall by about sqrt(order + 1), products rise by the same factor: enough to halve the former.
constexpr Index kDefaultOrder = 4;

class PowerSeries final : public Preconditioner {
 public:
  PowerSeries(const eliminate::Whitened& w, std::unique_ptr<BorderFactor> root, Index order)
      : Preconditioner("power_series"), w_(w), root_(std::move(root)), order_(order) {}

  // Horner: a_0 = R^-1 r, a_{i+1} = a_0 + X'X a_i, z = R^-T a_order.
  void apply(const double* r, double* z) const override {
    const Index k = w_.cols();
    linalg::Buffer<double> start(k), image(k);
    std::copy_n(r, k, start.data());
    root_->solve_lower(start.data(), 1, 1);
    std::copy_n(start.data(), k, z);
    root_->solve_upper(z, 1, 1);
    for (Index i = 0; i < order_; ++i) {
      std::fill(image.begin(), image.end(), 0.0);
      w_.subtract_gram_apply(z, image.data());
      root_->solve_lower(image.data(), 1, 1);
      for (Index j = 0; j < k; ++j) z[j] = start[j] - image[j];
      root_->solve_upper(z, 1, 1);
    }
  }

  Index nbytes() const override { return root_->nbytes(); }

 private:
  const eliminate::Whitened& w_;
  std::unique_ptr<BorderFactor> root_;
  Index order_;
};

}  // namespace

Built power_series(const PreconditionerInputs& in, Index order, std::string& why) {
  auto root = border_root(in, why);
  if (root == nullptr) return nullptr;
  return std::make_unique<PowerSeries>(*in.w, std::move(root), order > 0 ? order : kDefaultOrder);
}

}  // namespace arrowschur::border
