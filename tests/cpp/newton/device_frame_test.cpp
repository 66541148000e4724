// Frames on the fake device: parity with the dense reference, equal bits of frame, base frame and reupload, what a move of
// a ridge costs, failures and what they lead to.
#include "arrowschur/frame.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <limits>
#include <memory>
#include <thread>

#include "arrowschur/error.hpp"
#include "arrowschur/newton.hpp"
#include "newton/fake_backend.hpp"
#include "newton/support.hpp"

using namespace arrowschur;
using fixtures::BorderKind;
using fixtures::FixtureData;

namespace {

constexpr double kCertificate = 64 * 0x1p-52;

ArrowSystem system_of(const support::OwnedSystem& owned) { return ArrowSystem::make(owned.parts()); }

bool same_bits(const FrameStep& a, const FrameStep& b) {
  return a.delta_t == b.delta_t && a.delta_beta == b.delta_beta && a.log_det_hessian == b.log_det_hessian;
}

FixtureData indefinite() {
  FixtureData f = fixtures::coupled_fixture(4, 8, 3, 11, 0.5, BorderKind::dense);
  for (const auto& [row, value] : {std::pair{2, -1.0}, std::pair{3, -250.0}}) {
    for (int i = 0; i < 64; ++i) f.h_tt[static_cast<std::size_t>(row * 64 + i)] = i % 9 == 0 ? value : 0.0;
  }
  return f;
}

}  // namespace

// T-D-10: every border form of the fixture, golden log-determinants
TEST(StepsMatchTheDenseReference) {
  struct Golden {
    Index n, d, k;
    std::uint64_t seed;
    double coupling, log_det;
    BorderKind border = BorderKind::dense;
  };
  const Golden rows[] = {{8, 2, 4, 1, 0.5, 22.566434312700},
                         {40, 3, 96, 2, 0.9, 235.92956806080},
                         {12, 16, 6, 5, 0.9, 211.02616058903},
                         {30, 2, 40, 3, 0.5, std::numeric_limits<double>::quiet_NaN(), BorderKind::tridiagonal},
                         {30, 2, 40, 3, 0.5, std::numeric_limits<double>::quiet_NaN(), BorderKind::diagonal}};
  const fake::Leaks leaks;
  for (const Golden& g : rows) {
    const FixtureData f = fixtures::coupled_fixture(g.n, g.d, g.k, g.seed, g.coupling, g.border);
    const ArrowSystem s = f.system();
    const DenseReferenceStep reference = newton_step_dense_reference(s);
    const FrameStep step = ArrowFrame::build(s).step(true);
    CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-11);
    CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-11);
    CHECK_NEAR(step.log_det_hessian, reference.log_det, 1e-11);
    if (!std::isnan(g.log_det)) CHECK_NEAR(step.log_det_hessian, g.log_det, 1e-11);
    CHECK(step.certificate > 0.0 && step.certificate < kCertificate);
  }
}

// T-D-11
TEST(StepsMatchAtEveryShapeAndRidge) {
  const fake::Leaks leaks;
  const Index shapes[][3] = {{8, 6, 4}, {12, 10, 5}, {8, 16, 5}, {4, 30, 5}, {5, 8, 3}, {10, 12, 4}, {3, 20, 6}};
  const auto compare = [](const ArrowSystem& s, double ridge) {
    const DenseReferenceStep reference = newton_step_dense_reference(s, ridge, ridge);
    const FrameStep step = ArrowFrame::build(s, ridge, ridge).step(true);
    CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-10);
    CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-10);
    CHECK_NEAR(step.log_det_hessian, reference.log_det, 1e-10);
    CHECK(step.certificate < kCertificate);
  };
  for (const auto& [n, d, k] : shapes) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const FixtureData f = fixtures::coupled_fixture(n, d, k, seed, 0.9, BorderKind::dense);
      compare(f.system(), 0.0);
    }
  }
  const FixtureData f = fixtures::coupled_fixture(6, 12, 4, 1, 0.9, BorderKind::dense);
  for (const double ridge : {1e-12, 1e-9, 1e-6, 1e-3, 1e-2}) compare(f.system(), ridge);
}

