// Cross blocks: checked descriptions in, the forms of the core out; and the layout conversions between forms.
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "structure.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Offsets that start at 0, never decrease and end at `last`.
void require_offsets(std::span<const Index> offsets, Index last, const char* name) {
  const bool good = !offsets.empty() && offsets.front() == 0 && offsets.back() == last &&
                    std::is_sorted(offsets.begin(), offsets.end());
  if (!good) {
    throw InvalidArgument(name, std::to_string(offsets.size()) + " entries that are not of this kind",
                          "non-decreasing offsets from 0 to " + std::to_string(last));
  }
}

void require_block_offsets(std::span<const Index> offsets) {
  const bool ascending = std::ranges::adjacent_find(offsets, std::greater_equal<>()) == offsets.end();
  if (!offsets.empty() && offsets.front() == 0 && ascending) return;
  throw InvalidArgument("block_offsets", std::to_string(offsets.size()) + " entries that are not of this kind",
                        "ascending offsets from 0 to k");
}

struct BlockPattern {
  std::span<const Index> indptr, index, offsets;

  Index blocks() const { return static_cast<Index>(offsets.size()) - 1; }
  Index width(Index block) const { return offsets[at(block + 1)] - offsets[at(block)]; }

  // Checks everything, and returns the number of values for rows of the given sizes.
  Index entries(const RowSizes& rows) const {
    if (static_cast<Index>(indptr.size()) != rows.n + 1) {
      throw InvalidArgument("indptr", std::to_string(indptr.size()) + " entries",
                            "n + 1 = " + std::to_string(rows.n + 1) + " entries");
    }
    require_block_offsets(offsets);
    require_offsets(indptr, static_cast<Index>(index.size()), "indptr");
    Index total = 0;
    for (Index i = 0; i < rows.n; ++i) {
      Index columns = 0;
      for (Index e = indptr[at(i)]; e < indptr[at(i + 1)]; ++e) {
        const Index block = index[at(e)];
        if (block < 0 || block >= blocks()) {
          throw InvalidArgument("block_index", std::to_string(block) + " at index " + std::to_string(e),
                                "a border block in 0.." + std::to_string(blocks() - 1));
        }
        columns += width(block);
      }
      total += product(columns, rows(i));
    }
    return total;
  }

  // f(first value, row, first flat coordinate of the row, its size, first column, columns) for every stored block.
  template <class F>
  void for_each(const RowSizes& rows, F&& f) const {
    Index value = 0, flat = 0;
    for (Index i = 0; i < rows.n; ++i) {
      const Index d = rows(i);
      for (Index e = indptr[at(i)]; e < indptr[at(i + 1)]; ++e) {
        const Index block = index[at(e)];
        f(value, flat, d, offsets[at(block)], width(block));
        value += d * width(block);
      }
      flat += d;
    }
  }
};

BlockPattern pattern_of(const py::dict& parameters) {
  return {indices(parameters["indptr"].cast<py::array>(), "indptr"),
          indices(parameters["block_index"].cast<py::array>(), "block_index"),
          indices(parameters["block_offsets"].cast<py::array>(), "block_offsets")};
}

BlockSparseCross block_sparse(const py::dict& parameters, const RowSizes& rows, Index k, DType dtype,
                              std::vector<py::object>& kept) {
  const BlockPattern pattern = pattern_of(parameters);
  // Indices that the core has made are not examined again.
  const auto* made =
      parameters.contains("pattern") ? parameters["pattern"].cast<const LinearizationPattern*>() : nullptr;
  const bool known = made != nullptr && rows.dims.empty() && rows.n == made->n && rows.d == made->d &&
                     pattern.indptr.data() == made->cross.indptr && pattern.index.data() == made->cross.block_index &&
                     std::ranges::equal(pattern.offsets, made->cross.block_offsets);
  const Index entries = known ? made->cross_values : pattern.entries(rows);
  if (pattern.offsets.back() != k) {
    throw InvalidArgument("h_tb", "block offsets that end at " + std::to_string(pattern.offsets.back()),
                          "k = " + std::to_string(k));
  }
  BlockSparseCross cross;
  cross.indptr = pattern.indptr.data();
  cross.block_index = pattern.index.data();
  cross.values = checked_data(parameters["values"].cast<py::array>(), dtype, entries, "values");
  cross.block_offsets.assign(pattern.offsets.begin(), pattern.offsets.end());
  if (known) cross.pattern = made->cross.pattern;
  for (const char* name : {"indptr", "block_index", "values"}) kept.push_back(parameters[name]);
  return cross;
}

