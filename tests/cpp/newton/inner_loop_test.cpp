// The control flow of the inner loop on a scripted provider: which steps are accepted, how ridges move, when it ends.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "check.hpp"
#include "newton/dense_reference.hpp"
#include "newton/inner_loop.hpp"

using namespace arrowschur;
using newton::Attempt;
using newton::Point;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// A provider in one dimension, phi(z) = phi(0) + h z^2 / 2 - g z, whose m-th attempt may be replaced.
struct Scripted : newton::StepProvider {
  double h = 2.0, g = 1.0;
  double objective_at_zero = 0.0;
  double pivot = 2.0;
  double residual_drift = 0.0;  // what an update of r leaves behind
  std::function<void(int, Attempt&)> script = [](int, Attempt&) {};  // number of the attempt, from 0

  double z = 0.0, r = 0.0, delta = 0.0, q = 0.0;
  int attempts = 0, refinements = 0, recomputed = 0;
  std::vector<double> ridges_t, ridges_beta;

  Point start(std::span<const double> g_t, std::span<const double>, double objective) override {
    g = g_t[0];
    objective_at_zero = objective;
    z = 0.0;
    r = -g;
    return {objective, std::abs(r)};
  }
  Attempt attempt(double ridge_t, double ridge_beta) override {
    ridges_t.push_back(ridge_t);
    ridges_beta.push_back(ridge_beta);
    delta = -r / (h + ridge_t);
    Attempt a = measured();
    script(attempts++, a);
    return a;
  }
  Attempt measured() {
    q = h * delta;
    Attempt a;
    a.r_delta = r * delta;
    a.delta_q = delta * q;
    a.delta_t_squared = delta * delta;
    a.next = {objective_at_zero + 0.5 * (z + delta) * (r + q - g), std::abs(r + q)};
    a.next_norm = std::abs(z + delta);
    return a;
  }
  bool refinement_fails = false;
  Attempt refine() override {
    ++refinements;
    Attempt a = measured();
    if (refinement_fails) a.outcome = Attempt::Outcome::border_failure;
    return a;
  }
  void accept() override {
    z += delta;
    r += q + residual_drift;
  }
  Point recompute_residual() override {
    ++recomputed;
    r = h * z - g;
    return {objective_at_zero + 0.5 * z * (r - g), std::abs(r)};
  }
  void read(std::span<double> t, std::span<double> beta) const override {
    t[0] = z;
    beta[0] = 0.0;
  }
  double smallest_pivot() const override { return pivot; }
  double log_det() const override { return attempts == 0 ? kNaN : 7.0; }
  std::string last_failure() const override { return "scripted"; }
};

InnerFit run(Scripted& provider, const InnerOptions& options = {}, double objective = 0.0) {
  const std::vector<double> g_t{provider.g}, g_beta{0.0};
  return newton::run_inner_loop(provider, g_t, g_beta, objective, options);
}

void border_failure(int, Attempt& a) { a.outcome = Attempt::Outcome::border_failure; }
void rejected(int, Attempt& a) { a.next.objective = 1e9; }

template <class F>
InnerLoopError::Facts error_of(F&& f) {
  try {
    f();
  } catch (const InnerLoopError& error) {
    return error.facts();
  }
  checks::fail(__FILE__, __LINE__, "no InnerLoopError");
  throw checks::EndOfCase{};
}

}  // namespace

// T-D-16 a
TEST(SixteenFailuresAreAnError) {
  Scripted p;
  p.script = border_failure;
  const auto facts = error_of([&] { run(p); });
  CHECK(facts.status == InnerStatus::max_iterations);
  CHECK_EQUAL(facts.iterations, 16);
  CHECK(std::isnan(facts.rho));
  CHECK_EQUAL(facts.last_failure, std::string("scripted"));
  REQUIRE(facts.ridges_t.size() == 17);
  CHECK_EQUAL(facts.ridges_t[0], 0.0);
  double expected = 1e-6;
  for (std::size_t i = 1; i < 17; ++i, expected *= 4.0) {
    CHECK_EQUAL(facts.ridges_t[i], expected);
    CHECK_EQUAL(facts.ridges_beta[i], expected);
  }
  CHECK_NEAR(facts.ridges_t.back(), 1073.741824, 1e-15);
  CHECK(p.ridges_t == std::vector<double>(facts.ridges_t.begin(), facts.ridges_t.end() - 1));
  CHECK_EQUAL(p.recomputed, 0);
}

