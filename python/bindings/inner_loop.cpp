// Resident workspaces, their loops, and the references of the parity tests.
#include "arrowschur/inner_loop.hpp"

#include <array>

#include "workspace.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

constexpr std::array kConvergences{Named<Convergence>{"absolute", Convergence::absolute},
                                   Named<Convergence>{"relative", Convergence::relative}};
constexpr std::array kShrinkRules{Named<ShrinkRule>{"relevant", ShrinkRule::relevant},
                                  Named<ShrinkRule>{"always", ShrinkRule::always}};

InnerOptions make_options(int max_iterations, double convergence_tolerance, double initial_ridge_t,
                          double initial_ridge_beta, double lm_grow, double lm_shrink, double max_ridge,
                          const py::object& convergence, const py::object& shrink_rule, const SolveOptions& solve) {
  InnerOptions o;
  o.max_iterations = max_iterations;
  o.convergence_tolerance = convergence_tolerance;
  o.initial_ridge_t = initial_ridge_t;
  o.initial_ridge_beta = initial_ridge_beta;
  o.lm_grow = lm_grow;
  o.lm_shrink = lm_shrink;
  o.max_ridge = max_ridge;
  o.convergence = parse(kConvergences, convergence, "convergence");
  o.shrink_rule = parse(kShrinkRules, shrink_rule, "shrink_rule");
  o.solve = solve;
  if (auto complaint = o.complaint()) throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
  return o;
}

WorkspaceHandle make_workspace(Index n, Index p, Index basis_cols, Index d, const py::array& target,
                               const py::array& basis, const py::array& gates, const SystemHandle& slabs) {
  // Lengths are the core's to check, in its order.
  const auto in_target = input(target, target.size(), "target");
  const auto in_basis = input(basis, basis.size(), "basis");
  const auto in_gates = input(gates, gates.size(), "gates");
  const ResidentShape shape{n, p, basis_cols, d};
  return released([&] {
    return WorkspaceHandle{ResidentWorkspace(shape, in_target, in_basis, in_gates, slabs.core), nullptr,
                           slabs.rows_as_matrix};
  });
}

py::dict step_fields(InnerStep&& step, const WorkspaceHandle& workspace) {
  return py::dict("delta_t"_a = adopt(std::move(step.delta_t), workspace.row_shape()),
                  "delta_beta"_a = adopt(std::move(step.delta_beta), workspace.border_shape()),
                  "objective"_a = step.objective, "gradient_norm"_a = step.gradient_norm,
                  "log_det_hessian"_a = step.log_det_hessian, "certificate"_a = step.certificate,
                  "route"_a = step.route, "execution_path"_a = step.execution_path, "backend"_a = step.backend,
                  "unproven_path"_a = step.unproven_path, "telemetry"_a = telemetry_fields(step.telemetry));
}

py::tuple sequence_fields(OuterSequence&& sequence, const WorkspaceHandle& workspace) {
  py::list fits;
  for (InnerFit& fit : sequence.fits) fits.append(fit_fields(std::move(fit), workspace));
  return py::make_tuple(fits, sequence.frame_builds, sequence.factorizations);
}

// Pairs (g_t, g_beta) of float64 arrays, which the list keeps alive. Lengths are the core's to check.
std::vector<BaseGradient> base_gradients(const py::tuple& gradients) {
  std::vector<BaseGradient> list;
  list.reserve(gradients.size());
  for (const py::handle& entry : gradients) {
    const auto pair = entry.cast<std::pair<py::array, py::array>>();
    list.push_back({input(pair.first, pair.first.size(), "g_t"), input(pair.second, pair.second.size(), "g_beta")});
  }
  return list;
}

struct StepRidges {
  StepRidges(const py::handle& ridge_t, const py::handle& ridge_beta)
      : t(as_number(ridge_t, "ridge_t", kExpected)), beta(as_number(ridge_beta, "ridge_beta", kExpected)) {}
  static constexpr const char* kExpected = "a finite number >= 0";
  double t, beta;
};

