// Least-squares arrow systems and their dense inverses.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "arrowschur/factor.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"

namespace support {

using arrowschur::ArrowFactor;
using arrowschur::ArrowSystem;
using arrowschur::FactorSet;
using arrowschur::Index;
using Vector = std::vector<double>;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// A symmetric matrix with its Cholesky factor, in extended precision.
struct Dense {
  Index size = 0;
  std::vector<long double> l;  // lower factor

  Dense(const Vector& a, Index n) : size(n), l(a.begin(), a.end()) {
    for (Index j = 0; j < n; ++j) {
      for (Index i = j; i < n; ++i) {
        long double sum = l[at(i * n + j)];
        for (Index r = 0; r < j; ++r) sum -= l[at(i * n + r)] * l[at(j * n + r)];
        l[at(i * n + j)] = i == j ? std::sqrt(sum) : sum / l[at(j * n + j)];
      }
    }
  }
  double log_det() const {
    long double sum = 0;
    for (Index i = 0; i < size; ++i) sum += std::log(l[at(i * size + i)]);
    return static_cast<double>(2 * sum);
  }
  // [size, size]
  Vector inverse() const {
    std::vector<long double> z(at(size * size), 0);  // L^-1
    for (Index j = 0; j < size; ++j) {
      for (Index i = j; i < size; ++i) {
        long double sum = i == j ? 1 : 0;
        for (Index r = j; r < i; ++r) sum -= l[at(i * size + r)] * z[at(r * size + j)];
        z[at(i * size + j)] = sum / l[at(i * size + i)];
      }
    }
    Vector out(at(size * size));
    std::vector<long double> row(at(size));
    for (Index i = 0; i < size; ++i) {
      std::fill(row.begin(), row.end(), 0);
      for (Index r = i; r < size; ++r) {
        for (Index j = 0; j <= i; ++j) row[at(j)] += z[at(r * size + i)] * z[at(r * size + j)];
      }
      for (Index j = 0; j <= i; ++j) out[at(i * size + j)] = out[at(j * size + i)] = static_cast<double>(row[at(j)]);
    }
    return out;
  }
};

// Owns the five parts. Row i: J (d + 2 x d), C (d + 2 x k), e (d + 2) from one stream; positive definite by
// construction.
struct Problem {
  std::vector<Index> dims;
  Index k = 0, total = 0;
  Vector h_tt, h_tb, h_bb, g_t, g_beta;

  Problem() = default;
  Problem(std::vector<Index> row_dims, Index border, std::uint64_t seed) : dims(std::move(row_dims)), k(border) {
    arrowschur::fixtures::SplitMix64 stream(seed);
    h_bb.assign(at(k * k), 0.0);
    g_beta.assign(at(k), 0.0);
    for (Index j = 0; j < k; ++j) h_bb[at(j * k + j)] = 0.1;
    for (const Index d : dims) {
      const Index q = d + 2;
      const auto draw = [&](Index size) {
        Vector x(at(size));
        for (double& v : x) v = stream.signed_unit();
        return x;
      };
      const Vector j = draw(q * d), c = draw(q * k), e = draw(q);
      const auto product = [q](const Vector& a, Index rows, const Vector& b, Index cols, Vector& out) {
        for (Index r = 0; r < rows; ++r) {
          for (Index s = 0; s < cols; ++s) {
            double sum = 0.0;
            for (Index p = 0; p < q; ++p) sum += a[at(p * rows + r)] * b[at(p * cols + s)];
            out.push_back(sum);
          }
        }
      };
      const std::size_t block = h_tt.size();
      product(j, d, j, d, h_tt);
      for (Index a = 0; a < d; ++a) h_tt[block + at(a * d + a)] += 0.1;
      product(j, d, c, k, h_tb);
      product(j, d, e, 1, g_t);
      Vector cc, ce;
      product(c, k, c, k, cc);
      product(c, k, e, 1, ce);
      for (std::size_t i = 0; i < cc.size(); ++i) h_bb[i] += cc[i];
      for (std::size_t i = 0; i < ce.size(); ++i) g_beta[i] += ce[i];
      total += d;
    }
  }