// The pairs of a gather-Kronecker cross block, and where the Jacobian of each begins.
struct KroneckerPattern {
  std::span<const Index> base, ptr, j_ptr, choice;
  Index p = 0;

  // Checks everything but overlaps (the core's business), and returns the number of lines of j.
  Index lines(const RowSizes& rows, Index k) const {
    if (static_cast<Index>(ptr.size()) != rows.n + 1) {
      throw InvalidArgument("support_ptr", std::to_string(ptr.size()) + " entries",
                            "n + 1 = " + std::to_string(rows.n + 1) + " entries");
    }
    require_offsets(ptr, static_cast<Index>(base.size()), "support_ptr");
    for (std::size_t s = 0; s < base.size(); ++s) {
      if (base[s] < 0 || base[s] > k - p) {
        throw InvalidArgument("support_base", std::to_string(base[s]) + " at index " + std::to_string(s),
                              "columns [base, base + p) inside 0..k = " + std::to_string(k));
      }
    }
    if (!j_ptr.empty() && static_cast<Index>(j_ptr.size()) != rows.n + 1) {
      throw InvalidArgument("j_ptr", std::to_string(j_ptr.size()) + " entries",
                            "n + 1 = " + std::to_string(rows.n + 1) + " entries");
    }
    if (!j_ptr.empty()) {
      require_offsets(j_ptr, j_ptr.back(), "j_ptr");
      if (choice.size() != base.size()) {
        throw InvalidArgument("support_j", std::to_string(choice.size()) + " entries",
                              "one entry per support pair, " + std::to_string(base.size()));
      }
    }
    Index total = 0;
    for (Index i = 0; i < rows.n; ++i) {
      const Index matrices = j_ptr.empty() ? 1 : j_ptr[at(i + 1)] - j_ptr[at(i)];
      for (Index s = ptr[at(i)]; !j_ptr.empty() && s < ptr[at(i + 1)]; ++s) {
        if (choice[at(s)] < 0 || choice[at(s)] >= matrices) {
          throw InvalidArgument(
              "support_j", std::to_string(choice[at(s)]) + " at index " + std::to_string(s),
              "a number below the " + std::to_string(matrices) + " matrices of row " + std::to_string(i));
        }
      }
      total += product(rows(i), matrices);
    }
    return total;
  }
};

KroneckerPattern kronecker_pattern(const py::dict& parameters) {
  KroneckerPattern pattern;
  pattern.base = indices(parameters["support_base"].cast<py::array>(), "support_base");
  pattern.ptr = indices(parameters["support_ptr"].cast<py::array>(), "support_ptr");
  pattern.p = parameters["p"].cast<Index>();
  if (parameters.contains("j_ptr")) {
    pattern.j_ptr = indices(parameters["j_ptr"].cast<py::array>(), "j_ptr");
    pattern.choice = indices(parameters["support_j"].cast<py::array>(), "support_j");
  }
  if (pattern.p < 0) throw InvalidArgument("p", std::to_string(pattern.p), "an integer >= 0");
  return pattern;
}

KroneckerCross kronecker(const py::dict& parameters, const RowSizes& rows, Index k, DType dtype,
                         std::vector<py::object>& kept) {
  const KroneckerPattern pattern = kronecker_pattern(parameters);
  const Index lines = pattern.lines(rows, k);
  KroneckerCross cross;
  cross.j = checked_data(parameters["j"].cast<py::array>(), dtype, product(lines, pattern.p), "j");
  cross.support_phi = checked_data(parameters["support_phi"].cast<py::array>(), dtype,
                                   static_cast<Index>(pattern.base.size()), "support_phi");
  cross.support_base = pattern.base.data();
  cross.support_ptr = pattern.ptr.data();
  cross.p = pattern.p;
  if (!pattern.j_ptr.empty()) {
    cross.j_ptr = pattern.j_ptr.data();
    cross.support_j = pattern.choice.data();
  }
  for (const auto& [name, value] : parameters) kept.push_back(py::reinterpret_borrow<py::object>(value));
  return cross;
}

