// Frames: factors that stay on a device.
#include "arrowschur/frame.hpp"

#include <array>

#include "device_arrays.hpp"
#include "workspace.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

constexpr std::array kInverses{Named<BorderInverse>{"blocks", BorderInverse::blocks},
                               Named<BorderInverse>{"full", BorderInverse::full},
                               Named<BorderInverse>{"auto", BorderInverse::automatic}};
constexpr std::array kRoutes{
    Named<FrameRoute>{"auto", FrameRoute::automatic}, Named<FrameRoute>{"direct", FrameRoute::direct},
    Named<FrameRoute>{"dual", FrameRoute::dual}, Named<FrameRoute>{"inexact_pcg", FrameRoute::inexact_pcg}};
constexpr const char* kRidge = "a finite number >= 0";

// A frame, and the shape in which g_t was given.
struct FrameHandle {
  ArrowFrame core;
  Shape rows;
};
struct BaseFrameHandle {
  BaseArrowFrame core;
  Shape rows;
};
Shape rows_of(const DeviceParts& parts) { return {parts.n, parts.d}; }

FrameOptions make_options(const py::object& route, Index expected_solves, const py::object& border_inverse,
                          std::optional<Index> device_memory_limit, Index cache_entries, const PcgOptions& pcg,
                          bool accept_truncated) {
  FrameOptions options;
  options.route = parse(kRoutes, route, "route");
  options.expected_solves = expected_solves;
  options.border_inverse = parse(kInverses, border_inverse, "border_inverse");
  options.device_memory_limit = device_memory_limit;
  options.cache_entries = cache_entries;
  options.pcg = pcg;
  options.accept_truncated = accept_truncated;
  if (const auto c = options.complaint()) throw InvalidArgument(c->field, c->value, c->rule);
  return options;
}

py::dict plan_fields(const FramePlan& plan) {
  py::list candidates;
  for (const FrameCandidate& c : plan.candidates) {
    candidates.append(py::dict("route"_a = to_string(c.route), "up_seconds"_a = c.up_seconds,
                               "build_seconds"_a = c.build_seconds, "solve_seconds"_a = c.solve_seconds,
                               "seconds"_a = c.seconds, "peak_bytes"_a = c.peak_bytes, "why_not"_a = c.why_not));
  }
  return py::dict("route"_a = to_string(plan.route), "expected_solves"_a = plan.expected_solves,
                  "candidates"_a = candidates, "profile"_a = plan.profile);
}

// Delta_t and delta_beta: NumPy arrays, or arrays of the device where the inputs were there.
std::pair<py::object, py::object> step_arrays(FrameStep& step, const Shape& rows) {
  if (step.on_device) {
    const auto k = static_cast<py::ssize_t>(step.on_device->k());
    return {py::cast(DeviceArrayHandle{*step.on_device, false, rows}),
            py::cast(DeviceArrayHandle{*step.on_device, true, {k}})};
  }
  const auto k = static_cast<py::ssize_t>(step.delta_beta.size());
  return {adopt(std::move(step.delta_t), rows), adopt(std::move(step.delta_beta), {k})};
}

py::dict step_fields(FrameStep&& step, const Shape& rows) {
  const auto [delta_t, delta_beta] = step_arrays(step, rows);
  return py::dict("delta_t"_a = delta_t, "delta_beta"_a = delta_beta, "log_det_hessian"_a = step.log_det_hessian,
                  "ridge_t"_a = step.ridge_t, "ridge_beta"_a = step.ridge_beta, "certificate"_a = step.certificate,
                  "execution_path"_a = step.execution_path, "backend"_a = step.backend,
                  "unproven_path"_a = step.unproven_path, "route"_a = to_string(step.route),
                  "pcg"_a = pcg_fields(step.pcg), "telemetry"_a = telemetry_fields(step.telemetry));
}

// A vector of the caller's on the device, [T] or [n, d] and [k].
struct GivenVector {
  GivenVector(const py::object& t, const py::object& beta, Index total_dim, Index k, const char* t_name,
              const char* beta_name)
      : rows(import_device_array(t, t_name)), border(import_device_array(beta, beta_name)) {
    const auto entries = [](const Shape& shape) {
      Index product = 1;
      for (const py::ssize_t size : shape) product *= size;
      return product;
    };
    const auto expect = [&](const char* name, const DeviceArrayView& view, Index size) {
      if (entries(view.shape) == size) return;
      throw InvalidArgument(name, "shape " + py::str(py::tuple(py::cast(view.shape))).cast<std::string>(),
                            std::to_string(size) + " entries");
    };
    expect(t_name, rows, total_dim);
    expect(beta_name, border, k);
    vector.t = rows.data, vector.beta = border.data;
    for (const DeviceArrayView* view : {&rows, &border}) {
      vector.streams.insert(vector.streams.end(), view->streams.begin(), view->streams.end());
    }
  }
  DeviceArrayView rows, border;  // keep the memory for the call
  DeviceVector vector;
};