void register_options_class(py::module_& m) {
  py::class_<InnerOptions>(m, "InnerOptions", "Validated options of the inner loop.")
      .def(py::init(&make_options), py::kw_only(), "max_iterations"_a, "convergence_tolerance"_a, "initial_ridge_t"_a,
           "initial_ridge_beta"_a, "lm_grow"_a, "lm_shrink"_a, "max_ridge"_a, "convergence"_a, "shrink_rule"_a,
           "solve"_a)
      .def_static(
          "defaults",
          [] {
            const InnerOptions o;
            return py::dict("max_iterations"_a = o.max_iterations, "convergence_tolerance"_a = o.convergence_tolerance,
                            "initial_ridge_t"_a = o.initial_ridge_t, "initial_ridge_beta"_a = o.initial_ridge_beta,
                            "lm_grow"_a = o.lm_grow, "lm_shrink"_a = o.lm_shrink, "max_ridge"_a = o.max_ridge,
                            "convergence"_a = name_of(kConvergences, o.convergence),
                            "shrink_rule"_a = name_of(kShrinkRules, o.shrink_rule));
          },
          "The defaults of the C++ struct.");
}

void register_workspace_class(py::module_& m) {
  // The queries may wait for a fit of another thread, which may wait for the GIL: they release it.
  using NoGil = py::call_guard<py::gil_scoped_release>;
  using W = WorkspaceHandle;
  py::class_<W>(m, "ResidentWorkspace", "A linearization and its kept factors.")
      .def(py::init([](Index n, Index p, Index basis_cols, Index d, const py::array& target, const py::array& basis,
                       const py::array& gates, const SystemHandle& slabs) {
             W made = make_workspace(n, p, basis_cols, d, target, basis, gates, slabs);
             made.owner = keep_alive({target, basis, gates});
             return made;
           }),
           "n"_a, "p"_a, "basis_cols"_a, "d"_a, "target"_a, "basis"_a, "gates"_a, "slabs"_a)
      .def_static(
          "from_system",
          [](const SystemHandle& system, const py::object& objective_at_zero) {
            const double value = as_number(objective_at_zero, "objective_at_zero", "a finite number");
            return released(
                [&] { return W{ResidentWorkspace::from_system(system.core, value), nullptr, system.rows_as_matrix}; });
          },
          "system"_a, "objective_at_zero"_a)
      .def_property_readonly("shape",
                             [](const W& self) {
                               const ResidentShape& s = self.core.shape();
                               return py::make_tuple(s.n, s.p, s.basis_cols, s.d);
                             })
      .def_property_readonly("objective_at_zero", [](const W& self) { return self.core.objective_at_zero(); })
      .def_property_readonly("host_shadow_bytes", [](const W& self) { return self.core.host_shadow_bytes(); })
      .def_property_readonly("frame_upload_bytes", [](const W& self) { return self.core.frame_upload_bytes(); })
      .def(
          "resident_device_bytes", [](const W& self) { return self.core.resident_device_bytes(); }, NoGil())
      .def(
          "device_resident", [](const W& self) { return self.core.device_resident(); }, NoGil())
      .def(
          "device_reason", [](const W& self) { return self.core.device_reason(); }, NoGil())

      .def(
          "release_factors", [](W& self) { self.core.release_factors(); }, NoGil())

      .def(
          "fit",
          [](W& self, const InnerOptions& options, const py::handle& device) {
            const Device where = device_of(device);
            return fit_fields(released([&] { return self.core.fit(options, where); }), self);
          },
          "options"_a, "device"_a)
      .def(
          "device_fit",
          [](W& self, const InnerOptions& options) {
            return fit_fields(released([&] { return self.core.device_fit(options); }), self);
          },
          "options"_a)
      .def(
          "device_reupload_fit",
          [](W& self, const InnerOptions& options) {
            return fit_fields(released([&] { return self.core.device_reupload_fit(options); }), self);
          },
          "options"_a)
      .def(
          "cpu_reference_fit",
          [](const W& self, const InnerOptions& options) {
            return fit_fields(released([&] { return self.core.cpu_reference_fit(options); }), self);
          },
          "options"_a)

      .def(
          "fit_outer_sequence",
          [](W& self, const py::tuple& gradients, const InnerOptions& options, const py::handle& device) {
            const auto list = base_gradients(gradients);
            const Device where = device_of(device);
            return sequence_fields(released([&] { return self.core.fit_outer_sequence(list, options, where); }), self);
          },
          "gradients"_a, "options"_a, "device"_a)
      .def(
          "device_fit_outer_sequence",
          [](W& self, const py::tuple& gradients, const InnerOptions& options) {
            const auto list = base_gradients(gradients);
            return sequence_fields(released([&] { return self.core.device_fit_outer_sequence(list, options); }), self);
          },
          "gradients"_a, "options"_a)
      .def(
          "cpu_reference_fit_outer_sequence",
          [](const W& self, const py::tuple& gradients, const InnerOptions& options) {
            const auto list = base_gradients(gradients);
            return sequence_fields(released([&] { return self.core.cpu_reference_fit_outer_sequence(list, options); }),
                                   self);
          },
          "gradients"_a, "options"_a)

      .def(
          "inner_iteration",
          [](W& self, const py::handle& ridge_t, const py::handle& ridge_beta, const py::handle& device) {
            const StepRidges ridges(ridge_t, ridge_beta);
            const Device where = device_of(device);
            return step_fields(released([&] { return self.core.inner_iteration(ridges.t, ridges.beta, where); }), self);
          },
          "ridge_t"_a, "ridge_beta"_a, "device"_a)
      .def(
          "one_inner_iteration",
          [](W& self, const py::handle& ridge_t, const py::handle& ridge_beta) {
            const StepRidges ridges(ridge_t, ridge_beta);
            return step_fields(released([&] { return self.core.one_inner_iteration(ridges.t, ridges.beta); }), self);
          },
          "ridge_t"_a, "ridge_beta"_a)
      .def(
          "cpu_reference_step",
          [](const W& self, const py::handle& ridge_t, const py::handle& ridge_beta) {
            const StepRidges ridges(ridge_t, ridge_beta);
            return step_fields(released([&] { return self.core.cpu_reference_step(ridges.t, ridges.beta); }), self);
          },
          "ridge_t"_a, "ridge_beta"_a);
}

}  // namespace

