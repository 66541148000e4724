// The certificate of a step that was computed elsewhere, from the system alone.
#pragma once

#include <span>

#include "arrowschur/system.hpp"

namespace arrowschur::newton {

// |Hx + g|_inf / (|H|_inf |x|_inf + |g|_inf), H with the ridges, g the system's gradient. For a dense cross block and a
// border without callbacks the norm is exact. Three passes over the data.
double backward_error(const ArrowSystem&, const Ridges&, std::span<const double> x_t, std::span<const double> x_beta);

}  // namespace arrowschur::newton