// T34: rows of several sizes, storage in float32, sums of borders
TEST(EveryFormThatADeviceTakes) {
  const fake::Leaks leaks;
  const auto compare = [](const ArrowSystem& s, double tolerance) {
    const DenseReferenceStep reference = newton_step_dense_reference(s, 0.25, 0.5);
    const FrameStep step = ArrowFrame::build(s, 0.25, 0.5).step(true);
    CHECK(fake::metric_n(step.delta_t, reference.delta_t) < tolerance);
    CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < tolerance);
    CHECK(step.certificate < kCertificate);
  };
  const support::OwnedSystem ragged = support::definite({3, 0, 1, 5, 3, 2, 17, 1, 4, 32}, 9, 7);
  compare(system_of(ragged), 1e-11);
  const support::OwnedSystem hand = support::hand();
  compare(system_of(hand), 1e-13);

  FixtureData f = fixtures::coupled_fixture(12, 3, 8, 4, 0.5, BorderKind::diagonal);
  const std::vector<double> bands = support::random_vector(16, 1), blocks(32, 0.125), factor(16, 0.0625);
  std::vector<double> dense(64, 0.01);
  SystemParts parts;
  parts.n = f.n, parts.k = f.k, parts.d = f.d;
  parts.h_tt = f.h_tt.data(), parts.h_tb = f.h_tb.data(), parts.g_t = f.g_t.data(), parts.g_beta = f.g_beta.data();
  const std::vector<std::vector<BorderTerm>> borders = {
      {DiagonalBorder{f.h_bb.data()}},
      {DiagonalBorder{f.h_bb.data()}, BandedBorder{bands.data(), 1}},
      {BlockDiagonalBorder{dense.data(), {8}}, DiagonalBorder{f.h_bb.data()}},
      {DiagonalBorder{f.h_bb.data()}, BlockDiagonalBorder{blocks.data(), {4, 4}}, DenseBorder{dense.data()}},
      {DiagonalBorder{f.h_bb.data()}, KroneckerBorder{factor.data(), {4}, 2}},
  };
  ValidationOptions as_given;
  as_given.detect_structure = false;
  for (const auto& terms : borders) {
    parts.border = {f.k, DType::float64, terms, nullptr};
    compare(ArrowSystem::make(parts, as_given), 1e-11);
  }
  // One block size alone: uploaded as blocks, lower triangles only.
  std::vector<double> two(32, 1e6);
  for (std::size_t i = 0; i < 32; ++i) {
    const std::size_t r = i % 16 / 4, c = i % 4;
    if (c <= r) two[i] = r == c ? 4.0 : 0.25;
  }
  parts.border = {f.k, DType::float64, {BlockDiagonalBorder{two.data(), {4, 4}}}, nullptr};
  as_given.symmetry = Symmetry::lower;
  compare(ArrowSystem::make(parts, as_given), 1e-11);

  const auto tt = support::to_float(f.h_tt), tb = support::to_float(f.h_tb), bb = support::to_float(f.h_bb),
             gt = support::to_float(f.g_t), gb = support::to_float(f.g_beta);
  parts.dtype = DType::float32;
  parts.h_tt = tt.data(), parts.h_tb = tb.data(), parts.g_t = gt.data(), parts.g_beta = gb.data();
  parts.border = {f.k, DType::float32, {DiagonalBorder{bb.data()}}, nullptr};
  compare(ArrowSystem::make(parts), 1e-11);
}

