// Structure of a dense matrix, recognised from the profile of its lower triangle.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "arrowschur/system.hpp"

namespace arrowschur::border {

struct Recognised {
  BorderTerm term;                   // diagonal, banded or block-diagonal, with the same entries
  std::shared_ptr<const void> copy;  // its data
  std::string what;                  // "banded, 1 sub-diagonal"
};

// The compact form of the symmetric k x k matrix m (lower triangle), if it stores at most a quarter of the entries;
// none for k < 32. One look at the lower triangle; a dense matrix is given up at its first rows.
template <class T>
std::optional<Recognised> recognise(const T* m, Index k);

}  // namespace arrowschur::border
