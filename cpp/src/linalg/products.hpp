// Products of a tall row-major matrix B with a few columns, for many right-hand sides: B is read once from memory and never
// packed as a whole (BLAS packs it, which costs as much as the product for tens of columns).
#pragma once

#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"

namespace arrowschur::linalg {

// Columns from which these beat BLAS; below, padding to kPanel columns wastes more than packing does.
inline constexpr Index kManyColumns = 16;

// X [k, m] row-major, padded with zero columns to a multiple of kPanel, one panel after another.
class PackedColumns {
 public:
  PackedColumns(Index k, Index m, const double* x);
  Index m() const noexcept { return m_; }
  Index panels() const noexcept { return panels_; }
  const double* panel(Index p) const noexcept { return data_.data() + p * k_ * kPanel<double>; }

 private:
  Index k_, m_, panels_;
  Buffer<double> data_;
};

// Y [rows, m] row-major as strips of kStrip columns, padded with zero columns: strip s, row r at strip(s) + r kStrip.
class PackedStrips {
 public:
  PackedStrips(Index rows, Index m, const double* y);
  Index m() const noexcept { return m_; }
  Index strips() const noexcept { return strips_; }
  const double* strip(Index s) const noexcept { return data_.data() + s * rows_ * kStrip; }

 private:
  Index rows_, m_, strips_;
  Buffer<double> data_;
};

// y = B x for `rows` rows of B (leading dimension ldb): y is [rows, m]. In the calling thread.
void multiply_rows(Index rows, Index k, const double* b, Index ldb, const PackedColumns& x, double* y);

// x += B' y for `cols` columns of B (leading dimension ldb) and `rows` rows in order, the first of which is row `first` of
// y; x is [cols, m]. In the calling thread.
void multiply_transposed(Index rows, Index cols, const double* b, Index ldb, const PackedStrips& y, Index first,
                         double* x);

}  // namespace arrowschur::linalg