TEST(EmptyPartsAreNoSpecialCase) {
  const fake::Leaks leaks;
  for (const auto& [dims, k] :
       {std::pair{std::vector<Index>{2, 3}, Index{0}}, std::pair{std::vector<Index>{}, Index{3}},
        std::pair{std::vector<Index>{0, 0}, Index{2}}}) {
    const support::OwnedSystem owned = support::definite(dims, k, 5);
    const ArrowSystem s = system_of(owned);
    const DenseReferenceStep reference = newton_step_dense_reference(s);
    const FrameStep step = ArrowFrame::build(s).step();
    CHECK_NEAR(step.delta_t, reference.delta_t, 1e-13);
    CHECK_NEAR(step.delta_beta, reference.delta_beta, 1e-13);
    CHECK_NEAR(step.log_det_hessian, reference.log_det, 1e-13);
  }
}

// T-D-7, parity part
TEST(FrameBaseAndReuploadHaveTheSameBits) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::shape_fixture(60, 96, 9, 2, 7, false);
  const ArrowSystem s = f.system();
  const ArrowFrame frame = ArrowFrame::build(s, 1e-3, 1e-2);
  BaseArrowFrame base = BaseArrowFrame::build(s);
  const FrameFactors factors = base.factor_at(1e-3, 1e-2);
  for (int step = 0; step < 24; ++step) {
    std::vector<double> g_t(f.g_t.size()), g_beta(f.g_beta.size());
    for (std::size_t i = 0; i < g_t.size(); ++i)
      g_t[i] = std::sin(0.001 * static_cast<double>(i + static_cast<std::size_t>(step)));
    for (std::size_t j = 0; j < g_beta.size(); ++j)
      g_beta[j] = std::cos(0.0007 * static_cast<double>(j + 7 * static_cast<std::size_t>(step)));
    const FrameStep one = frame.step(g_t, g_beta);
    CHECK(same_bits(one, frame.step(g_t, g_beta)));
    CHECK(same_bits(one, base.solve_with(factors, g_t, g_beta)));
    CHECK(same_bits(one, newton_step_reupload(s.with_gradient(g_t.data(), g_beta.data()), 1e-3, 1e-2)));
    const DenseReferenceStep reference =
        newton_step_dense_reference(s.with_gradient(g_t.data(), g_beta.data()), 1e-3, 1e-2);
    CHECK(fake::metric_a(one.delta_t, reference.delta_t) < 1e-9);
    CHECK(fake::metric_a(one.delta_beta, reference.delta_beta) < 1e-9);
  }
  CHECK(same_bits(frame.step(), base.refactor_and_solve(1e-3, 1e-2)));
  // The 24 steps: the first call by call, the second captured, the others replayed.
  CHECK_EQUAL(frame.telemetry().frame_builds, std::int64_t{1});
  CHECK_EQUAL(frame.telemetry().graph_replays, std::int64_t{2 * 24});
  CHECK_EQUAL(frame.telemetry().capture_failures, std::int64_t{0});
}

TEST(ResultsSayThatAStandInMadeThem) {
  const support::OwnedSystem hand = support::hand();
  const FrameStep resident = ArrowFrame::build(system_of(hand)).step(), once = newton_step_reupload(system_of(hand));
  for (const FrameStep* step : {&resident, &once}) {
    CHECK_EQUAL(std::string(step->execution_path), "cpu");
    CHECK_EQUAL(std::string(step->backend), "fake");
    CHECK(!step->telemetry.device_ordinal.has_value());
    CHECK(std::isnan(step->certificate));
  }
  CHECK_EQUAL(std::string(resident.unproven_path), "gpu-resident-linearization");
  CHECK_EQUAL(std::string(once.unproven_path), "gpu-reupload");
}

