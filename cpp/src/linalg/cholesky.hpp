// Parallel Cholesky factorization of a large dense matrix in place.
//
// Tasks own 192 x 192 tiles and are claimed in one fixed order; a task waits (spinning) for the lower tasks that it
// reads, which gives look-ahead without a scheduler: while one thread factors a diagonal tile, the others update. Four
// tile columns at a time are factored left-looking; the rest of the matrix is then updated with inner dimension 768, so
// that it is read and written k / 768 times only. Contributions are subtracted in a fixed order: the bits do not depend
// on the number of threads.
#pragma once

#include <optional>

#include "linalg/buffer.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::linalg {

struct BadPivot {
  Index index = 0;
};

// Lower triangle of the row-major k x k matrix `s` (padded storage, leading dimension padded_ld<T>(k)) becomes L. The
// strict upper triangle is neither read nor written. Returns the first pivot that is not positive and finite; then the
// triangle is garbage.
template <class T>
[[nodiscard]] std::optional<BadPivot> cholesky(Index k, T* s);

}  // namespace arrowschur::linalg
