#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/system.hpp"
#include "check.hpp"
#include "system/support.hpp"
#include "system/validate.hpp"

using namespace arrowschur;
using support::OwnedSystem;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr Index kHuge = Index{1} << 40;

ArrowSystem make(const SystemParts& parts, bool finite = true, Symmetry symmetry = Symmetry::check) {
  return ArrowSystem::make(parts, {finite, symmetry});
}

// Uniform parts over the buffers of an OwnedSystem with equal rows.
SystemParts uniform(const OwnedSystem& s) {
  SystemParts p = s.parts();
  p.row_dims.clear();
  p.d = s.dims.front();
  return p;
}

}  // namespace

TEST(NegativeAndInconsistentSizes) {
  const OwnedSystem s({2, 2}, 3, 1);
  SystemParts p = uniform(s);

  p.n = -1;
  CHECK_THROWS_WITH(InvalidArgument, "n: got -1", make(p));
  p = uniform(s);
  p.k = -2;
  CHECK_THROWS_WITH(InvalidArgument, "k: got -2", make(p));
  p = uniform(s);
  p.d = -3;
  CHECK_THROWS_WITH(InvalidArgument, "d: got -3", make(p));
  p = s.parts();
  p.row_dims = {2, 1, 1};
  CHECK_THROWS_WITH(InvalidArgument, "row_dims: got 3 entries", make(p));
  p = s.parts();
  p.row_dims = {5, -1};
  CHECK_THROWS_WITH(InvalidArgument, "-1 at index 1", make(p));
}

TEST(NullBuffersAreNamedWhenTheyAreNeeded) {
  const OwnedSystem s({2, 2}, 3, 1);
  const auto without = [&](auto change) {
    SystemParts p = s.parts();
    change(p);
    return p;
  };

  CHECK_THROWS_WITH(InvalidArgument, "h_tt: got a null pointer", make(without([](auto& p) { p.h_tt = nullptr; })));
  CHECK_THROWS_WITH(InvalidArgument, "h_tb: got a null pointer", make(without([](auto& p) { p.h_tb = nullptr; })));
  CHECK_THROWS_WITH(InvalidArgument, "g_t: got a null pointer", make(without([](auto& p) { p.g_t = nullptr; })));
  CHECK_THROWS_WITH(InvalidArgument, "g_beta: got a null pointer", make(without([](auto& p) { p.g_beta = nullptr; })));
  CHECK_THROWS_WITH(InvalidArgument, "h_bb: got a null pointer",
                    make(without([](auto& p) { p.border.terms = {DenseBorder{nullptr}}; })));
  CHECK_EQUAL(make({}).n(), 0);  // n = k = 0: nothing is needed
}

TEST(SizesThatOverflowFailBeforeMemoryIsTouched) {
  SystemParts p;
  p.n = kHuge;
  p.d = 1;
  p.k = Index{1} << 29;
  const double never_read = 0.0;
  p.h_tt = p.g_t = p.g_beta = &never_read;
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "h_tb", make(p));
  p.n = 0;
  p.k = Index{1} << 32;
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "k x k", make(p));
  p.n = Index{1} << 50;
  p.d = Index{1} << 20;
  p.k = 0;
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "g_t", make(p));
  p.n = Index{1} << 30;
  p.d = Index{1} << 17;
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "h_tt", make(p));
  p.n = Index{1} << 60;  // entries fit, bytes do not
  p.d = 1;
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "bytes", make(p));
  p.n = 2;
  p.row_dims = {kHuge, kHuge};
  CHECK_THROWS_WITH(MemoryBudgetExceeded, "h_tt", make(p));
}

