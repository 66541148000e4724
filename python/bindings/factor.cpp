// The factor: every method releases the GIL and hands out NumPy memory that the core has written.
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

struct FactorHandle {
  ArrowFactor core;
  bool rows_as_matrix = true;

  const ArrowSystem& system() const { return core.system(); }
  Index total_dim() const { return system().total_dim(); }
  Index k() const { return system().k(); }
  Shape row_shape(Index m = -1) const { return SystemHandle{system(), rows_as_matrix}.row_shape(m); }
  Shape border_shape(Index m = -1) const {
    Shape shape{k()};
    if (m >= 0) shape.push_back(m);
    return shape;
  }
};

// Right-hand sides: the number of columns is read from the border part.
Index columns(const py::array& border_part) { return border_part.ndim() == 2 ? border_part.shape(1) : 1; }

Shape shape_of(const py::array& a) { return Shape(a.shape(), a.shape() + a.ndim()); }

py::tuple solve(const FactorHandle& f, const py::array& w_t, const py::array& w_beta, const py::object& out_t,
                const py::object& out_beta, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  const Index m = columns(w_beta);
  const auto in_t = input(w_t, f.total_dim() * m, "w_t");
  const auto in_beta = input(w_beta, f.k() * m, "w_beta");
  py::array x_t = out_t.is_none() ? py::array(new_array(shape_of(w_t))) : out_t.cast<py::array>();
  py::array x_beta = out_beta.is_none() ? py::array(new_array(shape_of(w_beta))) : out_beta.cast<py::array>();
  const auto to_t = output(x_t, f.total_dim() * m, "out");
  const auto to_beta = output(x_beta, f.k() * m, "out");
  if (m > 0) released([&] { f.core.solve(in_t, in_beta, to_t, to_beta, m, set); });
  return py::make_tuple(x_t, x_beta);
}

py::tuple step(const FactorHandle& f, const py::object& g_t, const py::object& g_beta) {
  NewtonStep s = [&] {
    if (g_t.is_none() && g_beta.is_none()) return released([&] { return f.core.step(); });
    const auto t = input(g_t.cast<py::array>(), f.total_dim(), "g_t");
    const auto beta = input(g_beta.cast<py::array>(), f.k(), "g_beta");
    return released([&] { return f.core.step(t, beta); });
  }();
  auto delta_t = adopt(std::move(s.delta_t), f.row_shape());
  auto delta_beta = adopt(std::move(s.delta_beta), f.border_shape());
  return py::make_tuple(std::move(delta_t), std::move(delta_beta), std::move(s.diagnostics));
}

template <void (ArrowFactor::*kMethod)(std::span<const double>, std::span<double>, Index, FactorSet) const>
py::array border_map(const FactorHandle& f, const py::array& v, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  const Index m = columns(v);
  const auto in = input(v, f.k() * m, "v");
  auto result = new_array(shape_of(v));
  const auto out = output(result, f.k() * m, "out");
  if (m > 0) released([&] { (f.core.*kMethod)(in, out, m, set); });
  return result;
}

py::array border_inverse_block(const FactorHandle& f, const py::object& cols, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  std::span<const Index> chosen;
  if (!cols.is_none()) {
    chosen = indices(cols.cast<py::array>(), "cols");
    if (chosen.empty()) return new_array({0, 0});  // an empty span means "all" to the core
  }
  const Index size = cols.is_none() ? f.k() : static_cast<Index>(chosen.size());
  auto result = new_array({size, size});
  const auto out = output(result, size * size, "out");
  released([&] { f.core.border_inverse_block(chosen, out, set); });
  return result;
}

template <void (ArrowFactor::*kMethod)(std::span<double>, FactorSet) const, Index (FactorHandle::*kSize)() const>
py::array diagonal(const FactorHandle& f, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  const Index size = (f.*kSize)();
  auto result = new_array({size});
  const auto out = output(result, size, "out");
  released([&] { (f.core.*kMethod)(out, set); });
  return result;
}

