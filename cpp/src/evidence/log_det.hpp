#pragma once

#include "newton/factor_impl.hpp"

namespace arrowschur::evidence {

// Throws UnsupportedConfiguration when rows of the step set were lifted: log|H| would be another operator's, off by
// sum log(1 + lift / lambda).
void require_unlifted(const ArrowFactor::Impl&, FactorSet, const char* feature);

}  // namespace arrowschur::evidence
