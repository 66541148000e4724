// Least-squares systems (fixture LS of the specification), their dense Schur complements, and a whitened cross block by
// plain loops.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"
#include "eliminate/whitened.hpp"
#include "system/support.hpp"

namespace support {

using arrowschur::ArrowSystem;

// Rows J'J + I/10, J'C, J'e from one stream; border sum C'C + I/10. Dense border, border blocks of `block` columns.
struct LeastSquares {
  Index n, d, k;
  std::vector<double> h_tt, h_tb, h_bb, g_t, g_beta;

  LeastSquares(Index rows, Index dim, Index width, std::uint64_t seed) : n(rows), d(dim), k(width) {
    const auto at = [](Index i) { return static_cast<std::size_t>(i); };
    h_tt.assign(at(n * d * d), 0.0);
    h_tb.assign(at(n * d * k), 0.0);
    h_bb.assign(at(k * k), 0.0);
    g_t.assign(at(n * d), 0.0);
    g_beta.assign(at(k), 0.0);
    SplitMix64 stream(seed);
    const Index q = d + 2;
    std::vector<double> j(at(q * d)), c(at(q * k)), e(at(q));
    for (Index i = 0; i < n; ++i) {
      for (auto* part : {&j, &c, &e}) {
        for (double& v : *part) v = stream.signed_unit();
      }
      for (Index r = 0; r < q; ++r) {
        for (Index a = 0; a < d; ++a) {
          const double ja = j[at(r * d + a)];
          for (Index b = 0; b < d; ++b) h_tt[at((i * d + a) * d + b)] += ja * j[at(r * d + b)];
          for (Index b = 0; b < k; ++b) h_tb[at((i * d + a) * k + b)] += ja * c[at(r * k + b)];
          g_t[at(i * d + a)] += ja * e[at(r)];
        }
        for (Index a = 0; a < k; ++a) {
          const double ca = c[at(r * k + a)];
          for (Index b = 0; b < k; ++b) h_bb[at(a * k + b)] += ca * c[at(r * k + b)];
          g_beta[at(a)] += ca * e[at(r)];
        }
      }
      for (Index a = 0; a < d; ++a) h_tt[at((i * d + a) * d + a)] += 0.1;
    }
    for (Index a = 0; a < k; ++a) h_bb[at(a * k + a)] += 0.1;
  }

  ArrowSystem system(Index block = 0) const {
    arrowschur::SystemParts p;
    p.n = n;
    p.d = d;
    p.k = k;
    p.h_tt = h_tt.data();
    p.h_tb = h_tb.data();
    p.border = {k, arrowschur::DType::float64, {arrowschur::DenseBorder{h_bb.data()}}, {}};
    if (block > 0) {
      for (Index c = 0; c < k; c += block) p.border_blocks.push_back(c);
      p.border_blocks.push_back(k);
    }
    p.g_t = g_t.data();
    p.g_beta = g_beta.data();
    return ArrowSystem::make(p, {.detect_structure = false});
  }
};

class PlainWhitened final : public arrowschur::eliminate::Whitened {
 public:
  PlainWhitened(Index rows, Index cols, std::vector<double> w, const char* form = "dense")
      : Whitened(rows, cols), w_(std::move(w)), form_(form) {}

