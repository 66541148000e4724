// The dense form: B [T, k] as handed over, float64 or float32, always accumulated in float64.
#include <cmath>
#include <type_traits>

#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/products.hpp"
#include "system/cross_forms.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;

constexpr Index kSlabRows = 256;  // rows of B per BLAS call
constexpr Index kSlabCols = 192;  // columns of B per task of the transposed product
constexpr Index kMaxGroups = 32;  // partials of k entries

template <class F>
decltype(auto) with_entries(const ArrowSystem& s, const DenseCross& c, F&& f) {
  return with_dtype(s.dtype(), [&]<class In>(In) { return f(static_cast<const In*>(c.data)); });
}

bool large(Index entries) { return entries >= linalg::kParallelWork; }

// Rows [begin, end) and columns [col, col + width) in float64: in place, or converted into `scratch`.
struct Slab {
  const double* data;
  Index ld;
};
Slab slab(const ArrowSystem& s, const DenseCross& c, Index begin, Index end, Index col, Index width,
          Buffer<double>& scratch) {
  const Index k = s.k();
  if (s.dtype() == DType::float64) return {static_cast<const double*>(c.data) + begin * k + col, k};
  const float* from = static_cast<const float*>(c.data) + begin * k + col;
  if (scratch.size() < (end - begin) * width) scratch = Buffer<double>((end - begin) * width);
  for (Index r = 0; r < end - begin; ++r) {
    for (Index j = 0; j < width; ++j) scratch[r * width + j] = static_cast<double>(from[r * k + j]);
  }
  return {scratch.data(), width};
}

// x += B' y at memory speed, col_abs += |B|' 1 where it is given: groups of whole rows, fixed by the shape, each with a
// partial of its own; few rows at a time, so that the hardware follows their streams.
void transpose_vector(const ArrowSystem& s, const DenseCross& c, const double* y, double* x, double* col_abs) {
  constexpr Index kRowsAtOnce = 8;
  const Index k = s.k(), t = s.total_dim();
  const Index groups = std::clamp<Index>(t * k / linalg::kParallelWork, 1, std::min(kMaxGroups, t));
  const Index vectors = col_abs == nullptr ? 1 : 2;
  Buffer<double> partial(groups * k * vectors);
  linalg::parallel_for_if(groups > 1, groups, [&](Index g) {
    double* own = partial.data() + g * k;
    double* own_abs = col_abs == nullptr ? nullptr : own + groups * k;
    std::fill(own, own + k, 0.0);
    if (own_abs != nullptr) std::fill(own_abs, own_abs + k, 0.0);
    with_entries(s, c, [&](const auto* b) {
      using In = std::remove_cvref_t<decltype(*b)>;
      const auto& data = linalg::kernels().data<In>();
      const Index end = t * (g + 1) / groups;
      for (Index r = t * g / groups; r < end; r += kRowsAtOnce) {
        data.rows_axpy(std::min(kRowsAtOnce, end - r), k, b + r * k, k, y + r, own, own_abs);
      }
    });
  });
  linalg::sum_partials(k, groups, k, partial.data(), x);
  if (col_abs != nullptr) linalg::sum_partials(k, groups, k, partial.data() + groups * k, col_abs);
}

}  // namespace

void apply(const ArrowSystem& s, const DenseCross& c, const Layout&, Index row_begin, Index row_end, const double* x,
           double* y, Index m) {
  const Index k = s.k(), base = s.row_offset(row_begin), rows = s.row_offset(row_end) - base;
  if (k == 0) return std::fill(y, y + rows * m, 0.0);
  const bool many = m >= linalg::kManyColumns;
  const linalg::PackedColumns columns(many ? k : 0, many ? m : 0, x);
  linalg::parallel_for_if(large(rows * k * m), (rows + kSlabRows - 1) / kSlabRows, [&](Index b) {
    const Index begin = b * kSlabRows, end = std::min(rows, begin + kSlabRows);
    if (m == 1) {
      with_entries(s, c, [&](const auto* data) {
        using In = std::remove_cvref_t<decltype(*data)>;
        linalg::kernels().data<In>().rows_dot(end - begin, k, data + (base + begin) * k, k, x, y + begin, nullptr);
      });
      return;
    }
    Buffer<double> scratch;
    const Slab part = slab(s, c, base + begin, base + end, 0, k, scratch);
    if (many) return linalg::multiply_rows(end - begin, k, part.data, part.ld, columns, y + begin * m);
    // Row-major Y = B X is Y' = X' B' column-major.
    linalg::blas_table<double>().gemm('N', 'N', m, end - begin, k, 1.0, x, m, part.data, part.ld, 0.0, y + begin * m,
                                      m);
  });
}

