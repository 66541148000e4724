// The same question as examine_rows() of the public header, where the border carries a ridge.
#pragma once

#include "arrowschur/inner_loop.hpp"

namespace arrowschur::newton {

RowBump examine_rows(const ArrowSystem&, double ridge_t, double ridge_beta);

}  // namespace arrowschur::newton