OperatorCross callbacks(const py::dict& parameters, const RowSizes& rows, Index total_dim, Index k, DType dtype,
                        std::vector<py::object>& kept) {
  OperatorCross cross;
  cross.forward = Callback(parameters["forward"], "forward");
  cross.transpose = Callback(parameters["transpose"], "transpose");
  cross.tag = parameters["tag"].cast<std::optional<std::uint64_t>>();
  cross.thread_safe = parameters["thread_safe"].cast<bool>();
  const py::object supplement = parameters["supplement"];
  if (supplement.is_none()) return cross;
  const Cross extra = make_cross(supplement, rows, total_dim, k, dtype, kept);
  if (const auto* dense = std::get_if<DenseCross>(&extra)) {
    cross.supplement = *dense;
  } else if (const auto* blocks = std::get_if<BlockSparseCross>(&extra)) {
    cross.supplement = *blocks;
  } else {
    throw InvalidArgument("supplement", "a cross block of another form", "a dense or a block-sparse cross block");
  }
  return cross;
}

// ---- conversions ----------------------------------------------------------------------------------------------------

Index flat_rows(const RowSizes& rows) {
  Index total = 0;
  for (Index i = 0; i < rows.n; ++i) total += rows(i);
  return total;
}

template <class T>
py::array block_sparse_to_dense(const BlockPattern& pattern, const py::array& values, const RowSizes& rows) {
  const Index k = pattern.offsets.back(), total = flat_rows(rows);
  py::array_t<T> dense(Shape{total, k});
  T* out = dense.mutable_data();
  const T* in = static_cast<const T*>(values.data());
  std::fill_n(out, product(total, k), T(0));
  pattern.for_each(rows, [&](Index value, Index row, Index d, Index column, Index width) {
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c < width; ++c) out[(row + r) * k + column + c] += in[value + r * width + c];
    }
  });
  return dense;
}

template <class T>
py::array kronecker_to_dense(const KroneckerPattern& pattern, const py::array& j, const py::array& phi,
                             const RowSizes& rows, Index k) {
  const Index total = flat_rows(rows), p = pattern.p;
  py::array_t<T> dense(Shape{total, k});
  T* out = dense.mutable_data();
  const T* jacobians = static_cast<const T*>(j.data());
  const T* weights = static_cast<const T*>(phi.data());
  std::fill_n(out, product(total, k), T(0));
  Index row = 0, line = 0;
  for (Index i = 0; i < rows.n; ++i) {
    const Index d = rows(i);
    for (Index s = pattern.ptr[at(i)]; s < pattern.ptr[at(i + 1)]; ++s) {
      const T* matrix = jacobians + (line + (pattern.j_ptr.empty() ? 0 : pattern.choice[at(s)] * d)) * p;
      for (Index r = 0; r < d; ++r) {
        for (Index c = 0; c < p; ++c) out[(row + r) * k + pattern.base[at(s)] + c] += weights[s] * matrix[r * p + c];
      }
    }
    row += d;
    line += d * (pattern.j_ptr.empty() ? 1 : pattern.j_ptr[at(i + 1)] - pattern.j_ptr[at(i)]);
  }
  return dense;
}

// Blocks with an entry above tol, in the order of the rows.
template <class T>
py::tuple block_sparse_from_dense(const T* dense, std::span<const Index> offsets, const RowSizes& rows, double tol) {
  const Index k = offsets.back(), blocks = static_cast<Index>(offsets.size()) - 1;
  std::vector<Index> indptr{0}, index;
  std::vector<T> values;
  Index row = 0;
  for (Index i = 0; i < rows.n; ++i) {
    const Index d = rows(i);
    for (Index b = 0; b < blocks; ++b) {
      const Index begin = offsets[at(b)], end = offsets[at(b + 1)];
      bool kept = false;
      for (Index r = row; r < row + d && !kept; ++r) {
        // Not-a-number is no zero: it must reach the validation.
        kept = std::any_of(dense + r * k + begin, dense + r * k + end,
                           [&](T x) { return !(std::fabs(static_cast<double>(x)) <= tol); });
      }
      if (!kept) continue;
      index.push_back(b);
      for (Index r = row; r < row + d; ++r) values.insert(values.end(), dense + r * k + begin, dense + r * k + end);
    }
    indptr.push_back(static_cast<Index>(index.size()));
    row += d;
  }
  const auto array = [](const auto& v) {
    return py::array_t<typename std::decay_t<decltype(v)>::value_type>(static_cast<py::ssize_t>(v.size()), v.data());
  };
  return py::make_tuple(array(indptr), array(index), array(values));
}

