// What every binding file shares: pybind11, array conversion, the released-GIL call. The only place that includes
// pybind11.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrowschur/arrowschur.hpp"

namespace arrowschur::python {

namespace py = pybind11;

// ---- registration ---------------------------------------------------------------------------------------------------
void register_errors(py::module_& m);
void register_options(py::module_& m);
void register_policy(py::module_& m);
void register_results(py::module_& m);
void register_system(py::module_& m);
void register_newton(py::module_& m);
void register_batch(py::module_& m);
void register_factor(py::module_& m);
void register_device_arrays(py::module_& m);
void register_frame(py::module_& m);
void register_telemetry(py::module_& m);
void register_inner_loop(py::module_& m);
void register_sweep(py::module_& m);
void register_dictionary(py::module_& m);
void register_fixtures(py::module_& m);
void register_build(py::module_& m);

// ---- arrays ---------------------------------------------------------------------------------------------------------
// Raw bytes of a C-contiguous, aligned array of the given dtype and entry count. The Python layer has converted and
// checked its arguments by name; this is the second lock, so that a wrong array can never become a wild read.
const void* checked_data(const py::array& a, DType dtype, Index entries, const char* name);

inline std::span<const double> input(const py::array& a, Index entries, const char* name) {
  return {static_cast<const double*>(checked_data(a, DType::float64, entries, name)),
          static_cast<std::size_t>(entries)};
}
// None is an empty span.
std::span<const double> optional_input(const py::object& a, Index entries, const char* name);
// Writable float64 memory of a result.
std::span<double> output(py::array& a, Index entries, const char* name);
std::span<const Index> indices(const py::array& a, const char* name);

using Shape = std::vector<py::ssize_t>;
inline py::array_t<double> new_array(Shape shape) { return py::array_t<double>(std::move(shape)); }
// A NumPy array that owns `values`: nothing is copied.
py::array_t<double> adopt(std::vector<double>&& values, Shape shape);

// Keeps Python objects alive from C++ threads that do not hold the GIL.
std::shared_ptr<const void> keep_alive(std::vector<py::object> objects);

// ---- callbacks ------------------------------------------------------------------------------------------------------
// A Python function of one vector behind the std::functions of the core. Takes the GIL for the call, from any thread.
// The callee gets a copy, so that it may keep its argument; what it raises passes through the core unchanged; what it
// returns must be a vector of real numbers of the length of y, or InvalidArgument names it.
class Callback {
 public:
  Callback(const py::object& callable, std::string argument);
  void operator()(std::span<const double> x, std::span<double> y) const;

 private:
  PyObject* callable_;
  std::shared_ptr<const void> owner_;  // of callable_
  std::string argument_;
};

// ---- system handle --------------------------------------------------------------------------------------------------
// A system together with what only Python needs to know: the shape in which g_t was given, which results share.
struct SystemHandle {
  ArrowSystem core;
  bool rows_as_matrix = true;  // g_t was (n, d), not (T,)

  // Shape of a T-vector result, with a trailing axis when m >= 0.
  Shape row_shape(Index m = -1) const;
  Shape border_shape(Index m = -1) const;
};

// ---- scalars --------------------------------------------------------------------------------------------------------
double as_number(const py::handle& value, const char* name, const char* expected);
// Ridges of a call; `damping_t` and `damping_beta` are None or float64 arrays that outlive the result.
Ridges make_ridges(const ArrowSystem& system, const py::handle& ridge_t, const py::handle& ridge_beta,
                   const py::object& damping_t, const py::object& damping_beta);
FactorSet factor_set(const py::handle& name);

// The options for a system of border width k: a callback that replaces the library's product learns its length here.
SolveOptions options_for(const SolveOptions& options, Index k);
Device device_of(const py::handle& name);

// One of a table of (name, value), or InvalidArgument for `field`.
template <class E>
struct Named {
  const char* name;
  E value;
};

template <class Table>
auto parse(const Table& table, const py::handle& value, const char* field) {
  if (py::isinstance<py::str>(value)) {
    const auto text = value.cast<std::string>();
    for (const auto& entry : table) {
      if (text == entry.name) return entry.value;
    }
  }
  std::string expected = "one of ";
  for (const auto& entry : table) {
    if (&entry != &table.front()) expected += ", ";
    expected += '\'' + std::string(entry.name) + '\'';
  }
  throw InvalidArgument(field, py::repr(value).cast<std::string>(), expected);
}

template <class Table, class E>
const char* name_of(const Table& table, E value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return "unknown";
}

// ---- errors ---------------------------------------------------------------------------------------------------------
// The Python exception that a C++ exception becomes, as an object. Needs the GIL.
py::object exception_object(const std::exception_ptr& error);

// ---- plans ----------------------------------------------------------------------------------------------------------
py::dict candidate_fields(const PlanCandidate& candidate);
py::object pcg_fields(const std::optional<PcgDiagnostics>& pcg);

// ---- calls that work ------------------------------------------------------------------------------------------------
// Polls for Ctrl-C while the GIL is released. Only the main thread receives signals, so only it pays for the polling.
class SignalWatch {
 public:
  SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  // Raises what the signal handler raised (KeyboardInterrupt as a rule).
  [[noreturn]] void raise_pending(const Interrupted& reason);

 private:
  static bool poll(void* self) noexcept;
  std::optional<InterruptScope> scope_;
  std::optional<py::error_already_set> pending_;
};

void set_main_thread();  // the calling thread is the one that receives signals

void log_dispatch_notes();  // those that wait, to the package's logger

// Runs f without the GIL. f touches no Python object; its result must not either. What the call has to say of where it ran
// is logged then.
template <class F>
auto released(F&& f) -> decltype(f()) {
  SignalWatch watch;
  const auto told = [] {
    if (policy::dispatch_notes_waiting()) log_dispatch_notes();
  };
  try {
    const auto call = [&] {
      // Releasing the GIL is safe here: the arguments of the binding keep every buffer alive, and f sees only C++ views.
      py::gil_scoped_release nogil;
      return f();
    };
    if constexpr (std::is_void_v<decltype(f())>) {
      call();
      told();
    } else {
      auto result = call();
      told();
      return result;
    }
  } catch (const Interrupted& reason) {
    watch.raise_pending(reason);
  }
}

}  // namespace arrowschur::python
