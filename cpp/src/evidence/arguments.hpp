// Checks of what the primitives of a factor are given. All throw InvalidArgument with the name of the argument.
#pragma once

#include <span>

#include "arrowschur/types.hpp"

namespace arrowschur::evidence {

// rows * m entries; m >= 1, and the product must fit an Index.
Index entries(Index rows, Index m);

// Exactly `expected` entries; `shape` is how the expectation is worded ("k * m").
void check_size(const char* name, std::size_t size, Index expected, const char* shape);

// The same, and every entry finite; the first one that is not is named.
void check_input(const char* name, std::span<const double> values, Index expected, const char* shape);

// 0 <= index < count.
void check_index(const char* name, Index index, Index count);

bool overlap(std::span<const double> a, std::span<const double> b) noexcept;

}  // namespace arrowschur::evidence