TEST(ManyRightHandSides) {
  const fake::Leaks leaks;
  const support::OwnedSystem owned = support::definite({2, 3, 1, 2}, 5, 3);
  const ArrowSystem s = system_of(owned);
  const ArrowFrame frame = ArrowFrame::build(s, 0.5, 0.25);
  constexpr Index kColumns = 3;
  const auto w_t = support::random_vector(8 * kColumns, 1), w_beta = support::random_vector(5 * kColumns, 2);
  std::vector<double> x_t(w_t.size()), x_beta(w_beta.size()), y_t(8), y_beta(5), c_t(8), c_beta(5);
  frame.solve(w_t, w_beta, x_t, x_beta, kColumns);
  for (std::size_t c = 0; c < kColumns; ++c) {
    for (std::size_t i = 0; i < 8; ++i) c_t[i] = x_t[i * kColumns + c];
    for (std::size_t j = 0; j < 5; ++j) c_beta[j] = x_beta[j * kColumns + c];
    s.apply(c_t, c_beta, y_t, y_beta, {0.5, 0.25});
    for (std::size_t i = 0; i < 8; ++i) CHECK_NEAR(y_t[i], w_t[i * kColumns + c], 1e-12);
    for (std::size_t j = 0; j < 5; ++j) CHECK_NEAR(y_beta[j], w_beta[j * kColumns + c], 1e-12);
  }
  // A step is the solve of the opposite, in every bit.
  const FrameStep step = frame.step();
  std::vector<double> opposite_t(8), opposite_beta(5);
  std::transform(owned.g_t.begin(), owned.g_t.end(), opposite_t.begin(), [](double g) { return -g; });
  std::transform(owned.g_beta.begin(), owned.g_beta.end(), opposite_beta.begin(), [](double g) { return -g; });
  frame.solve(opposite_t, opposite_beta, y_t, y_beta);
  CHECK(y_t == step.delta_t && y_beta == step.delta_beta);
}

TEST(RidgesAreMatchedExactly) {
  const support::OwnedSystem hand = support::hand();
  const ArrowFrame frame = ArrowFrame::build(system_of(hand), 0.5, 0.25);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(frame.matches_ridge(0.5, 0.25));
  CHECK(!frame.matches_ridge(std::nextafter(0.5, 1.0), 0.25));
  CHECK(!frame.matches_ridge(nan, 0.25) && !frame.matches_ridge(nan, nan));
}

TEST(ArgumentsAreCheckedBeforeTheDevice) {
  const support::OwnedSystem hand = support::hand();
  const ArrowSystem s = system_of(hand);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const int before = fake::calls("allocate");
  for (const double ridge : {nan, -1.0, std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_WITH(InvalidArgument, "ridge_t", ArrowFrame::build(s, ridge));
    CHECK_THROWS_WITH(InvalidArgument, "ridge_beta", newton_step_reupload(s, 0.0, ridge));
  }
  CHECK_THROWS_WITH(InvalidArgument, "expected_solves", ArrowFrame::build(s, 0, 0, {.expected_solves = 0}));
  CHECK_EQUAL(fake::calls("allocate"), before);
  const ArrowFrame frame = ArrowFrame::build(s);
  const std::vector<double> t(4, 1.0), beta(3, 1.0), bad(3, nan);
  CHECK_THROWS_WITH(InvalidArgument, "g_t", frame.step(beta, beta));
  CHECK_THROWS_WITH(InvalidArgument, "g_beta", frame.step(t, t));
  CHECK_THROWS_WITH(InvalidArgument, "g_beta", frame.step(t, bad));
}

// D-8.5, D-8.6
TEST(AMoveOfRidgeBetaFactorsTheBorderOnly) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(20, 3, 24, 9, 0.9, BorderKind::dense);
  const ArrowSystem s = f.system();
  BaseArrowFrame base = BaseArrowFrame::build(s, {.cache_entries = 2});
  const auto uploaded = base.telemetry().h2d_bytes;
  CHECK_EQUAL(uploaded, std::int64_t{8 * (20 * 9 + 60 * 24 + 24 * 24)});
  const auto counted = [](const char* stage, auto&& work) {
    const int before = fake::calls(stage);
    work();
    return fake::calls(stage) - before;
  };
  base.factor_at(0.5, 0.0);
  FrameStep moved;
  CHECK_EQUAL(counted("factor_and_whiten", [&] { moved = base.refactor_and_solve(0.5, 2.0); }), 0);
  CHECK(same_bits(moved, ArrowFrame::build(s, 0.5, 2.0).step()));
  CHECK_EQUAL(counted("reduce", [&] { base.factor_at(0.5, 4.0); }), 0);
  CHECK_EQUAL(counted("factor_and_whiten", [&] { base.factor_at(0.25, 4.0); }), 1);
  CHECK(same_bits(base.refactor_and_solve(0.25, 4.0), ArrowFrame::build(s, 0.25, 4.0).step()));
  // Two are kept: the one before the last is there, the first is gone.
  CHECK_EQUAL(counted("factor_border", [&] { base.factor_at(0.5, 4.0); }), 0);
  CHECK_EQUAL(counted("factor_border", [&] { base.factor_at(0.5, 0.0); }), 1);
  // No numbers of the system went up again; the two steps sent their gradients.
  CHECK_EQUAL(base.telemetry().h2d_bytes - uploaded, std::int64_t{2 * 8 * (60 + 24)});
}

