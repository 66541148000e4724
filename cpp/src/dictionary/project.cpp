#include "dictionary/project.hpp"

#include <algorithm>
#include <cmath>

#include "dictionary/kernels.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {

void project_row(const double* x, Index p, double norm, float* d) {
  double sign = 1.0;
  for (Index c = 0; c < p; ++c) {
    const double v = x[c] / norm;
    if (std::abs(v) > 1e-9) {
      sign = v < 0.0 ? -1.0 : 1.0;
      break;
    }
  }
  for (Index c = 0; c < p; ++c) d[c] = static_cast<float>(sign * (x[c] / norm));
}

bool project(const double* x, Index k, Index p, const std::vector<char>& wanted, float* d) {
  std::vector<double> norms(static_cast<std::size_t>(k));
  const auto each = [&](auto&& f) {
    constexpr Index kRows = 64;
    linalg::parallel_for_if(k * p >= linalg::kParallelWork, (k + kRows - 1) / kRows, [&](Index task) {
      for (Index i = task * kRows; i < std::min(k, (task + 1) * kRows); ++i) {
        if (wanted[static_cast<std::size_t>(i)] != 0) f(i, norms[static_cast<std::size_t>(i)]);
      }
    });
  };
  each([&](Index i, double& norm) { norm = std::sqrt(kernels().square_norm(x + i * p, p)); });
  double largest = 0.0;
  for (const double norm : norms) {
    if (!std::isfinite(norm)) return false;
    largest = std::max(largest, norm);
  }
  each([&](Index i, double norm) {
    if (norm <= 1e-12 * largest) {
      std::fill_n(d + i * p, p, 0.0f);
    } else {
      project_row(x + i * p, p, norm, d + i * p);
    }
  });
  return true;
}

}  // namespace arrowschur::dictionary
