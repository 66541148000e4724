// The cross block at construction: what it must be, its normal form, and what is derived from it once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "system/cross.hpp"

namespace arrowschur::cross {

// The rows of a system under construction.
struct Rows {
  Index n = 0, k = 0, d = 0, total = 0;  // d of uniform rows
  const Index* dims = nullptr;           // [n], null when uniform
  const Index* offsets = nullptr;        // [n + 1] first flat row, null when uniform
  DType dtype = DType::float64;

  Index dim(Index i) const { return dims == nullptr ? d : dims[i]; }
  Index offset(Index i) const { return offsets == nullptr ? i * d : offsets[i]; }
};

// Sizes, null pointers, index arrays, offsets and what they promise; no values are read.
void require_shape(const Rows&, const Cross&);
void require_border_blocks(const std::vector<Index>& offsets, Index k);

// Finiteness, then the normal form of `cross` (into `copies` where it changes) and its layout. require_shape() holds.
std::shared_ptr<const Layout> examine(const Rows&, Cross& cross, bool check_finite,
                                      std::vector<std::shared_ptr<const void>>& copies);

// A block-sparse copy of a dense block with many exact zeros, or nothing. `blocks`: the border blocks, or empty.
struct Detected {
  BlockSparseCross cross;
  std::shared_ptr<const void> owner;
  std::string line;  // for ArrowSystem::detected()
};
std::optional<Detected> detect_blocks(const Rows&, const DenseCross&, const std::vector<Index>& blocks);

}  // namespace arrowschur::cross
