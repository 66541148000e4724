// Small block-sparse systems with their Schur complement in dense form, for the tests of the preconditioners, and a
// plain preconditioned CG that counts iterations.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"
#include "border/preconditioner.hpp"
#include "eliminate/whitened.hpp"
#include "linalg/rank_update.hpp"

namespace street {

using arrowschur::Index;
using arrowschur::fixtures::SplitMix64;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// W = L^-1 B in dense form, by plain loops.
class DenseWhitened final : public arrowschur::eliminate::Whitened {
 public:
  DenseWhitened(Index rows, Index cols, std::vector<double> w) : Whitened(rows, cols), w_(std::move(w)) {}
  void apply(const double* x, double* y, Index m) const override {
    std::fill(y, y + rows_ * m, 0.0);
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < cols_; ++c) {
        for (Index q = 0; q < m; ++q) y[r * m + q] += entry(r, c) * x[c * m + q];
      }
    }
  }
  void transpose(const double* y, double* x, Index m) const override {
    std::fill(x, x + cols_ * m, 0.0);
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < cols_; ++c) {
        for (Index q = 0; q < m; ++q) x[c * m + q] += entry(r, c) * y[r * m + q];
      }
    }
  }
  void subtract_gram_apply(const double* x, double* y) const override {
    std::vector<double> wx(at(rows_)), out(at(cols_));
    apply(x, wx.data(), 1);
    transpose(wx.data(), out.data(), 1);
    for (Index c = 0; c < cols_; ++c) y[c] -= out[at(c)];
  }
  void column_squares(double* out) const override {
    for (Index c = 0; c < cols_; ++c) out[c] = gram(c, c);
  }
  void subtract_gram_blocks(const arrowschur::eliminate::ColumnSets& sets,
                            std::span<double* const> out) const override {
    for (Index s = 0; s < sets.count(); ++s) {
      const auto cols = sets.set(s);
      const auto c = static_cast<Index>(cols.size());
      std::vector<Index> touched;
      for (Index r = 0; r < rows_; ++r) {
        touched.clear();
        for (Index i = 0; i < c; ++i) {
          if (entry(r, cols[at(i)]) != 0.0) touched.push_back(i);
        }
        for (const Index i : touched) {
          for (const Index j : touched) out[at(s)][i * c + j] -= entry(r, cols[at(i)]) * entry(r, cols[at(j)]);
        }
      }
    }
  }
  void subtract_gram(double* s, Index ld) const override {
    for (Index i = 0; i < cols_; ++i) {
      for (Index j = 0; j <= i; ++j) s[i * ld + j] -= gram(i, j);
    }
  }
  void to_dense(double* out, Index ld) const override {
    for (Index r = 0; r < rows_; ++r) std::copy_n(w_.data() + r * cols_, cols_, out + r * ld);
  }
  Index nbytes() const override { return 8 * rows_ * cols_; }
  const char* form() const noexcept override { return "dense"; }

 private:
  double entry(Index r, Index c) const { return w_[at(r * cols_ + c)]; }
  double gram(Index i, Index j) const {
    double sum = 0.0;
    for (Index r = 0; r < rows_; ++r) sum += entry(r, i) * entry(r, j);
    return sum;
  }
  std::vector<double> w_;
};

// Rows of size 1 that pull on border blocks of equal width b, as in least squares: row i sees the blocks in `sees[i]`
// with residuals t_i - a_ic' x_c, so that M = diag blocks of sum a a' plus `prior`, A_i = number of residuals + 1e-3.
struct Problem {
  Index n = 0, b = 0, k = 0;
  std::vector<double> h_tt, values, h_bb, g_t, g_beta, shift, s;  // s: dense Schur complement [k, k]
  std::vector<Index> indptr{0}, block_index, offsets{0};
  std::vector<double> w;
  arrowschur::ArrowSystem system;
  DenseWhitened whitened;

  Problem(const std::vector<std::vector<Index>>& sees, Index blocks, Index width, double prior, std::uint64_t seed)
      : Problem(Data(sees, blocks, width, prior, seed)) {}

