// Truncated preconditioned conjugate gradients on S x = rhs (arrow_schur 10.3, E7), independent of where S comes from.
//
// Stops on the relative residual, on the boundary of a trust region, on negative curvature, or when the residual has
// reached what rounding in S x allows: the gap between the true and the recursive residual is bounded by
//     D += eps/2 (N (|x| + |alpha p|) + |alpha q| + |r|) + nu |alpha p|        N >= |S|_2, nu: error of one product
// (A. Greenbaum, Estimating the attainable accuracy of recursively computed residual methods, SIAM J. Matrix Anal. Appl.
// 18(3), 1997): converged when |r| + D <= tol, attainable_floor when |r| <= D.
//
// Trust region. The radius bounds |x|_2. Without a preconditioner |x|_2 grows along the iteration (T. Steihaug, SIAM J.
// Numer. Anal. 20(3), 1983); with one only |x|_P does, so that the Euclidean length is looked at in every iteration and
// the path is left at its first crossing. The model m(x) = x'Sx/2 - rhs'x decreases along the whole path, but its first
// leg runs along P^-1 rhs and not along rhs: m may then end above its value at the Cauchy point (the minimiser along rhs
// within the radius). That is tested with one product at the end; a step above it is discarded for the path without
// preconditioner, whose first leg ends in the Cauchy point.
//
// Thread safety: the function has no state; a workspace belongs to one call at a time. No allocation per iteration.
#pragma once

#include <functional>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/types.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::border {

// The latest CG directions of a run and their images, scaled to p'Sp = 1: material for deflation.
struct PcgWindow {
  Index capacity = 0;  // rows of the two matrices
  double* directions = nullptr;  // [capacity, k]
  double* images = nullptr;  // [capacity, k]: S times the directions
};

struct PcgProblem {
  Index k = 0;
  std::function<void(const double* x, double* y)> apply;  // y = S x, assigned
  std::function<void(const double* r, double* z)> precondition;  // z = P^-1 r, assigned; empty: identity
  const double* rhs = nullptr;
  double relative_tolerance = 1e-4;
  double absolute_floor = 0.0;  // 1e-14 under Guards::absolute
  Index max_iterations = 200;
  double radius = 0.0;  // > 0: trust region; 0: none
  double norm_bound = 0.0;  // N; 0: no attainable-accuracy stop
  double apply_error = 0.0;  // nu
  bool warm_start = false;  // x holds a first iterate (inside the radius)
  // Give up (max_iter, `hopeless`) at a quarter of the budget when less than a tenth of the decades that are missing have
  // been gained since the start, or at half of it when less than a quarter: convergence that needs over twice the budget.
  bool may_give_up = false;
  PcgWindow window = {};
};

enum class PcgStop { converged, max_iter, trust_region, indefinite, stagnation, attainable_floor };

struct PcgOutcome {
  PcgStop stop = PcgStop::converged;
  bool negative_curvature = false;  // no radius: p'Sp <= 0 (or rz <= 0); x is the last good iterate
  bool refused_preconditioner = false;  // with it: the curvature is that of P^-1 (rz <= 0)
  bool hopeless = false;  // max_iter before the budget was used up
  double curvature = 0.0, direction_norm_sq = 0.0;
  std::vector<double> direction;  // p, when negative_curvature
  Index iterations = 0, matvecs = 0, preconditioner_applies = 0;
  double relative_residual = 0.0;  // true residual, re-evaluated when rel < 1e-8 (10.3)
  double residual_gap = 0.0;  // D / |rhs|
  bool cauchy_restart = false;  // the path without preconditioner was taken
  Index recorded = 0;  // rows of the window that are filled
};

// Workspace for one loop of width k: reused between calls.
class PcgWorkspace {
 public:
  explicit PcgWorkspace(Index k);
  double *r, *z, *p, *q;  // [k]
  double* partial;  // sums of chunks

 private:
  linalg::Buffer<double> memory_;
};

PcgOutcome pcg(const PcgProblem&, double* x, PcgWorkspace&);

const char* to_string(PcgStop) noexcept;
PcgDiagnostics diagnostics_of(const PcgOutcome&, const char* preconditioner);

}  // namespace arrowschur::border
