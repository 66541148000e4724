// The border of a system in a form that the device has: dense, banded (diagonals and sums of bands too), diagonal blocks
// of one size. Every other border without an operator is made dense.
#pragma once

#include <cstdint>

#include "arrowschur/system.hpp"

namespace arrowschur::device {

struct BorderForm {
  std::int32_t form = 0;  // ARROWSCHUR_BORDER_
  Index width = 0;  // sub-diagonals, or the size of a block
  Index entries = 0;  // float64 numbers that it takes
  bool operator==(const BorderForm&) const = default;
};
// Depends on the structure alone. No operator may be among the terms.
BorderForm border_form(const Border&);
// The caller's own float64 buffer where it has that form already; null: it must be made.
const double* border_in_place(const Border&, const BorderForm&) noexcept;
void make_border(const Border&, const BorderForm&, double* out);  // out [entries]

}  // namespace arrowschur::device
