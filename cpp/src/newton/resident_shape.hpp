// What the parts of a resident workspace must measure.
#pragma once

#include "arrowschur/inner_loop.hpp"

namespace arrowschur::newton {

// InvalidArgument naming the field.
void require_dimensions(const ResidentShape&);  // all >= 1
void require_length(const char* name, Index got, Index expected);
void require_slabs(const ResidentShape&, const ArrowSystem&);

// Bytes of the five slabs as they were handed over: what structure detection has replaced by a compact copy counts in
// full.
Index slab_bytes(const ArrowSystem&);

}  // namespace arrowschur::newton