// Column by column, or row by row: whatever takes fewer calls.
py::array operator_to_dense(const py::object& forward, const py::object& transpose, const RowSizes& rows, Index k) {
  const Index total = flat_rows(rows);
  py::array_t<double> dense(Shape{total, k});
  double* out = dense.mutable_data();
  const bool by_columns = k <= total;
  const Callback apply(by_columns ? forward : transpose, by_columns ? "forward" : "transpose");
  std::vector<double> unit(at(by_columns ? k : total), 0.0), image(at(by_columns ? total : k));
  for (std::size_t i = 0; i < unit.size(); ++i) {
    unit[i] = 1.0;
    apply(unit, image);
    unit[i] = 0.0;
    for (std::size_t r = 0; r < image.size(); ++r) {
      const std::size_t row = by_columns ? r : i, column = by_columns ? i : r;
      out[row * at(k) + column] = image[r];
    }
  }
  return dense;
}

}  // namespace

py::array block_gradient(const ArrowSystem& system, const py::dict& parameters, const py::array& gradient) {
  const BlockPattern given = pattern_of(parameters);
  const auto* own = std::get_if<BlockSparseCross>(&system.cross());
  if (own == nullptr) throw InvalidArgument("h_tb", "a cross block of another form", "a block-sparse cross block");
  const auto size = static_cast<std::size_t>(system.n() + 1);
  const BlockPattern stored{{own->indptr, size}, {own->block_index, at(own->indptr[system.n()])}, own->block_offsets};
  if (given.index.size() == stored.index.size() && std::ranges::equal(given.index, stored.index)) return gradient;

  std::vector<Index> dims(at(system.n()));
  for (Index i = 0; i < system.n(); ++i) dims[at(i)] = system.row_dim(i);
  const RowSizes rows{system.n(), 0, dims};
  const auto in = input(gradient, stored.entries(rows), "gradient");
  auto values = new_array({given.entries(rows)});
  double* out = values.mutable_data();
  std::vector<Index> begin(at(stored.blocks()), 0);  // of each block of the current row
  Index from = 0;
  for (Index i = 0; i < system.n(); ++i) {
    for (Index e = stored.indptr[at(i)]; e < stored.indptr[at(i + 1)]; ++e) {
      begin[at(stored.index[at(e)])] = from;
      from += rows(i) * stored.width(stored.index[at(e)]);
    }
    for (Index e = given.indptr[at(i)]; e < given.indptr[at(i + 1)]; ++e) {
      const Index entries = rows(i) * given.width(given.index[at(e)]);
      out = std::copy_n(in.data() + begin[at(given.index[at(e)])], entries, out);
    }
  }
  return values;
}

RowSizes row_sizes(Index n, Index d, const py::object& row_dims) {
  if (n < 0 || d < 0) throw InvalidArgument("shape", "a negative size", "sizes >= 0");
  if (row_dims.is_none()) return {n, d, {}};
  const auto dims = indices(row_dims.cast<py::array>(), "row_dims");
  if (static_cast<Index>(dims.size()) != n) {
    throw InvalidArgument("row_dims", std::to_string(dims.size()) + " entries",
                          "n = " + std::to_string(n) + " entries");
  }
  for (const Index size : dims) {
    if (size < 0) throw InvalidArgument("row_dims", std::to_string(size), "sizes >= 0");
  }
  return {n, 0, dims};
}

