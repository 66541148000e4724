// Every route on every cross-block form through the public API, against a dense factor in extended precision.
#include <cmath>
#include <numeric>

#include "arrowschur/arrowschur.hpp"
#include "check.hpp"
#include "evidence/support.hpp"

using namespace arrowschur;
using support::at;
using support::Vector;

namespace {

constexpr Index kRows = 30, kDim = 2, kBlocks = 8, kWidth = 3, kBorder = kBlocks * kWidth;

// Rows touch two neighbouring border blocks; J and the pairs describe Kronecker rows on the same columns.
struct Data {
  Vector h_tt, values, j, phi, diagonal, g_t, g_beta;
  std::vector<Index> indptr{0}, blocks, base, ptr{0};

  Data() {
    fixtures::SplitMix64 random(7);
    for (Index i = 0; i < kRows; ++i) {
      for (const double v : {3.0, 0.5, 0.5, 2.0}) h_tt.push_back(v);
      for (Index e = 0; e < 2; ++e) {
        blocks.push_back(i % (kBlocks - 1) + e);
        base.push_back(kWidth * blocks.back());
        phi.push_back(random.signed_unit());
        for (Index v = 0; v < kDim * kWidth; ++v) values.push_back(random.signed_unit());
      }
      indptr.push_back(2 * (i + 1));
      ptr.push_back(2 * (i + 1));
    }
    for (Index v = 0; v < kRows * kDim * kWidth; ++v) j.push_back(random.signed_unit());
    for (Index v = 0; v < kBorder; ++v) diagonal.push_back(40.0 + random.signed_unit());
    for (Index v = 0; v < kRows * kDim; ++v) g_t.push_back(random.signed_unit());
    for (Index v = 0; v < kBorder; ++v) g_beta.push_back(random.signed_unit());
  }

  SystemParts parts(Cross cross) const {
    SystemParts p;
    p.n = kRows;
    p.d = kDim;
    p.k = kBorder;
    p.h_tt = h_tt.data();
    p.cross = std::move(cross);
    p.border = {kBorder, DType::float64, {DiagonalBorder{diagonal.data()}}, {}};
    p.g_t = g_t.data();
    p.g_beta = g_beta.data();
    for (Index b = 0; b <= kBlocks; ++b) p.border_blocks.push_back(b * kWidth);
    return p;
  }
  Cross block_sparse() const {
    BlockSparseCross c;
    c.indptr = indptr.data();
    c.block_index = blocks.data();
    c.values = values.data();
    for (Index b = 0; b <= kBlocks; ++b) c.block_offsets.push_back(b * kWidth);
    return c;
  }
  Cross kronecker() const {
    KroneckerCross c;
    c.j = j.data();
    c.support_base = base.data();
    c.support_phi = phi.data();
    c.support_ptr = ptr.data();
    c.p = kWidth;
    return c;
  }
  // The block-sparse one again, by callbacks.
  Cross callbacks(const ArrowSystem& of) const {
    OperatorCross c;
    c.forward = [of](std::span<const double> x, std::span<double> y) {
      Vector zero_t(at(kRows * kDim)), y_beta(at(kBorder));
      std::fill(y.begin(), y.end(), 0.0);
      of.apply(zero_t, x, y, y_beta);
    };
    c.transpose = [of](std::span<const double> y, std::span<double> x) {
      Vector zero_beta(at(kBorder)), y_t(at(kRows * kDim));
      std::fill(x.begin(), x.end(), 0.0);
      of.apply(y, zero_beta, y_t, x);
    };
    return c;
  }
};

Vector dense_step(const ArrowSystem& s, const Ridges& ridges = {}) {
  const Index size = s.total_dim() + s.k();
  Vector h(at(size * size)), g(at(size)), x(at(size));
  s.to_dense(h, g);
  for (Index i = 0; i < size; ++i) h[at(i * size + i)] += i < s.total_dim() ? ridges.t : ridges.beta;
  const Vector inverse = support::Dense(h, size).inverse();
  for (Index i = 0; i < size; ++i) {
    for (Index c = 0; c < size; ++c) x[at(i)] -= inverse[at(i * size + c)] * g[at(c)];
  }
  return x;
}

bool close(double a, double b) { return std::abs(a - b) <= 1e-13; }  // entries of order one, some of them tiny

Vector whole(const NewtonStep& step) {
  Vector x = step.delta_t;
  x.insert(x.end(), step.delta_beta.begin(), step.delta_beta.end());
  return x;
}

SolveOptions by(Mode mode) {
  SolveOptions options;
  options.mode = mode;
  options.pcg.relative_tolerance = 1e-13;
  return options;
}

}  // namespace

