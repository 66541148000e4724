// Initial atoms: rows far from one another.
//
// "line": the row of largest norm, then again and again the row with the most energy off the lines picked so far,
//
//     m_i = min over picked p of n_i - w^2 / n_p,      n = s64(x, x), w = s64(x_i, x_p),
//
// ties to the lowest row. (Gonzalez, Theor. Comput. Sci. 38, 1985, on lines instead of points.) "euclidean" takes
// |x_i - x_p|^2 instead. Values that lost six digits to cancellation are formed again from the difference; at most
// 1e-24 n_i counts as zero; picking ends when no energy is left.
//
// Serially that is one pass over the data per pick. Here the rows of largest m form a pool; as long as its maximum is
// above every row outside, the serial rule picks inside the pool, whose inner products are known. Only then all rows are
// brought up to date with the block of picks at once, by a float product that discards the picks which cannot be the
// nearest. The sequence is the serial one.
#pragma once

#include <vector>

#include "dictionary/rows.hpp"

namespace arrowschur::dictionary {

// Row numbers, at most k. Rows as `pack` gives them.
std::vector<Index> seed_rows(Packer& pack, Index width, Index k, bool lines, Index pool = 256);

}  // namespace arrowschur::dictionary
