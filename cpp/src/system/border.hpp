// Border operations that the public header does not need to know.
#pragma once

#include <memory>
#include <span>

#include "arrowschur/system.hpp"

namespace arrowschur::border {

// out += P, a full symmetric k x k matrix with leading dimension ld. An operator is probed, k calls.
void to_dense_add(const Border&, double* out, Index ld);

// y += P x and abs += sum_j |P_ij| off the diagonal, in one pass over the data ([k] each). Same bits as
// Border::matvec_add and Border::off_diagonal_abs_sums_add. Returns true when abs is an upper bound (or, with an
// operator, lacks its part).
bool matvec_and_abs_sums_add(const Border&, const double* x, double* y, double* abs);

// y += M x for `vectors` vectors, M a symmetric size x size matrix from its lower triangle; one pass over the data.
template <class In>
void square_matvec_add(const In* m, Index size, const double* x, double* y, Index vectors = 1);

bool has_dense(const Border&);      // no operator among the terms
Index stored_entries(const Border&);  // s_M of the time model: k^2 dense, 2k tridiagonal, k diagonal ...

// out [end - begin, end - begin] += P[begin:end, begin:end]; out [c, c] += P[cols, cols], cols ascending. Full
// symmetric. An operator is probed column by column of the range.
void block_add(const Border&, Index begin, Index end, double* out);
void subblock_add(const Border&, std::span<const Index> cols, double* out);
// f(row, col, value) for every stored non-zero of the lower triangle (row >= col), terms added up by the caller. Not
// for operators.
void for_each_lower(const Border&, const std::function<void(Index row, Index col, double value)>& f);

// ---- exact factor of M = P + diag(shift), where that is cheap -------------------------------------------------------
// M = R R' with R square (lower triangular up to a permutation that stays inside).
class BorderFactor {
 public:
  virtual ~BorderFactor() = default;
  // x <- R^-1 x, x <- R^-T x: x is [k, m] with leading dimension ldx (>= m). In the calling thread, so that panels can
  // go to different threads.
  virtual void solve_lower(double* x, Index ldx, Index m) const = 0;
  virtual void solve_upper(double* x, Index ldx, Index m) const = 0;
  virtual double log_det() const = 0;
  // Widens smallest .. largest by the squared diagonal of R.
  virtual void pivots(double& smallest, double& largest) const = 0;
  virtual Index nbytes() const = 0;
};
// Diagonal, banded, block-diagonal, Kronecker (small factors) and sums of these that keep such a structure. A function
// of the structure alone.
bool cheap_to_factor(const Border&);
struct FactorOutcome {
  std::unique_ptr<BorderFactor>
      factor;  // null when M is not positive definite, or when this shift spoils the structure
  Index bad_pivot = -1;                  // >= 0: not positive definite at this column
};
// shift [k]. cheap_to_factor() must hold. A shift that is not constant inside an I_p factor is no Kronecker product any
// more: then the outcome is empty with bad_pivot = -1.
FactorOutcome factor(const Border&, const double* shift);
// Bytes that factor() will hold, for the plan.
Index factor_bytes(const Border&);

}  // namespace arrowschur::border
