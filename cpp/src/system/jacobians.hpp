// What the dense and the block-sparse normal equations share.
#pragma once

#include <vector>

#include "arrowschur/system.hpp"

namespace arrowschur::jacobians {

// Sizes, with `width` border columns that count as dense; buffers of everything but j_beta; row_index in range; weights
// finite and >= 0; then the rest of the rows: j_t and residual finite.
void require_sizes(const JacobianParts&, Index width);
void require_rows(const JacobianParts&);
void require_row_index(const JacobianParts&);
void require_weights(const JacobianParts&);
void require_row_finite(const JacobianParts&);
void require_finite(const double* x, Index size, const char* name, Index inner, Index middle);

inline double weight(const JacobianParts& p, Index block, Index s) {
  if (p.weights == nullptr) return 1.0;
  return p.weights[p.weights_per_residual ? block * p.q + s : block];
}

// Residual blocks of each row, in ascending order: blocks[first[i]] .. blocks[first[i + 1] - 1].
struct BlocksOfRows {
  std::vector<Index> first, blocks;  // empty: residual block i of row i

  explicit BlocksOfRows(const JacobianParts&);
  template <class F>
  void for_each(Index row, F&& f) const {
    if (first.empty()) return f(row);
    for (Index at = first[static_cast<std::size_t>(row)]; at < first[static_cast<std::size_t>(row) + 1]; ++at) {
      f(blocks[static_cast<std::size_t>(at)]);
    }
  }
};

}  // namespace arrowschur::jacobians
