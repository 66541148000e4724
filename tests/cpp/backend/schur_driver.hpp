// Claims on what a device table does with S from W alone: products, conjugate gradients.
#pragma once

#include "backend/stage_driver.hpp"

namespace stage_driver {

// S with ridges, dense, row-major.
inline Vector dense_schur(const Problem& p, double ridge_t, double ridge_beta) {
  Vector h = dense(p, ridge_t, ridge_beta);
  const size_t size = p.size(), total = static_cast<size_t>(p.total), k = static_cast<size_t>(p.k);
  for (size_t j = 0; j < total; ++j) {  // eliminate the rows
    for (size_t r = j + 1; r < size; ++r) {
      const double factor = h[r * size + j] / h[j * size + j];
      if (factor == 0.0) continue;
      for (size_t c = j; c < size; ++c) h[r * size + c] -= factor * h[j * size + c];
    }
  }
  Vector s(k * k);
  for (size_t r = 0; r < k; ++r) {
    for (size_t c = 0; c < k; ++c) s[r * k + c] = h[(total + r) * size + total + c];
  }
  return s;
}

// Conjugate gradients as they are written down: what the device's iterates are held to.
struct ReferencePcg {
  Vector x, r, z, p;
  double rz = 0.0;

  ReferencePcg(const Vector& s, const Vector& b) : x(b.size(), 0.0), r(b), z(b) {
    for (size_t i = 0; i < b.size(); ++i) z[i] = r[i] / s[i * b.size() + i];
    p = z, rz = dot(r, z);
  }
  void iterate(const Vector& s) {
    const Vector q = times(s, p);
    const double alpha = rz / dot(p, q), before = rz;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] += alpha * p[i], r[i] -= alpha * q[i], z[i] = r[i] / s[i * x.size() + i];
    }
    rz = dot(r, z);
    for (size_t i = 0; i < x.size(); ++i) p[i] = z[i] + rz / before * p[i];
  }
  static double dot(const Vector& a, const Vector& b) {
    long double sum = 0.0L;
    for (size_t i = 0; i < a.size(); ++i) sum += static_cast<long double>(a[i]) * b[i];
    return static_cast<double>(sum);
  }
};

// Whitened rows and what conjugate gradients work on.
struct Iteration {
  Iteration(Frame& f, double ridge, const Vector& right_side, double tolerance, std::int64_t most)
      : frame(f), ridge_beta(ridge) {
    Stream& s = frame.stream;
    x = s.allocate(frame.p.k), vectors = s.allocate(5 * frame.p.k), record = s.allocate<ArrowschurPcgRecord>(1);
    s.require(frame.table.pcg_begin(&frame.system, ridge_beta, &frame.factor, tolerance, most, s.upload(right_side), x,
                                    vectors, record, frame.workspace, s.handle()));
  }
  void iterate() {
    frame.stream.require(frame.table.pcg_iterate(&frame.system, ridge_beta, &frame.factor, x, vectors, record,
                                                 frame.workspace, frame.stream.handle()));
  }
  ArrowschurPcgRecord look() { return frame.stream.download(record, 1)[0]; }
  // Blocks of `block` iterations between two looks.
  ArrowschurPcgRecord run(int block) {
    ArrowschurPcgRecord found = look();
    while (found.stop == ARROWSCHUR_PCG_RUNNING) {
      for (int i = 0; i < block; ++i) iterate();
      found = look();
    }
    return found;
  }

  Frame& frame;
  double ridge_beta;
  double *x, *vectors;
  ArrowschurPcgRecord* record;
};

