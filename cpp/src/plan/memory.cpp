#include "plan/memory.hpp"

#include <algorithm>
#include <limits>

namespace arrowschur {
namespace {

// All in float64, so that no product overflows: beyond 2^53 bytes the answer only has to be "too much".
// The constants are those of linalg/kernels.hpp (panels), linalg/cholesky.cpp (depth) and eliminate/ (groups, chunks).
double round_up(Index x, Index multiple) { return static_cast<double>((x + multiple - 1) / multiple * multiple); }

constexpr double kMiB = 1 << 20;
constexpr Index kThinBorder = 512;
constexpr double kThinGroups = 16.0;             // private k x k sums of a thin border
constexpr double kThinChunkBytes = 0.25 * kMiB;  // packed rows of a thin border
constexpr double kWideGroupRows = 128.0;         // rows per private sum of k entries on a wide border
constexpr double kWideChunkBytes = 16.0 * kMiB;  // packed rows of a wide border
constexpr double kCholeskyDepth = 768.0;         // columns of L packed per outer step; two steps are alive
constexpr double kSmallBytes = 0.125 * kMiB;     // per-call chunks whose size does not depend on the shape

// What the allocator takes: large blocks are whole huge pages (linalg/buffer.cpp).
double block(double bytes) {
  if (!(bytes >= 4.0 * kMiB && bytes < 9e18)) return bytes;
  return static_cast<double>((static_cast<Index>(bytes) + (Index{2} << 20) - 1) / (Index{2} << 20)) * 2.0 * kMiB;
}

}  // namespace

Index direct_peak_bytes(const ProblemShape& shape, const SolveOptions& options) noexcept {
  const bool single = options.precision == Precision::float32;
  const double item = single ? 4.0 : 8.0;
  const double t = static_cast<double>(shape.total_dim), d = static_cast<double>(shape.max_dim);
  const double k = static_cast<double>(shape.k);
  constexpr Index kMost = std::numeric_limits<Index>::max();
  if (k > 1e9 || t * (d + k) > 1e18) return kMost;
  const double ld = round_up(shape.k, single ? 48 : 24);  // panels of 192 bytes

  // Kept: S (its factor takes its place), L_i, the reciprocals of its diagonal and the shifts of the rows.
  const double schur = block(round_up(shape.k, 8) * ld * item);
  const double rows = block(t * d * item) + block(t * item) + block(t * 8.0);
  // Vectors of the step, the certificate and a refinement.
  const double vectors = 5.0 * block(t * 8.0) + 12.0 * block(k * 8.0);

  // Thin borders pack chunks that stay in L2 and sum S privately, but never with more than half of what the cross block
  // holds; with too few rows for that they take the wide way, which packs a super-chunk.
  const double thin_sums = shape.k <= kThinBorder ? block(std::min(kThinGroups * schur, t * k * item / 2.0)) : 0.0;
  const double wide_rows = std::min(t, std::clamp(kWideChunkBytes / std::max(ld * item, 1.0), 256.0, 2048.0));
  const bool never_wide = shape.k <= kThinBorder && (t >= 2.0 * kThinGroups * k || t * std::max(k, 1.0) < (1 << 18));
  const double packed = never_wide ? kThinChunkBytes : block(std::max(wide_rows, d + kWideGroupRows) * ld * item);
  const double groups = never_wide ? kThinGroups : t / kWideGroupRows + 1.0;
  const double sums = 2.0 * block(groups * k * 8.0);  // of B'x and |B|, one row of k entries per group
  const double reduce = thin_sums + packed + sums;
  const double cholesky =
      shape.k <= 192 ? 0.0 : block(std::min(2.0 * kCholeskyDepth, round_up(shape.k, 768)) * ld * item);

  const double row_scratch = (d > 32.0 ? 1.0 : 64.0) * d * d * item;  // a copy of the row blocks of one call

  // The buffers of a stage are free in the next one.
  const double total = schur + rows + vectors + std::max({row_scratch, reduce, cholesky}) + kSmallBytes;
  return total >= 9e18 ? kMost : static_cast<Index>(total);
}

Index structured_peak_bytes(const PlanCandidate& candidate, const StructuredMemory& m) noexcept {
  constexpr Index kMost = std::numeric_limits<Index>::max();
  if (m.k > 1e9 || m.total_dim * (m.k + 1.0) > 1e18) return kMost;
  const double rows = block(m.row_entries * 8.0) + 2.0 * block(m.total_dim * 8.0);
  const double vectors = 6.0 * block(m.total_dim * 8.0) + 14.0 * block(m.k * 8.0);
  double border = 0.0;
  switch (candidate.route) {
    case Route::direct:
    case Route::sqrt_ba:
      border = candidate.sparse_schur
                   ? m.sparse_bytes
                   : 2.0 * block(round_up(static_cast<Index>(m.k), 8) * round_up(static_cast<Index>(m.k), 24) * 8.0);
      break;
    case Route::low_rank:
      border = m.border_factor_bytes + block(m.total_dim * m.k * 8.0) + 2.0 * block(m.total_dim * m.total_dim * 8.0);
      break;
    case Route::inexact_pcg:
      border = 10.0 * block(m.k * 8.0);
      break;
  }
  const double slab = candidate.materialize ? block(m.slab_bytes) : 0.0;
  const double total = rows + vectors + border + block(m.whitened_bytes) + slab + kSmallBytes;
  return total >= 9e18 ? kMost : static_cast<Index>(total);
}

}  // namespace arrowschur
