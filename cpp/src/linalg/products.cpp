#include "linalg/products.hpp"

#include <algorithm>
#include <cstring>

#include "linalg/rank_update.hpp"

namespace arrowschur::linalg {
namespace {

constexpr Index kWidth = kPanel<double>;

}  // namespace

PackedColumns::PackedColumns(Index k, Index m, const double* x)
    : k_(k), m_(m), panels_((m + kWidth - 1) / kWidth), data_(k * panels_ * kWidth) {
  for (Index p = 0; p < panels_; ++p) {
    double* out = data_.data() + p * k * kWidth;
    const Index live = std::min(kWidth, m - p * kWidth);
    for (Index r = 0; r < k; ++r) {
      for (Index j = 0; j < live; ++j) out[r * kWidth + j] = x[r * m + p * kWidth + j];
      for (Index j = live; j < kWidth; ++j) out[r * kWidth + j] = 0.0;
    }
  }
}

void multiply_rows(Index rows, Index k, const double* b, Index ldb, const PackedColumns& x, double* y) {
  const KernelTable<double>& kernel = kernels().f64;
  const Index ld = x.panels() * kWidth, padded = round_up(rows, kStrip), whole = rows / kStrip * kStrip;
  Buffer<double> c(padded * ld), edge(whole == rows ? 0 : kStrip * kDepth);
  std::fill(c.begin(), c.end(), 0.0);
  for (Index r = 0; r < k; r += kDepth) {
    const Index depth = std::min(kDepth, k - r);
    for (Index i = 0; i < padded; i += kStrip) {
      const double* strip = b + i * ldb + r;
      Index step = ldb;
      if (i == whole) {  // the last rows, padded with zeros
        std::fill(edge.begin(), edge.end(), 0.0);
        for (Index q = whole; q < rows; ++q)
          std::copy(b + q * ldb + r, b + q * ldb + r + depth, edge.data() + (q - whole) * kDepth);
        strip = edge.data();
        step = kDepth;
      }
      for (Index p = 0; p < x.panels(); ++p) {
        kernel.multiply(depth, x.panel(p) + r * kWidth, kWidth, strip, 1, step, c.data() + i * ld + p * kWidth, ld);
      }
    }
  }
  for (Index i = 0; i < rows; ++i) std::copy(c.data() + i * ld, c.data() + i * ld + x.m(), y + i * x.m());
}

void multiply_transposed(Index rows, Index cols, const double* b, Index ldb, const double* y, Index ldy, Index m,
                         double* x) {
  const KernelTable<double>& kernel = kernels().f64;
  const Index ld = round_up(cols, kWidth);
  Buffer<double> c(ldy * ld), panel(kDepth * kWidth);  // c is X' [ldy, ld]
  std::fill(c.begin(), c.end(), 0.0);
  for (Index r = 0; r < rows; r += kDepth) {
    const Index depth = std::min(kDepth, rows - r);
    for (Index j = 0; j < cols; j += kWidth) {
      const Index live = std::min(kWidth, cols - j);
      // One panel in L1, used by every strip of y. Its rows lie far apart: the next panel is asked for in time.
      for (Index q = 0; q < depth; ++q) {
        const double* from = b + (r + q) * ldb + j;
        double* to = panel.data() + q * kWidth;
        if (live == kWidth) {
          std::memcpy(to, from, kWidth * sizeof(double));
          for (int line = 0; line < 3; ++line) __builtin_prefetch(from + kWidth + 8 * line);
        } else {
          std::copy(from, from + live, to);
          std::fill(to + live, to + kWidth, 0.0);
        }
      }
      for (Index i = 0; i < ldy; i += kStrip) {
        kernel.multiply(depth, panel.data(), kWidth, y + r * ldy + i, ldy, 1, c.data() + i * ld + j, ld);
      }
    }
  }
  for (Index j = 0; j < cols; ++j) {
    for (Index i = 0; i < m; ++i) x[j * m + i] += c[i * ld + j];
  }
}

}  // namespace arrowschur::linalg
