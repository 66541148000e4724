#include "backend/device_border.hpp"

#include <algorithm>
#include <variant>

#include "backend/device_api.h"
#include "system/border.hpp"
#include "system/storage.hpp"

namespace arrowschur::device {
namespace {

// Sub-diagonals of a term that is stored by diagonals, or -1.
Index bandwidth(const BorderTerm& term) {
  if (std::holds_alternative<DiagonalBorder>(term)) return 0;
  const auto* banded = std::get_if<BandedBorder>(&term);
  return banded == nullptr ? -1 : banded->bandwidth;
}

// Size of the diagonal blocks when all are equal, or 0.
Index block_size(const BorderTerm& term) {
  const auto* blocks = std::get_if<BlockDiagonalBorder>(&term);
  if (blocks == nullptr || blocks->sizes.empty()) return 0;
  const Index size = blocks->sizes.front();
  const bool equal = std::all_of(blocks->sizes.begin(), blocks->sizes.end(), [&](Index s) { return s == size; });
  return equal ? size : 0;
}

const void* data_of(const BorderTerm& term) {
  return std::visit([](const auto& t) { return term_data(t); }, term);
}

}  // namespace

BorderForm border_form(const Border& border) {
  const Index k = border.k;
  Index width = 0;
  for (const BorderTerm& term : border.terms) width = width < 0 ? -1 : std::min(width, bandwidth(term));
  if (width >= 0) {
    for (const BorderTerm& term : border.terms) width = std::max(width, bandwidth(term));
    return {ARROWSCHUR_BORDER_BANDED, width, checked_product(width + 1, k, "the banded border h_bb")};
  }
  if (border.terms.size() == 1) {
    if (const Index size = block_size(border.terms.front()); size > 0) {
      return {ARROWSCHUR_BORDER_BLOCKS, size, k * size};
    }
  }
  return {ARROWSCHUR_BORDER_DENSE, 0, checked_product(k, k, "the border h_bb (k x k)")};
}

const double* border_in_place(const Border& border, const BorderForm& form) noexcept {
  if (border.dtype != DType::float64 || border.terms.size() != 1) return nullptr;
  const bool own = form.form != ARROWSCHUR_BORDER_DENSE || std::holds_alternative<DenseBorder>(border.terms.front());
  return own ? static_cast<const double*>(data_of(border.terms.front())) : nullptr;
}

void make_border(const Border& border, const BorderForm& form, double* out) {
  if (form.form == ARROWSCHUR_BORDER_DENSE) {
    std::fill(out, out + form.entries, 0.0);
    border::to_dense_add(border, out, border.k);
    return;
  }
  std::fill(out, out + form.entries, 0.0);
  with_dtype(border.dtype, [&]<class T>(T) {
    for (const BorderTerm& term : border.terms) {
      const auto* from = static_cast<const T*>(data_of(term));
      // Bands lie one behind the other, blocks too: a term is a prefix of what it is added to.
      const Index entries = std::visit([&](const auto& t) { return term_entries(t, border.k); }, term);
      for (Index i = 0; i < entries; ++i) out[i] += static_cast<double>(from[i]);
    }
  });
}

}  // namespace arrowschur::device
