// Systems and normal equations.
#include <memory>
#include <stdexcept>

#include "structure.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

Symmetry parse_symmetry(const std::string& name) {
  if (name == "check") return Symmetry::check;
  if (name == "average") return Symmetry::average;
  if (name == "lower") return Symmetry::lower;
  throw InvalidArgument("symmetry", "'" + name + "'", "one of 'check', 'average', 'lower'");
}

std::vector<Index> block_offsets_of(const py::object& border_blocks) {
  if (border_blocks.is_none()) return {};
  const auto offsets = indices(border_blocks.cast<py::array>(), "border_blocks");
  return {offsets.begin(), offsets.end()};
}

SystemHandle make_system(Index n, Index d, Index k, const py::object& row_dims, const py::array& h_tt,
                         const py::object& cross, const py::list& border, const py::object& border_blocks,
                         const py::array& g_t, const py::array& g_beta, bool rows_as_matrix, bool check_finite,
                         const std::string& symmetry, bool detect_structure) {
  const DType dtype = dtype_of(h_tt);
  if (k < 0) throw InvalidArgument("shape", "a negative size", "sizes >= 0");

  SystemParts parts;
  parts.n = n;
  parts.k = k;
  parts.dtype = dtype;
  const RowSizes rows = row_sizes(n, d, row_dims);
  Index total = 0, entries = 0;
  if (row_dims.is_none()) {
    parts.d = d;
    total = product(n, d);
    entries = product(total, d);
  } else {
    parts.row_dims.assign(rows.dims.begin(), rows.dims.end());
    for (const Index size : rows.dims) {
      total += size;
      entries += product(size, size);
    }
  }
  std::vector<py::object> kept{h_tt, g_t, g_beta};
  parts.h_tt = checked_data(h_tt, dtype, entries, "h_tt");
  parts.cross = make_cross(cross, rows, total, k, dtype, kept);
  parts.border_blocks = block_offsets_of(border_blocks);
  parts.g_t = checked_data(g_t, dtype, total, "g_t");
  parts.g_beta = checked_data(g_beta, dtype, k, "g_beta");
  parts.border = make_border(k, dtype, border, kept);
  parts.owner = keep_alive(std::move(kept));

  const ValidationOptions validation{check_finite, parse_symmetry(symmetry), detect_structure};
  return released([&] { return SystemHandle{ArrowSystem::make(std::move(parts), validation), rows_as_matrix}; });
}

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

// What all normal equations share; j_beta and row_index are left to them.
JacobianParts jacobian_parts(const py::array& j_t, const py::array& residual, const py::object& weights, Index n) {
  if (j_t.ndim() != 3) throw InvalidArgument("j_t", "not three axes", "(r, q, d)");
  JacobianParts p;
  p.n = n;
  p.r = j_t.shape(0);
  p.q = j_t.shape(1);
  p.d = j_t.shape(2);
  const Index lines = product(p.r, p.q);
  p.j_t = input(j_t, product(lines, p.d), "j_t").data();
  p.residual = input(residual, lines, "residual").data();
  if (!weights.is_none()) {
    const auto w = weights.cast<py::array>();
    p.weights_per_residual = w.ndim() == 2;
    p.weights = input(w, p.weights_per_residual ? lines : p.r, "weights").data();
  }
  return p;
}

void add_row_index(JacobianParts& p, const py::object& row_index) {
  if (row_index.is_none()) {
    if (p.r != p.n) throw InvalidArgument("j_t", std::to_string(p.r) + " residual blocks", "n blocks, or row_index");
    return;
  }
  const auto rows = indices(row_index.cast<py::array>(), "row_index");
  if (static_cast<Index>(rows.size()) != p.r) {
    throw InvalidArgument("row_index", std::to_string(rows.size()) + " entries", "one entry per residual block");
  }
  p.row_index = rows.data();  // the core looks at the values
}

