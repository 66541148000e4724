// From the descriptions of the Python layer to the structs of the core: borders and cross blocks in all their forms.
#pragma once

#include <memory>
#include <vector>

#include "common.hpp"

namespace arrowschur::python {

DType dtype_of(const py::array& a);
// a b, or InvalidArgument when it does not fit an Index.
Index product(Index a, Index b);

// The pattern of linearized residual blocks, and the cross block that all systems on it have but for its values.
struct LinearizationPattern {
  std::shared_ptr<const JacobianPattern> jacobians;
  BlockSparseCross cross;  // of the first of them: values are not to be read
  Index n = 0, d = 0, r = 0, q = 0;
  Index cross_values = 0;
};

// Sizes of the rows: one for all, or one per row.
struct RowSizes {
  Index n = 0, d = 0;
  std::span<const Index> dims = {};  // [n] for ragged rows

  Index operator()(Index i) const { return dims.empty() ? d : dims[static_cast<std::size_t>(i)]; }
};
// `row_dims` is None (n rows of size d) or an array of n sizes, whose memory the result borrows.
RowSizes row_sizes(Index n, Index d, const py::object& row_dims);

// A term is (kind, data, parameters): one flat array of the given dtype, and what else the form needs to know. Whatever
// must outlive the result is appended to `kept`.
Border make_border(Index k, DType dtype, const py::list& terms, std::vector<py::object>& kept);

// An array [T, k], or (kind, parameters).
Cross make_cross(const py::object& cross, const RowSizes& rows, Index total_dim, Index k, DType dtype,
                 std::vector<py::object>& kept);

// The gradient of a block-sparse cross block: from the pattern that the system stores (blocks of a row ascending and
// distinct) to the pattern that was given, where a repeated block has the gradient each time.
py::array block_gradient(const ArrowSystem& system, const py::dict& parameters, const py::array& gradient);

void register_borders(py::module_& m);
void register_crosses(py::module_& m);

}  // namespace arrowschur::python
