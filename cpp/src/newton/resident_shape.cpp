#include "newton/resident_shape.hpp"

#include <string>
#include <string_view>
#include <utility>

#include "system/cross.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace {

Index entries(Index a, Index b, const char* name) {
  Index product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw InvalidArgument(name, std::to_string(a) + " x " + std::to_string(b) + " entries", "a size of 64 bits");
  }
  return product;
}

Index row_entries(const ArrowSystem& s) {
  Index sum = 0;
  for (const RowBucket& bucket : s.buckets()) sum += bucket.count * bucket.d * bucket.d;
  return sum;
}

}  // namespace

namespace newton {

void require_dimensions(const ResidentShape& s) {
  const std::pair<const char*, Index> dimensions[] = {{"n", s.n}, {"p", s.p}, {"basis_cols", s.basis_cols}, {"d", s.d}};
  for (const auto& [name, value] : dimensions) {
    if (value < 1) throw InvalidArgument(name, std::to_string(value), "an integer >= 1");
  }
}

void require_length(const char* name, Index got, Index expected) {
  if (got != expected) {
    throw InvalidArgument(name, std::to_string(got) + " entries", std::to_string(expected) + " entries");
  }
}

void require_slabs(const ResidentShape& shape, const ArrowSystem& s) {
  require_length("row_hessian", row_entries(s), shape.row_hessian());
  require_length("row_cross", entries(s.total_dim(), s.k(), "row_cross"), shape.row_cross());
  require_length("row_gradient", s.total_dim(), shape.row_gradient());
  require_length("border_hessian", entries(s.k(), s.k(), "border_hessian"), shape.border_hessian());
  require_length("border_gradient", s.k(), shape.p);
}

Index slab_bytes(const ArrowSystem& s) {
  const auto detected = [&](std::string_view part) {
    for (const std::string& line : s.detected()) {
      if (std::string_view(line).starts_with(part)) return true;
    }
    return false;
  };
  const auto size = static_cast<Index>(size_of(s.dtype()));
  Index bytes = s.nbytes();
  if (detected("h_tb")) bytes += s.total_dim() * s.k() * size - cross::nbytes(s);
  if (detected("h_bb") && s.border().terms.size() == 1) {
    const Index stored = std::visit([&](const auto& t) { return term_entries(t, s.k()); }, s.border().terms.front());
    bytes += (s.k() * s.k() - stored) * size;
  }
  return bytes;
}

}  // namespace newton

Index ResidentShape::target() const { return entries(n, p, "target"); }
Index ResidentShape::basis() const { return entries(n, basis_cols, "basis"); }
Index ResidentShape::gates() const { return entries(n, basis_cols, "gates"); }
Index ResidentShape::row_hessian() const { return entries(entries(n, d, "row_hessian"), d, "row_hessian"); }
Index ResidentShape::row_cross() const { return entries(entries(n, d, "row_cross"), p, "row_cross"); }
Index ResidentShape::row_gradient() const { return entries(n, d, "row_gradient"); }
Index ResidentShape::border_hessian() const { return entries(p, p, "border_hessian"); }

}  // namespace arrowschur
