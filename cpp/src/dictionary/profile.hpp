// One atom per row: the best direction of an atom, codes profiled out, is the leading eigenvector of X_k'X_k, X_k the rows
// that chose it. (The refresh at fixed codes is one step of power iteration towards it.)
#pragma once

#include <vector>

#include "dictionary/rows.hpp"

namespace arrowschur::dictionary {

// Rows of b [k, p] with `live`, not normalised. Through the smaller of the two Gram matrices; indices, codes [rows]
// (s = 1), a code of 0 does not count.
void leading_directions(Packer& pack, const std::uint32_t* indices, const float* codes, Index k, Index p,
                        const std::vector<char>& live, double* b);

}  // namespace arrowschur::dictionary
