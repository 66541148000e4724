// The constants of this CPU, measured with the library's own kernels.
#pragma once

#include "arrowschur/profile.hpp"

namespace arrowschur::policy {

// About a fifth of a second, with get_num_threads() threads. Medians of repeated runs after a warm-up.
MachineProfile measure_cpu();

}  // namespace arrowschur::policy