Cross make_cross(const py::object& cross, const RowSizes& rows, Index total_dim, Index k, DType dtype,
                 std::vector<py::object>& kept) {
  if (py::isinstance<py::array>(cross)) {
    kept.push_back(cross);
    return DenseCross{checked_data(py::reinterpret_borrow<py::array>(cross), dtype, product(total_dim, k), "h_tb")};
  }
  const auto form = cross.cast<py::tuple>();
  const auto kind = form[0].cast<std::string>();
  const auto parameters = form[1].cast<py::dict>();
  if (kind == "block_sparse") return block_sparse(parameters, rows, k, dtype, kept);
  if (kind == "kronecker") return kronecker(parameters, rows, k, dtype, kept);
  if (kind == "operator") return callbacks(parameters, rows, total_dim, k, dtype, kept);
  throw InvalidArgument("h_tb", "'" + kind + "'", "a known form of the cross block");
}

void register_crosses(py::module_& m) {
  m.def(
      "block_sparse_entries",
      [](const py::dict& parameters, Index n, Index d, const py::object& row_dims) {
        return pattern_of(parameters).entries(row_sizes(n, d, row_dims));
      },
      "parameters"_a, "n"_a, "d"_a, "row_dims"_a,
      "Number of values of a block-sparse cross block, whose pattern is checked.");
  m.def(
      "kronecker_lines",
      [](const py::dict& parameters, Index n, Index d, const py::object& row_dims, Index k) {
        return kronecker_pattern(parameters).lines(row_sizes(n, d, row_dims), k);
      },
      "parameters"_a, "n"_a, "d"_a, "row_dims"_a, "k"_a,
      "Number of lines of j of a gather-Kronecker cross block, whose pattern is checked.");
  m.def(
      "cross_to_dense",
      [](const py::tuple& form, Index n, Index d, const py::object& row_dims, Index k) -> py::array {
        std::vector<py::object> kept;
        const RowSizes rows = row_sizes(n, d, row_dims);
        const auto parameters = form[1].cast<py::dict>();
        const bool blocks = form[0].cast<std::string>() == "block_sparse";
        const py::array values = parameters[blocks ? "values" : "j"].cast<py::array>();
        const DType dtype = dtype_of(values);
        make_cross(form, rows, flat_rows(rows), k, dtype, kept);  // checks every size
        if (blocks) {
          const BlockPattern pattern = pattern_of(parameters);
          return dtype == DType::float64 ? block_sparse_to_dense<double>(pattern, values, rows)
                                         : block_sparse_to_dense<float>(pattern, values, rows);
        }
        const KroneckerPattern pattern = kronecker_pattern(parameters);
        const auto phi = parameters["support_phi"].cast<py::array>();
        return dtype == DType::float64 ? kronecker_to_dense<double>(pattern, values, phi, rows, k)
                                       : kronecker_to_dense<float>(pattern, values, phi, rows, k);
      },
      "form"_a, "n"_a, "d"_a, "row_dims"_a, "k"_a, "The dense [T, k] form of a block-sparse or Kronecker cross block.");
  m.def(
      "operator_to_dense",
      [](const py::object& forward, const py::object& transpose, Index n, Index d, const py::object& row_dims,
         Index k) { return operator_to_dense(forward, transpose, row_sizes(n, d, row_dims), k); },
      "forward"_a, "transpose"_a, "n"_a, "d"_a, "row_dims"_a, "k"_a, "The dense [T, k] form of an operator.");
  m.def(
      "block_sparse_from_dense",
      [](const py::array& dense, const py::array& block_offsets, Index n, Index d, const py::object& row_dims,
         double tol) {
        const RowSizes rows = row_sizes(n, d, row_dims);
        const auto offsets = indices(block_offsets, "block_offsets");
        require_block_offsets(offsets);
        const DType dtype = dtype_of(dense);
        const void* data = checked_data(dense, dtype, product(flat_rows(rows), offsets.back()), "h_tb");
        return dtype == DType::float64 ? block_sparse_from_dense(static_cast<const double*>(data), offsets, rows, tol)
                                       : block_sparse_from_dense(static_cast<const float*>(data), offsets, rows, tol);
      },
      "dense"_a, "block_offsets"_a, "n"_a, "d"_a, "row_dims"_a, "tol"_a, "(indptr, block_index, values).");
}

}  // namespace arrowschur::python
