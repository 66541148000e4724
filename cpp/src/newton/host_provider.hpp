// The step provider on host arrays: the vectors, the product with H and the sums of an attempt. Who factors and solves
// is the subclass.
#pragma once

#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "newton/step_provider.hpp"

namespace arrowschur::newton {

// Sums have an order fixed by the shape: results do not depend on the number of threads. Nothing is allocated between
// the construction and the first refinement, nor after it.
class HostProvider : public StepProvider {
 public:
  explicit HostProvider(ArrowSystem system);

  Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) override;
  Attempt attempt(double ridge_t, double ridge_beta) override;
  Attempt refine() override;
  void accept() override;
  Point recompute_residual() override;
  void read(std::span<double> t, std::span<double> beta) const override;

  const ArrowSystem& system() const noexcept { return system_; }

 protected:
  // A vector of T + k entries, rows first.
  class Vector {
   public:
    Vector() = default;
    explicit Vector(const ArrowSystem& s)
        : t_(static_cast<std::size_t>(s.total_dim())), values_(t_ + static_cast<std::size_t>(s.k())) {}
    std::span<double> t() { return {values_.data(), t_}; }
    std::span<double> beta() { return {values_.data() + t_, values_.size() - t_}; }
    std::span<const double> t() const { return {values_.data(), t_}; }
    std::span<const double> beta() const { return {values_.data() + t_, values_.size() - t_}; }
    std::span<double> all() { return values_; }
    std::span<const double> all() const { return values_; }
    bool empty() const noexcept { return values_.empty(); }

   private:
    std::size_t t_ = 0;
    std::vector<double> values_;
  };

  // Makes solve() possible at these ridges. Numerical failures are outcomes.
  virtual Attempt::Outcome factor(double ridge_t, double ridge_beta) = 0;
  // x = -(H + ridges)^-1 rhs. An iterative border may fail here.
  virtual Attempt::Outcome solve(const Vector& rhs, Vector& x) = 0;

 private:
  Attempt failure(Attempt::Outcome) const;
  Attempt measure();  // of delta: q = H delta and the sums
  void multiply(const Vector& x, Vector& y);  // y = H x

  ArrowSystem system_;
  double objective_at_zero_ = 0.0, ridge_t_ = 0.0, ridge_beta_ = 0.0;
  Vector g_, z_, r_, delta_, q_;
  Vector error_, correction_;  // of a refinement; empty until the first one
};

}  // namespace arrowschur::newton