// Flat: blocks one after another. The Python layer gives them their shapes.
py::array latent_inverse_blocks(const FactorHandle& f, const py::object& rows, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  std::span<const Index> chosen;
  Index entries = 0;
  if (rows.is_none()) {
    for (Index i = 0; i < f.system().n(); ++i) entries += f.system().row_dim(i) * f.system().row_dim(i);
  } else {
    chosen = indices(rows.cast<py::array>(), "rows");
    for (const Index i : chosen) {
      if (i < 0 || i >= f.system().n()) {
        throw InvalidArgument("rows", std::to_string(i), "a row in 0.." + std::to_string(f.system().n() - 1));
      }
      entries += f.system().row_dim(i) * f.system().row_dim(i);
    }
    if (chosen.empty()) return new_array({0});
  }
  auto result = new_array({entries});
  const auto out = output(result, entries, "out");
  released([&] { f.core.latent_inverse_blocks(chosen, out, set); });
  return result;
}

py::array cross_inverse_block(const FactorHandle& f, Index i, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  if (i < 0 || i >= f.system().n()) {
    throw InvalidArgument("i", std::to_string(i), "a row in 0.." + std::to_string(f.system().n() - 1));
  }
  auto result = new_array({f.system().row_dim(i), f.k()});
  const auto out = output(result, f.system().row_dim(i) * f.k(), "out");
  released([&] { f.core.cross_inverse_block(i, out, set); });
  return result;
}

py::array predict(const FactorHandle& f, const py::array& delta_beta, const py::object& delta_g_t) {
  const auto beta = input(delta_beta, f.k(), "delta_beta");
  const auto g = optional_input(delta_g_t, f.total_dim(), "delta_g_t");
  auto result = new_array(f.row_shape());
  const auto out = output(result, f.total_dim(), "out");
  released([&] { f.core.predict(beta, g, out); });
  return result;
}

py::tuple sample(const FactorHandle& f, Index m, std::uint64_t seed, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  auto x_t = new_array(f.row_shape(m));
  auto x_beta = new_array(f.border_shape(m));
  const auto out_t = output(x_t, f.total_dim() * m, "x_t");
  const auto out_beta = output(x_beta, f.k() * m, "x_beta");
  if (m > 0) released([&] { f.core.sample(m, seed, out_t, out_beta, set); });
  return py::make_tuple(x_t, x_beta);
}

// Flat arrays of the core, without shapes: (h_tt, h_tb, h_bb, w_t, w_beta, ridge_t, ridge_beta).
py::tuple gradient_tuple(SystemGradient&& g) {
  const auto flat = [](std::vector<double>&& v) {
    const auto size = static_cast<py::ssize_t>(v.size());
    return adopt(std::move(v), {size});
  };
  return py::make_tuple(flat(std::move(g.h_tt)), flat(std::move(g.h_tb)), flat(std::move(g.h_bb)),
                        flat(std::move(g.w_t)), flat(std::move(g.w_beta)), g.ridge_t, g.ridge_beta);
}

py::tuple vjp(const FactorHandle& f, const py::array& x_t, const py::array& x_beta, const py::array& c_t,
              const py::array& c_beta, const py::object& set_name) {
  const FactorSet set = factor_set(set_name);
  const Index m = columns(x_beta);
  const auto xt = input(x_t, f.total_dim() * m, "x_t");
  const auto xb = input(x_beta, f.k() * m, "x_beta");
  const auto ct = input(c_t, f.total_dim() * m, "cotangent_t");
  const auto cb = input(c_beta, f.k() * m, "cotangent_beta");
  return gradient_tuple(released([&] { return f.core.vjp(xt, xb, ct, cb, m, set); }));
}

py::tuple pivots(const PivotRange& p) { return py::make_tuple(p.rows, p.border, p.both); }

}  // namespace

