// The pieces that newton_step, its escalation and ArrowFactor share: checks, building a frame, one certified step on
// it.
#pragma once

#include <memory>
#include <span>

#include "arrowschur/newton.hpp"
#include "backend/backend.hpp"

namespace arrowschur::newton {

// InvalidArgument for an option out of range, a negative or non-finite ridge, a damping of the wrong length.
void check_options(const SolveOptions&);
void check_ridges(const ArrowSystem&, const Ridges&);
void check_vector(const char* name, std::span<const double> values, Index size);  // length and finiteness

// The gradients of the system, in float64.
struct Gradient {
  std::vector<double> t, beta;
};
Gradient gradient_of(const ArrowSystem&);

// Plan, rows and S_0: everything before the border factorization. Throws RowFactorError. Fills the diagnostics so far.
std::unique_ptr<backend::Frame> eliminate_rows(const ArrowSystem&, const Ridges&, const SolveOptions&,
                                               SolveDiagnostics&, PlanPurpose = PlanPurpose::step);
// Throws SchurFactorError.
void factor_border(backend::Frame&, const Ridges&, const SolveOptions&, SolveDiagnostics&);

// The step for a gradient on a factored frame: border solve, expansion, certificate, at most one refinement.
// `effective` are the frame's ridges, `requested` those of the caller. `own`: g is the system's own gradient, whose
// reduction the frame has kept (same bits either way).
NewtonStep step_on(const backend::Frame&, const Ridges& effective, const Ridges& requested, const SolveOptions&,
                   const Gradient& g, bool own, SolveDiagnostics diagnostics);

}  // namespace arrowschur::newton
