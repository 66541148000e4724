// Connected components of the live atoms in the pattern of A.
#pragma once

#include <vector>

#include "dictionary/normal_matrix.hpp"

namespace arrowschur::dictionary {

struct Components {
  std::vector<std::vector<Index>> members;  // by smallest member; members ascending
  Index nnz = 0;                            // off-diagonal entries that are not zero, both triangles
};
Components find_components(const NormalMatrix& a, const std::vector<char>& live);

}  // namespace arrowschur::dictionary
