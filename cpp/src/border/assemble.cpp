#include "border/assemble.hpp"

#include <algorithm>

#include "system/border_entries.hpp"
#include "system/storage.hpp"

namespace arrowschur::border {

template <class T>
void assemble_tile(const Border& border, Index i_begin, Index i_end, Index j_begin, Index j_end, T* s, Index ld) {
  for (Index i = i_begin; i < i_end; ++i) std::fill(s + i * ld + j_begin, s + i * ld + j_end, T(0));
  const IndexRange rows{i_begin, i_end}, cols{j_begin, j_end};
  T* const corner = s + i_begin * ld + j_begin;
  auto add = [corner, ld](Index r, Index c, double value) { corner[r * ld + c] += static_cast<T>(value); };
  with_dtype(border.dtype, [&]<class In>(In) {
    const EntryVisitor<In, IndexRange, decltype(add)> visitor{border.k, rows, cols, add};
    for (const BorderTerm& term : border.terms) std::visit(visitor, term);
  });
}

template void assemble_tile<double>(const Border&, Index, Index, Index, Index, double*, Index);
template void assemble_tile<float>(const Border&, Index, Index, Index, Index, float*, Index);

}  // namespace arrowschur::border