py::tuple solve_there(const FrameHandle& self, const py::object& w_t, const py::object& w_beta) {
  const GivenVector w(w_t, w_beta, self.core.total_dim(), self.core.k(), "w_t", "w_beta");
  const DeviceArrays x = released([&] { return self.core.solve(w.vector); });
  return py::make_tuple(DeviceArrayHandle{x, false, w.rows.shape}, DeviceArrayHandle{x, true, w.border.shape});
}

// A gradient of the caller, or none for the frame's own.
struct GivenGradient {
  GivenGradient(const py::object& g_t, const py::object& g_beta, Index total_dim, Index k)
      : given(!g_t.is_none()), t(optional_input(g_t, total_dim, "g_t")), beta(optional_input(g_beta, k, "g_beta")) {}
  bool given;
  std::span<const double> t, beta;
};

py::tuple solve(const FrameHandle& self, const py::array& w_t, const py::array& w_beta) {
  const Index m = w_beta.ndim() == 2 ? w_beta.shape(1) : 1;
  const auto in_t = input(w_t, self.core.total_dim() * m, "w_t");
  const auto in_beta = input(w_beta, self.core.k() * m, "w_beta");
  auto x_t = new_array(Shape(w_t.shape(), w_t.shape() + w_t.ndim()));
  auto x_beta = new_array(Shape(w_beta.shape(), w_beta.shape() + w_beta.ndim()));
  const auto out_t = output(x_t, self.core.total_dim() * m, "x_t");
  const auto out_beta = output(x_beta, self.core.k() * m, "x_beta");
  if (m > 0) released([&] { self.core.solve(in_t, in_beta, out_t, out_beta, m); });
  return py::make_tuple(x_t, x_beta);
}

void register_arrow_frame(py::module_& m) {
  py::class_<FrameHandle>(m, "ArrowFrame", "Factors at one pair of ridges, on a device.")
      .def_static(
          "build",
          [](const SystemHandle& system, const py::handle& ridge_t, const py::handle& ridge_beta,
             const FrameOptions& options) {
            const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
            return FrameHandle{released([&] { return ArrowFrame::build(system.core, t, beta, options); }),
                               system.row_shape()};
          },
          "system"_a, "ridge_t"_a, "ridge_beta"_a, "options"_a)
      .def_static(
          "adopt",
          [](const DeviceParts& parts, const py::handle& ridge_t, const py::handle& ridge_beta,
             const FrameOptions& options) {
            const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
            return FrameHandle{released([&] { return ArrowFrame::build(parts, t, beta, options); }), rows_of(parts)};
          },
          "parts"_a, "ridge_t"_a, "ridge_beta"_a, "options"_a)
      .def_property_readonly("route", [](const FrameHandle& self) { return to_string(self.core.route()); })
      .def_property_readonly("plan", [](const FrameHandle& self) { return plan_fields(self.core.plan()); })
      .def_property_readonly("ridge_t", [](const FrameHandle& self) { return self.core.ridge_t(); })
      .def_property_readonly("ridge_beta", [](const FrameHandle& self) { return self.core.ridge_beta(); })
      .def_property_readonly("log_det_hessian", [](const FrameHandle& self) { return self.core.log_det_hessian(); })
      .def_property_readonly("device_bytes", [](const FrameHandle& self) { return self.core.device_bytes(); })
      .def(
          "matches_ridge",
          [](const FrameHandle& self, double t, double beta) { return self.core.matches_ridge(t, beta); }, "ridge_t"_a,
          "ridge_beta"_a)
      .def("telemetry",
           [](const FrameHandle& self) { return telemetry_fields(released([&] { return self.core.telemetry(); })); })
      .def(
          "step",
          [](const FrameHandle& self, const py::object& g_t, const py::object& g_beta, bool certificate) {
            const GivenGradient g(g_t, g_beta, self.core.total_dim(), self.core.k());
            return step_fields(released([&] {
                                 return g.given ? self.core.step(g.t, g.beta, certificate)
                                                : self.core.step(certificate);
                               }),
                               self.rows);
          },
          "g_t"_a, "g_beta"_a, "certificate"_a)
      .def(
          "step_there",
          [](const FrameHandle& self, const py::object& g_t, const py::object& g_beta, bool certificate) {
            const GivenVector g(g_t, g_beta, self.core.total_dim(), self.core.k(), "g_t", "g_beta");
            return step_fields(released([&] { return self.core.step(g.vector, certificate); }), g.rows.shape);
          },
          "g_t"_a, "g_beta"_a, "certificate"_a)
      .def("solve", &solve, "w_t"_a, "w_beta"_a)
      .def("solve_there", &solve_there, "w_t"_a, "w_beta"_a);
}

