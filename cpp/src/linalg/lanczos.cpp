#include "linalg/lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "linalg/buffer.hpp"
#include "linalg/symmetric_eigen.hpp"

namespace arrowschur::linalg {
namespace {

// Entries in [-1, 1) without any pattern that a structured matrix could be blind to (SplitMix64).
double start_entry(std::uint64_t& state) {
  std::uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return 2.0 * (static_cast<double>(z >> 11) * 0x1p-53) - 1.0;
}

}  // namespace

Extremes tridiagonal_extremes(std::span<const double> diagonal, std::span<const double> off_diagonal) {
  const auto size = static_cast<Eigen::Index>(diagonal.size());
  if (size == 0) return {};
  const Eigen::Map<const Eigen::VectorXd> alpha(diagonal.data(), size), beta(off_diagonal.data(), size - 1);
  const Eigen::VectorXd values = tridiagonal_eigenvalues(alpha, beta);
  return {values.minCoeff(), values.maxCoeff()};
}

Extremes extreme_eigenvalues(Index k, const std::function<void(const double*, double*)>& apply, int max_steps) {
  const int steps = static_cast<int>(std::min<Index>(max_steps, k));
  Buffer<double> basis((steps + 1) * k);
  std::uint64_t state = 1;
  double norm = 0.0;
  for (Index a = 0; a < k; ++a) {
    basis[a] = start_entry(state);
    norm += basis[a] * basis[a];
  }
  for (Index a = 0; a < k; ++a) basis[a] /= std::sqrt(norm);
  std::vector<double> alpha, beta;
  for (int j = 0; j < steps; ++j) {
    const double* q = basis.data() + j * k;
    double* w = basis.data() + (j + 1) * k;
    apply(q, w);
    double size = 0.0, rest = 0.0, on_diagonal = 0.0;
    for (Index a = 0; a < k; ++a) size += w[a] * w[a];
    for (int pass = 0; pass < 2; ++pass) {
      for (int i = j; i >= 0; --i) {
        const double* v = basis.data() + i * k;
        double dot = 0.0;
        for (Index a = 0; a < k; ++a) dot += v[a] * w[a];
        for (Index a = 0; a < k; ++a) w[a] -= dot * v[a];
        if (i == j) on_diagonal += dot;
      }
    }
    for (Index a = 0; a < k; ++a) rest += w[a] * w[a];
    alpha.push_back(on_diagonal);
    if (!(rest > 1e-28 * size)) break;  // an invariant subspace
    beta.push_back(std::sqrt(rest));
    for (Index a = 0; a < k; ++a) w[a] /= beta.back();
  }
  return tridiagonal_extremes(alpha, beta);
}

}  // namespace arrowschur::linalg
