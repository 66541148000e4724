// What the bindings of the inner loop and of sweeps share.
#pragma once

#include <memory>

#include "arrowschur/inner_loop.hpp"
#include "common.hpp"

namespace arrowschur::python {

// A workspace, the arrays that it borrows beside its system, and the shape in which g_t was given.
struct WorkspaceHandle {
  ResidentWorkspace core;
  std::shared_ptr<const void> owner;
  bool rows_as_matrix = true;

  Shape row_shape() const;
  Shape border_shape() const { return {core.shape().p}; }
};

// The outcome as a dictionary whose arrays own the vectors of the fit.
py::dict fit_fields(InnerFit&& fit, const WorkspaceHandle& workspace);
py::dict telemetry_fields(const Telemetry& telemetry);

}  // namespace arrowschur::python
