// From a runtime dtype to a C++ type, and sizes that may overflow.
#pragma once

#include <limits>
#include <string>

#include "arrowschur/error.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur {

// Calls f(double{}) or f(float{}); the argument carries the storage type only.
template <class F>
decltype(auto) with_dtype(DType dtype, F&& f) {
  return dtype == DType::float64 ? f(double{}) : f(float{});
}

[[noreturn]] inline void throw_overflow(const std::string& what) {
  throw MemoryBudgetExceeded(std::numeric_limits<Index>::max(), std::numeric_limits<Index>::max(), what);
}

// a b and a + b of non-negative sizes; MemoryBudgetExceeded naming `what` when they do not fit an Index.
inline Index checked_product(Index a, Index b, const char* what) {
  Index result = 0;
  if (__builtin_mul_overflow(a, b, &result)) throw_overflow(what);
  return result;
}
inline Index checked_sum(Index a, Index b, const char* what) {
  Index result = 0;
  if (__builtin_add_overflow(a, b, &result)) throw_overflow(what);
  return result;
}

// Entries of a border term's buffers, of which term_data() is the first.
inline Index term_entries(const DenseBorder&, Index k) { return k * k; }
inline Index term_entries(const DiagonalBorder&, Index k) { return k; }
inline Index term_entries(const BandedBorder& t, Index k) {
  return checked_product(t.bandwidth + 1, k, "the banded border h_bb");
}
inline Index term_entries(const BlockDiagonalBorder& t, Index) {
  Index entries = 0;  // <= k^2
  for (const Index size : t.sizes) entries += size * size;
  return entries;
}
inline Index term_entries(const KroneckerBorder& t, Index) {
  Index entries = 0;  // <= (k / p)^2
  for (const Index size : t.sizes) entries += size * size;
  return entries;
}
inline Index term_entries(const KroneckerProductBorder& t, Index) {
  return t.pa * t.pa + t.pb * t.pb;  // <= 2 k^2
}
inline Index term_entries(const SparseBlockKroneckerBorder& t, Index) { return t.entries; }
inline Index term_entries(const FramedKroneckerBorder& t, Index) {
  Index entries = t.entries;
  for (const auto& group : t.groups) {
    if (group.frame != nullptr) {
      entries = checked_sum(entries, checked_product(t.p, group.width, "the frames of h_bb"), "the border h_bb");
    }
  }
  return entries;
}
inline Index term_entries(const OperatorBorder&, Index k) { return k; }  // the diagonal
inline const void* term_data(const DenseBorder& t) { return t.data; }
inline const void* term_data(const DiagonalBorder& t) { return t.data; }
inline const void* term_data(const BandedBorder& t) { return t.bands; }
inline const void* term_data(const BlockDiagonalBorder& t) { return t.data; }
inline const void* term_data(const KroneckerBorder& t) { return t.factors; }
inline const void* term_data(const KroneckerProductBorder& t) { return t.a; }
inline const void* term_data(const SparseBlockKroneckerBorder& t) { return t.values; }
inline const void* term_data(const FramedKroneckerBorder& t) { return t.values; }
inline const void* term_data(const OperatorBorder& t) { return t.diagonal.data(); }

}  // namespace arrowschur
