// Systems for the tests of this folder.
#pragma once

#include <cmath>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"
#include "system/support.hpp"

namespace support {

// The published hand example: n = 2, d = 2, k = 3, all entries exact in binary.
inline OwnedSystem hand() {
  OwnedSystem s({2, 2}, 3, 0);
  s.h_tt = {3, 0.5, 0.5, 2, 1.5, -0.25, -0.25, 4};
  s.h_tb = {1, -0.5, 0, 0.25, 0, 1, 0, 0.5, -1, 1, 0.25, 0};
  s.h_bb = {6, 0.5, 0, 0.5, 5, -0.5, 0, -0.5, 4};
  s.g_t = {0.5, -1, -0.25, 0.75};
  s.g_beta = {1, -0.5, 0.25};
  return s;
}

// Rows 0.01, cross block the identity, border h I: S = (h - 100) I.
inline OwnedSystem collapse(double h) {
  OwnedSystem s({1, 1}, 2, 0);
  s.h_tt = {0.01, 0.01};
  s.h_tb = {1, 0, 0, 1};
  s.h_bb = {h, 0, 0, h};
  s.g_t = {0.25, -0.125};
  s.g_beta = {0.5, -0.25};
  return s;
}

// Random rows of the given sizes, made positive definite and weakly coupled.
inline OwnedSystem definite(std::vector<Index> dims, Index k, std::uint64_t seed) {
  OwnedSystem s(std::move(dims), k, seed);
  std::size_t offset = 0;
  for (const Index d : s.dims) {
    for (Index r = 0; r < d; ++r) s.h_tt[offset + static_cast<std::size_t>(r * d + r)] += static_cast<double>(d) + 1.0;
    offset += static_cast<std::size_t>(d * d);
  }
  const double shrink = 0.5 / std::sqrt(static_cast<double>(s.total + k + 1));
  for (double& v : s.h_tb) v *= shrink;
  for (Index j = 0; j < k; ++j) s.h_bb[static_cast<std::size_t>(j * k + j)] += static_cast<double>(k) + 1.0;
  return s;
}

inline std::vector<Index> mixed_dims(Index n) {
  std::vector<Index> dims;
  for (Index i = 0; i < n; ++i) dims.push_back((i * 7) % 6 + (i % 50 == 0 ? 17 : 0) + (i % 211 == 0 ? 33 : 0));
  return dims;
}

}  // namespace support