void register_base_frame(py::module_& m) {
  py::class_<FrameFactors>(m, "FrameFactors", "Factors of a BaseArrowFrame.")
      .def_property_readonly("ridge_t", &FrameFactors::ridge_t)
      .def_property_readonly("ridge_beta", &FrameFactors::ridge_beta)
      .def_property_readonly("route", [](const FrameFactors& self) { return to_string(self.route()); })
      .def_property_readonly("log_det_hessian", &FrameFactors::log_det_hessian);

  using Handle = BaseFrameHandle;
  py::class_<Handle>(m, "BaseArrowFrame", "Blocks without ridges, on a device.")
      .def_static(
          "build",
          [](const SystemHandle& system, const FrameOptions& options) {
            return Handle{released([&] { return BaseArrowFrame::build(system.core, options); }), system.row_shape()};
          },
          "system"_a, "options"_a)
      .def_static(
          "adopt",
          [](const DeviceParts& parts, const FrameOptions& options) {
            return Handle{released([&] { return BaseArrowFrame::build(parts, options); }), rows_of(parts)};
          },
          "parts"_a, "options"_a)
      .def_property_readonly("plan", [](const Handle& self) { return plan_fields(self.core.plan()); })
      .def("device_bytes", [](const Handle& self) { return released([&] { return self.core.device_bytes(); }); })
      .def("telemetry",
           [](const Handle& self) { return telemetry_fields(released([&] { return self.core.telemetry(); })); })
      .def(
          "factor_at",
          [](Handle& self, const py::handle& ridge_t, const py::handle& ridge_beta) {
            const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
            return released([&] { return self.core.factor_at(t, beta); });
          },
          "ridge_t"_a, "ridge_beta"_a)
      .def(
          "solve_with",
          [](Handle& self, const FrameFactors& factors, const py::object& g_t, const py::object& g_beta,
             bool certificate) {
            const GivenGradient g(g_t, g_beta, self.core.total_dim(), self.core.k());
            return step_fields(released([&] {
                                 return g.given ? self.core.solve_with(factors, g.t, g.beta, certificate)
                                                : self.core.solve_with(factors, certificate);
                               }),
                               self.rows);
          },
          "factors"_a, "g_t"_a, "g_beta"_a, "certificate"_a)
      .def(
          "solve_with_there",
          [](Handle& self, const FrameFactors& factors, const py::object& g_t, const py::object& g_beta,
             bool certificate) {
            const GivenVector g(g_t, g_beta, self.core.total_dim(), self.core.k(), "g_t", "g_beta");
            return step_fields(released([&] { return self.core.solve_with(factors, g.vector, certificate); }),
                               g.rows.shape);
          },
          "factors"_a, "g_t"_a, "g_beta"_a, "certificate"_a)
      .def(
          "refactor_and_solve",
          [](Handle& self, const py::handle& ridge_t, const py::handle& ridge_beta, const py::object& g_t,
             const py::object& g_beta, bool certificate) {
            const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
            const GivenGradient g(g_t, g_beta, self.core.total_dim(), self.core.k());
            return step_fields(released([&] {
                                 return g.given ? self.core.refactor_and_solve(t, beta, g.t, g.beta, certificate)
                                                : self.core.refactor_and_solve(t, beta, certificate);
                               }),
                               self.rows);
          },
          "ridge_t"_a, "ridge_beta"_a, "g_t"_a, "g_beta"_a, "certificate"_a)
      .def(
          "refactor_and_solve_there",
          [](Handle& self, const py::handle& ridge_t, const py::handle& ridge_beta, const py::object& g_t,
             const py::object& g_beta, bool certificate) {
            const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
            const GivenVector g(g_t, g_beta, self.core.total_dim(), self.core.k(), "g_t", "g_beta");
            return step_fields(released([&] { return self.core.refactor_and_solve(t, beta, g.vector, certificate); }),
                               g.rows.shape);
          },
          "ridge_t"_a, "ridge_beta"_a, "g_t"_a, "g_beta"_a, "certificate"_a)
      .def(
          "refresh",
          [](Handle& self, const SystemHandle& system) { released([&] { self.core.refresh(system.core); }); },
          "system"_a)
      .def(
          "refresh_there", [](Handle& self, const DeviceParts& parts) { released([&] { self.core.refresh(parts); }); },
          "parts"_a);
}

}  // namespace

void register_frame(py::module_& m) {
  py::class_<FrameOptions>(m, "FrameOptions", "Validated options of a frame.")
      .def(py::init(&make_options), py::kw_only(), "route"_a, "expected_solves"_a, "border_inverse"_a,
           "device_memory_limit"_a, "cache_entries"_a, "pcg"_a, "accept_truncated"_a);
  register_arrow_frame(m);
  register_base_frame(m);
  m.def(
      "newton_step_reupload",
      [](const SystemHandle& system, const py::handle& ridge_t, const py::handle& ridge_beta, bool certificate,
         const FrameOptions& options) {
        const double t = as_number(ridge_t, "ridge_t", kRidge), beta = as_number(ridge_beta, "ridge_beta", kRidge);
        return step_fields(released([&] { return newton_step_reupload(system.core, t, beta, certificate, options); }),
                           system.row_shape());
      },
      "system"_a, "ridge_t"_a, "ridge_beta"_a, "certificate"_a, "options"_a);
}

}  // namespace arrowschur::python