// T-D-16 b
TEST(AnErrorOfTheProviderEndsTheLoopAtOnce) {
  Scripted p;
  p.script = [](int, Attempt&) { throw DeviceUnavailableError("scripted"); };
  CHECK_THROWS(DeviceUnavailableError, run(p));
  CHECK_EQUAL(p.attempts, 1);
  CHECK_EQUAL(p.ridges_t.back(), 0.0);
}

// T-D-16 c
TEST(ARejectedStepLeavesThePointAndRaisesTheRidges) {
  Scripted p;
  p.script = [](int m, Attempt& a) {
    if (m == 0) rejected(m, a);
  };
  const InnerFit fit = run(p);
  CHECK(fit.converged());
  CHECK_EQUAL(p.ridges_t[0], 0.0);
  CHECK_EQUAL(p.ridges_t[1], 1e-6);
  CHECK_EQUAL(p.ridges_beta[1], 1e-6);
  CHECK_EQUAL(fit.accepted_iterations, fit.iterations - 1);
  CHECK_NEAR(fit.t[0], 0.5, 1e-9);  // from z = 0, as if the first had not been
}

TEST(OnlyRejectedStepsAreAnErrorWithTheirRho) {
  Scripted p;
  p.script = rejected;
  const auto facts = error_of([&] { run(p); });
  CHECK(facts.status == InnerStatus::max_iterations);
  CHECK(facts.rho < 0.0);
  CHECK(facts.last_failure.empty());
  CHECK_EQUAL(p.z, 0.0);
}

TEST(AStepThatIsNotFiniteIsRejected) {
  for (const double objective : {kNaN, -std::numeric_limits<double>::infinity()}) {
    Scripted p;
    p.script = [objective](int m, Attempt& a) {
      if (m == 0) a.next.objective = objective;
    };
    const InnerFit fit = run(p);
    CHECK(fit.converged());
    CHECK_EQUAL(p.ridges_t[1], 1e-6);
    CHECK_NEAR(fit.t[0], 0.5, 1e-9);
  }
}

// T-D-16 d
TEST(NoGradientNoWork) {
  for (const Convergence rule : {Convergence::absolute, Convergence::relative}) {
    Scripted p;
    p.g = 0.0;
    InnerOptions o;
    o.convergence = rule;
    const InnerFit fit = run(p, o, 3.0);
    CHECK(fit.converged());
    CHECK_EQUAL(fit.iterations, 0);
    CHECK_EQUAL(fit.gradient_norm, 0.0);
    CHECK_EQUAL(fit.step_gradient_norm, 0.0);
    CHECK_EQUAL(fit.objective, 3.0);
    CHECK(std::isnan(fit.log_det_hessian));
    CHECK_EQUAL(p.attempts, 0);
  }
}

// T-D-16 e
TEST(TheLastAllowedStepMayConverge) {
  Scripted p;
  InnerOptions o;
  o.max_iterations = 1;
  const InnerFit fit = run(p, o);
  CHECK(fit.converged());
  CHECK_EQUAL(fit.iterations, 1);
  CHECK_EQUAL(fit.accepted_iterations, 1);
  CHECK_EQUAL(fit.log_det_hessian, 7.0);
  CHECK_EQUAL(fit.step_gradient_norm, 1.0);
  CHECK(fit.gradient_norm < 1e-15);
  CHECK_NEAR(fit.objective, -0.25, 1e-15);
}

// T-D-16 f
TEST(TheLargestRidgeEndsTheLoop) {
  Scripted p;
  p.script = border_failure;
  InnerOptions o;
  o.max_ridge = 1e-5;
  auto facts = error_of([&] { run(p, o); });
  CHECK(facts.status == InnerStatus::ridge_exhausted);
  CHECK_EQUAL(facts.iterations, 3);
  CHECK_NEAR(facts.ridges_t.back(), 1.6e-5, 1e-15);

  Scripted rejecting;
  rejecting.script = rejected;
  facts = error_of([&] { run(rejecting, o); });
  CHECK(facts.status == InnerStatus::ridge_exhausted);
  CHECK_EQUAL(facts.iterations, 3);
}

