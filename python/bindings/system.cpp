// Systems, borders, normal equations.
#include <variant>

#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

DType dtype_of(const py::array& a) {
  if (py::isinstance<py::array_t<double>>(a)) return DType::float64;
  if (py::isinstance<py::array_t<float>>(a)) return DType::float32;
  throw InvalidArgument("dtype", py::str(a.dtype()).cast<std::string>(), "float64 or float32");
}

Index product(Index a, Index b) {
  Index result = 0;
  if (__builtin_mul_overflow(a, b, &result)) {
    throw InvalidArgument("shape", std::to_string(a) + " x " + std::to_string(b), "a size below 2^63 entries");
  }
  return result;
}

// A term is (kind, data, sizes): kind one of dense, diagonal, banded, block_diagonal; sizes are the block sizes of a
// block-diagonal term.
Border make_border(Index k, DType dtype, const py::list& terms, std::vector<py::object>& kept) {
  Border border;
  border.k = k;
  border.dtype = dtype;
  for (const py::handle& item : terms) {
    const auto term = item.cast<py::tuple>();
    const auto kind = term[0].cast<std::string>();
    const auto data = term[1].cast<py::array>();
    if (kind == "dense") {
      border.terms.push_back(DenseBorder{checked_data(data, dtype, product(k, k), "h_bb")});
    } else if (kind == "diagonal") {
      border.terms.push_back(DiagonalBorder{checked_data(data, dtype, k, "h_bb")});
    } else if (kind == "banded") {
      if (data.ndim() != 2 || data.shape(0) < 1) {
        throw InvalidArgument("h_bb", "bands without rows", "(w + 1, k) bands");
      }
      checked_data(data, dtype, product(data.shape(0), k), "h_bb");
      border.terms.push_back(BandedBorder{data.data(), data.shape(0) - 1});
    } else if (kind == "block_diagonal") {
      auto sizes = term[2].cast<std::vector<Index>>();
      Index entries = 0, columns = 0;
      for (const Index size : sizes) {
        if (size < 0) throw InvalidArgument("h_bb", "a block of negative size", "sizes >= 0");
        entries += product(size, size);
        columns += size;
      }
      if (columns != k) {
        throw InvalidArgument("h_bb", "blocks covering " + std::to_string(columns) + " columns",
                              "blocks covering k = " + std::to_string(k) + " columns");
      }
      checked_data(data, dtype, entries, "h_bb");
      border.terms.push_back(BlockDiagonalBorder{data.data(), std::move(sizes)});
    } else {
      throw InvalidArgument("h_bb", kind, "a known border form");
    }
    kept.push_back(data);
  }
  return border;
}

Symmetry parse_symmetry(const std::string& name) {
  if (name == "check") return Symmetry::check;
  if (name == "average") return Symmetry::average;
  if (name == "lower") return Symmetry::lower;
  throw InvalidArgument("symmetry", "'" + name + "'", "one of 'check', 'average', 'lower'");
}

SystemHandle make_system(Index n, Index d, Index k, const py::object& row_dims, const py::array& h_tt,
                         const py::array& h_tb, const py::list& border, const py::array& g_t, const py::array& g_beta,
                         bool rows_as_matrix, bool check_finite, const std::string& symmetry) {
  const DType dtype = dtype_of(h_tt);
  if (n < 0 || d < 0 || k < 0) throw InvalidArgument("shape", "a negative size", "sizes >= 0");

  SystemParts parts;
  parts.n = n;
  parts.k = k;
  parts.dtype = dtype;
  Index total = 0, entries = 0;
  if (row_dims.is_none()) {
    parts.d = d;
    total = product(n, d);
    entries = product(total, d);
  } else {
    const auto dims = indices(row_dims.cast<py::array>(), "row_dims");
    parts.row_dims.assign(dims.begin(), dims.end());
    if (static_cast<Index>(dims.size()) != n) {
      throw InvalidArgument("row_dims", std::to_string(dims.size()) + " entries",
                            "n = " + std::to_string(n) + " entries");
    }
    for (const Index size : dims) {
      if (size < 0) throw InvalidArgument("row_dims", std::to_string(size), "sizes >= 0");
      total += size;
      entries += product(size, size);
    }
  }
  std::vector<py::object> kept{h_tt, h_tb, g_t, g_beta};
  parts.h_tt = checked_data(h_tt, dtype, entries, "h_tt");
  parts.h_tb = checked_data(h_tb, dtype, product(total, k), "h_tb");
  parts.g_t = checked_data(g_t, dtype, total, "g_t");
  parts.g_beta = checked_data(g_beta, dtype, k, "g_beta");
  parts.border = make_border(k, dtype, border, kept);
  parts.owner = keep_alive(std::move(kept));

  const ValidationOptions validation{check_finite, parse_symmetry(symmetry)};
  return released([&] { return SystemHandle{ArrowSystem::make(std::move(parts), validation), rows_as_matrix}; });
}