Shape WorkspaceHandle::row_shape() const {
  const ResidentShape& s = core.shape();
  return rows_as_matrix ? Shape{s.n, s.d} : Shape{s.n * s.d};
}

py::dict fit_fields(InnerFit&& fit, const WorkspaceHandle& workspace) {
  return py::dict("t"_a = adopt(std::move(fit.t), workspace.row_shape()),
                  "beta"_a = adopt(std::move(fit.beta), workspace.border_shape()), "objective"_a = fit.objective,
                  "gradient_norm"_a = fit.gradient_norm, "step_gradient_norm"_a = fit.step_gradient_norm,
                  "log_det_hessian"_a = fit.log_det_hessian, "iterations"_a = fit.iterations,
                  "accepted_iterations"_a = fit.accepted_iterations, "status"_a = to_string(fit.status),
                  "ridge_t"_a = fit.ridge_t, "ridge_beta"_a = fit.ridge_beta, "route"_a = fit.route,
                  "execution_path"_a = fit.execution_path, "backend"_a = fit.backend,
                  "unproven_path"_a = fit.unproven_path, "telemetry"_a = telemetry_fields(fit.telemetry));
}

void register_inner_loop(py::module_& m) {
  register_options_class(m);
  register_workspace_class(m);

  m.def(
      "newton_step_dense_reference",
      [](const SystemHandle& system, const py::handle& ridge_t, const py::handle& ridge_beta) {
        const StepRidges ridges(ridge_t, ridge_beta);
        DenseReferenceStep step =
            released([&] { return newton_step_dense_reference(system.core, ridges.t, ridges.beta); });
        auto delta_t = adopt(std::move(step.delta_t), system.row_shape());
        auto delta_beta = adopt(std::move(step.delta_beta), system.border_shape());
        return py::make_tuple(std::move(delta_t), std::move(delta_beta), step.log_det);
      },
      "system"_a, "ridge_t"_a, "ridge_beta"_a);

  m.def(
      "ridge_bump",
      [](const py::array& block, const py::handle& ridge_t) {
        const Index d = block.ndim() == 2 ? block.shape(0) : 0;
        const auto entries = input(block, d * d, "block");
        return ridge_bump(entries, d, as_number(ridge_t, "ridge_t", StepRidges::kExpected));
      },
      "block"_a, "ridge_t"_a);

  m.def(
      "examine_rows",
      [](const SystemHandle& system, const py::handle& ridge_t) {
        const double ridge = as_number(ridge_t, "ridge_t", StepRidges::kExpected);
        const RowBump found = released([&] { return examine_rows(system.core, ridge); });
        return py::make_tuple(found.failing_rows, found.first_row, found.first_pivot, found.bump, found.suggested_bump);
      },
      "system"_a, "ridge_t"_a);
}

}  // namespace arrowschur::python
