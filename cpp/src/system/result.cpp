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

const char* to_string(SchurConditioning conditioning) noexcept {
  switch (conditioning) {
    case SchurConditioning::none:
      return "none";
    case SchurConditioning::pd_floor:
      return "pd_floor";
    case SchurConditioning::unit_deflated:
      return "unit_deflated";
    case SchurConditioning::curvature_ridge:
      return "curvature_ridge";
  }
  return "unknown";
}

}  // namespace arrowschur