// T-D-16 g
TEST(AnAcceptedStepMakesAnOutcomeOfLaterFailures) {
  Scripted p;
  p.script = [](int m, Attempt& a) {
    if (m > 0) border_failure(m, a);
  };
  InnerOptions o;
  o.initial_ridge_t = o.initial_ridge_beta = 1.0;
  o.shrink_rule = ShrinkRule::always;
  o.max_ridge = 1e12;
  const InnerFit fit = run(p, o);
  CHECK(fit.status == InnerStatus::max_iterations);
  CHECK_EQUAL(fit.iterations, 16);
  CHECK_EQUAL(fit.accepted_iterations, 1);
  CHECK_EQUAL(p.ridges_t[1], 0.5);
  CHECK_EQUAL(p.ridges_t[2], 2.0);
  CHECK_EQUAL(fit.ridge_t, 0.5 * std::pow(4.0, 15));
  CHECK_NEAR(fit.t[0], 1.0 / 3.0, 1e-15);
  CHECK_NEAR(fit.gradient_norm, 1.0 / 3.0, 1e-14);
  CHECK_EQUAL(fit.step_gradient_norm, 1.0);
}

// D-10.4
TEST(ARowFailureIsRepairedByOneBump) {
  Scripted p;
  p.script = [](int m, Attempt& a) {
    if (m != 0) return;
    a.outcome = Attempt::Outcome::row_failure;
    a.suggested_bump = 250.0;
  };
  InnerOptions o;
  o.initial_ridge_t = o.initial_ridge_beta = 0.5;
  o.max_iterations = 2;
  run(p, o);
  CHECK_EQUAL(p.ridges_t[1], 250.5);
  CHECK_EQUAL(p.ridges_beta[1], 2.0);
}

TEST(ABumpBelowTheGrowthOrWithoutAnAnswerChangesNothing) {
  for (const double bump : {1e-3, kNaN, std::numeric_limits<double>::infinity()}) {
    Scripted p;
    p.script = [bump](int m, Attempt& a) {
      if (m != 0) return;
      a.outcome = Attempt::Outcome::row_failure;
      a.suggested_bump = bump;
    };
    InnerOptions o;
    o.initial_ridge_t = 0.5;
    o.max_iterations = 2;
    run(p, o);
    CHECK_EQUAL(p.ridges_t[1], 2.0);
    CHECK_EQUAL(p.ridges_beta[1], 1e-6);
  }
}

// D-10.3
TEST(AGapBetweenThePredictionsIsRefinedOnce) {
  Scripted p;
  p.script = [](int m, Attempt& a) {
    if (m == 0) a.delta_q *= 1.0 + 1e-5;
  };
  CHECK(run(p).converged());
  CHECK_EQUAL(p.refinements, 1);

  Scripted healthy;
  healthy.script = [](int m, Attempt& a) {
    if (m == 0) a.delta_q *= 1.0 + 1e-8;
  };
  CHECK(run(healthy).converged());
  CHECK_EQUAL(healthy.refinements, 0);
}

TEST(AStepWhoseRefinementFailsIsJudgedAsItIs) {
  Scripted p;
  p.refinement_fails = true;
  p.script = [](int m, Attempt& a) {
    if (m == 0) a.delta_q *= 1.0 + 1e-5;
  };
  const InnerFit fit = run(p);
  CHECK(fit.converged());
  CHECK_EQUAL(fit.iterations, 1);
  CHECK_EQUAL(p.refinements, 1);
  CHECK_EQUAL(fit.ridge_t, 0.0);
}

TEST(RidgesBelongToTheSecondFormOfThePrediction) {
  Scripted p;
  InnerOptions o;
  o.initial_ridge_t = 3.0;
  run(p, o);
  CHECK_EQUAL(p.refinements, 0);
}

// D-10.2
TEST(TheResidualIsRecomputedAfterEightAcceptedSteps) {
  Scripted p;
  InnerOptions o;
  o.initial_ridge_t = 20.0;
  o.lm_shrink = 1.0;
  o.max_iterations = 7;
  run(p, o);
  CHECK_EQUAL(p.recomputed, 1);  // of the returned point only
  Scripted more;
  o.max_iterations = 17;
  run(more, o);
  CHECK_EQUAL(more.recomputed, 3);  // after 8 and 16, and of the returned point
}

TEST(ConvergenceIsNotReportedOnAResidualThatWasOnlyUpdated) {
  Scripted p;
  p.script = [](int m, Attempt& a) {
    if (m == 0) a.next.gradient_norm = 0.0;  // as if rounding had cancelled it
  };
  InnerOptions o;
  o.initial_ridge_t = 1.0;
  const InnerFit fit = run(p, o);
  CHECK(fit.iterations > 1);
  CHECK(fit.converged());
  CHECK(fit.gradient_norm < 1e-8);
  CHECK(p.recomputed >= 2);
}

