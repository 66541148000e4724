// Random systems with block-sparse rows for the tests of the exact border solvers, and their dense references.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "arrowschur/fixtures.hpp"
#include "arrowschur/system.hpp"
#include "border/solver.hpp"
#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"
#include "eliminate/whitened.hpp"
#include "evidence/support.hpp"

namespace support {

using arrowschur::Ridges;
using arrowschur::SystemParts;

struct Shape {
  std::vector<Index> dims;                 // of the rows
  std::vector<Index> block_sizes;          // of the border
  std::vector<std::vector<Index>> blocks;  // per row, ascending
};

// Row i touches blocks first_i .. first_i + reach - 1, first_i running through the border.
inline Shape chain(Index rows, Index blocks, Index block_size, Index reach, std::vector<Index> dims = {1}) {
  Shape s;
  s.block_sizes.assign(at(blocks), block_size);
  for (Index i = 0; i < rows; ++i) {
    s.dims.push_back(dims[at(i % static_cast<Index>(dims.size()))]);
    std::vector<Index> own;
    for (Index b = i % blocks; b < std::min(blocks, i % blocks + reach); ++b) own.push_back(b);
    s.blocks.push_back(own);
  }
  return s;
}

// Row i touches `reach` blocks within a window of the border that is wider, at random.
inline Shape scattered(Index rows, std::vector<Index> block_sizes, Index reach, Index window, std::vector<Index> dims,
                       std::uint64_t seed) {
  arrowschur::fixtures::SplitMix64 random(seed);
  const auto blocks = static_cast<Index>(block_sizes.size());
  Shape s;
  s.block_sizes = std::move(block_sizes);
  for (Index i = 0; i < rows; ++i) {
    s.dims.push_back(dims[at(i % static_cast<Index>(dims.size()))]);
    const Index first = static_cast<Index>(random.next() % static_cast<std::uint64_t>(blocks));
    std::vector<Index> own;
    for (Index e = 0; e < reach; ++e) {
      own.push_back((first + static_cast<Index>(random.next() % static_cast<std::uint64_t>(window))) % blocks);
    }
    std::ranges::sort(own);
    own.erase(std::unique(own.begin(), own.end()), own.end());
    s.blocks.push_back(own);
  }
  return s;
}

enum class BorderForm { diagonal, banded, blocks, sum, dense };

// Owns the buffers of a positive definite system of this shape.
struct BlockSparseProblem {
  Shape shape;
  Index k = 0, total = 0;
  std::vector<Index> offsets{0}, indptr{0}, block_index;
  Vector h_tt, values, g_t, g_beta, diagonal, bands, diagonal_blocks, h_bb, m;

  BlockSparseProblem(Shape s, BorderForm form, std::uint64_t seed) : shape(std::move(s)) {
    arrowschur::fixtures::SplitMix64 random(seed);
    for (const Index b : shape.block_sizes) offsets.push_back(offsets.back() + b);
    k = offsets.back();
    total = std::accumulate(shape.dims.begin(), shape.dims.end(), Index{0});
    g_t.assign(at(total), 0.1);
    g_beta.assign(at(k), 0.2);
    Vector dominant(at(k), 0.5);
    for (std::size_t i = 0; i < shape.dims.size(); ++i) {
      const Index d = shape.dims[i];
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b) h_tt.push_back(a == b ? 2.0 + 0.1 * static_cast<double>(a) : 0.2);
      }
      double sum = 0.0;
      for (const Index b : shape.blocks[i]) {
        block_index.push_back(b);
        for (Index a = 0; a < d; ++a) {
          for (Index j = offsets[at(b)]; j < offsets[at(b + 1)]; ++j) {
            const double v = random.signed_unit();
            values.push_back(v);
            sum += std::abs(v);
          }
        }
      }
      for (const Index b : shape.blocks[i]) {  // A_i >= I: |B_i' A_i^-1 B_i| is at most sum |B|
        for (Index j = offsets[at(b)]; j < offsets[at(b + 1)]; ++j) dominant[at(j)] += sum;
      }
      indptr.push_back(static_cast<Index>(block_index.size()));
    }
    using arrowschur::BandedBorder, arrowschur::BlockDiagonalBorder, arrowschur::DenseBorder,
        arrowschur::DiagonalBorder;
    arrowschur::Border border{k, arrowschur::DType::float64, {}, {}};
    if (form != BorderForm::dense) {
      diagonal = dominant;
      for (double& v : diagonal) v += 2.0;
      border.terms.push_back(DiagonalBorder{diagonal.data()});
    }
    if (form == BorderForm::banded || form == BorderForm::sum) {
      bands.assign(at(2 * k), 0.5);
      for (double& v : bands) v *= random.signed_unit();
      border.terms.push_back(BandedBorder{bands.data(), 1});
    }
    if (form == BorderForm::blocks || form == BorderForm::sum) {
      for (const Index b : shape.block_sizes) {
        for (Index a = 0; a < b; ++a) {
          for (Index c = 0; c < b; ++c) {
            diagonal_blocks.push_back(a == c ? 1.0 : 0.1 / static_cast<double>(a + c));
          }
        }
      }
      border.terms.push_back(BlockDiagonalBorder{diagonal_blocks.data(), shape.block_sizes});
    }
    if (form == BorderForm::dense) {
      h_bb.assign(at(k * k), 0.001);
      for (Index j = 0; j < k; ++j) h_bb[at(j * k + j)] = dominant[at(j)] + 2.0;
      border.terms.push_back(DenseBorder{h_bb.data()});
    }
    parts_.border = border;
    m.assign(at(k * k), 0.0);
    border.to_dense_add(m);
  }

  ArrowSystem system() const {
    SystemParts p = parts_;
    p.n = static_cast<Index>(shape.dims.size());
    p.k = k;
    p.row_dims = shape.dims;
    if (std::ranges::count(shape.dims, shape.dims.front()) == p.n) {
      p.d = shape.dims.front();
      p.row_dims.clear();
    }
    p.h_tt = h_tt.data();
    p.cross = arrowschur::BlockSparseCross{indptr.data(), block_index.data(), values.data(), offsets};
    p.g_t = g_t.data();
    p.g_beta = g_beta.data();
    arrowschur::ValidationOptions plain;
    plain.detect_structure = false;
    return ArrowSystem::make(p, plain);
  }

 private:
  SystemParts parts_;
};

