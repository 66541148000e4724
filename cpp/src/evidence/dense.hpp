// Small dense pieces that the inverse primitives share. Row-major. Each is cut into tasks that depend on the shape
// alone: the bits do not depend on the number of threads.
#pragma once

#include <span>

#include "arrowschur/types.hpp"

namespace arrowschur::evidence {

// out [cols, rows], leading dimension ldo, = scale * x'; x is [rows, cols].
void transpose(Index rows, Index cols, const double* x, double* out, Index ldo, double scale = 1.0);

// out[j] += sum_r x[r, j]^2, x [rows, cols].
void add_column_squares(Index rows, Index cols, const double* x, double* out);

// out = X'X (add: out += X'X) in the lower triangle of out [cols, cols] and in the rest of its diagonal tiles; X is
// [rows, cols] with leading dimension ldx. first[j], when given, is a row before which column j of X is zero.
void gram_lower(Index rows, Index cols, const double* x, Index ldx, double* out, bool add = false,
                std::span<const Index> first = {});

// Copies the lower triangle of a [size, size] onto the upper one.
void mirror_lower(Index size, double* a);

// x'y, summed in chunks of a fixed size.
double dot(Index size, const double* x, const double* y);

void fill_zero(Index size, double* x);

}  // namespace arrowschur::evidence