TEST(EveryRouteSolvesEveryCrossBlock) {
  const Data data;
  const ArrowSystem sparse = ArrowSystem::make(data.parts(data.block_sparse()));
  const ArrowSystem systems[] = {sparse, ArrowSystem::make(data.parts(data.kronecker())),
                                 ArrowSystem::make(data.parts(data.callbacks(sparse)))};
  for (const ArrowSystem& s : systems) {
    for (const Ridges& ridges : {Ridges{}, Ridges{0.5, 0.25}}) {
      const Vector expected = dense_step(s, ridges);
      for (const Mode mode : {Mode::automatic, Mode::direct, Mode::sqrt_ba, Mode::inexact_pcg}) {
        const RouteCounters before = route_counters();
        const NewtonStep step = newton_step(s, ridges, by(mode));
        const RouteCounters after = route_counters();
        CHECK_NEAR(whole(step), expected, 1e-10);
        CHECK(step.diagnostics.plan.measured_seconds > 0.0);
        const bool iterated = step.diagnostics.plan.route == Route::inexact_pcg;
        CHECK_EQUAL(after.inexact_pcg - before.inexact_pcg, iterated ? 1 : 0);
        CHECK_EQUAL(step.diagnostics.pcg.has_value(), iterated);
      }
    }
  }
}

TEST(FactorsOfStructuredSystemsAnswerEverything) {
  const Data data;
  const ArrowSystem s = ArrowSystem::make(data.parts(data.block_sparse()));
  const Index t = s.total_dim(), size = t + s.k();
  Vector h(at(size * size)), g(at(size));
  s.to_dense(h, g);
  const support::Dense dense(h, size);
  const Vector inverse = dense.inverse();
  const ArrowFactor factor = factorize(s, {}, by(Mode::direct));
  CHECK_NEAR(factor.log_det(), dense.log_det(), 1e-10);
  Vector blocks(at(kRows * kDim * kDim)), diagonal(at(t)), border(at(s.k() * s.k())), cross(at(kDim * s.k()));
  factor.latent_inverse_blocks({}, blocks);
  factor.latent_inverse_diagonal(diagonal);
  factor.border_inverse_block({}, border);
  factor.cross_inverse_block(3, cross);
  for (Index i = 0; i < t; ++i) {
    CHECK(close(diagonal[at(i)], inverse[at(i * size + i)]));
    const Index row = i / kDim, a = i % kDim;
    CHECK(close(blocks[at(row * 4 + a * 2)], inverse[at(i * size + row * kDim)]));
  }
  for (Index i = 0; i < s.k(); ++i) {
    CHECK(close(border[at(i * s.k())], inverse[at((t + i) * size + t)]));
    CHECK(close(cross[at(i)], inverse[at(3 * kDim * size + t + i)]));
  }
  // The gradient of log|H| with respect to the stored blocks: 2 (H^-1)_ib.
  const SystemGradient gradient = factor.log_det_vjp();
  CHECK_EQUAL(gradient.h_tb.size(), data.values.size());
  for (Index i = 0; i < kRows; ++i) {
    for (Index e = 2 * i; e < 2 * i + 2; ++e) {
      for (Index v = 0; v < kDim * kWidth; ++v) {
        const Index line = i * kDim + v / kWidth, column = t + data.blocks[at(e)] * kWidth + v % kWidth;
        CHECK(close(gradient.h_tb[at(e * kDim * kWidth + v)], 2.0 * inverse[at(line * size + column)]));
      }
    }
  }
  const ArrowFactor other = factor.update_ridges({0.0, 0.75});
  CHECK_NEAR(whole(other.step()), dense_step(s, {0.0, 0.75}), 1e-11);
  Vector x_t(at(t * 3)), x_beta(at(s.k() * 3));
  factor.sample(3, 1, x_t, x_beta);
  const SystemGradient adjoint = factor.vjp(x_t, x_beta, x_t, x_beta, 3);
  CHECK_EQUAL(adjoint.h_tb.size(), data.values.size());
}

