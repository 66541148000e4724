#include "linalg/products.hpp"

#include <algorithm>
#include <cstring>

#include "linalg/pool.hpp"
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

PackedStrips::PackedStrips(Index rows, Index m, const double* y)
    : rows_(rows), m_(m), strips_((m + kStrip - 1) / kStrip), data_(rows * strips_ * kStrip) {
  constexpr Index kBlock = 512;
  parallel_for_if(rows * m >= kParallelWork, (rows + kBlock - 1) / kBlock, [&](Index block) {
    for (Index s = 0; s < strips_; ++s) {
      const Index live = std::min(kStrip, m - s * kStrip);
      for (Index r = block * kBlock; r < std::min(rows, (block + 1) * kBlock); ++r) {
        double* out = data_.data() + (s * rows + r) * kStrip;
        for (Index j = 0; j < live; ++j) out[j] = y[r * m + s * kStrip + j];
        for (Index j = live; j < kStrip; ++j) out[j] = 0.0;
      }
    }
  });
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

void multiply_transposed(Index rows, Index cols, const double* b, Index ldb, const PackedStrips& y, Index first,
                         double* x) {
  const KernelTable<double>& kernel = kernels().f64;
  const Index ld = round_up(cols, kWidth);
  Buffer<double> c(y.strips() * kStrip * ld), panel(kDepth * kWidth);  // c is X'
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
      for (Index s = 0; s < y.strips(); ++s) {
        kernel.multiply(depth, panel.data(), kWidth, y.strip(s) + (first + r) * kStrip, kStrip, 1,
                        c.data() + s * kStrip * ld + j, ld);
      }
    }
  }
  for (Index j = 0; j < cols; ++j) {
    for (Index i = 0; i < y.m(); ++i) x[j * y.m() + i] += c[i * ld + j];
  }
}

}  // namespace arrowschur::linalg