// D-10.6
TEST(ThreeStepsInsideTheNoiseEndTheLoop) {
  Scripted p;
  p.h = 1.0;
  p.g = 1e-6;
  InnerOptions o;
  o.convergence_tolerance = 1e-300;
  o.initial_ridge_t = 1.0;
  o.lm_shrink = 1.0;
  const InnerFit fit = run(p, o, 1e6);  // the whole decrease is 5e-13, the floor 1e-8
  CHECK(fit.status == InnerStatus::no_progress);
  CHECK_EQUAL(fit.iterations, 3);
  CHECK_EQUAL(fit.accepted_iterations, 3);
}

TEST(AStepOutsideTheNoiseStartsTheCountAnew) {
  Scripted p;
  p.h = 1.0;
  p.g = 1e-6;
  p.script = [](int m, Attempt& a) {
    if (m % 3 == 2) rejected(m, a);
  };
  InnerOptions o;
  o.convergence_tolerance = 1e-300;
  o.initial_ridge_t = 1.0;
  o.max_iterations = 9;
  const InnerFit fit = run(p, o, 1e6);
  CHECK(fit.status == InnerStatus::max_iterations);
  CHECK_EQUAL(fit.accepted_iterations, 6);
}

// D-10.1: with phi = 0 the floor is 0, and the sign of the prediction decides.
TEST(AnObjectiveOfZeroHasNoNoise) {
  Scripted p;
  p.g = 1e-12;
  InnerOptions o;
  o.convergence_tolerance = 1e-20;
  const InnerFit fit = run(p, o);
  CHECK(fit.converged());
  CHECK_EQUAL(fit.iterations, 1);
}

// D-10.10
TEST(ARidgeThatDoesNotMatterIsKept) {
  InnerOptions o;
  o.initial_ridge_t = o.initial_ridge_beta = 1e-3;
  Scripted relevant;
  CHECK(run(relevant, o).converged());
  for (const double ridge : relevant.ridges_t) CHECK_EQUAL(ridge, 1e-3);
  CHECK(relevant.attempts > 1);

  o.shrink_rule = ShrinkRule::always;
  Scripted always;
  CHECK(run(always, o).converged());
  CHECK_EQUAL(always.ridges_t[1], 5e-4);
  CHECK_EQUAL(always.ridges_beta[1], 5e-4);
}

TEST(ARidgeThatMattersOrAPivotThatIsUnknownShrinks) {
  InnerOptions o;
  o.initial_ridge_t = 1e-3;
  o.initial_ridge_beta = 1e-1;
  Scripted p;  // 1e-3 of the pivot lies between the two
  run(p, o);
  CHECK_EQUAL(p.ridges_t[1], 1e-3);
  CHECK_EQUAL(p.ridges_beta[1], 5e-2);
  Scripted unknown;
  unknown.pivot = kNaN;
  run(unknown, o);
  CHECK_EQUAL(unknown.ridges_t[1], 5e-4);
}

TEST(ASlowStepShrinksEveryRidge) {
  InnerOptions o;
  o.initial_ridge_t = 1.0;
  o.max_iterations = 2;
  Scripted p;
  p.pivot = 1e9;  // no ridge is relevant
  run(p, o);      // |r| falls to a third
  CHECK_EQUAL(p.ridges_t[1], 0.5);
}

TEST(RelativeConvergenceCountsTheGradientOnly) {
  InnerOptions o;
  o.convergence = Convergence::relative;
  o.convergence_tolerance = 0.4;
  o.initial_ridge_t = 1.0;
  Scripted p;
  CHECK_EQUAL(run(p, o).iterations, 1);  // a third is left
  o.convergence_tolerance = 0.3;
  Scripted stricter;
  CHECK_EQUAL(run(stricter, o).iterations, 2);
}

namespace {

// Solves with a relative error, as an iteration does.
class Sloppy final : public newton::HostProvider {
 public:
  Sloppy(const ArrowSystem& system, double error) : HostProvider(system), matrix_(system, {}), error_(error) {}
  double smallest_pivot() const override { return matrix_.smallest_pivot(); }
  double log_det() const override { return matrix_.log_det(); }
  std::string last_failure() const override { return ""; }
  int solves = 0;