py::tuple normal_equations_of(const py::array& j_t, const py::array& j_beta, const py::array& residual,
                              const py::object& weights, const py::object& row_index, Index n) {
  if (j_beta.ndim() != 3) throw InvalidArgument("j_beta", "not three axes", "(r, q, k)");
  JacobianParts p = jacobian_parts(j_t, residual, weights, n);
  add_row_index(p, row_index);
  p.k = j_beta.shape(2);
  p.j_beta = input(j_beta, product(product(p.r, p.q), p.k), "j_beta").data();
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

// The border of sparse normal equations as (form, data, parameters).
py::tuple border_term(const Border& border, const py::capsule& owner) {
  const BorderTerm& term = border.terms.front();
  const auto view = [&](const void* data, Index entries) {
    return py::array_t<double>(Shape{entries}, static_cast<const double*>(data), owner);
  };
  if (const auto* blocks = std::get_if<BlockDiagonalBorder>(&term)) {
    const py::array_t<Index> sizes(static_cast<py::ssize_t>(blocks->sizes.size()), blocks->sizes.data());
    Index entries = 0;
    for (const Index size : blocks->sizes) entries += size * size;
    return py::make_tuple("block_diagonal", view(blocks->data, entries), py::dict("sizes"_a = sizes));
  }
  const auto& sparse = std::get<SparseBlockKroneckerBorder>(term);
  py::array_t<Index> table(Shape{static_cast<Index>(sparse.blocks.size()), 4});
  Index* line = table.mutable_data();
  Index entries = 0;
  for (const SparseBlockKroneckerBorder::Block& block : sparse.blocks) {
    // The description knows no offsets: blocks follow one another.
    if (block.data != entries) throw std::logic_error("blocks of the border do not follow one another");
    for (const Index number : {block.row, block.col, block.rows, block.cols}) *line++ = number;
    entries += block.rows * block.cols;
  }
  return py::make_tuple(
      "sparse_kronecker", view(sparse.values, entries),
      py::dict("blocks"_a = table, "p"_a = sparse.p, "left_dim"_a = border.k / sparse.p, "mirror"_a = sparse.mirror));
}

// (h_tt, values of the cross block, border term, g_t, g_beta, pattern): views of what the core made.
py::tuple views_of(std::unique_ptr<SparseNormalEquations> made, const JacobianParts& p, py::object pattern) {
  const SparseNormalEquations& e = *made;
  if (pattern.is_none()) {
    LinearizationPattern own{e.pattern, e.cross, e.n, e.d, p.r, p.q, e.cross_values};
    own.cross.values = nullptr;
    pattern = py::cast(std::move(own));
  }
  const py::capsule owner(made.release(), [](void* self) { delete static_cast<SparseNormalEquations*>(self); });
  const auto view = [&](const void* data, Shape shape) {
    return py::array_t<double>(std::move(shape), static_cast<const double*>(data), owner);
  };
  return py::make_tuple(view(e.h_tt, {e.n, e.d, e.d}), view(e.cross.values, {e.cross_values}),
                        border_term(e.border, owner), view(e.g_t, {e.n, e.d}), view(e.g_beta, {e.k}), pattern);
}

py::tuple sparse_normal_equations_of(const py::array& j_t, const py::dict& j_beta, const py::array& residual,
                                     const py::object& weights, const py::object& row_index, Index n) {
  JacobianParts p = jacobian_parts(j_t, residual, weights, n);
  add_row_index(p, row_index);
  p.k = indices(j_beta["block_offsets"].cast<py::array>(), "block_offsets").back();
  std::vector<py::object> kept;
  const Cross blocks =
      make_cross(py::make_tuple("block_sparse", j_beta), RowSizes{p.r, p.q, {}}, p.r * p.q, p.k, DType::float64, kept);
  auto made = std::make_unique<SparseNormalEquations>(
      released([&] { return normal_equations(p, std::get<BlockSparseCross>(blocks)); }));
  return views_of(std::move(made), p, py::none());
}

py::tuple normal_equations_on(const py::object& pattern, const py::array& j_t, const py::array& j_beta,
                              const py::array& residual, const py::object& weights) {
  const auto& known = pattern.cast<const LinearizationPattern&>();
  JacobianParts p = jacobian_parts(j_t, residual, weights, known.n);
  p.k = known.cross.block_offsets.back();
  p.j_beta = input(j_beta, jacobian_values(*known.jacobians), "j_beta").data();
  auto made = std::make_unique<SparseNormalEquations>(released([&] { return normal_equations(known.jacobians, p); }));
  return views_of(std::move(made), p, pattern);
}

// (indptr, block_index, block_offsets) of the cross block of a pattern.
py::tuple indices_of(const py::object& pattern) {
  const auto& known = pattern.cast<const LinearizationPattern&>();
  const auto view = [&](const Index* data, Index count) { return py::array_t<Index>(Shape{count}, data, pattern); };
  const std::vector<Index>& offsets = known.cross.block_offsets;
  return py::make_tuple(view(known.cross.indptr, known.n + 1),
                        view(known.cross.block_index, known.cross.indptr[known.n]),
                        view(offsets.data(), static_cast<Index>(offsets.size())));
}

}  // namespace

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

