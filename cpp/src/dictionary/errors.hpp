// The texts of this room: "sparse_dictionary: " and what is wrong.
#pragma once

#include <string>

#include "arrowschur/error.hpp"

namespace arrowschur::dictionary {

inline const std::string kPrefix = "sparse_dictionary: ";

// "NAME RULE, got VALUE"
inline InvalidArgument broken_rule(const std::string& name, const std::string& rule, const std::string& value) {
  return {kPrefix + name + " " + rule + ", got " + value, name, value, rule};
}
inline InvalidArgument invalid(const std::string& text, const std::string& argument, const std::string& got,
                               const std::string& expected) {
  return {kPrefix + text, argument, got, expected};
}
inline ArrowError not_finite(const std::string& step, Index epoch) {
  return ArrowError(kPrefix + "non-finite result in " + step + " at epoch " + std::to_string(epoch));
}

}  // namespace arrowschur::dictionary