  void apply(const double* x, double* y, Index m) const override {
    for (Index r = 0; r < rows_; ++r) {
      for (Index q = 0; q < m; ++q) {
        y[r * m + q] = 0.0;
        for (Index j = 0; j < cols_; ++j) y[r * m + q] += at(r, j) * x[j * m + q];
      }
    }
  }
  void transpose(const double* y, double* x, Index m) const override {
    std::fill(x, x + cols_ * m, 0.0);
    for (Index r = 0; r < rows_; ++r) {
      for (Index j = 0; j < cols_; ++j) {
        for (Index q = 0; q < m; ++q) x[j * m + q] += at(r, j) * y[r * m + q];
      }
    }
  }
  void subtract_gram_apply(const double* x, double* y) const override {
    for (Index r = 0; r < rows_; ++r) {
      double z = 0.0;
      for (Index j = 0; j < cols_; ++j) z += at(r, j) * x[j];
      for (Index j = 0; j < cols_; ++j) y[j] -= at(r, j) * z;
    }
  }
  void column_squares(double* out) const override {
    for (Index j = 0; j < cols_; ++j) {
      out[j] = 0.0;
      for (Index r = 0; r < rows_; ++r) out[j] += at(r, j) * at(r, j);
    }
  }
  void subtract_gram_blocks(const arrowschur::eliminate::ColumnSets& sets,
                            std::span<double* const> out) const override {
    for (Index s = 0; s < sets.count(); ++s) {
      const auto cols = sets.set(s);
      for (std::size_t a = 0; a < cols.size(); ++a) {
        for (std::size_t b = 0; b < cols.size(); ++b) {
          double& entry = out[static_cast<std::size_t>(s)][a * cols.size() + b];
          for (Index r = 0; r < rows_; ++r) entry -= at(r, cols[a]) * at(r, cols[b]);
        }
      }
    }
  }
  void subtract_gram(double* s, Index ld) const override {
    for (Index i = 0; i < cols_; ++i) {
      for (Index j = 0; j <= i; ++j) {
        for (Index r = 0; r < rows_; ++r) s[i * ld + j] -= at(r, i) * at(r, j);
      }
    }
  }
  void to_dense(double* out, Index ld) const override {
    for (Index r = 0; r < rows_; ++r) {
      for (Index j = 0; j < cols_; ++j) out[r * ld + j] = at(r, j);
    }
  }
  Index nbytes() const override { return static_cast<Index>(w_.size() * sizeof(double)); }
  const char* form() const noexcept override { return form_; }

 private:
  double at(Index r, Index j) const { return w_[static_cast<std::size_t>(r * cols_ + j)]; }
  std::vector<double> w_;
  const char* form_;
};

// W_i = L_i^-1 B_i of a uniform system, and u = L^-1 g_t where asked for.
inline std::shared_ptr<PlainWhitened> whitened(Index n, Index d, Index k, const std::vector<double>& h_tt,
                                               const std::vector<double>& h_tb) {
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  std::vector<double> w = h_tb, l = h_tt;
  for (Index i = 0; i < n; ++i) {
    double *a = l.data() + i * d * d, *b = w.data() + at(i * d * k);
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c <= r; ++c) {
        double sum = a[r * d + c];
        for (Index e = 0; e < c; ++e) sum -= a[r * d + e] * a[c * d + e];
        a[r * d + c] = c == r ? std::sqrt(sum) : sum / a[c * d + c];
      }
      for (Index j = 0; j < k; ++j) {
        double sum = b[r * k + j];
        for (Index e = 0; e < r; ++e) sum -= a[r * d + e] * b[e * k + j];
        b[r * k + j] = sum / a[r * d + r];
      }
    }
  }
  return std::make_shared<PlainWhitened>(n * d, k, std::move(w));
}
inline std::shared_ptr<PlainWhitened> whitened(const LeastSquares& s) {
  return whitened(s.n, s.d, s.k, s.h_tt, s.h_tb);
}

// S = M - W'W, full.
inline std::vector<double> dense_schur(const std::vector<double>& h_bb, const PlainWhitened& w, Index k) {
  std::vector<double> s = h_bb;
  w.subtract_gram(s.data(), k);
  for (Index i = 0; i < k; ++i) {
    for (Index j = i + 1; j < k; ++j) s[static_cast<std::size_t>(i * k + j)] = s[static_cast<std::size_t>(j * k + i)];
  }
  return s;
}

inline double norm(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

// x with S x = b by Cholesky, plain loops.
inline std::vector<double> dense_solve(std::vector<double> s, std::vector<double> x) {
  const auto k = x.size();
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = s[i * k + j];
      for (std::size_t c = 0; c < j; ++c) sum -= s[i * k + c] * s[j * k + c];
      s[i * k + j] = i == j ? std::sqrt(sum) : sum / s[j * k + j];
    }
    for (std::size_t j = 0; j < i; ++j) x[i] -= s[i * k + j] * x[j];
    x[i] /= s[i * k + i];
  }
  for (std::size_t i = k; i-- > 0;) {
    for (std::size_t j = i + 1; j < k; ++j) x[i] -= s[j * k + i] * x[j];
    x[i] /= s[i * k + i];
  }
  return x;
}

}  // namespace support
