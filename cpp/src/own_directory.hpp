// Where this library was installed: its private companions lie beside it.
#pragma once

#include <string>

namespace arrowschur {

// Directory of the shared library, or of the program, that contains this function; no trailing slash, links resolved.
std::string own_directory();

}  // namespace arrowschur
