// Planted sparse rows from SplitMix64 alone: atoms, then per row a support, signs, magnitudes and noise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arrowschur/types.hpp"

namespace fixture {

using arrowschur::Index;

class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}
  double unit() {
    state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }
  double normal() {  // nearly: the sum of four units
    double sum = unit();
    for (int i = 0; i < 3; ++i) sum += unit();
    return (sum - 2.0) * 1.7320508075688772;
  }

 private:
  std::uint64_t state_;
};

inline std::vector<float> planted_rows(Index n, Index p, Index k, Index s, double noise, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<double> atoms(static_cast<std::size_t>(k * p));
  for (double& v : atoms) v = random.normal();
  for (Index a = 0; a < k; ++a) {
    double square = 0.0;
    double* atom = atoms.data() + a * p;
    for (Index c = 0; c < p; ++c) square += atom[c] * atom[c];
    for (Index c = 0; c < p; ++c) atom[c] /= std::sqrt(square);
  }
  std::vector<float> rows;
  std::vector<double> row(static_cast<std::size_t>(p));
  for (Index i = 0; i < n; ++i) {
    std::vector<Index> support;
    while (static_cast<Index>(support.size()) < s) {
      const Index atom = static_cast<Index>(random.unit() * static_cast<double>(k));
      if (std::find(support.begin(), support.end(), atom) == support.end()) support.push_back(atom);
    }
    std::fill(row.begin(), row.end(), 0.0);
    for (const Index atom : support) {
      const double sign = random.unit() < 0.5 ? -1.0 : 1.0;
      const double weight = sign * (0.5 + std::abs(random.normal()));
      for (Index c = 0; c < p; ++c)
        row[static_cast<std::size_t>(c)] += weight * atoms[static_cast<std::size_t>(atom * p + c)];
    }
    for (double& v : row) v += noise * random.normal();
    for (const double v : row) rows.push_back(static_cast<float>(v));
  }
  return rows;
}

inline std::vector<float> g1() { return planted_rows(2000, 32, 64, 3, 0.05, 7); }

}  // namespace fixture