  arrowschur::border::PreconditionerInputs inputs() const {
    arrowschur::border::PreconditionerInputs in;
    in.system = &system;
    in.w = &whitened;
    in.shift = shift.data();
    return in;
  }
  void apply(const double* x, double* y) const {
    for (Index i = 0; i < k; ++i) {
      y[i] = 0.0;
      for (Index j = 0; j < k; ++j) y[i] += s[at(i * k + j)] * x[j];
    }
  }

 private:
  struct Data {
    Index n, b, k;
    std::vector<double> h_tt, values, h_bb, g_t, g_beta, shift, s, w;
    std::vector<Index> indptr{0}, block_index, offsets{0};

    Data(const std::vector<std::vector<Index>>& sees, Index blocks, Index width, double prior, std::uint64_t seed)
        : n(static_cast<Index>(sees.size())), b(width), k(blocks * width) {
      SplitMix64 random(seed);
      h_bb.assign(at(blocks * b * b), 0.0);
      w.assign(at(n * k), 0.0);
      for (Index c = 0; c < blocks; ++c) {
        offsets.push_back((c + 1) * b);
        for (Index i = 0; i < b; ++i) h_bb[at((c * b + i) * b + i)] = prior;
      }
      for (Index i = 0; i < n; ++i) {
        const double a = static_cast<double>(sees[at(i)].size()) + 1e-3;
        h_tt.push_back(a);
        for (const Index c : sees[at(i)]) {
          block_index.push_back(c);
          std::vector<double> pull(at(b));
          for (double& v : pull) v = b == 1 ? 1.0 : 1.0 + 0.5 * random.signed_unit();
          for (Index p = 0; p < b; ++p) {
            values.push_back(-pull[at(p)]);
            w[at(i * k + c * b + p)] = -pull[at(p)] / std::sqrt(a);
            for (Index q = 0; q < b; ++q) h_bb[at((c * b + p) * b + q)] += pull[at(p)] * pull[at(q)];
          }
        }
        indptr.push_back(static_cast<Index>(block_index.size()));
      }
      g_t.assign(at(n), 1.0);
      g_beta.assign(at(k), 1.0);
      shift.assign(at(k), 0.0);
      s.assign(at(k * k), 0.0);
      for (Index j = 0; j < k; ++j) {
        for (Index q = 0; q < b; ++q) s[at(j * k + j / b * b + q)] = h_bb[at(j * b + q)];
      }
      for (Index r = 0; r < n; ++r) {
        for (const Index c : sees[at(r)]) {
          for (Index j = c * b; j < (c + 1) * b; ++j) {
            for (const Index e : sees[at(r)]) {
              for (Index q = e * b; q < (e + 1) * b; ++q) s[at(j * k + q)] -= w[at(r * k + j)] * w[at(r * k + q)];
            }
          }
        }
      }
    }
  };
  explicit Problem(Data d)
      : n(d.n),
        b(d.b),
        k(d.k),
        h_tt(std::move(d.h_tt)),
        values(std::move(d.values)),
        h_bb(std::move(d.h_bb)),
        g_t(std::move(d.g_t)),
        g_beta(std::move(d.g_beta)),
        shift(std::move(d.shift)),
        s(std::move(d.s)),
        indptr(std::move(d.indptr)),
        block_index(std::move(d.block_index)),
        offsets(std::move(d.offsets)),
        system(make()),
        whitened(n, k, std::move(d.w)) {}

  arrowschur::ArrowSystem make() const {
    arrowschur::SystemParts parts;
    parts.n = n;
    parts.k = k;
    parts.d = 1;
    parts.h_tt = h_tt.data();
    parts.cross = arrowschur::BlockSparseCross{indptr.data(), block_index.data(), values.data(), offsets};
    parts.border = {k,
                    arrowschur::DType::float64,
                    {arrowschur::BlockDiagonalBorder{h_bb.data(), std::vector<Index>(offsets.size() - 1, b)}},
                    {}};
    parts.g_t = g_t.data();
    parts.g_beta = g_beta.data();
    return arrowschur::ArrowSystem::make(parts);
  }
};

