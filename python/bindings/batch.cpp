// Many small systems in one call.
#include "arrowschur/batch.hpp"

#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

// One entry per system: (delta_t, delta_beta, diagnostics, log_det_hessian, backend, unproven_path), or the exception in
// its place.
py::list solve_all(const py::tuple& systems, double ridge_t, double ridge_beta, const SolveOptions& options) {
  std::vector<ArrowSystem> cores;
  cores.reserve(systems.size());
  for (const py::handle& system : systems) cores.push_back(system.cast<const SystemHandle&>().core);
  std::vector<BatchResult> results = released([&] { return solve_batch(cores, ridge_t, ridge_beta, options); });
  py::list out;
  for (std::size_t i = 0; i < results.size(); ++i) {
    BatchResult& result = results[i];
    if (!result.step) {
      out.append(exception_object(result.error));
      continue;
    }
    const auto& system = systems[i].cast<const SystemHandle&>();
    NewtonStep& step = *result.step;
    out.append(py::make_tuple(adopt(std::move(step.delta_t), system.row_shape()),
                              adopt(std::move(step.delta_beta), system.border_shape()), std::move(step.diagnostics),
                              result.log_det_hessian, result.backend, result.unproven_path));
  }
  return out;
}

}  // namespace

void register_batch(py::module_& m) {
  m.def("solve_batch", &solve_all, "systems"_a, "ridge_t"_a, "ridge_beta"_a, "options"_a);
}

}  // namespace arrowschur::python
