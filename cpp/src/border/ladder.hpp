// The ladder of preconditioners that one matrix-free solve climbs (arrow_schur 10.8), each tier starting from the
// iterate of the one before:
//
//     block or scalar Jacobi -> clusters -> Schwarz -> incomplete Cholesky -> power series -> Nystrom -> deflated
//
// A tier is left when its budget is used up, or earlier when its convergence so far would need more than twice the
// budget (PcgProblem::may_give_up); tiers that cannot be built are passed over. If all were left and some of them
// early, the fastest of those gets the rest of its budget. For k <= 100, or with a preconditioner asked for by name,
// there is one tier. The last one adds the directions of the tiers before it to the first preconditioner.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/backend.hpp"
#include "border/pcg.hpp"
#include "border/preconditioner.hpp"

namespace arrowschur::border {

// Builds the preconditioner of a kind: Jacobi for ladder and deflated, nothing for none. Null with a reason in `why`
// where this problem does not allow it.
Built build_preconditioner(PreconditionerKind, const PreconditionerInputs&, std::string& why);

// Memory for the directions of a solve, until a later one needs them.
struct RecycledWindow {
  RecycledWindow(Index k, Index capacity) : rows(capacity), directions(k * capacity), images(k * capacity) {}
  Index rows, recorded = 0;
  linalg::Buffer<double> directions, images;
  Index nbytes() const { return directions.nbytes() + images.nbytes(); }
};

struct LadderInputs {
  const SolveOptions* options = nullptr;
  PcgProblem problem;  // all but the preconditioner; max_iterations is the budget of a tier
  Index products = 0;  // made to prepare it, for the account
  std::size_t first_tier = 0;
  bool record = false;  // keep directions for later solves
  std::shared_ptr<const Deflation> deflation;  // directions of earlier solves; may be empty
  struct Tier {
    std::shared_ptr<const Preconditioner> preconditioner;
    std::string why;  // why there is none
  };
  std::function<Tier(PreconditionerKind)> preconditioner;
  std::function<std::shared_ptr<const Deflation>(const std::shared_ptr<const Deflation>& so_far, const RecycledWindow&)>
      absorb;
};

struct LadderOutcome {
  backend::BorderAccount account;
  std::size_t next_tier = 0;  // where a later solve may start
  std::shared_ptr<const Deflation> deflation;  // for later solves: as given, or made here
  std::shared_ptr<const RecycledWindow> window;  // directions not yet among them; may be empty
};

// True when directions are recycled under these options.
bool recycles(const SolveOptions&, Index k);

// Throws PcgError(budget, stagnation), NegativeCurvature, and UnsupportedConfiguration for a named preconditioner that
// cannot be built.
LadderOutcome climb(const LadderInputs&, double* x, PcgWorkspace&);

}  // namespace arrowschur::border
