// Border operations that the public header does not need to know.
#pragma once

#include "arrowschur/system.hpp"

namespace arrowschur::border {

// out += P, a full symmetric k x k matrix with leading dimension ld.
void to_dense_add(const Border&, double* out, Index ld);

// y += P x and abs += sum_j |P_ij| off the diagonal, in one pass over the data ([k] each). Same bits as
// Border::matvec_add and Border::off_diagonal_abs_sums_add. Returns true when abs is an upper bound.
bool matvec_and_abs_sums_add(const Border&, const double* x, double* y, double* abs);

// y += M x, M a symmetric size x size matrix from its lower triangle; one pass over the data.
template <class In>
void square_matvec_add(const In* m, Index size, const double* x, double* y);

}  // namespace arrowschur::border