TEST(FactorsOutliveTheCacheAndNotTheirFrame) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const ArrowSystem s = f.system();
  BaseArrowFrame base = BaseArrowFrame::build(s, {.cache_entries = 1}), other = BaseArrowFrame::build(s);
  const FrameFactors first = base.factor_at(0.0, 0.0);
  for (const double ridge : {1.0, 2.0, 3.0}) base.factor_at(ridge, ridge);
  CHECK(same_bits(base.solve_with(first), ArrowFrame::build(s).step()));
  CHECK_THROWS_WITH(InvalidArgument, "factors of another frame", other.solve_with(first));
}

// D-8.7
TEST(ARefreshReplacesTheNumbers) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const FixtureData g = fixtures::coupled_fixture(8, 2, 4, 2, 0.5, BorderKind::dense);
  BaseArrowFrame base = BaseArrowFrame::build(f.system());
  const FrameFactors old = base.factor_at(0.0, 0.0);
  const int before = fake::calls("allocate");
  base.refresh(g.system());
  CHECK_THROWS_WITH(InvalidArgument, "refresh", base.solve_with(old));
  const FrameStep step = base.refactor_and_solve(0.0, 0.0, true);
  CHECK(fake::calls("allocate") - before <= 2);  // of the factor, not of the blocks
  const FrameStep fresh = ArrowFrame::build(g.system()).step(true);
  CHECK(same_bits(step, fresh));
  CHECK_EQUAL(step.certificate, fresh.certificate);
  for (const FixtureData& misfit : {fixtures::coupled_fixture(9, 2, 4, 1, 0.5, BorderKind::dense),
                                    fixtures::coupled_fixture(8, 3, 4, 1, 0.5, BorderKind::dense),
                                    fixtures::coupled_fixture(8, 2, 5, 1, 0.5, BorderKind::dense),
                                    fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::diagonal)}) {
    CHECK_THROWS_WITH(InvalidArgument, "the shape of the frame", base.refresh(misfit.system()));
  }
  CHECK(same_bits(base.refactor_and_solve(0.0, 0.0), fresh));
}

// What an early end leaves is a mixture of two systems: nothing is solved with it.
TEST(ARefreshThatEndsEarlyIsNotSolvedWith) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const FixtureData g = fixtures::coupled_fixture(8, 2, 4, 2, 0.5, BorderKind::dense);
  BaseArrowFrame base = BaseArrowFrame::build(f.system());
  const FrameFactors old = base.factor_at(0.0, 0.0);
  {
    const fake::Failing script("copy_to_device", 2, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS(DeviceError, base.refresh(g.system()));
  }
  CHECK_THROWS_WITH(InvalidArgument, "refresh", base.solve_with(old));
  CHECK_THROWS_WITH(DeviceError, "refresh", base.refactor_and_solve(0.0, 0.0));
  base.refresh(g.system());
  CHECK(same_bits(base.refactor_and_solve(0.0, 0.0), ArrowFrame::build(g.system()).step()));
}

