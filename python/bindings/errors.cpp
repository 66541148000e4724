// C++ exceptions become the classes of arrowschur_native._errors, facts included.
#include <array>
#include <exception>
#include <new>

#include "arrowschur/inner_loop.hpp"
#include "common.hpp"

namespace arrowschur::python {
namespace {

// The Python class with message and facts set as the pending exception. Looked up on the way out of an error, so that
// importing the extension does not import the package.
void raise(const char* class_name, const std::exception& error, const py::dict& facts) {
  py::object type = py::module_::import("arrowschur_native._errors").attr(class_name);
  py::object instance = type(py::str(error.what()), **facts);
  PyErr_SetObject(type.ptr(), instance.ptr());
}

py::dict row_facts(const RowFactorError& e) {
  using namespace py::literals;
  return py::dict("row"_a = e.facts.row, "pivot_index"_a = e.facts.pivot_index, "pivot"_a = e.facts.pivot,
                  "base_ridge"_a = e.facts.base_ridge, "last_ridge"_a = e.facts.last_ridge,
                  "suggested_ridge"_a = e.facts.suggested_ridge);
}

py::dict pcg_facts(const PcgError& e) {
  using namespace py::literals;
  return py::dict(
      "kind"_a = to_string(e.facts.kind),
      "diagnostics"_a = py::dict("iterations"_a = e.facts.iterations, "relative_residual"_a = e.facts.relative_residual,
                                 "preconditioner"_a = e.facts.preconditioner, "index"_a = e.facts.index,
                                 "value"_a = e.facts.value, "suggested_ridge"_a = e.facts.suggested_ridge));
}

// Most derived classes first.
void translate(std::exception_ptr pending) {
  using namespace py::literals;
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const InvalidArgument& e) {
    raise("InvalidArgument", e, py::dict("argument"_a = e.argument, "got"_a = e.got, "expected"_a = e.expected));
  } catch (const UnsupportedConfiguration& e) {
    raise("UnsupportedConfiguration", e, py::dict("feature"_a = e.feature, "route"_a = e.route, "hint"_a = e.hint));
  } catch (const MemoryBudgetExceeded& e) {
    raise("MemoryBudgetExceeded", e,
          py::dict("bytes_needed"_a = e.bytes_needed, "budget"_a = e.budget, "what"_a = e.what_for));
  } catch (const RowIllConditioned& e) {
    py::dict facts = row_facts(e);
    facts["kappa_estimate"] = e.kappa_estimate;
    facts["min_pivot"] = e.min_pivot;
    raise("RowIllConditioned", e, facts);
  } catch (const RowFactorError& e) {
    raise("RowFactorError", e, row_facts(e));
  } catch (const SchurFactorError& e) {
    raise("SchurFactorError", e,
          py::dict("kind"_a = to_string(e.kind), "pivot_index"_a = e.pivot_index, "kappa_estimate"_a = e.kappa_estimate,
                   "suggested_ridge"_a = e.suggested_ridge));
  } catch (const NegativeCurvature& e) {
    py::dict facts = pcg_facts(e);
    facts["curvature"] = e.curvature;
    facts["direction_norm_sq"] = e.direction_norm_sq;
    facts["direction"] = py::array_t<double>(static_cast<py::ssize_t>(e.direction.size()), e.direction.data());
    raise("NegativeCurvature", e, facts);
  } catch (const PcgError& e) {
    raise("PcgError", e, pcg_facts(e));
  } catch (const CertificateError& e) {
    raise("CertificateError", e, py::dict("backward_error"_a = e.backward_error, "tolerance"_a = e.tolerance));
  } catch (const DeviceUnavailableError& e) {
    raise("DeviceUnavailableError", e, py::dict("stage"_a = e.stage, "code"_a = e.code, "reason"_a = e.reason));
  } catch (const DeviceError& e) {
    raise("DeviceError", e, py::dict("stage"_a = e.stage, "code"_a = e.code));
  } catch (const InnerLoopError& e) {
    const InnerLoopError::Facts& f = e.facts();
    raise("InnerLoopError", e,
          py::dict("status"_a = to_string(f.status), "iterations"_a = f.iterations, "rho"_a = f.rho,
                   "ridges_t"_a = py::tuple(py::cast(f.ridges_t)), "ridges_beta"_a = py::tuple(py::cast(f.ridges_beta)),
                   "last_failure"_a = f.last_failure));
  } catch (const Interrupted& e) {
    PyErr_SetString(PyExc_KeyboardInterrupt, e.what());
  } catch (const ArrowError& e) {
    raise("ArrowError", e, py::dict());
  }
  // Everything else, std::bad_alloc included, goes to pybind11's own translator.
}

}  // namespace

py::object exception_object(const std::exception_ptr& error) {
  try {
    translate(error);
  } catch (const py::error_already_set& e) {  // raised by a callback of the user
    return e.value();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return py::error_already_set().value();
}

void register_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      translate(pending);
    } catch (py::error_already_set& e) {
      e.restore();  // building the exception failed: that failure is the news
    }
  });
}

}  // namespace arrowschur::python