TEST(BorderTermsMustFit) {
  const OwnedSystem s({1}, 3, 1);
  const auto with = [&](BorderTerm term) {
    SystemParts p = s.parts();
    p.border.terms = {std::move(term)};
    return p;
  };

  CHECK_THROWS_WITH(InvalidArgument, "h_bb", make(with(BandedBorder{s.h_bb.data(), 3})));
  CHECK_THROWS_WITH(InvalidArgument, "h_bb", make(with(BandedBorder{s.h_bb.data(), -1})));
  CHECK_THROWS_WITH(InvalidArgument, "sum of k = 3", make(with(BlockDiagonalBorder{s.h_bb.data(), {1, 1}})));
  CHECK_THROWS_WITH(InvalidArgument, "size -1", make(with(BlockDiagonalBorder{s.h_bb.data(), {4, -1}})));
  SystemParts p = s.parts();
  p.border.k = 4;
  CHECK_THROWS_WITH(InvalidArgument, "width k = 3", make(p));
  p = s.parts();
  p.border.dtype = DType::float32;
  CHECK_THROWS_WITH(InvalidArgument, "dtype", make(p));
}

TEST(ABadEntryIsNamedWithItsIndexAndValue) {
  const auto expect = [](auto change, const char* name, const char* index) {
    for (const double bad : {kNaN, kInf, -kInf}) {
      OwnedSystem s({3, 3, 3, 3}, 5, 2);
      change(s, bad);
      const std::string text = std::string(name) + ": got " + validate::describe(bad) + " at " + index;
      CHECK_THROWS_WITH(InvalidArgument, text, make(uniform(s)));
      CHECK_EQUAL(make(uniform(s), false, Symmetry::lower).k(), 5);
    }
  };
  expect([](OwnedSystem& s, double bad) { s.h_tt[2 * 9 + 1 * 3 + 2] = bad; }, "h_tt", "[2, 1, 2]");
  expect([](OwnedSystem& s, double bad) { s.h_tb[(3 * 3 + 1) * 5 + 4] = s.h_tb.back() = bad; }, "h_tb", "[3, 1, 4]");
  expect([](OwnedSystem& s, double bad) { s.h_bb[3 * 5 + 1] = s.h_bb[4 * 5 + 4] = bad; }, "h_bb", "[3, 1]");
  expect([](OwnedSystem& s, double bad) { s.g_t[3 * 1 + 2] = bad; }, "g_t", "[1, 2]");
  expect([](OwnedSystem& s, double bad) { s.g_beta[4] = bad; }, "g_beta", "[4]");
}

TEST(TheFirstBadEntryOfALargeArrayIsFound) {
  // Every position relative to vectors, chunks and threads; the second bad entry sits in another chunk.
  for (const Index size : {1, 7, 8, 9, 65536, 65537, 700001}) {
    std::vector<double> x(static_cast<std::size_t>(size), 1.0);
    CHECK_EQUAL(validate::first_non_finite(x.data(), size), -1);
    for (const Index at : {Index{0}, size / 3, size - 1}) {
      x[static_cast<std::size_t>(at)] = kNaN;
      x.back() = kInf;
      CHECK_EQUAL(validate::first_non_finite(x.data(), size), at);
      x[static_cast<std::size_t>(at)] = x.back() = std::numeric_limits<double>::max();
      CHECK_EQUAL(validate::first_non_finite(x.data(), size), -1);
    }
  }
  std::vector<float> y(70003, -std::numeric_limits<float>::max());
  CHECK_EQUAL(validate::first_non_finite(y.data(), 70003), -1);
  y[69999] = -std::numeric_limits<float>::infinity();
  CHECK_EQUAL(validate::first_non_finite(y.data(), 70003), 69999);
}

TEST(RaggedRowsNameTheirBlock) {
  OwnedSystem s({0, 1, 3, 0, 2}, 2, 3);
  s.h_tt[1 + 9 + 3] = kNaN;  // block 4, entry (1, 1)
  CHECK_THROWS_WITH(InvalidArgument, "h_tt: got nan at [4, 1, 1]", make(s.parts()));

  OwnedSystem asymmetric({0, 1, 3, 0, 2}, 2, 3);
  asymmetric.h_tt[1 + 5] += 1e-6;
  CHECK_THROWS_WITH(InvalidArgument, "h_tt: got row block 2", make(asymmetric.parts()));
}