// T-D-14
TEST(OneRetryRepairsEveryRow) {
  const fake::Leaks leaks;
  const FixtureData f = indefinite();
  const ArrowSystem s = f.system();
  double suggested = 0.0;
  try {
    ArrowFrame::build(s);
    CHECK(!"a frame of an indefinite row");
  } catch (const RowFactorError& error) {
    CHECK_EQUAL(error.facts.row, Index{2});
    CHECK_EQUAL(error.facts.pivot_index, Index{0});
    CHECK_EQUAL(error.facts.base_ridge, 0.0);
    suggested = error.facts.suggested_ridge;
    CHECK_NEAR(suggested, 251.5761727, 1e-7);
  }
  const RowBump bump = examine_rows(s);
  CHECK_NEAR(suggested, bump.suggested_bump, 1e-12);
  CHECK_NEAR(bump.bump, 250.0000000000044, 1e-15);
  CHECK_THROWS(SchurFactorError, ArrowFrame::build(s, bump.bump));
  const FrameStep step = ArrowFrame::build(s, suggested).step();
  const DenseReferenceStep reference = newton_step_dense_reference(s, suggested);
  CHECK(fake::metric_n(step.delta_t, reference.delta_t) < 1e-10);
  CHECK(fake::metric_n(step.delta_beta, reference.delta_beta) < 1e-10);
}

// T34: one bad row among many; the frame that failed is usable at another ridge.
TEST(OneBadRowAmongMany) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::coupled_fixture(4096, 2, 4, 5, 0.5, BorderKind::dense);
  f.h_tt[4 * 3000 + 3] = -2.0;
  BaseArrowFrame base = BaseArrowFrame::build(f.system());
  try {
    base.factor_at(0.0, 0.0);
    CHECK(!"a factor of an indefinite row");
  } catch (const RowFactorError& error) {
    CHECK_EQUAL(error.facts.row, Index{3000});
    CHECK_EQUAL(error.facts.pivot_index, Index{1});
    const FrameStep step = base.refactor_and_solve(error.facts.suggested_ridge, 0.0, true);
    CHECK(step.certificate < kCertificate);
    CHECK(same_bits(step, ArrowFrame::build(f.system(), error.facts.suggested_ridge).step()));
  }
}

// T69
TEST(AnEscalationUploadsTheBlocksOnce) {
  const fake::Leaks leaks;
  FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  for (std::size_t j = 0; j < 4; ++j) f.h_bb[j * 5] = -1.0;
  BaseArrowFrame base = BaseArrowFrame::build(f.system());
  const auto uploaded = base.telemetry().h2d_bytes;
  int failures = 0;
  for (double ridge = 0.01; failures < 5; ridge *= 4.0) {
    try {
      base.factor_at(0.0, ridge);
      break;
    } catch (const SchurFactorError& error) {
      CHECK_EQUAL(error.pivot_index, Index{0});
      ++failures;
    }
  }
  CHECK_EQUAL(failures, 4);
  CHECK_EQUAL(base.telemetry().h2d_bytes, uploaded);
}

