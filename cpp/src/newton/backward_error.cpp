#include "newton/backward_error.hpp"

#include <cmath>
#include <vector>

#include "eliminate/row_access.hpp"
#include "linalg/ordered.hpp"
#include "newton/solver.hpp"
#include "system/border.hpp"
#include "system/cross.hpp"

namespace arrowschur::newton {
namespace {

using linalg::worse;

double max_abs(std::span<const double> x) { return linalg::max_abs(x.data(), static_cast<Index>(x.size())); }

// |H|_inf: the lines of the rows, then those of the border.
double norm_h(const ArrowSystem& s, const Ridges& ridges) {
  const Index k = s.k();
  const auto size = static_cast<std::size_t>(k);
  std::vector<double> lines(static_cast<std::size_t>(s.total_dim())), columns(size), diagonal(size), zero(size),
      product(size);
  cross::abs_sums(s, lines.data(), columns.data());
  double norm = 0.0;
  eliminate::with_storage(s.dtype(), s.h_tt(), [&](const auto* a) {
    for (Index i = 0; i < s.n(); ++i) {
      const Index d = s.row_dim(i);
      const auto* block = a + s.block_offset(i);
      for (Index r = 0; r < d; ++r) {
        double line = lines[static_cast<std::size_t>(s.row_offset(i) + r)];
        for (Index c = 0; c < d; ++c) {
          // The lower triangle is the matrix.
          const double value = static_cast<double>(c <= r ? block[r * d + c] : block[c * d + r]);
          line += std::abs(c == r ? value + ridges.t : value);
        }
        norm = worse(norm, line);
      }
    }
  });
  border::matvec_and_abs_sums_add(s.border(), zero.data(), product.data(), columns.data());
  s.border().diagonal_add(diagonal);
  for (std::size_t j = 0; j < size; ++j) norm = worse(norm, columns[j] + std::abs(diagonal[j] + ridges.beta));
  return norm;
}

}  // namespace

double backward_error(const ArrowSystem& s, const Ridges& ridges, std::span<const double> x_t,
                      std::span<const double> x_beta) {
  const Gradient g = gradient_of(s);
  std::vector<double> r_t(x_t.size()), r_beta(x_beta.size());
  s.apply(x_t, x_beta, r_t, r_beta, ridges);
  for (std::size_t i = 0; i < r_t.size(); ++i) r_t[i] += g.t[i];
  for (std::size_t j = 0; j < r_beta.size(); ++j) r_beta[j] += g.beta[j];
  const double residual = worse(max_abs(r_t), max_abs(r_beta));
  const double scale = norm_h(s, ridges) * worse(max_abs(x_t), max_abs(x_beta)) + worse(max_abs(g.t), max_abs(g.beta));
  return scale == 0.0 ? residual : residual / scale;
}

}  // namespace arrowschur::newton