// Everything that a solver is made of, and S as a dense matrix.
struct SolverCase {
  BlockSparseProblem problem;
  ArrowSystem system;
  arrowschur::eliminate::RowFactors<double> rows;
  std::shared_ptr<const arrowschur::eliminate::Whitened> w;
  Vector dense, s, shift;  // W, S

  SolverCase(Shape shape, BorderForm form, std::uint64_t seed)
      : problem(std::move(shape), form, seed), system(problem.system()) {
    const auto report = arrowschur::eliminate::factor_rows(system, arrowschur::eliminate::Partition::make(system),
                                                           Ridges{}, arrowschur::backend::RowPolicy{}, rows);
    REQUIRE(report.ok);
    w = arrowschur::eliminate::whiten(system, rows);
    const Index k = problem.k;
    dense.resize(at(problem.total * k));
    w->to_dense(dense.data(), k);
    s = problem.m;
    for (Index r = 0; r < problem.total; ++r) {
      for (Index i = 0; i < k; ++i) {
        const double v = dense[at(r * k + i)];
        if (v == 0.0) continue;
        for (Index j = 0; j < k; ++j) s[at(i * k + j)] -= v * dense[at(r * k + j)];
      }
    }
    for (Index j = 0; j < k; ++j) {
      shift.push_back(0.25 + 0.01 * static_cast<double>(j % 3));
      s[at(j * k + j)] += shift.back();
    }
  }
  SolverCase(const SolverCase&) = delete;
  arrowschur::border::SolverInputs inputs() const {
    arrowschur::border::SolverInputs in;
    in.system = &system;
    in.w = w;
    return in;
  }
  Vector product(const Vector& x, Index m) const {
    const Index k = problem.k;
    Vector y(at(k * m), 0.0);
    for (Index i = 0; i < k; ++i) {
      for (Index j = 0; j < k; ++j) {
        for (Index c = 0; c < m; ++c) y[at(i * m + c)] += s[at(i * k + j)] * x[at(j * m + c)];
      }
    }
    return y;
  }
  // (H^-1)_ii of all rows: V'V + (V'W_i) S^-1 (W_i'V), V = L_i^-1.
  Vector row_blocks(const Vector& inverse) const {
    const Index k = problem.k;
    Vector out;
    for (Index i = 0; i < system.n(); ++i) {
      const Index d = system.row_dim(i), r0 = system.row_offset(i);
      Vector v(at(system.total_dim() * d), 0.0);
      for (Index a = 0; a < d; ++a) v[at((r0 + a) * d + a)] = 1.0;
      arrowschur::eliminate::solve_rows(system, arrowschur::eliminate::Partition::make(system), rows,
                                        arrowschur::backend::Part::lower, i, i + 1, v.data() + r0 * d, d);
      Vector u(at(k * d), 0.0);  // W_i' V
      for (Index r = 0; r < d; ++r) {
        for (Index j = 0; j < k; ++j) {
          for (Index a = 0; a < d; ++a) {
            u[at(j * d + a)] += dense[at((r0 + r) * k + j)] * v[at((r0 + r) * d + a)];
          }
        }
      }
      Vector q(at(k * d), 0.0);
      for (Index j = 0; j < k; ++j) {
        for (Index c = 0; c < k; ++c) {
          for (Index a = 0; a < d; ++a) q[at(j * d + a)] += inverse[at(j * k + c)] * u[at(c * d + a)];
        }
      }
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b) {
          double sum = 0.0;
          for (Index r = 0; r < d; ++r) sum += v[at((r0 + r) * d + a)] * v[at((r0 + r) * d + b)];
          for (Index j = 0; j < k; ++j) sum += u[at(j * d + a)] * q[at(j * d + b)];
          out.push_back(sum);
        }
      }
    }
    return out;
  }
};

