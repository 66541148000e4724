// One Newton step of an arrow system, its escalation, and quadratic-model reductions.
#pragma once

#include <span>

#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur {

// Solves (H + ridges) [delta_t; delta_beta] = -[g_t; g_beta].
//
// Elimination with A_i = L_i L_i', W_i = L_i^-1 B_i, u_i = L_i^-1 g_i:
//     S = M - sum_i W_i' W_i,   r = -g_beta + sum_i W_i' u_i,   S delta_beta = r,
//     delta_t_i = -L_i^-T (u_i + L_i^-1 B_i delta_beta).
// Cost: sum d_i^3/3 + T k^2 + k^3/3 flops and two passes over h_tb. One refinement step is made when the certificate
// misses its working level. Throws InvalidArgument (ridges), RowFactorError, SchurFactorError, CertificateError,
// UnsupportedConfiguration, MemoryBudgetExceeded, DeviceUnavailableError, Interrupted.
NewtonStep newton_step(const ArrowSystem&, const Ridges& = {}, const SolveOptions& = {});

// Retries with growing ridges, separately for rows and border, as long as the failure is one that a ridge can cure.
// Row factors and S are kept between attempts: a border failure costs one more border factorization.
NewtonStep newton_step_escalated(const ArrowSystem&, const Ridges& = {}, const SolveOptions& = {},
                                 const EscalationOptions& = {});

// Predicted reduction of m(x) = g'x + x'Hx/2 by the step (positive is good). damped: H with the ridges; otherwise the
// ridges are removed, which is what a gain ratio against the true objective needs.
double model_reduction(const ArrowSystem&, std::span<const double> delta_t, std::span<const double> delta_beta,
                       const Ridges& = {}, bool damped = false);

// Solves S x = rhs for a border system accumulated elsewhere: S [k, k] row-major (symmetrised in a copy), rhs [k].
// Escalates the diagonal of S only. The returned step has an empty delta_t.
NewtonStep solve_reduced(Index k, const double* schur, const double* rhs, const SolveOptions& = {},
                         const EscalationOptions& = {});

}  // namespace arrowschur
