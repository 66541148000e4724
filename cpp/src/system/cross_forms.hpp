// The cross block form by form: what cross.cpp puts together. One set of overloads per form, with the contracts of
// cross.hpp; `layout` is the form's own (the supplement's for a supplement).
#pragma once

#include <algorithm>

#include "system/cross.hpp"
#include "system/storage.hpp"

namespace arrowschur::cross {

// sum_j of B[r, j]^2 over the rows of one block, each column divided by m_j and left out unless m_j > 0; m null: plain.
inline double column_share(double squares, const double* m, Index j) {
  if (m == nullptr) return squares;
  return m[j] > 0.0 ? squares / m[j] : 0.0;
}

#define ARROWSCHUR_CROSS_FORM(Form)                                                                             \
  void apply(const ArrowSystem&, const Form&, const Layout&, Index row_begin, Index row_end, const double* x,   \
             double* y, Index m);                                                                               \
  void transpose(const ArrowSystem&, const Form&, const Layout&, const double* y, double* x, Index m);          \
  void materialize(const ArrowSystem&, const Form&, const Layout&, Index row_begin, Index row_end, double* out, \
                   Index ld);                                                                                   \
  bool abs_sums(const ArrowSystem&, const Form&, const Layout&, double* row_abs, double* col_abs);              \
  double max_abs(const ArrowSystem&, const Form&, const Layout&);                                               \
  double row_squares(const ArrowSystem&, const Form&, const Layout&, Index row, const double* m)
ARROWSCHUR_CROSS_FORM(DenseCross);
ARROWSCHUR_CROSS_FORM(BlockSparseCross);
ARROWSCHUR_CROSS_FORM(KroneckerCross);
ARROWSCHUR_CROSS_FORM(OperatorCross);
#undef ARROWSCHUR_CROSS_FORM

}  // namespace arrowschur::cross
