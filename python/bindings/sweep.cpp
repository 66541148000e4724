// Many fits at once.
#include "arrowschur/sweep.hpp"

#include <array>

#include "workspace.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

constexpr std::array kRunners{Named<Runner>{"fit", Runner::fit}, Named<Runner>{"device", Runner::device},
                              Named<Runner>{"cpu_reference", Runner::cpu_reference}};

// (results, fits, succeeded, wall_seconds): a result is a dictionary, or the exception in its place. The tuple keeps the
// workspaces alive.
py::tuple run_fits(const py::tuple& workspaces, const InnerOptions& options, const py::handle& runner,
                   Index max_concurrent, const py::object& progress, bool multiplexed) {
  std::vector<const WorkspaceHandle*> handles;
  std::vector<ResidentWorkspace*> fits;
  for (const py::handle& entry : workspaces) {
    auto& handle = entry.cast<WorkspaceHandle&>();
    handles.push_back(&handle);
    fits.push_back(&handle.core);
  }
  SweepOptions sweep;
  sweep.runner = parse(kRunners, runner, "runner");
  sweep.max_concurrent = max_concurrent;
  std::optional<py::error_already_set> raised;  // by the callback, on this thread
  if (!progress.is_none()) {
    sweep.progress = [&](Index finished, Index total) {
      const py::gil_scoped_acquire gil;
      try {
        progress(finished, total);
        return true;
      } catch (const py::error_already_set& e) {
        raised.emplace(e);
        return false;
      }
    };
  }

  const auto run = multiplexed ? &run_fits_multiplexed : &run_fits_sequential;
  SweepResult result;
  try {
    result = released([&] { return run(fits, options, sweep); });
  } catch (const Interrupted&) {
    if (raised) throw py::error_already_set(*raised);
    throw;
  }
  py::list results;
  for (std::size_t i = 0; i < result.results.size(); ++i) {
    FitResult& one = result.results[i];
    if (one.fit) {
      results.append(fit_fields(std::move(*one.fit), *handles[i]));
    } else {
      results.append(exception_object(one.error));
    }
  }
  const SweepThroughput& t = result.throughput;
  return py::make_tuple(results, t.fits, t.succeeded, t.wall_seconds);
}

}  // namespace

void register_sweep(py::module_& m) {
  m.def("run_fits", &run_fits, "workspaces"_a, "options"_a, "runner"_a, "max_concurrent"_a, "progress"_a,
        "multiplexed"_a);
}

}  // namespace arrowschur::python