struct BorderHandle {
  Border core;

  py::array_t<double> matvec(const py::array& x) const {
    const Index m = x.ndim() == 2 ? x.shape(1) : 1;
    const auto in = input(x, product(core.k, m), "x");
    auto y = new_array(x.ndim() == 2 ? Shape{core.k, m} : Shape{core.k});
    auto out = output(y, product(core.k, m), "y");
    released([&] {
      std::fill(out.begin(), out.end(), 0.0);
      core.matvec_add(in, out, m);
    });
    return y;
  }
  py::array_t<double> diagonal() const {
    auto y = new_array({core.k});
    auto out = output(y, core.k, "out");
    std::fill(out.begin(), out.end(), 0.0);
    core.diagonal_add(out);
    return y;
  }
  py::array_t<double> to_dense() const {
    auto y = new_array({core.k, core.k});
    auto out = output(y, product(core.k, core.k), "out");
    released([&] {
      std::fill(out.begin(), out.end(), 0.0);
      core.to_dense_add(out);
    });
    return y;
  }
};

py::tuple apply(const SystemHandle& self, const py::array& x_t, const py::array& x_beta, const py::object& ridge_t,
                const py::object& ridge_beta, const py::object& damping_t, const py::object& damping_beta) {
  const ArrowSystem& s = self.core;
  const Ridges ridges = make_ridges(s, ridge_t, ridge_beta, damping_t, damping_beta);
  const auto in_t = input(x_t, s.total_dim(), "x_t");
  const auto in_beta = input(x_beta, s.k(), "x_beta");
  auto y_t = new_array(Shape(x_t.shape(), x_t.shape() + x_t.ndim()));
  auto y_beta = new_array(self.border_shape());
  const auto out_t = output(y_t, s.total_dim(), "y_t");
  const auto out_beta = output(y_beta, s.k(), "y_beta");
  released([&] { s.apply(in_t, in_beta, out_t, out_beta, ridges); });
  return py::make_tuple(y_t, y_beta);
}

py::tuple to_dense(const SystemHandle& self) {
  const Index size = self.core.total_dim() + self.core.k();
  auto h = new_array({size, size});
  auto g = new_array({size});
  const auto out_h = output(h, product(size, size), "H");
  const auto out_g = output(g, size, "g");
  released([&] { self.core.to_dense(out_h, out_g); });
  return py::make_tuple(h, g);
}

py::tuple normal_equations_of(const py::array& j_t, const py::array& j_beta, const py::array& residual,
                              const py::object& weights, const py::object& row_index, Index n) {
  if (j_t.ndim() != 3 || j_beta.ndim() != 3) throw InvalidArgument("j_t", "not three axes", "(r, q, d) and (r, q, k)");
  JacobianParts p;
  p.n = n;
  p.r = j_t.shape(0);
  p.q = j_t.shape(1);
  p.d = j_t.shape(2);
  p.k = j_beta.shape(2);
  const Index lines = product(p.r, p.q);
  p.j_t = input(j_t, product(lines, p.d), "j_t").data();
  p.j_beta = input(j_beta, product(lines, p.k), "j_beta").data();
  p.residual = input(residual, lines, "residual").data();
  if (!weights.is_none()) {
    const auto w = weights.cast<py::array>();
    p.weights_per_residual = w.ndim() == 2;
    p.weights = input(w, p.weights_per_residual ? lines : p.r, "weights").data();
  }
  if (row_index.is_none()) {
    if (p.r != n) throw InvalidArgument("j_t", std::to_string(p.r) + " residual blocks", "n blocks, or row_index");
  } else {
    const auto rows = indices(row_index.cast<py::array>(), "row_index");
    if (static_cast<Index>(rows.size()) != p.r) {
      throw InvalidArgument("row_index", std::to_string(rows.size()) + " entries", "one entry per residual block");
    }
    for (const Index row : rows) {
      if (row < 0 || row >= n) {
        throw InvalidArgument("row_index", std::to_string(row), "a row in 0.." + std::to_string(n - 1));
      }
    }
    p.row_index = rows.data();
  }
  auto h_tt = new_array({n, p.d, p.d});
  auto h_tb = new_array({n, p.d, p.k});
  auto h_bb = new_array({p.k, p.k});
  auto g_t = new_array({n, p.d});
  auto g_beta = new_array({p.k});
  double* const out[] = {h_tt.mutable_data(), h_tb.mutable_data(), h_bb.mutable_data(), g_t.mutable_data(),
                         g_beta.mutable_data()};
  released([&] { normal_equations(p, out[0], out[1], out[2], out[3], out[4]); });
  return py::make_tuple(h_tt, h_tb, h_bb, g_t, g_beta);
}

}  // namespace

