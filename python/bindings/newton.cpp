// One step, its escalation, model reductions.
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

// (delta_t, delta_beta, diagnostics): the arrays own the vectors of the step.
py::tuple step_tuple(const SystemHandle& system, NewtonStep&& step) {
  auto delta_t = adopt(std::move(step.delta_t), system.row_shape());
  auto delta_beta = adopt(std::move(step.delta_beta), system.border_shape());
  return py::make_tuple(std::move(delta_t), std::move(delta_beta), std::move(step.diagnostics));
}

}  // namespace

void register_newton(py::module_& m) {
  m.def(
      "newton_step",
      [](const SystemHandle& system, const py::object& ridge_t, const py::object& ridge_beta,
         const py::object& damping_t, const py::object& damping_beta, const SolveOptions& options) {
        const Ridges ridges = make_ridges(system.core, ridge_t, ridge_beta, damping_t, damping_beta);
        const SolveOptions bound = options_for(options, system.core.k());
        return step_tuple(system, released([&] { return newton_step(system.core, ridges, bound); }));
      },
      "system"_a, "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a, "options"_a);

  m.def(
      "newton_step_escalated",
      [](const SystemHandle& system, const py::object& ridge_t, const py::object& ridge_beta,
         const py::object& damping_t, const py::object& damping_beta, const SolveOptions& options,
         const EscalationOptions& escalation) {
        const Ridges ridges = make_ridges(system.core, ridge_t, ridge_beta, damping_t, damping_beta);
        const SolveOptions bound = options_for(options, system.core.k());
        return step_tuple(system,
                          released([&] { return newton_step_escalated(system.core, ridges, bound, escalation); }));
      },
      "system"_a, "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a, "options"_a, "escalation"_a);

  m.def(
      "model_reduction",
      [](const SystemHandle& system, const py::array& delta_t, const py::array& delta_beta, const py::object& ridge_t,
         const py::object& ridge_beta, const py::object& damping_t, const py::object& damping_beta, bool damped) {
        const Ridges ridges = make_ridges(system.core, ridge_t, ridge_beta, damping_t, damping_beta);
        const auto t = input(delta_t, system.core.total_dim(), "delta_t");
        const auto beta = input(delta_beta, system.core.k(), "delta_beta");
        return released([&] { return model_reduction(system.core, t, beta, ridges, damped); });
      },
      "system"_a, "delta_t"_a, "delta_beta"_a, "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a,
      "damped"_a);

  m.def(
      "solve_reduced",
      [](const py::array& schur, const py::array& rhs, const SolveOptions& options,
         const EscalationOptions& escalation) {
        const Index k = rhs.size();
        const auto s = input(schur, k * k, "schur");
        const auto r = input(rhs, k, "rhs");
        const SolveOptions bound = options_for(options, k);
        NewtonStep step = released([&] { return solve_reduced(k, s.data(), r.data(), bound, escalation); });
        auto delta_beta = adopt(std::move(step.delta_beta), {k});
        return py::make_tuple(new_array({0}), std::move(delta_beta), std::move(step.diagnostics));
      },
      "schur"_a, "rhs"_a, "options"_a, "escalation"_a);
}

}  // namespace arrowschur::python