void transpose(const ArrowSystem& s, const DenseCross& c, const Layout&, const double* y, double* x, Index m) {
  const Index k = s.k(), t = s.total_dim();
  std::fill(x, x + k * m, 0.0);
  if (t == 0) return;
  if (m == 1) return transpose_vector(s, c, y, x, nullptr);
  // Tasks own columns of B and add all rows in order.
  const bool many = m >= linalg::kManyColumns;
  const linalg::PackedStrips strips(many ? t : 0, many ? m : 0, y);
  linalg::parallel_for_if(large(t * k * m), (k + kSlabCols - 1) / kSlabCols, [&](Index b) {
    const Index col = b * kSlabCols, width = std::min(kSlabCols, k - col);
    Buffer<double> scratch;
    const Index step = s.dtype() == DType::float64 ? t : 4 * kSlabRows;
    for (Index begin = 0; begin < t; begin += step) {
      const Index end = std::min(t, begin + step);
      const Slab part = slab(s, c, begin, end, col, width, scratch);
      if (many) {
        linalg::multiply_transposed(end - begin, width, part.data, part.ld, strips, begin, x + col * m);
        continue;
      }
      // X[cols] += B[:, cols]' Y is X' += Y' B column-major.
      linalg::blas_table<double>().gemm('N', 'T', m, width, end - begin, 1.0, y + begin * m, m, part.data, part.ld, 1.0,
                                        x + col * m, m);
    }
  });
}

void materialize(const ArrowSystem& s, const DenseCross& c, const Layout&, Index row_begin, Index row_end, double* out,
                 Index ld) {
  const Index k = s.k(), first = s.row_offset(row_begin), last = s.row_offset(row_end);
  with_entries(s, c, [&](const auto* b) {
    linalg::parallel_for_if(large((last - first) * k), (last - first + kSlabRows - 1) / kSlabRows, [&](Index task) {
      for (Index t = first + task * kSlabRows; t < std::min(last, first + (task + 1) * kSlabRows); ++t) {
        std::copy(b + t * k, b + (t + 1) * k, out + (t - first) * ld);
      }
    });
  });
}

bool abs_sums(const ArrowSystem& s, const DenseCross& c, const Layout&, double* row_abs, double* col_abs) {
  const Index k = s.k(), t = s.total_dim();
  std::fill(row_abs, row_abs + t, 0.0);
  std::fill(col_abs, col_abs + k, 0.0);
  if (k == 0 || t == 0) return false;
  Buffer<double> zero(std::max(t, k)), dropped(std::max(t, k));
  std::fill(zero.begin(), zero.end(), 0.0);
  transpose_vector(s, c, zero.data(), dropped.data(), col_abs);
  linalg::parallel_for_if(large(t * k), (t + kSlabRows - 1) / kSlabRows, [&](Index b) {
    const Index begin = b * kSlabRows, rows = std::min(kSlabRows, t - begin);
    double z[kSlabRows];
    with_entries(s, c, [&](const auto* data) {
      using In = std::remove_cvref_t<decltype(*data)>;
      linalg::kernels().data<In>().rows_dot(rows, k, data + begin * k, k, zero.data(), z, row_abs + begin);
    });
  });
  return false;
}

double max_abs(const ArrowSystem& s, const DenseCross& c, const Layout&) {
  return with_entries(s, c, [&](const auto* b) {
    double m = 0.0;
    for (Index j = 0; j < s.total_dim() * s.k(); ++j) m = std::max(m, std::abs(static_cast<double>(b[j])));
    return m;
  });
}

double row_squares(const ArrowSystem& s, const DenseCross& c, const Layout&, Index row, const double* m) {
  const Index k = s.k(), d = s.row_dim(row);
  return with_entries(s, c, [&](const auto* data) {
    const auto* b = data + s.row_offset(row) * k;
    double sum = 0.0;
    for (Index j = 0; j < k; ++j) {
      double squares = 0.0;
      for (Index r = 0; r < d; ++r) squares += static_cast<double>(b[r * k + j]) * static_cast<double>(b[r * k + j]);
      sum += column_share(squares, m, j);
    }
    return sum;
  });
}

}  // namespace arrowschur::cross
