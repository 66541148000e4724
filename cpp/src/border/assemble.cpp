#include "border/assemble.hpp"

#include <algorithm>

#include "eliminate/row_access.hpp"

namespace arrowschur::border {
namespace {

template <class T, class In>
struct TileAdder {
  Index k, i_begin, i_end, j_begin, j_end;
  T* s;
  Index ld;

  void operator()(const DenseBorder& dense) const {
    const In* m = static_cast<const In*>(dense.data);
    for (Index i = i_begin; i < i_end; ++i) {
      for (Index j = j_begin; j < std::min(j_end, i + 1); ++j) s[i * ld + j] += static_cast<T>(m[i * k + j]);
    }
  }
  void operator()(const DiagonalBorder& diagonal) const {
    const In* m = static_cast<const In*>(diagonal.data);
    for (Index i = std::max(i_begin, j_begin); i < std::min(i_end, j_end); ++i) s[i * ld + i] += static_cast<T>(m[i]);
  }
  void operator()(const BandedBorder& banded) const {
    const In* m = static_cast<const In*>(banded.bands);
    for (Index i = i_begin; i < i_end; ++i) {
      for (Index j = std::max(j_begin, i - banded.bandwidth); j < std::min(j_end, i + 1); ++j) {
        s[i * ld + j] += static_cast<T>(m[(i - j) * k + j]);
      }
    }
  }
  void operator()(const BlockDiagonalBorder& blocks) const {
    const In* m = static_cast<const In*>(blocks.data);
    Index first = 0;
    for (const Index size : blocks.sizes) {
      for (Index i = std::max(i_begin, first); i < std::min(i_end, first + size); ++i) {
        for (Index j = std::max(j_begin, first); j < std::min(j_end, i + 1); ++j) {
          s[i * ld + j] += static_cast<T>(m[(i - first) * size + j - first]);
        }
      }
      m += size * size;
      first += size;
    }
  }
};

}  // namespace

template <class T>
void assemble_tile(const Border& border, Index i_begin, Index i_end, Index j_begin, Index j_end, T* s, Index ld) {
  for (Index i = i_begin; i < i_end; ++i) std::fill(s + i * ld + j_begin, s + i * ld + j_end, T(0));
  for (const BorderTerm& term : border.terms) {
    if (border.dtype == DType::float64) {
      std::visit(TileAdder<T, double>{border.k, i_begin, i_end, j_begin, j_end, s, ld}, term);
    } else {
      std::visit(TileAdder<T, float>{border.k, i_begin, i_end, j_begin, j_end, s, ld}, term);
    }
  }
}

template void assemble_tile<double>(const Border&, Index, Index, Index, Index, double*, Index);
template void assemble_tile<float>(const Border&, Index, Index, Index, Index, float*, Index);

}  // namespace arrowschur::border