  Index n() const { return static_cast<Index>(dims.size()); }
  Index size() const { return total + k; }
  Index offset(Index i) const { return std::accumulate(dims.begin(), dims.begin() + i, Index{0}); }

  ArrowSystem system() const {
    arrowschur::SystemParts parts;
    parts.n = n();
    parts.k = k;
    const bool uniform = !dims.empty() && std::equal(dims.begin() + 1, dims.end(), dims.begin());
    if (uniform) {
      parts.d = dims.front();
    } else {
      parts.row_dims = dims;
    }
    parts.h_tt = h_tt.data();
    parts.h_tb = h_tb.data();
    parts.border.k = k;
    parts.border.terms.push_back(arrowschur::DenseBorder{h_bb.data()});
    parts.g_t = g_t.data();
    parts.g_beta = g_beta.data();
    return ArrowSystem::make(std::move(parts));
  }
  ArrowFactor factor(double ridge_t = 0.0, double ridge_beta = 0.0,
                     const arrowschur::SolveOptions& options = {}) const {
    return arrowschur::factorize(system(), {ridge_t, ridge_beta}, options);
  }

  // H with ridges, [T + k, T + k].
  Vector dense(double ridge_t = 0.0, double ridge_beta = 0.0) const {
    Vector h(at(size() * size())), g(at(size()));
    system().to_dense(h, g);
    for (Index i = 0; i < size(); ++i) h[at(i * size() + i)] += i < total ? ridge_t : ridge_beta;
    return h;
  }
};

inline std::vector<Index> uniform(Index n, Index d) { return std::vector<Index>(at(n), d); }
inline Problem ragged(std::uint64_t seed) { return Problem({0, 1, 2, 3, 5, 17, 1, 4}, 11, seed); }
// Row blocks on both sides of every size threshold, with empty rows between them.
inline Problem wide_rows(std::uint64_t seed) { return Problem({0, 40, 3, 33, 0, 0, 32, 200, 1, 31, 0}, 13, seed); }

// All entries exact in binary.
inline Problem hand() {
  Problem p;
  p.dims = {2, 2};
  p.k = 3;
  p.total = 4;
  p.h_tt = {3, .5, .5, 2, 1.5, -.25, -.25, 4};
  p.h_tb = {1, -.5, 0, .25, 0, 1, 0, .5, -1, 1, .25, 0};
  p.h_bb = {6, .5, 0, .5, 5, -.5, 0, -.5, 4};
  p.g_t = {.5, -1, -.25, .75};
  p.g_beta = {1, -.5, .25};
  return p;
}

// Rows [r, r + rows) and columns [c, c + cols) of a [size, size] matrix.
inline Vector block(const Vector& a, Index size, Index r, Index c, Index rows, Index cols) {
  Vector out;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) out.push_back(a[at((r + i) * size + c + j)]);
  }
  return out;
}

inline bool symmetric(const Vector& a, Index size) {
  for (Index i = 0; i < size; ++i) {
    for (Index j = 0; j < i; ++j) {
      if (a[at(i * size + j)] != a[at(j * size + i)]) return false;
    }
  }
  return true;
}

inline Vector random_vector(Index size, std::uint64_t seed) {
  arrowschur::fixtures::SplitMix64 stream(seed);
  Vector x(at(size));
  for (double& v : x) v = stream.signed_unit();
  return x;
}

// The two operators of a damped factor: ridges .5, .25 and none.
struct SetCase {
  FactorSet set;
  double ridge_t, ridge_beta;
};
inline constexpr SetCase kSets[] = {{FactorSet::step, 0.5, 0.25}, {FactorSet::evidence, 0.0, 0.0}};

}  // namespace support
