// The size of a system's entries: where a ridge starts when the block that needs it has no scale of its own.
#pragma once

#include "arrowschur/system.hpp"

namespace arrowschur::system {

double max_abs_rows(const ArrowSystem&);    // max |h_tt|, lower triangles
double max_abs_border(const ArrowSystem&);  // max |diag(h_bb)|
double max_abs(const ArrowSystem&);         // of all blocks; 0 only for a zero matrix

}  // namespace arrowschur::system
