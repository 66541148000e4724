// Array conversion, ridges, and the watch for signals.
#include "common.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string_view>

namespace arrowschur::python {
namespace {

std::string shape_text(const py::array& a) {
  std::string text = "an array of shape (";
  for (py::ssize_t axis = 0; axis < a.ndim(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(a.shape(axis));
  }
  if (a.ndim() == 1) text += ',';
  return text + "), dtype " + py::str(a.dtype()).cast<std::string>();
}

bool has_dtype(const py::array& a, DType dtype) {
  return dtype == DType::float64 ? py::isinstance<py::array_t<double>>(a) : py::isinstance<py::array_t<float>>(a);
}

bool is_plain(const py::array& a) {
  constexpr int wanted =
      static_cast<int>(py::array::c_style) | static_cast<int>(py::detail::npy_api::NPY_ARRAY_ALIGNED_);
  return (a.flags() & wanted) == wanted;
}

std::atomic<unsigned long> main_thread{0};

}  // namespace

const void* checked_data(const py::array& a, DType dtype, Index entries, const char* name) {
  if (!has_dtype(a, dtype) || !is_plain(a) || a.size() != entries) {
    throw InvalidArgument(
        name, shape_text(a),
        std::to_string(entries) + " entries in C order, dtype " + (dtype == DType::float64 ? "float64" : "float32"));
  }
  return a.data();
}

std::span<const double> optional_input(const py::object& a, Index entries, const char* name) {
  if (a.is_none()) return {};
  if (!py::isinstance<py::array>(a)) {
    throw InvalidArgument(name, py::str(py::type::of(a)).cast<std::string>(), "an array, or None");
  }
  return input(py::reinterpret_borrow<py::array>(a), entries, name);
}

std::span<double> output(py::array& a, Index entries, const char* name) {
  checked_data(a, DType::float64, entries, name);
  if (!a.writeable()) throw InvalidArgument(name, "a read-only array", "an array that can be written");
  return {static_cast<double*>(a.mutable_data()), static_cast<std::size_t>(entries)};
}

std::span<const Index> indices(const py::array& a, const char* name) {
  if (!py::isinstance<py::array_t<std::int64_t>>(a) || !is_plain(a) || a.ndim() != 1) {
    throw InvalidArgument(name, shape_text(a), "a one-dimensional int64 array in C order");
  }
  return {static_cast<const Index*>(a.data()), static_cast<std::size_t>(a.size())};
}

py::array_t<double> adopt(std::vector<double>&& values, Shape shape) {
  auto* owner = new std::vector<double>(std::move(values));
  py::capsule base(owner, [](void* p) { delete static_cast<std::vector<double>*>(p); });
  return py::array_t<double>(std::move(shape), owner->data(), base);
}

std::shared_ptr<const void> keep_alive(std::vector<py::object> objects) {
  auto* kept = new std::vector<py::object>(std::move(objects));
  return std::shared_ptr<const void>(kept, [](const void* p) {
    auto* owned = static_cast<const std::vector<py::object>*>(p);
    // After the interpreter is gone there is nobody left to give the references back to.
    if (Py_IsInitialized() == 0) return;
    py::gil_scoped_acquire gil;
    delete owned;
  });
}

void log_dispatch_notes() {
  const py::object logger = py::module_::import("logging").attr("getLogger")("arrowschur_native");
  for (const policy::DispatchNote& note : policy::take_dispatch_notes()) {
    logger.attr(note.warning ? "warning" : "info")("%s", note.text);
  }
}

Callback::Callback(const py::object& callable, std::string argument)
    : callable_(callable.ptr()), owner_(keep_alive({callable})), argument_(std::move(argument)) {
  if (PyCallable_Check(callable_) == 0) {
    throw InvalidArgument(argument_, py::repr(callable).cast<std::string>(), "a callable");
  }
}

void Callback::operator()(std::span<const double> x, std::span<double> y) const {
  const py::gil_scoped_acquire gil;
  const py::array_t<double> argument(static_cast<py::ssize_t>(x.size()), x.data());
  const py::object returned = py::reinterpret_borrow<py::function>(callable_)(argument);
  const py::array array = py::array::ensure(returned);
  const auto entries = static_cast<py::ssize_t>(y.size());
  const bool real = array && std::string_view("fiub").find(array.dtype().kind()) != std::string_view::npos;
  if (!real || array.ndim() != 1 || array.shape(0) != entries) {
    const std::string got = array ? shape_text(array) : py::str(py::type::of(returned)).cast<std::string>();
    throw InvalidArgument(argument_, "a function that returned " + got,
                          "a function that returns real numbers of shape (" + std::to_string(entries) + ",)");
  }
  const py::array_t<double, py::array::c_style | py::array::forcecast> values(array);
  std::copy_n(values.data(), y.size(), y.data());
}

Shape SystemHandle::row_shape(Index m) const {
  Shape shape;
  if (rows_as_matrix) {
    shape = {core.n(), core.is_uniform() ? core.row_dim(0) : core.max_dim()};
  } else {
    shape = {core.total_dim()};
  }
  if (m >= 0) shape.push_back(m);
  return shape;
}

Shape SystemHandle::border_shape(Index m) const {
  Shape shape{core.k()};
  if (m >= 0) shape.push_back(m);
  return shape;
}

double as_number(const py::handle& value, const char* name, const char* expected) {
  if (PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred() != nullptr) {
    // Not a number, or too large for one; anything else (an interrupt, say) is not ours to hide.
    const bool ours = PyErr_ExceptionMatches(PyExc_TypeError) != 0 || PyErr_ExceptionMatches(PyExc_ValueError) != 0 ||
                      PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
    if (!ours) throw py::error_already_set();
    PyErr_Clear();
    throw InvalidArgument(name, py::repr(value).cast<std::string>(), expected);
  }
  return number;
}

Ridges make_ridges(const ArrowSystem& system, const py::handle& ridge_t, const py::handle& ridge_beta,
                   const py::object& damping_t, const py::object& damping_beta) {
  constexpr const char* expected = "a finite number >= 0";
  return {as_number(ridge_t, "ridge_t", expected), as_number(ridge_beta, "ridge_beta", expected),
          optional_input(damping_t, system.total_dim(), "damping_t"),
          optional_input(damping_beta, system.k(), "damping_beta")};
}

FactorSet factor_set(const py::handle& name) {
  if (py::isinstance<py::str>(name)) {
    const auto text = name.cast<std::string>();
    if (text == "step") return FactorSet::step;
    if (text == "evidence") return FactorSet::evidence;
  }
  throw InvalidArgument("set", py::repr(name).cast<std::string>(), "'step' or 'evidence'");
}

void set_main_thread() { main_thread.store(PyThread_get_thread_ident(), std::memory_order_relaxed); }

SignalWatch::SignalWatch() {
  if (PyThread_get_thread_ident() == main_thread.load(std::memory_order_relaxed)) {
    scope_.emplace(&SignalWatch::poll, this);
  }
}

bool SignalWatch::poll(void* self) noexcept {
  auto& watch = *static_cast<SignalWatch*>(self);
  if (watch.pending_) return true;
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return false;
  watch.pending_.emplace();  // takes the exception out of the thread state until the C++ frames are unwound
  return true;
}

void SignalWatch::raise_pending(const Interrupted& reason) {
  if (pending_) throw py::error_already_set(*pending_);
  throw reason;
}

}  // namespace arrowschur::python