TEST(SymmetryIsMeasuredPerBlock) {
  OwnedSystem s({2, 2}, 2, 4);
  s.h_tt = {1e8, 1.0, 1.0, 1e8, 1.0, 0.5, 0.5 + 1e-8, 1.0};  // small next to the first block, not to its own
  CHECK_THROWS_WITH(InvalidArgument, "h_tt: got row block 1", make(s.parts()));

  s.h_tt[6] = 0.5 + 0.5e-10;
  CHECK_EQUAL(make(s.parts()).n(), 2);
}

TEST(DenseBordersMustBeSymmetric) {
  for (const Index k : {2, 5, 63, 64, 65, 200}) {
    OwnedSystem s({1}, k, 5);
    CHECK_EQUAL(make(s.parts()).k(), k);
    s.h_bb[static_cast<std::size_t>(k - 1)] += 1e-8;  // the corner, far from the diagonal
    CHECK_THROWS_WITH(InvalidArgument, "h_bb: got a matrix with max|X - X'|", make(s.parts()));
    CHECK_EQUAL(make(s.parts(), true, Symmetry::lower).k(), k);
  }
}

TEST(LargeRowBlocksAreExaminedToo) {
  OwnedSystem s({100, 3}, 2, 6);
  CHECK_EQUAL(make(s.parts()).n(), 2);
  s.h_tt[99] += 1e-7;
  CHECK_THROWS_WITH(InvalidArgument, "row block 0", make(s.parts()));
}

TEST(BlockDiagonalBordersNameTheirBlock) {
  OwnedSystem s({1}, 5, 7);
  std::vector<double> blocks = support::random_symmetric(2, 1);
  const std::vector<double> second = support::random_symmetric(3, 2);
  blocks.insert(blocks.end(), second.begin(), second.end());
  SystemParts p = s.parts();
  p.border.terms = {BlockDiagonalBorder{blocks.data(), {2, 3}}};
  CHECK_EQUAL(make(p).k(), 5);

  blocks[4 + 1] += 1e-3;
  CHECK_THROWS_WITH(InvalidArgument, "diagonal block 1", make(p));
  blocks[4 + 5] = kNaN;
  CHECK_THROWS_WITH(InvalidArgument, "nan at [1, 2] of diagonal block 1", make(p));
}

TEST(TermsOfASumAreNumbered) {
  OwnedSystem s({1}, 3, 7);
  const std::vector<double> diagonal{1.0, kNaN, 2.0};
  SystemParts p = s.parts();
  p.border.terms.push_back(DiagonalBorder{diagonal.data()});
  CHECK_THROWS_WITH(InvalidArgument, "nan at [1] of the diagonal of term 1", make(p));
}

TEST(WhatLiesBehindABandIsIgnored) {
  OwnedSystem s({1}, 4, 8);
  std::vector<double> bands = support::random_vector(3 * 4, 9);
  bands[4 + 3] = bands[8 + 2] = bands[8 + 3] = kNaN;
  SystemParts p = s.parts();
  p.border.terms = {BandedBorder{bands.data(), 2}};
  CHECK_EQUAL(make(p).k(), 4);

  bands[8 + 1] = kInf;
  CHECK_THROWS_WITH(InvalidArgument, "inf at [2, 1] of the bands", make(p));
}