// T-D-15
TEST(WhatHasNoDenseFormIsDeclined) {
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  SystemParts parts;
  parts.n = f.n, parts.k = f.k, parts.d = f.d;
  parts.h_tt = f.h_tt.data(), parts.h_tb = f.h_tb.data(), parts.g_t = f.g_t.data(), parts.g_beta = f.g_beta.data();
  OperatorBorder penalty;
  penalty.matvec = [](std::span<const double> x, std::span<double> y) { std::copy(x.begin(), x.end(), y.begin()); };
  penalty.diagonal.assign(4, 1.0);
  const auto declined = [&](std::vector<BorderTerm> terms) -> std::string {
    parts.border = {f.k, DType::float64, std::move(terms), nullptr};
    try {
      ArrowFrame::build(ArrowSystem::make(parts), 0.5, 0.5);
    } catch (const UnsupportedConfiguration& error) {
      return error.feature;
    }
    return "";
  };
  const auto says = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(says(declined({}), "border operator no, cross operator no"));
  CHECK(says(declined({penalty}), "border operator yes, cross operator no"));
  CHECK(says(declined({DenseBorder{f.h_bb.data()}, penalty}), "border operator yes"));
  CHECK_EQUAL(declined({DenseBorder{f.h_bb.data()}}), std::string());

  OperatorCross callbacks;
  callbacks.forward = [](std::span<const double>, std::span<double> y) { std::fill(y.begin(), y.end(), 0.0); };
  callbacks.transpose = callbacks.forward;
  parts.h_tb = nullptr;
  parts.cross = callbacks;
  CHECK(says(declined({DenseBorder{f.h_bb.data()}}), "border operator no, cross operator yes"));
  const Index indptr[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, block[8] = {};
  parts.cross = BlockSparseCross{indptr, block, f.h_tb.data(), {0, 4}};
  CHECK(says(declined({DenseBorder{f.h_bb.data()}}), "border operator no, cross operator no"));
  const support::OwnedSystem deep = support::definite({33}, 2, 1);
  CHECK_THROWS_WITH(UnsupportedConfiguration, "more than 32 unknowns", ArrowFrame::build(system_of(deep)));
}

TEST(AFaultIsAnErrorAndLeavesNothingBehind) {
  const fake::Leaks leaks;
  const support::OwnedSystem hand = support::hand();
  const ArrowSystem s = system_of(hand);
  for (const char* stage : {"copy_to_device", "factor_and_whiten", "reduce", "factor_border", "log_det",
                            "prepare_border_solve", "stream_synchronize"}) {
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS(DeviceError, ArrowFrame::build(s));
  }
  for (const char* stage : {"reduce_rhs", "border_solve", "expand", "copy_to_host"}) {
    const ArrowFrame frame = ArrowFrame::build(s);
    const FrameStep good = frame.step();
    const fake::Failing script(stage, 1, 1, ARROWSCHUR_DEVICE_FAILED);
    CHECK_THROWS_WITH(DeviceError, stage, ArrowFrame::build(s).step());
    CHECK(same_bits(good, ArrowFrame::build(s).step()));
  }
}

TEST(WithoutMemoryTheDeviceDeclines) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(40, 3, 96, 2, 0.9, BorderKind::dense);
  CHECK_THROWS_WITH(DeviceUnavailableError, "bytes needed",
                    ArrowFrame::build(f.system(), 0, 0, {.device_memory_limit = 1000}));
  // Room for the blocks and a factor, but not for S_0 beside S: the same bits, and a move of ridge_beta reduces again.
  const ArrowFrame roomy = ArrowFrame::build(f.system());
  const Index tight = roomy.device_bytes() - 8 * 96 * 96;
  BaseArrowFrame base = BaseArrowFrame::build(f.system(), {.device_memory_limit = tight});
  CHECK(same_bits(base.refactor_and_solve(0.0, 0.0), roomy.step()));
  const FrameStep moved = ArrowFrame::build(f.system(), 0.0, 1.0).step();
  const int rows = fake::calls("factor_and_whiten"), products = fake::calls("reduce");
  CHECK(same_bits(base.refactor_and_solve(0.0, 1.0), moved));
  CHECK_EQUAL(fake::calls("factor_and_whiten"), rows);
  CHECK_EQUAL(fake::calls("reduce") - products, 1);
  CHECK(base.device_bytes() <= tight);

  const fake::Failing script("allocate", 1, 1, ARROWSCHUR_DEVICE_OUT_OF_MEMORY);
  CHECK_THROWS(DeviceUnavailableError, ArrowFrame::build(f.system()));
}

