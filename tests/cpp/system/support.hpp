// Random systems and plain reference products for the tests of this folder.
#pragma once

#include <algorithm>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"

namespace support {

using arrowschur::Index;
using arrowschur::fixtures::SplitMix64;

inline std::vector<double> random_vector(Index size, std::uint64_t seed) {
  SplitMix64 stream(seed);
  std::vector<double> x(static_cast<std::size_t>(size));
  for (double& v : x) v = stream.signed_unit();
  return x;
}

// A random symmetric matrix whose strict upper triangle holds other numbers where `lower_only` is set.
inline std::vector<double> random_symmetric(Index size, std::uint64_t seed, bool lower_only = false) {
  std::vector<double> m = random_vector(size * size, seed);
  for (Index r = 0; r < size; ++r) {
    for (Index c = r + 1; c < size; ++c) {
      double& upper = m[static_cast<std::size_t>(r * size + c)];
      upper = lower_only ? 1e6 : m[static_cast<std::size_t>(c * size + r)];
    }
  }
  return m;
}

inline std::vector<float> to_float(const std::vector<double>& x) {
  std::vector<float> out(x.size());
  std::transform(x.begin(), x.end(), out.begin(), [](double v) { return static_cast<float>(v); });
  return out;
}

// y = M x with M [size, size] row-major and x [size, m].
inline std::vector<double> multiply(const std::vector<double>& matrix, const std::vector<double>& x, Index size,
                                    Index m = 1) {
  std::vector<double> y(static_cast<std::size_t>(size * m));
  for (Index r = 0; r < size; ++r) {
    for (Index c = 0; c < size; ++c) {
      for (Index q = 0; q < m; ++q) {
        y[static_cast<std::size_t>(r * m + q)] +=
            matrix[static_cast<std::size_t>(r * size + c)] * x[static_cast<std::size_t>(c * m + q)];
      }
    }
  }
  return y;
}

// Owns the buffers of a system with rows of the given sizes. Row blocks and border are symmetric.
struct OwnedSystem {
  std::vector<Index> dims;
  Index k = 0, total = 0;
  std::vector<double> h_tt, h_tb, h_bb, g_t, g_beta;

  OwnedSystem(std::vector<Index> row_dims, Index width, std::uint64_t seed) : dims(std::move(row_dims)), k(width) {
    for (const Index d : dims) {
      const std::vector<double> block = random_symmetric(d, ++seed);
      h_tt.insert(h_tt.end(), block.begin(), block.end());
      total += d;
    }
    h_tb = random_vector(total * k, ++seed);
    h_bb = random_symmetric(k, ++seed);
    g_t = random_vector(total, ++seed);
    g_beta = random_vector(k, ++seed);
  }
  arrowschur::SystemParts parts() const {
    arrowschur::SystemParts p;
    p.n = static_cast<Index>(dims.size());
    p.k = k;
    p.row_dims = dims;
    p.h_tt = h_tt.data();
    p.h_tb = h_tb.data();
    p.border = {k, arrowschur::DType::float64, {arrowschur::DenseBorder{h_bb.data()}}, {}};
    p.g_t = g_t.data();
    p.g_beta = g_beta.data();
    return p;
  }
};

}  // namespace support