void register_factor(py::module_& m) {
  py::class_<FactorHandle>(m, "Factor", "Row and border factors at one pair of ridges.")
      .def_property_readonly("route", [](const FactorHandle& f) { return to_string(f.core.route()); })
      .def_property_readonly("nbytes", [](const FactorHandle& f) { return f.core.nbytes(); })
      .def_property_readonly("ridge_t", [](const FactorHandle& f) { return f.core.ridges().t; })
      .def_property_readonly("ridge_beta", [](const FactorHandle& f) { return f.core.ridges().beta; })
      .def_property_readonly("diagnostics",
                             [](const FactorHandle& f) { return SolveDiagnostics(f.core.diagnostics()); })
      .def("fingerprint", [](const FactorHandle& f) { return released([&] { return f.core.fingerprint(); }); })
      .def(
          "matches",
          [](const FactorHandle& f, const SystemHandle& other) {
            return released([&] { return f.core.matches(other.core); });
          },
          "system"_a)
      .def("solve", &solve, "w_t"_a, "w_beta"_a, "out_t"_a, "out_beta"_a, "set"_a)
      .def("step", &step, "g_t"_a, "g_beta"_a)
      .def(
          "log_det",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            return released([&] { return f.core.log_det(set); });
          },
          "set"_a)
      .def(
          "log_det_parts",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            const LogDetParts parts = released([&] { return f.core.log_det_parts(set); });
            return py::make_tuple(parts.rows, parts.border);
          },
          "set"_a)
      .def("schur_apply", &border_map<&ArrowFactor::schur_apply>, "v"_a, "set"_a)
      .def("border_inverse_apply", &border_map<&ArrowFactor::border_inverse_apply>, "v"_a, "set"_a)
      .def("border_inverse_block", &border_inverse_block, "cols"_a, "set"_a)
      .def("border_inverse_diagonal", &diagonal<&ArrowFactor::border_inverse_diagonal, &FactorHandle::k>, "set"_a)
      .def("latent_inverse_diagonal", &diagonal<&ArrowFactor::latent_inverse_diagonal, &FactorHandle::total_dim>,
           "set"_a)
      .def("latent_inverse_blocks", &latent_inverse_blocks, "rows"_a, "set"_a)
      .def("cross_inverse_block", &cross_inverse_block, "i"_a, "set"_a)
      .def("predict", &predict, "delta_beta"_a, "delta_g_t"_a)
      .def("sample", &sample, "m"_a, "seed"_a, "set"_a)
      .def("vjp", &vjp, "x_t"_a, "x_beta"_a, "cotangent_t"_a, "cotangent_beta"_a, "set"_a)
      .def(
          "log_det_vjp",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            return gradient_tuple(released([&] { return f.core.log_det_vjp(set); }));
          },
          "set"_a)
      .def(
          "min_pivot",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            return pivots(released([&] { return f.core.min_pivot(set); }));
          },
          "set"_a)
      .def(
          "max_pivot",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            return pivots(released([&] { return f.core.max_pivot(set); }));
          },
          "set"_a)
      .def(
          "condition_estimate",
          [](const FactorHandle& f, const py::object& set_name) {
            const FactorSet set = factor_set(set_name);
            const ConditionEstimate c = released([&] { return f.core.condition_estimate(set); });
            return py::make_tuple(c.rows, c.border);
          },
          "set"_a)
      .def(
          "update_ridges",
          [](const FactorHandle& f, const py::object& ridge_t, const py::object& ridge_beta,
             const py::object& damping_t, const py::object& damping_beta) {
            const Ridges ridges = make_ridges(f.system(), ridge_t, ridge_beta, damping_t, damping_beta);
            return FactorHandle{released([&] { return f.core.update_ridges(ridges); }), f.rows_as_matrix};
          },
          "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a);

  m.def(
      "factorize",
      [](const SystemHandle& system, const py::object& ridge_t, const py::object& ridge_beta,
         const py::object& damping_t, const py::object& damping_beta, const SolveOptions& options) {
        const Ridges ridges = make_ridges(system.core, ridge_t, ridge_beta, damping_t, damping_beta);
        const SolveOptions bound = options_for(options, system.core.k());
        return FactorHandle{released([&] { return factorize(system.core, ridges, bound); }), system.rows_as_matrix};
      },
      "system"_a, "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a, "options"_a);
}

}  // namespace arrowschur::python