// What every exact solver promises about a positive definite S.
inline void check_solver(SolverCase& c, arrowschur::border::Solver& solver, double tolerance = 1e-11) {
  using arrowschur::Guards;
  const Index k = c.problem.k;
  const Dense reference(c.s, k);
  const Vector inverse = reference.inverse();

  const auto report = solver.factor(c.shift.data(), 0.25, Guards::relative, false);
  REQUIRE(report.ok);
  CHECK(report.kappa >= 1.0);
  CHECK(report.kappa < 1e6);
  CHECK_NEAR(solver.log_det(), reference.log_det(), 1e-12);

  const Index m = 3;
  Vector x = Vector(at(k * m));
  arrowschur::fixtures::SplitMix64 random(7);
  for (double& v : x) v = random.signed_unit();
  Vector y(at(k * m));
  solver.apply(x.data(), y.data(), m);
  CHECK_NEAR(y, c.product(x, m), tolerance);
  solver.solve(y.data(), m, nullptr);
  CHECK_NEAR(y, x, tolerance);
  Vector one(at(k));
  for (Index j = 0; j < k; ++j) one[at(j)] = x[at(j * m)];
  const Vector column = one;
  Vector image(at(k));
  solver.apply(one.data(), image.data(), 1);
  solver.solve(image.data(), 1, nullptr);
  CHECK_NEAR(image, column, tolerance);

  // S^-1 = G G'
  Vector z(at(solver.root_rows() * m)), back(at(k * m));
  solver.root(x.data(), z.data(), m);
  solver.root_transpose(z.data(), back.data(), m);
  Vector solved = x;
  solver.solve(solved.data(), m, nullptr);
  CHECK_NEAR(back, solved, tolerance);
  Vector squares(at(m), 0.0), quadratic(at(m), 0.0);
  for (Index j = 0; j < solver.root_rows(); ++j) {
    for (Index q = 0; q < m; ++q) squares[at(q)] += z[at(j * m + q)] * z[at(j * m + q)];
  }
  for (Index j = 0; j < k; ++j) {
    for (Index q = 0; q < m; ++q) quadratic[at(q)] += x[at(j * m + q)] * solved[at(j * m + q)];
  }
  CHECK_NEAR(squares, quadratic, tolerance);

  double smallest = 0.0, largest = 0.0;
  solver.pivots(smallest, largest);
  CHECK(smallest > 0.0);
  CHECK(largest >= smallest);
  CHECK(solver.nbytes() > 0);
  CHECK(solver.exact());

  const Vector blocks = c.row_blocks(inverse);
  Vector out(blocks.size(), -1.0);
  if (solver.latent_blocks_cheap()) {
    REQUIRE(solver.latent_blocks(c.rows, {}, out.data()));
    CHECK_NEAR(out, blocks, tolerance);
    // The same again, and for one row, after S^-1 took the place of whatever it took.
    const Index last = c.system.n() - 1, d = c.system.row_dim(last);
    Vector block(at(d * d));
    REQUIRE(solver.latent_blocks(c.rows, {&last, 1}, block.data()));
    CHECK_NEAR(block, Vector(blocks.end() - d * d, blocks.end()), tolerance);
    solver.apply(x.data(), y.data(), m);
    CHECK_NEAR(y, c.product(x, m), tolerance);
  }

  // Another ridge, on a copy and on the solver itself.
  const auto copy = solver.unfactored_copy();
  Vector shift(at(k), 3.0);
  for (arrowschur::border::Solver* other : {copy.get(), &solver}) {
    REQUIRE(other->factor(shift.data(), 3.0, Guards::absolute, true).ok);
    Vector ridged = c.s;
    for (Index j = 0; j < k; ++j) ridged[at(j * k + j)] += 3.0 - c.shift[at(j)];
    CHECK_NEAR(other->log_det(), Dense(ridged, k).log_det(), 1e-12);
  }
}

}  // namespace support
