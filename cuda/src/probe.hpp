// Whether this host has a device that can be used, and what it is.
#pragma once

#include <string>
#include <vector>

#include "backend/device_api.h"

namespace arrowschur::cuda {

// Folders whose packages may hold device libraries (ArrowschurHostTable::package_roots).
void set_package_roots(std::vector<std::string> folders);

int probe(ArrowschurDeviceFacts* facts) noexcept;  // an ARROWSCHUR_PROBE_ value

}  // namespace arrowschur::cuda