void register_system(py::module_& m) {
  register_borders(m);
  register_crosses(m);

  py::class_<SystemHandle>(m, "System", "A validated arrow system that borrows NumPy memory.")
      .def(py::init(&make_system), py::kw_only(), "n"_a, "d"_a, "k"_a, "row_dims"_a, "h_tt"_a, "cross"_a, "border"_a,
           "border_blocks"_a, "g_t"_a, "g_beta"_a, "rows_as_matrix"_a, "check_finite"_a, "symmetry"_a,
           "detect_structure"_a)
      .def_property_readonly("n", [](const SystemHandle& s) { return s.core.n(); })
      .def_property_readonly("k", [](const SystemHandle& s) { return s.core.k(); })
      .def_property_readonly("total_dim", [](const SystemHandle& s) { return s.core.total_dim(); })
      .def_property_readonly("max_dim", [](const SystemHandle& s) { return s.core.max_dim(); })
      .def_property_readonly("nbytes", [](const SystemHandle& s) { return s.core.nbytes(); })
      .def_property_readonly("detected", [](const SystemHandle& s) { return py::tuple(py::cast(s.core.detected())); })
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
      .def(
          "block_gradient",
          [](const SystemHandle& self, const py::dict& parameters, const py::array& gradient) {
            return block_gradient(self.core, parameters, gradient);
          },
          "parameters"_a, "gradient"_a)
      .def("fingerprint", [](const SystemHandle& self) { return released([&] { return self.core.fingerprint(); }); });

  m.def("normal_equations", &normal_equations_of, "j_t"_a, "j_beta"_a, "residual"_a, "weights"_a, "row_index"_a, "n"_a,
        "Gauss-Newton normal equations: (h_tt, h_tb, h_bb, g_t, g_beta).");
  m.def("normal_equations_sparse", &sparse_normal_equations_of, "j_t"_a, "j_beta"_a, "residual"_a, "weights"_a,
        "row_index"_a, "n"_a,
        "The same with block-sparse j_beta: (h_tt, values of the cross block, border, g_t, g_beta, pattern).");
  m.def("normal_equations_on", &normal_equations_on, "pattern"_a, "j_t"_a, "j_beta"_a, "residual"_a, "weights"_a,
        "The same for other numbers on the pattern of an earlier call.");
  py::class_<LinearizationPattern>(m, "LinearizationPattern", "What the indices of residual blocks decide.")
      .def_property_readonly("sizes", [](const LinearizationPattern& p) { return py::make_tuple(p.n, p.d, p.r, p.q); });
  m.def("indices_of", &indices_of, "pattern"_a, "(indptr, block_index, block_offsets) of its cross blocks.");
}

}  // namespace arrowschur::python