// S x in every form of the border and on both sides of what one pass of W takes; then conjugate gradients, iterate by
// iterate, on the same system.
inline void check_schur(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  struct Case {
    std::vector<int> dims;
    std::int64_t k;
    int form;
    std::int64_t width;
  };
  const Case cases[] = {
      {{}, 7, ARROWSCHUR_BORDER_DENSE, 0},
      {{}, 300, ARROWSCHUR_BORDER_BANDED, 3},
      {repeated(2, 1), 1, ARROWSCHUR_BORDER_DENSE, 0},
      {repeated(3, 40), 255, ARROWSCHUR_BORDER_BANDED, 1},
      {repeated(3, 41), 256, ARROWSCHUR_BORDER_DENSE, 0},
      {repeated(1, 1), 301, ARROWSCHUR_BORDER_BLOCKS, 7},
      {repeated(2, 150), 264, ARROWSCHUR_BORDER_BLOCKS, 12},  // several slabs for each block
      {repeated(1, 70), 1030, ARROWSCHUR_BORDER_BANDED, 0},
      {repeated(1, 5), 2049, ARROWSCHUR_BORDER_BANDED, 1},
  };
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  for (const Case& c : cases) {
    const Problem p = random_problem(c.dims, c.k, c.form, c.width, seed);
    const double ridge_t = 0.25, ridge_beta = 0.5;
    const Vector s = dense_schur(p, ridge_t, ridge_beta);
    Vector x(static_cast<size_t>(p.k));
    for (double& value : x) value = normal(engine);
    Stream stream(table);
    Frame frame(stream, p);
    stream.require(table.factor_and_whiten(&frame.system, ridge_t, &frame.factor, frame.workspace, stream.handle()));
    double* const y = stream.allocate(p.k);
    stream.require(table.schur_apply(&frame.system, ridge_beta, &frame.factor, stream.upload(x), y, frame.workspace,
                                     stream.handle()));
    CHECK_NEAR(std::span<const double>(stream.download(y, p.k)), std::span<const double>(times(s, x)), 1e-13);

    Iteration pcg(frame, ridge_beta, x, 0.0, 6);
    ReferencePcg reference(s, x);
    for (int i = 0; i < 4 && pcg.look().stop == ARROWSCHUR_PCG_RUNNING; ++i) {
      pcg.iterate(), reference.iterate(s);
      CHECK_NEAR(std::span<const double>(stream.download(pcg.x, p.k)), std::span<const double>(reference.x), 1e-11);
    }
  }
}

// The widest border whose W is read once, and wider ones, against the whitened rows themselves.
inline void check_wide_schur(const ArrowschurDeviceTable& table) {
  for (const std::int64_t k : {4000, 5120, 5121, 6000}) {
    const Problem p = random_problem(repeated(2, 70), k, ARROWSCHUR_BORDER_BANDED, 1, 43);
    Stream stream(table);
    Frame frame(stream, p);
    stream.require(table.factor_and_whiten(&frame.system, 0.25, &frame.factor, frame.workspace, stream.handle()));
    Vector x(static_cast<size_t>(k));
    for (size_t c = 0; c < x.size(); ++c) x[c] = std::cos(0.1 * static_cast<double>(c));
    double* const y = stream.allocate(k);
    stream.require(
        table.schur_apply(&frame.system, 0.5, &frame.factor, stream.upload(x), y, frame.workspace, stream.handle()));
    const Vector w = stream.download(frame.factor.w, p.total * k);
    std::vector<long double> sums(x.size());
    for (std::int64_t c = 0; c < k; ++c) {
      for (std::int64_t q = std::max<std::int64_t>(0, c - 1); q < std::min(k, c + 2); ++q) {
        const double entry = p.border_at(c, q) + (c == q ? 0.5 : 0.0);
        sums[static_cast<size_t>(c)] += static_cast<long double>(entry) * x[static_cast<size_t>(q)];
      }
    }
    for (std::int64_t t = 0; t < p.total; ++t) {
      const double* const line = w.data() + t * k;
      long double h = 0.0L;
      for (size_t c = 0; c < x.size(); ++c) h += static_cast<long double>(line[c]) * x[c];
      for (size_t c = 0; c < x.size(); ++c) sums[c] -= h * line[c];
    }
    const Vector expected(sums.begin(), sums.end());
    CHECK_NEAR(std::span<const double>(stream.download(y, k)), std::span<const double>(expected), 1e-14);
  }
}

