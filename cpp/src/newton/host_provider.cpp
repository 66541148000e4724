#include "newton/host_provider.hpp"

#include <algorithm>
#include <cmath>

#include "newton/ridge_bump.hpp"
#include "telemetry.hpp"

namespace arrowschur::newton {
namespace {

constexpr std::size_t kRun = 1024;  // entries of a partial sum: the error grows with it and their number, not the size

// What an attempt is judged by, over one part of the vectors, in one pass.
struct Sums {
  double r_delta = 0.0, delta_q = 0.0, delta_squared = 0.0;
  double objective = 0.0;  // (z + delta)'(r + q - g)
  double gradient_squared = 0.0, point_squared = 0.0;

  Sums& operator+=(const Sums& s) {
    r_delta += s.r_delta;
    delta_q += s.delta_q;
    delta_squared += s.delta_squared;
    objective += s.objective;
    gradient_squared += s.gradient_squared;
    point_squared += s.point_squared;
    return *this;
  }
};

using View = std::span<const double>;

Sums sums_of(View g, View z, View r, View delta, View q) {
  Sums total;
  for (std::size_t begin = 0; begin < g.size(); begin += kRun) {
    Sums run;
    for (std::size_t i = begin; i < std::min(g.size(), begin + kRun); ++i) {
      const double point = z[i] + delta[i], gradient = r[i] + q[i];
      run.r_delta += r[i] * delta[i];
      run.delta_q += delta[i] * q[i];
      run.delta_squared += delta[i] * delta[i];
      run.objective += point * (gradient - g[i]);
      run.gradient_squared += gradient * gradient;
      run.point_squared += point * point;
    }
    total += run;
  }
  return total;
}

void add(View x, std::span<double> y) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}

telemetry::StageCost product_cost(const ArrowSystem& s) {
  const double bytes = static_cast<double>(s.nbytes());
  return {"apply_h", s.n(), s.max_dim(), s.k(), s.h_tb() == nullptr ? 0.0 : bytes / 4.0, bytes};
}

}  // namespace

HostProvider::HostProvider(ArrowSystem system)
    : system_(std::move(system)), g_(system_), z_(system_), r_(system_), delta_(system_), q_(system_) {}

Point HostProvider::start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) {
  objective_at_zero_ = objective_at_zero;
  std::copy(g_t.begin(), g_t.end(), g_.t().begin());
  std::copy(g_beta.begin(), g_beta.end(), g_.beta().begin());
  for (Vector* zero : {&z_, &delta_, &q_}) std::fill(zero->all().begin(), zero->all().end(), 0.0);
  std::transform(g_.all().begin(), g_.all().end(), r_.all().begin(), [](double g) { return -g; });
  const Sums sums = sums_of(g_.all(), z_.all(), r_.all(), delta_.all(), q_.all());
  return {objective_at_zero, std::sqrt(sums.gradient_squared)};
}

Attempt HostProvider::attempt(double ridge_t, double ridge_beta) {
  ridge_t_ = ridge_t;
  ridge_beta_ = ridge_beta;
  Attempt::Outcome outcome = factor(ridge_t, ridge_beta);
  if (outcome == Attempt::Outcome::solved) outcome = solve(r_, delta_);
  return outcome == Attempt::Outcome::solved ? measure() : failure(outcome);
}

Attempt HostProvider::failure(Attempt::Outcome outcome) const {
  Attempt attempt;
  attempt.outcome = outcome;
  if (outcome == Attempt::Outcome::row_failure) {
    attempt.suggested_bump = examine_rows(system_, ridge_t_, ridge_beta_).suggested_bump;
  }
  return attempt;
}

// delta += -(H + ridges)^-1 ((H + ridges) delta + r)
Attempt HostProvider::refine() {
  if (error_.empty()) {
    error_ = Vector(system_);
    correction_ = Vector(system_);
  }
  const auto residual = [](double ridge, View r, View q, View delta, std::span<double> out) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = q[i] + ridge * delta[i] + r[i];
  };
  residual(ridge_t_, r_.t(), q_.t(), delta_.t(), error_.t());
  residual(ridge_beta_, r_.beta(), q_.beta(), delta_.beta(), error_.beta());
  const Attempt::Outcome outcome = solve(error_, correction_);
  if (outcome != Attempt::Outcome::solved) return failure(outcome);
  add(correction_.all(), delta_.all());
  return measure();
}

Attempt HostProvider::measure() {
  multiply(delta_, q_);
  const Sums rows = sums_of(g_.t(), z_.t(), r_.t(), delta_.t(), q_.t());
  const Sums border = sums_of(g_.beta(), z_.beta(), r_.beta(), delta_.beta(), q_.beta());
  Sums sums = rows;
  sums += border;
  Attempt a;
  a.r_delta = sums.r_delta;
  a.delta_q = sums.delta_q;
  a.delta_t_squared = rows.delta_squared;
  a.delta_beta_squared = border.delta_squared;
  a.next = {objective_at_zero_ + 0.5 * sums.objective, std::sqrt(sums.gradient_squared)};
  a.next_norm = std::sqrt(sums.point_squared);
  return a;
}

void HostProvider::accept() {
  add(delta_.all(), z_.all());
  add(q_.all(), r_.all());
}

Point HostProvider::recompute_residual() {
  multiply(z_, r_);
  for (std::size_t i = 0; i < r_.all().size(); ++i) r_.all()[i] -= g_.all()[i];
  std::fill(delta_.all().begin(), delta_.all().end(), 0.0);
  std::fill(q_.all().begin(), q_.all().end(), 0.0);
  const Sums sums = sums_of(g_.all(), z_.all(), r_.all(), delta_.all(), q_.all());
  return {objective_at_zero_ + 0.5 * sums.objective, std::sqrt(sums.gradient_squared)};
}

void HostProvider::read(std::span<double> t, std::span<double> beta) const {
  std::copy(z_.t().begin(), z_.t().end(), t.begin());
  std::copy(z_.beta().begin(), z_.beta().end(), beta.begin());
}

void HostProvider::multiply(const Vector& x, Vector& y) {
  const telemetry::StageClock clock(product_cost(system_));
  system_.apply(x.t(), x.beta(), y.t(), y.beta());
}

}  // namespace arrowschur::newton