TEST(AverageMakesASymmetricCopyAndLeavesTheInputAlone) {
  OwnedSystem s({3, 70}, 80, 10);
  s.h_tt = support::random_vector(static_cast<Index>(s.h_tt.size()), 11);
  s.h_bb = support::random_vector(80 * 80, 12);
  const OwnedSystem before = s;
  const ArrowSystem system = make(s.parts(), true, Symmetry::average);

  std::vector<double> h(153 * 153), g(153);
  system.to_dense(h, g);
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::size_t c = 0; c < 3; ++c) CHECK_EQUAL(h[r * 153 + c], 0.5 * s.h_tt[r * 3 + c] + 0.5 * s.h_tt[c * 3 + r]);
  }
  CHECK_EQUAL(h[(3 + 69) * 153 + 3], 0.5 * s.h_tt[9 + 69 * 70] + 0.5 * s.h_tt[9 + 69]);
  CHECK_EQUAL(h[(73 + 2) * 153 + 73 + 79], 0.5 * s.h_bb[2 * 80 + 79] + 0.5 * s.h_bb[79 * 80 + 2]);
  CHECK(s.h_tt == before.h_tt && s.h_bb == before.h_bb);
}

TEST(Float32HasItsOwnTolerance) {
  OwnedSystem s({2}, 3, 13);
  std::vector<float> h_tt = support::to_float(s.h_tt), h_tb = support::to_float(s.h_tb),
                     h_bb = support::to_float(s.h_bb);
  std::vector<float> g_t = support::to_float(s.g_t), g_beta = support::to_float(s.g_beta);
  SystemParts p = s.parts();
  p.dtype = p.border.dtype = DType::float32;
  p.h_tt = h_tt.data();
  p.h_tb = h_tb.data();
  p.border.terms = {DenseBorder{h_bb.data()}};
  p.g_t = g_t.data();
  p.g_beta = g_beta.data();
  h_bb = {4.0f, 1.0f, 0.0f, 1.00001f, 4.0f, 0.0f, 0.0f, 0.0f, 4.0f};
  CHECK_EQUAL(make(p).k(), 3);

  h_bb[3] = 1.001f;
  CHECK_THROWS_WITH(InvalidArgument, "h_bb", make(p));
  h_bb[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(InvalidArgument, "h_bb: got nan at [1, 0]", make(p));
}

TEST(RidgesAreFiniteAndNotNegative) {
  const OwnedSystem s({1, 1}, 2, 14);
  const ArrowSystem system = make(s.parts());
  std::vector<double> y_t(2), y_beta(2);
  const auto apply = [&](const Ridges& r) { system.apply(s.g_t, s.g_beta, y_t, y_beta, r); };
  const std::vector<double> negative{0.0, -1.0}, short_one{1.0}, infinite{kInf, 0.0};

  for (const double bad : {-1e-300, kNaN, kInf}) {
    CHECK_THROWS_WITH(InvalidArgument, "ridge_t", apply({.t = bad}));
    CHECK_THROWS_WITH(InvalidArgument, "ridge_beta", apply({.beta = bad}));
  }
  CHECK_THROWS_WITH(InvalidArgument, "damping_t: got -1 at index 1", apply({.damping_t = negative}));
  CHECK_THROWS_WITH(InvalidArgument, "damping_t: got 1 entries", apply({.damping_t = short_one}));
  CHECK_THROWS_WITH(InvalidArgument, "damping_beta: got inf at index 0", apply({.damping_beta = infinite}));
}

TEST(NewGradientsAreChecked) {
  const OwnedSystem s({1, 1}, 2, 15);
  const ArrowSystem system = make(s.parts());
  const std::vector<double> bad{1.0, kNaN};

  CHECK_THROWS_WITH(InvalidArgument, "g_t: got nan at [1]", system.with_gradient(bad.data(), s.g_beta.data()));
  CHECK_THROWS_WITH(InvalidArgument, "g_beta: got nan at [1]", system.with_gradient(s.g_t.data(), bad.data()));
  CHECK_THROWS_WITH(InvalidArgument, "g_t: got a null pointer", system.with_gradient(nullptr, s.g_beta.data()));
  CHECK(system.with_gradient(bad.data(), bad.data(), {}, false).g_t() == bad.data());
}

CHECK_MAIN()