// A matrix of order 512 by itself and as the Schur complement of rows: to 1e-12, whatever the blocks of iterations.
inline void check_dense_pcg(const ArrowschurDeviceTable& table) {
  constexpr std::int64_t kOrder = 512;
  constexpr size_t kSize = 512;
  Vector s(kSize * kSize, 0.0), b(kSize);
  const auto at = [&](size_t r, size_t c) -> double& { return s[r * kSize + c]; };
  for (size_t i = 0; i < kSize; ++i) {
    at(i, i) = 2.5 + 0.001 * static_cast<double>(i % 17);
    if (i >= 1) at(i, i - 1) = at(i - 1, i) = -0.05;
    if (i >= 7) at(i, i - 7) = at(i - 7, i) = 0.01;
    b[i] = std::sin(0.013 * static_cast<double>(i + 1));
  }
  Vector l = s;
  factor_dense(l, kSize);
  const Vector exact = solve_dense(l, b);
  for (const int n : {0, 30}) {
    Problem p = random_problem(repeated(2, n), kOrder, ARROWSCHUR_BORDER_DENSE, 0, 29);
    // M = S + B'A^-1 B: random_problem's own complement, less its border, from S.
    Vector complement = dense_schur(p, 0.0, 0.0);
    for (size_t r = 0; r < kSize; ++r) {
      for (size_t c = 0; c <= r; ++c) {
        p.border[r * kSize + c] = at(r, c) + (p.border_at(static_cast<std::int64_t>(r), static_cast<std::int64_t>(c)) -
                                              complement[r * kSize + c]);
      }
    }
    Vector solutions[2];
    for (const int block : {1, 8}) {
      Stream stream(table);
      Frame frame(stream, p);
      stream.require(table.factor_and_whiten(&frame.system, 0.0, &frame.factor, frame.workspace, stream.handle()));
      Iteration pcg(frame, 0.0, b, 1e-12, 200);
      const ArrowschurPcgRecord found = pcg.run(block);
      CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CONVERGED});
      CHECK(found.iterations > 0 && found.iterations < 200);
      CHECK(found.residual <= 1e-12 * found.right_side);
      CHECK_NEAR(found.right_side, std::sqrt(ReferencePcg::dot(b, b)), 1e-14);
      Vector& x = solutions[block == 8];
      x = stream.download(pcg.x, kOrder);
      CHECK_NEAR(std::span<const double>(x), std::span<const double>(exact), 1e-10);
      ReferencePcg reference(s, b);
      for (int i = 0; i < found.iterations; ++i) reference.iterate(s);
      CHECK_NEAR(std::span<const double>(x), std::span<const double>(reference.x), 1e-12);
    }
    CHECK(solutions[0] == solutions[1]);
  }
}

// How conjugate gradients end, other than well.
inline void check_pcg_stops(const ArrowschurDeviceTable& table) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Problem p = random_problem(repeated(2, 20), 300, ARROWSCHUR_BORDER_BANDED, 1, 37);
  Vector b(p.g.begin(), p.g.begin() + p.k);
  const auto ended = [&](const Problem& problem, const Vector& right_side, double tolerance, std::int64_t most) {
    Stream stream(table);
    Frame frame(stream, problem);
    stream.require(table.factor_and_whiten(&frame.system, 0.0, &frame.factor, frame.workspace, stream.handle()));
    Iteration pcg(frame, 0.0, right_side, tolerance, most);
    const ArrowschurPcgRecord found = pcg.run(8);
    const Vector x = stream.download(pcg.x, p.k);
    pcg.iterate();
    CHECK(same(stream.download(pcg.x, p.k), x));  // nothing moves any more
    CHECK_EQUAL(pcg.look().iterations, found.iterations);
    if (found.iterations == 0 && found.stop != ARROWSCHUR_PCG_DIAGONAL) {
      for (const double value : x) CHECK_EQUAL(value, 0.0);
    }
    return found;
  };
  ArrowschurPcgRecord found = ended(p, Vector(b.size(), 0.0), 1e-8, 50);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CONVERGED});
  CHECK_EQUAL(found.iterations, 0);
  found = ended(p, b, 1e-12, 3);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_BUDGET});
  CHECK_EQUAL(found.iterations, 3);
  found = ended(p, b, 1e-12, 0);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_BUDGET});
  CHECK_EQUAL(found.iterations, 0);
  found = ended(p, b, 2.0, 10);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CONVERGED});
  // Below what rounding allows: gamma_k takes its place.
  found = ended(p, b, 0.0, 200);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CONVERGED});
  CHECK_NEAR(found.tolerance, 300.0 * 0x1p-53 / (1.0 - 300.0 * 0x1p-53) * found.right_side, 1e-14);

  Vector poisoned = b;
  poisoned[17] = nan;
  found = ended(p, poisoned, 1e-8, 50);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CURVATURE});
  CHECK(std::isnan(found.value));

  Problem negative = p;
  negative.border[7] = negative.border[211] = -2.0;
  found = ended(negative, b, 1e-8, 50);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_DIAGONAL});
  CHECK_NEAR(found.value, dense_schur(negative, 0.0, 0.0)[7 * 300 + 7], 1e-12);

  Problem indefinite = p;  // a positive diagonal, and a pair of columns that outweighs it
  indefinite.border[300 + 100] = 50.0;
  Vector along(b.size(), 0.0);
  along[100] = 1.0, along[101] = -1.0;
  found = ended(indefinite, along, 1e-8, 50);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_CURVATURE});
  CHECK(found.value < 0.0);

  Problem rows = p;
  rows.a[0] = -1.0;
  found = ended(rows, b, 1e-8, 50);
  CHECK_EQUAL(found.stop, unsigned{ARROWSCHUR_PCG_DIAGONAL});
  CHECK(std::isnan(found.value));
}

}  // namespace stage_driver
