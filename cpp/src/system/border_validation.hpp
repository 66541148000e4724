// What a border must be, and the form in which the library keeps it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrowschur/system.hpp"

namespace arrowschur::validate {

// Widths, sizes and buffers; nothing of the caller's data is touched. Throws InvalidArgument naming h_bb, and
// MemoryBudgetExceeded for sizes that overflow.
void require_border_shape(const Border&, Index k, DType);

// Finiteness and symmetry as the options say. Then the border is brought into its kept form: averaged copies, blocks
// above the diagonal dropped, products of frames, and with detect_structure a dense term that is diagonal, banded or
// block-diagonal replaced by its compact form and named in `detected`. Copies go to `copies`.
void examine_border(Border&, const ValidationOptions&, std::vector<std::shared_ptr<const void>>& copies,
                    std::vector<std::string>& detected);

}  // namespace arrowschur::validate
