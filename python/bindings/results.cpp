// Diagnostics and plans, handed over as plain dictionaries; the Python layer makes its frozen result objects from them.
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

py::dict plan_fields(const SolvePlan& plan) {
  py::list candidates;
  for (const PlanCandidate& c : plan.candidates()) candidates.append(candidate_fields(c));
  const bool measured = plan.measured_seconds == plan.measured_seconds;  // not NaN
  return py::dict("route"_a = to_string(plan.route), "reasons"_a = plan.reasons(), "candidates"_a = candidates,
                  "peak_bytes"_a = plan.peak_bytes, "backend"_a = plan.backend, "thin_border"_a = plan.thin_border,
                  "low_rank"_a = plan.low_rank, "sparse_schur"_a = plan.sparse_schur,
                  "materialize"_a = plan.materialize, "profile"_a = plan.profile_name(),
                  "predicted_seconds"_a = plan.predicted_seconds,
                  "measured_seconds"_a = measured ? py::object(py::float_(plan.measured_seconds)) : py::none());
}

py::dict diagnostics_fields(const SolveDiagnostics& d) {
  py::dict seconds;
  for (int stage = 0; stage < kStages; ++stage) {
    seconds[to_string(static_cast<Stage>(stage))] = d.seconds[static_cast<std::size_t>(stage)];
  }
  return py::dict("plan"_a = plan_fields(d.plan), "execution_path"_a = d.execution_path,
                  "precision"_a = to_string(d.precision), "ridge_t"_a = d.ridge_t, "ridge_beta"_a = d.ridge_beta,
                  "backward_error"_a = d.backward_error, "backward_error_effective"_a = d.backward_error_effective,
                  "norm_is_bound"_a = d.norm_is_bound, "refinement_steps"_a = d.refinement_steps,
                  "ridge_escalations"_a = d.ridge_escalations, "rows_lifted"_a = d.rows_lifted,
                  "row_ridge_max"_a = d.row_ridge_max, "kappa_rows_max"_a = d.kappa_rows_max,
                  "kappa_schur"_a = d.kappa_schur, "schur_conditioning"_a = to_string(d.schur_conditioning),
                  "pcg"_a = pcg_fields(d.pcg), "structure"_a = py::tuple(py::cast(d.structure)), "seconds"_a = seconds,
                  "peak_bytes"_a = d.peak_bytes);
}

}  // namespace

py::object pcg_fields(const std::optional<PcgDiagnostics>& pcg) {
  if (!pcg) return py::none();
  return py::dict("iterations"_a = pcg->iterations, "matvec_calls"_a = pcg->matvec_calls,
                  "precond_apply_calls"_a = pcg->precond_apply_calls, "stopping_reason"_a = pcg->stopping_reason,
                  "final_relative_residual"_a = pcg->final_relative_residual, "residual_gap"_a = pcg->residual_gap,
                  "preconditioner"_a = pcg->preconditioner, "tiers"_a = py::tuple(py::cast(pcg->tiers)));
}

py::dict candidate_fields(const PlanCandidate& c) {
  return py::dict("route"_a = to_string(c.route), "seconds"_a = c.seconds, "flops"_a = c.flops,
                  "peak_bytes"_a = c.peak_bytes, "up_seconds"_a = c.up_seconds, "build_seconds"_a = c.build_seconds,
                  "solve_seconds"_a = c.solve_seconds, "sparse_schur"_a = c.sparse_schur,
                  "materialize"_a = c.materialize, "feasible"_a = c.feasible(), "why_not"_a = c.why_not());
}

void register_results(py::module_& m) {
  py::class_<SolveDiagnostics>(m, "SolveDiagnostics", "Account of one solve.")
      .def("fields", &diagnostics_fields, "All fields as a dictionary.")
      .def_property_readonly("route", [](const SolveDiagnostics& d) { return to_string(d.plan.route); })
      .def_readonly("rows_lifted", &SolveDiagnostics::rows_lifted)
      .def_readonly("row_ridge_max", &SolveDiagnostics::row_ridge_max);

  m.def(
      "route_counters",
      [] {
        const RouteCounters c = route_counters();
        return py::dict("dense"_a = c.dense, "sparse"_a = c.sparse, "low_rank"_a = c.low_rank,
                        "inexact_pcg"_a = c.inexact_pcg);
      },
      "Border factorizations of this process, by what factored them.");

  m.def(
      "plan",
      [](const py::object& system, Index n, Index k, Index total_dim, Index max_dim, const SolveOptions& options) {
        if (!system.is_none()) return plan_fields(plan(system.cast<const SystemHandle&>().core, options));
        return plan_fields(plan(ProblemShape{n, k, total_dim, max_dim}, options));
      },
      "system"_a, "n"_a, "k"_a, "total_dim"_a, "max_dim"_a, "options"_a, "The plan of a system, or of a shape.");
}

}  // namespace arrowschur::python