void register_system(py::module_& m) {
  py::class_<BorderHandle>(m, "Border", "A sum of border terms.")
      .def(py::init([](Index k, bool single, const py::list& terms) {
             std::vector<py::object> kept;
             Border border = make_border(k, single ? DType::float32 : DType::float64, terms, kept);
             border.owner = keep_alive(std::move(kept));
             return BorderHandle{std::move(border)};
           }),
           "k"_a, "single"_a, "terms"_a)
      .def("matvec", &BorderHandle::matvec, "x"_a)
      .def("diagonal", &BorderHandle::diagonal)
      .def("to_dense", &BorderHandle::to_dense);

  py::class_<SystemHandle>(m, "System", "A validated arrow system that borrows NumPy memory.")
      .def(py::init(&make_system), py::kw_only(), "n"_a, "d"_a, "k"_a, "row_dims"_a, "h_tt"_a, "h_tb"_a, "border"_a,
           "g_t"_a, "g_beta"_a, "rows_as_matrix"_a, "check_finite"_a, "symmetry"_a)
      .def_property_readonly("n", [](const SystemHandle& s) { return s.core.n(); })
      .def_property_readonly("k", [](const SystemHandle& s) { return s.core.k(); })
      .def_property_readonly("total_dim", [](const SystemHandle& s) { return s.core.total_dim(); })
      .def_property_readonly("max_dim", [](const SystemHandle& s) { return s.core.max_dim(); })
      .def_property_readonly("nbytes", [](const SystemHandle& s) { return s.core.nbytes(); })
      .def(
          "with_gradient",
          [](const SystemHandle& self, const py::array& g_t, const py::array& g_beta, bool rows_as_matrix,
             bool check_finite) {
            const ArrowSystem& s = self.core;
            const void* t = checked_data(g_t, s.dtype(), s.total_dim(), "g_t");
            const void* beta = checked_data(g_beta, s.dtype(), s.k(), "g_beta");
            return SystemHandle{s.with_gradient(t, beta, keep_alive({g_t, g_beta}), check_finite), rows_as_matrix};
          },
          "g_t"_a, "g_beta"_a, "rows_as_matrix"_a, "check_finite"_a)
      .def("apply", &apply, "x_t"_a, "x_beta"_a, "ridge_t"_a, "ridge_beta"_a, "damping_t"_a, "damping_beta"_a)
      .def("to_dense", &to_dense)
      .def("gradient_norm",
           [](const SystemHandle& self) { return released([&] { return self.core.gradient_norm(); }); })
      .def(
          "gradient_dot",
          [](const SystemHandle& self, const py::array& delta_t, const py::array& delta_beta) {
            const auto t = input(delta_t, self.core.total_dim(), "delta_t");
            const auto beta = input(delta_beta, self.core.k(), "delta_beta");
            return released([&] { return self.core.gradient_dot(t, beta); });
          },
          "delta_t"_a, "delta_beta"_a)
      .def("fingerprint", [](const SystemHandle& self) { return released([&] { return self.core.fingerprint(); }); });

  m.def("normal_equations", &normal_equations_of, "j_t"_a, "j_beta"_a, "residual"_a, "weights"_a, "row_index"_a, "n"_a,
        "Gauss-Newton normal equations: (h_tt, h_tb, h_bb, g_t, g_beta).");
}

}  // namespace arrowschur::python
