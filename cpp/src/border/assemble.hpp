// The border block as tiles of the dense Schur complement.
#pragma once

#include "arrowschur/system.hpp"

namespace arrowschur::border {

// S[i, j] = H_bb[i, j] for i in [i_begin, i_end), j in [j_begin, min(j_end, i + 1)); s has leading dimension ld.
// Entries of the tile above the diagonal are set to zero.
template <class T>
void assemble_tile(const Border&, Index i_begin, Index i_end, Index j_begin, Index j_end, T* s, Index ld);

}  // namespace arrowschur::border
