#include "arrowschur/result.hpp"

namespace arrowschur {

const char* to_string(Stage stage) noexcept {
  switch (stage) {
    case Stage::factor_rows:
      return "factor_rows";
    case Stage::reduce:
      return "reduce";
    case Stage::factor_border:
      return "factor_border";
    case Stage::solve_border:
      return "solve_border";
    case Stage::expand:
      return "expand";
    case Stage::certificate:
      return "certificate";
  }
  return "unknown";
}

}  // namespace arrowschur