TEST(IterativeFactorsRefuseWhatNeedsAFactor) {
  const Data data;
  const ArrowSystem s = ArrowSystem::make(data.parts(data.kronecker()));
  const ArrowFactor factor = factorize(s, {}, by(Mode::inexact_pcg));
  Vector out(at(s.total_dim()));
  CHECK_THROWS(UnsupportedConfiguration, factor.log_det());
  CHECK_THROWS(UnsupportedConfiguration, factor.latent_inverse_diagonal(out));
  CHECK_THROWS(UnsupportedConfiguration, factor.min_pivot());
  Vector v(at(s.k()), 1.0), y(at(s.k()));
  factor.schur_apply(v, y);
  factor.border_inverse_apply(y, y);
  CHECK_NEAR(y, v, 1e-9);
  CHECK(factor.nbytes() > 0);
  // Derivatives with respect to Kronecker rows have no form yet.
  const ArrowFactor exact = factorize(s, {}, by(Mode::direct));
  CHECK_THROWS(UnsupportedConfiguration, exact.log_det_vjp());
}

TEST(LowRankNeedsACheapBorderAndFewRows) {
  const Index n = 5, k = 40;
  support::Problem wide(support::uniform(n, 2), k, 3);
  for (double& v : wide.h_tb) v *= 0.05;
  Vector diagonal(at(k), 2.0);
  SystemParts parts;
  parts.n = n;
  parts.d = 2;
  parts.k = k;
  parts.h_tt = wide.h_tt.data();
  parts.h_tb = wide.h_tb.data();
  parts.border = {k, DType::float64, {DiagonalBorder{diagonal.data()}}, {}};
  parts.g_t = wide.g_t.data();
  parts.g_beta = wide.g_beta.data();
  const ArrowSystem s = ArrowSystem::make(parts);
  const ArrowFactor low = factorize(s, {}, by(Mode::low_rank)), direct = factorize(s, {}, by(Mode::direct));
  CHECK_NEAR(whole(low.step()), dense_step(s), 1e-12);
  CHECK_NEAR(low.log_det(), direct.log_det(), 1e-12);
  Vector a(at(2 * n)), b(at(2 * n)), border_a(at(k)), border_b(at(k));
  low.latent_inverse_diagonal(a);
  direct.latent_inverse_diagonal(b);
  CHECK_NEAR(a, b, 1e-12);
  low.border_inverse_diagonal(border_a);
  direct.border_inverse_diagonal(border_b);
  CHECK_NEAR(border_a, border_b, 1e-12);
  CHECK_NEAR(whole(low.update_ridges({0.0, 0.5}).step()), dense_step(s, {0.0, 0.5}), 1e-12);
  CHECK_THROWS(UnsupportedConfiguration, newton_step(wide.system(), {}, by(Mode::low_rank)));
}

TEST(TrustRegionsBoundTheBorderStepOnEveryRoute) {
  const Data data;
  const ArrowSystem s = ArrowSystem::make(data.parts(data.block_sparse()));
  for (const Mode mode : {Mode::direct, Mode::inexact_pcg}) {
    SolveOptions options = by(mode);
    options.trust_region.radius = 0.01;
    const NewtonStep step = newton_step(s, {}, options);
    const double norm =
        std::sqrt(std::inner_product(step.delta_beta.begin(), step.delta_beta.end(), step.delta_beta.begin(), 0.0));
    CHECK_NEAR(norm, 0.01, 1e-14);
    CHECK_EQUAL(step.diagnostics.pcg->stopping_reason, std::string("trust_region"));
  }
}

TEST(AnIterationThatRunsOutIsAnErrorUnlessAccepted) {
  const Data data;
  const ArrowSystem s = ArrowSystem::make(data.parts(data.block_sparse()));
  SolveOptions options = by(Mode::inexact_pcg);
  options.preconditioner = PreconditionerKind::none;
  options.pcg.max_iterations = 1;
  CHECK_THROWS(PcgError, newton_step(s, {}, options));
  CHECK_THROWS(PcgError, newton_step_escalated(s, {}, options, {1e-8, 10.0, 2}));
  options.accept_truncated = true;
  const NewtonStep step = newton_step(s, {}, options);
  CHECK_EQUAL(step.diagnostics.pcg->stopping_reason, std::string("max_iter"));
}

CHECK_MAIN()
