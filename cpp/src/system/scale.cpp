#include "system/scale.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "eliminate/row_access.hpp"
#include "system/cross.hpp"

namespace arrowschur::system {

double max_abs_rows(const ArrowSystem& s) {
  double m = 0.0;
  eliminate::with_storage(s.dtype(), s.h_tt(), [&](const auto* a) {
    for (Index i = 0; i < s.n(); ++i) {
      const auto* block = a + s.block_offset(i);
      const Index d = s.row_dim(i);
      for (Index r = 0; r < d; ++r) {
        for (Index c = 0; c <= r; ++c) m = std::max(m, std::abs(static_cast<double>(block[r * d + c])));
      }
    }
  });
  return m;
}

double max_abs_border(const ArrowSystem& s) {
  std::vector<double> diagonal(static_cast<std::size_t>(s.k()));
  s.border().diagonal_add(diagonal);
  double m = 0.0;
  for (const double v : diagonal) m = std::max(m, std::abs(v));
  return m;
}

double max_abs(const ArrowSystem& s) { return std::max({max_abs_rows(s), max_abs_border(s), cross::max_abs(s)}); }

}  // namespace arrowschur::system
