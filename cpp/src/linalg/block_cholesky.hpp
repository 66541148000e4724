// Cholesky factorization of a packed lower triangle with right-hand sides, in place: the refresh of dictionaries.
//
//     A X = B,  A = L L'           A [n, n] symmetric positive definite, B [n, p] row-major
//
// A is stored by block rows of 256: block row I holds its columns 0 .. end(I) - 1, rows ld(I) apart, so that a row of
// the triangle is contiguous and the whole takes 4 n (n + 256) bytes. Entries above the diagonal inside the diagonal
// blocks belong to the storage and are overwritten.
//
// One task per tile (256 x 256), claimed column by column; a task waits for the lower ones that it reads. Left-looking:
// all updates of a tile are one product over the factored columns, in ascending order, by one single-threaded BLAS call.
// Threads share out tasks and never split one: the bits do not depend on their number. (A vendor's threaded potrf returns
// other bits for other thread counts.)
#pragma once

#include <optional>

#include "linalg/cholesky.hpp"

namespace arrowschur::linalg {

struct PackedTriangle {
  static constexpr Index kBlock = 256;
  Index n = 0;

  Index blocks() const noexcept { return (n + kBlock - 1) / kBlock; }
  Index begin(Index block) const noexcept { return block * kBlock; }
  Index end(Index block) const noexcept { return n < (block + 1) * kBlock ? n : (block + 1) * kBlock; }
  Index height(Index block) const noexcept { return end(block) - begin(block); }
  Index ld(Index block) const noexcept { return (end(block) + 7) / 8 * 8; }
  Index offset(Index block) const noexcept { return kBlock * kBlock * (block * (block + 1) / 2); }
  Index row(Index i) const noexcept { return offset(i / kBlock) + (i % kBlock) * ld(i / kBlock); }
  Index size() const noexcept { return n == 0 ? 0 : offset(blocks() - 1) + height(blocks() - 1) * ld(blocks() - 1); }
};

// A becomes L and B becomes X. Returns the first pivot that is not positive; then A and B are put back by multiplying
// the factored part out, to rounding.
[[nodiscard]] std::optional<BadPivot> solve_packed(const PackedTriangle& layout, double* a, Index p, double* b);

}  // namespace arrowschur::linalg