// D-5.1
TEST(WhereNothingCanBeCapturedWorkIsQueuedCallByCall) {
  const fake::Leaks leaks;
  const support::OwnedSystem hand = support::hand();
  const ArrowFrame captured = ArrowFrame::build(system_of(hand));
  for (const char* call : {"capture_begin", "capture_end"}) {
    const fake::Failing script(call, 1, -1, ARROWSCHUR_DEVICE_FAILED);
    const ArrowFrame frame = ArrowFrame::build(system_of(hand));
    for (int i = 0; i < 3; ++i) CHECK(same_bits(frame.step(), captured.step()));
    CHECK_EQUAL(frame.telemetry().capture_failures, std::int64_t{1});
    CHECK_EQUAL(frame.telemetry().graph_replays, std::int64_t{0});
  }
}

// D-8.3
TEST(OneFrameServesSeveralThreads) {
  const fake::Leaks leaks;
  const FixtureData f = fixtures::coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const ArrowFrame frame = ArrowFrame::build(f.system());
  const FrameStep expected = frame.step();
  std::vector<int> good(4);
  std::vector<std::thread> threads;
  for (int& count : good) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) count += same_bits(frame.step(), expected) ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : good) CHECK_EQUAL(count, 25);
}

// D-5.2: calls of the backend's own, for a border of one block
TEST(ABuildAndASolveAreFewLaunches) {
  const FixtureData f = fixtures::coupled_fixture(40, 3, 96, 2, 0.9, BorderKind::dense);
  const ArrowFrame frame = ArrowFrame::build(f.system());
  const auto build = frame.telemetry().kernel_launches;
  CHECK(build > 0 && build <= 12);
  const FrameStep step = frame.step();
  CHECK(step.telemetry.kernel_launches > 0 && step.telemetry.kernel_launches <= 8);
  CHECK_EQUAL(step.telemetry.syncs, std::int64_t{1});
  CHECK_EQUAL(step.telemetry.allocations, std::int64_t{0});
  frame.step();
  const FrameStep replayed = frame.step();
  CHECK_EQUAL(replayed.telemetry.kernel_launches, std::int64_t{0});
  CHECK_EQUAL(replayed.telemetry.graph_replays, std::int64_t{1});
}

// D-2.12
TEST(AChildOfTheProcessHasNoneOfItsFrames) {
  const support::OwnedSystem hand = support::hand();
  auto frame = std::make_unique<ArrowFrame>(ArrowFrame::build(system_of(hand)));
  const FrameStep step = frame->step();
  const pid_t child = ::fork();
  if (child == 0) {
    const int calls = fake::calls("copy_to_device") + fake::calls("release");
    int wrong = 0;
    try {
      frame->step();
      wrong = 1;
    } catch (const DeviceUnavailableError& error) {
      wrong = error.reason.find("forked") == std::string::npos ? 2 : 0;
    }
    frame.reset();  // gives nothing back that is not its own
    if (calls != fake::calls("copy_to_device") + fake::calls("release")) wrong = 3;
    ::_exit(wrong);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK_EQUAL(WEXITSTATUS(status), 0);
  CHECK(same_bits(frame->step(), step));
}

// D-2.9: lanes are made once
TEST(StreamsAreLentNotMade) {
  const support::OwnedSystem hand = support::hand();
  ArrowFrame::build(system_of(hand));
  const int streams = fake::counts().streams, pinned = fake::counts().host_allocations;
  for (int i = 0; i < 3; ++i) {
    const FrameStep step = newton_step_reupload(system_of(hand));
    CHECK_EQUAL(step.telemetry.handle_creations, std::int64_t{0});
    CHECK(step.telemetry.h2d_bytes > 0 && step.telemetry.kernel_launches > 0 && step.telemetry.syncs > 0);
  }
  CHECK_EQUAL(fake::counts().streams.load(), streams);
  CHECK_EQUAL(fake::counts().host_allocations.load(), pinned);
}

CHECK_MAIN()