// A street: `per_link` rows see each pair of neighbouring blocks.
inline std::vector<std::vector<Index>> chain(Index blocks, Index per_link) {
  std::vector<std::vector<Index>> sees;
  for (Index c = 0; c + 1 < blocks; ++c) {
    for (Index r = 0; r < per_link; ++r) sees.push_back({c, c + 1});
  }
  return sees;
}

// Iterations of preconditioned CG on S x = rhs until |r| <= tolerance |rhs|; `directions` and `images` record p and S
// p.
template <class Apply, class Precondition>
Index cg_iterations(Index k, Apply&& apply, Precondition&& precondition, const std::vector<double>& rhs,
                    double tolerance, std::vector<double>* directions = nullptr, std::vector<double>* images = nullptr,
                    std::vector<double> x = {}) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  std::vector<double> r = rhs, z(at(k)), p(at(k), 0.0), q(at(k));
  if (x.empty()) x.assign(at(k), 0.0);
  apply(x.data(), q.data());
  for (std::size_t i = 0; i < at(k); ++i) r[i] -= q[i];
  const double goal = tolerance * std::sqrt(dot(rhs, rhs));
  double rz = 0.0;
  for (Index iteration = 0; iteration < 20 * k + 100; ++iteration) {
    if (std::sqrt(dot(r, r)) <= goal) return iteration;
    precondition(r.data(), z.data());
    const double next = dot(r, z), beta = iteration == 0 ? 0.0 : next / rz;
    rz = next;
    for (std::size_t i = 0; i < at(k); ++i) p[i] = z[i] + beta * p[i];
    apply(p.data(), q.data());
    if (directions != nullptr) {
      directions->insert(directions->end(), p.begin(), p.end());
      images->insert(images->end(), q.begin(), q.end());
    }
    const double alpha = rz / dot(p, q);
    for (std::size_t i = 0; i < at(k); ++i) {
      x[i] += alpha * p[i];
      r[i] -= alpha * q[i];
    }
  }
  return 20 * k + 100;
}

inline Index cg_iterations(const Problem& problem, const arrowschur::border::Preconditioner& p,
                           const std::vector<double>& rhs, double tolerance) {
  return cg_iterations(
      problem.k, [&](const double* x, double* y) { problem.apply(x, y); },
      [&](const double* r, double* z) { p.apply(r, z); }, rhs, tolerance);
}

// Scalar Jacobi from the dense S.
inline Index jacobi_iterations(const Problem& problem, const std::vector<double>& rhs, double tolerance) {
  return cg_iterations(
      problem.k, [&](const double* x, double* y) { problem.apply(x, y); },
      [&](const double* r, double* z) {
        for (Index j = 0; j < problem.k; ++j) z[j] = r[j] / problem.s[at(j * problem.k + j)];
      },
      rhs, tolerance);
}

// |x'P^-1 y - y'P^-1 x| relative to |x'P^-1 x|, and x'P^-1 x > 0, over a few random pairs: the largest asymmetry, or
// infinity when not positive.
inline double asymmetry(const arrowschur::border::Preconditioner& p, Index k, std::uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<double> x(at(k)), y(at(k)), px(at(k)), py(at(k));
  double worst = 0.0;
  for (int trial = 0; trial < 5; ++trial) {
    for (double& v : x) v = random.signed_unit();
    for (double& v : y) v = random.signed_unit();
    p.apply(x.data(), px.data());
    p.apply(y.data(), py.data());
    double xy = 0.0, yx = 0.0, xx = 0.0;
    for (std::size_t i = 0; i < at(k); ++i) {
      xy += x[i] * py[i];
      yx += y[i] * px[i];
      xx += x[i] * px[i];
    }
    if (!(xx > 0.0)) return HUGE_VAL;
    worst = std::max(worst, std::fabs(xy - yx) / xx);
  }
  return worst;
}

}  // namespace street