 protected:
  Attempt::Outcome factor(double ridge_t, double ridge_beta) override {
    return matrix_.factor(ridge_t, ridge_beta) ? Attempt::Outcome::border_failure : Attempt::Outcome::solved;
  }
  Attempt::Outcome solve(const Vector& rhs, Vector& x) override {
    ++solves;
    for (std::size_t i = 0; i < x.all().size(); ++i) x.all()[i] = -rhs.all()[i];
    matrix_.solve(x.all().data());
    for (double& v : x.all()) v *= 1.0 + error_;
    return Attempt::Outcome::solved;
  }

 private:
  newton::DenseMatrix matrix_;
  double error_;
};

}  // namespace

// D-10.3 on a system: the refinement squares the error of the step.
TEST(ARefinementCorrectsTheStep) {
  const auto data = fixtures::small_fixture(0xABCD0001);
  const ArrowSystem system = data.system();
  Sloppy exact(system, 0.0), sloppy(system, 1e-3);
  exact.start(data.g_t, data.g_beta, 0.0);
  sloppy.start(data.g_t, data.g_beta, 0.0);
  const Attempt wanted = exact.attempt(0.5, 0.25), first = sloppy.attempt(0.5, 0.25), second = sloppy.refine();
  CHECK_NEAR(first.r_delta, wanted.r_delta, 2e-3);
  CHECK(std::abs(first.r_delta - wanted.r_delta) > 5e-4 * std::abs(wanted.r_delta));
  CHECK_NEAR(second.r_delta, wanted.r_delta, 2e-6);
  CHECK_NEAR(second.delta_q, wanted.delta_q, 4e-6);
  CHECK_NEAR(second.next.objective, wanted.next.objective, 1e-6);
  CHECK_NEAR(exact.refine().r_delta, wanted.r_delta, 1e-14);

  Sloppy looped(system, 1e-3);
  InnerOptions o;
  o.max_iterations = 1;
  newton::run_inner_loop(looped, data.g_t, data.g_beta, 0.0, o);
  CHECK_EQUAL(looped.solves, 2);
}

// T-D-16 h, and every other rule
TEST(OptionsOutOfRangeAreNamed) {
  const auto complaint = [](auto change) {
    InnerOptions o;
    change(o);
    const auto c = o.complaint();
    return c ? c->field : std::string();
  };
  CHECK_EQUAL(complaint([](InnerOptions&) {}), std::string());
  CHECK_EQUAL(complaint([](auto& o) { o.max_iterations = 0; }), std::string("max_iterations"));
  CHECK_EQUAL(complaint([](auto& o) { o.convergence_tolerance = 0.0; }), std::string("convergence_tolerance"));
  CHECK_EQUAL(complaint([](auto& o) { o.initial_ridge_t = -1.0; }), std::string("initial_ridge_t"));
  CHECK_EQUAL(complaint([](auto& o) { o.initial_ridge_beta = kNaN; }), std::string("initial_ridge_beta"));
  CHECK_EQUAL(complaint([](auto& o) { o.lm_grow = 1.0; }), std::string("lm_grow"));
  CHECK_EQUAL(complaint([](auto& o) { o.lm_shrink = 0.0; }), std::string("lm_shrink"));
  CHECK_EQUAL(complaint([](auto& o) { o.max_ridge = 0.0; }), std::string("max_ridge"));
  CHECK_EQUAL(complaint([](auto& o) { o.convergence = static_cast<Convergence>(9); }), std::string("convergence"));
  CHECK_EQUAL(complaint([](auto& o) { o.shrink_rule = static_cast<ShrinkRule>(9); }), std::string("shrink_rule"));
  CHECK_EQUAL(complaint([](auto& o) { o.solve.frame_cache_entries = -1; }), std::string("frame_cache_entries"));
}

TEST(StatusesHaveNames) {
  CHECK_EQUAL(std::string(to_string(InnerStatus::converged)), std::string("converged"));
  CHECK_EQUAL(std::string(to_string(InnerStatus::max_iterations)), std::string("max_iterations"));
  CHECK_EQUAL(std::string(to_string(InnerStatus::ridge_exhausted)), std::string("ridge_exhausted"));
  CHECK_EQUAL(std::string(to_string(InnerStatus::no_progress)), std::string("no_progress"));
}

CHECK_MAIN()
