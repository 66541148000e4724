// How often each border solver was factored in this process: the proof that a route that is named is the one that ran.
#pragma once

#include "arrowschur/plan.hpp"

namespace arrowschur::backend {

void count_route(Route, bool sparse_schur) noexcept;

}  // namespace arrowschur::backend
