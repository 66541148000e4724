// The decoder of unit rows at fixed codes, one row after another.
#pragma once

#include "dictionary/statistics.hpp"

namespace arrowschur::dictionary {

// `next` [k, p] is the projected refresh, `solution` [k, p] what was projected: the codes go with its signs. Where the loss
// tr(D'A D) - 2 tr(B'D) of the unit rows is above that of the old ones, `d`, these are put back first. Then, for live atoms ascending, d_k <- unit(B_k - sum over l != k of A_kl d_l), the minimiser over
// unit rows given the others. The statistics are those of the pass, A and B intact. 3 K^2 P flops at most.
void unit_sweep(const Statistics& statistics, Index p, const std::vector<char>& live, const double* solution,
                const float* d, float* next);

}  // namespace arrowschur::dictionary
