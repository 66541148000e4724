// How S x = r is solved: dense Cholesky, sparse Cholesky, low-rank (capacitance) form, preconditioned CG. One object per
// factor; S = S_0 + diag(shift), S_0 = H_bb - W'W, shift = ridge_beta + damping_beta.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"
#include "backend/backend.hpp"
#include "eliminate/whitened.hpp"

namespace arrowschur::border {

using backend::BorderAccount;
using backend::BorderReport;

class Solver {
 public:
  explicit Solver(Index k) : k_(k) {}
  virtual ~Solver() = default;

  // May be called again with another shift [k]; ridge_beta is the scalar part of it, for the advice of a failure.
  virtual BorderReport factor(const double* shift, double ridge_beta, Guards, bool evidence) = 0;
  // A solver with the same S_0, ready for factor().
  virtual std::unique_ptr<Solver> unfactored_copy() const = 0;

  // x [k, m] <- S^-1 x. An iterative solver fills the account (of the last column) and throws PcgError.
  virtual void solve(double* x, Index m, BorderAccount* account) const = 0;
  // Border part of a step: as solve() for one column, within options.trust_region.radius. The default does this for every
  // exact solver: the full step when it is inside, else truncated CG on apply() without preconditioner.
  virtual void step(double* x, const TrustRegionOptions&, BorderAccount& account) const;

  virtual void apply(const double* x, double* y, Index m) const = 0;  // y = S x
  virtual double log_det() const = 0;  // exact solvers
  virtual void pivots(double& smallest, double& largest) const = 0;
  virtual Index nbytes() const = 0;
  virtual bool exact() const noexcept { return true; }  // log_det and the root exist

  // S^-1 = G G', G k x root_rows(): z [root_rows, m] = G' x, and x [k, m] = G z. Exact solvers. (Dense: G = L^-T.)
  virtual Index root_rows() const = 0;
  virtual bool root_is_lower() const noexcept { return false; }  // G' lower triangular, in-place use allowed
  virtual void root(const double* x, double* z, Index m) const = 0;
  virtual void root_transpose(const double* z, double* x, Index m) const = 0;

  // (H^-1)_tt blocks of the rows (empty: all), one after another, if this solver has a way that beats solving with W rows
  // as right-hand sides; false when it has not. `rows` are the row factors.
  virtual bool latent_blocks(const eliminate::RowFactors<double>& rows, std::span<const Index> which,
                             double* out) const;
  virtual bool latent_blocks_cheap() const noexcept { return false; }  // latent_blocks() would return true

 protected:
  Index k_;
};

struct SolverInputs {
  const ArrowSystem* system = nullptr;  // outlives the solver
  std::shared_ptr<const eliminate::Whitened> w;
  SolveOptions options;
  SolvePlan plan;
  bool chosen_by_plan = false;  // mode was auto: the result must meet the certificate
};
std::unique_ptr<Solver> make_dense(const SolverInputs&);  // dense.cpp: S_0 assembled, Cholesky (border/schur.hpp)
std::unique_ptr<Solver> make_sparse(const SolverInputs&);  // sparse.cpp: block-sparse S, sparse Cholesky
std::unique_ptr<Solver> make_low_rank(const SolverInputs&);  // low_rank.cpp
std::unique_ptr<Solver> make_pcg(const SolverInputs&);  // pcg_solver.cpp

}  // namespace arrowschur::border
