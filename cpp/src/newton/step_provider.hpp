// Who solves for the inner loop, and where its vectors live. The loop (inner_loop.hpp) sees scalars only, so that a
// provider may keep z, r, delta and q on a device and send one small record per attempt.
#pragma once

#include <span>
#include <string>

#include "arrowschur/types.hpp"

namespace arrowschur::newton {

// The loop's point z, in numbers.
struct Point {
  double objective = 0.0;      // phi(z)
  double gradient_norm = 0.0;  // |r(z)|
};

// What one attempt to solve (H + ridges) delta = -r has given. q = H delta, H without ridges.
struct Attempt {
  enum class Outcome { solved, row_failure, border_failure };
  Outcome outcome = Outcome::solved;
  double suggested_bump = 0.0;  // row_failure: advice by how much ridge_t must grow; 0: none
  // solved:
  double r_delta = 0.0, delta_q = 0.0;                // r'delta, delta'q
  double delta_t_squared = 0.0, delta_beta_squared = 0.0;  // |delta_t|^2, |delta_beta|^2
  Point next;                                         // at z + delta, with the residual r + q
  double next_norm = 0.0;                             // |z + delta|
};

// Owns z, r, delta, q and the base gradient. An attempt changes neither z nor r, so that a rejected one leaves no trace.
// Failures that no ridge cures are exceptions and end the loop.
class StepProvider {
 public:
  virtual ~StepProvider() = default;
  // z = 0, r = -g0.
  virtual Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) = 0;
  virtual Attempt attempt(double ridge_t, double ridge_beta) = 0;
  // The attempt that was solved last, after one refinement of its step. A failure leaves the step as it was.
  virtual Attempt refine() = 0;
  virtual void accept() = 0;              // z += delta, r += q
  virtual Point recompute_residual() = 0;  // r = H z - g0: frees r of the rounding that its updates have gathered
  virtual void read(std::span<double> t, std::span<double> beta) const = 0;
  // Of the last factor: the smallest squared pivot of rows and border, and log|H + ridges|. NaN: unknown, or no factor.
  virtual double smallest_pivot() const = 0;
  virtual double log_det() const = 0;
  virtual std::string last_failure() const = 0;  // of the last attempt that was not solved
};

}  // namespace arrowschur::newton
