#include "plan/memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace arrowschur {
namespace {

// All in float64, so that no product overflows: beyond 2^53 bytes the answer only has to be "too much".
// The constants are those of linalg/kernels.hpp (panels), linalg/cholesky.cpp (depth) and eliminate/ (groups, chunks).
double round_up(double x, double multiple) { return std::ceil(x / multiple) * multiple; }

constexpr double kMiB = 1 << 20;
constexpr double kThinBorder = 512.0;
constexpr double kThinGroups = 16.0;             // private k x k sums of a thin border
constexpr double kThinChunkBytes = 0.25 * kMiB;  // packed rows of a thin border
constexpr double kGroupRows = 128.0;             // rows per private sum of k entries on a wide border
constexpr double kWideChunkBytes = 16.0 * kMiB;  // packed rows of a wide border
constexpr double kParallelWork = 1 << 18;        // entries of h_tb, and flops, from which rows are shared out
constexpr double kParallelFlops = 1 << 25;
constexpr double kCholeskyDepth = 768.0;  // columns of L packed per outer step; two steps are alive
constexpr double kTile = 192.0;
constexpr double kRowBlocks = 64.0;   // row blocks per kernel call
constexpr double kLargeRow = 32.0;    // wider row blocks go through BLAS, in copies
constexpr double kSmallBytes = 20480.0;  // per-call chunks whose size does not depend on the shape
constexpr double kMost = 9e18;

// What the allocator takes: large blocks are whole huge pages (linalg/buffer.cpp).
double block(double bytes) { return bytes >= 4.0 * kMiB ? round_up(bytes, 2.0 * kMiB) : bytes; }

Index saturated(double bytes) { return bytes < kMost ? static_cast<Index>(bytes) : std::numeric_limits<Index>::max(); }

double padded_matrix(double m, double ld, double item) { return block(round_up(m, 8.0) * ld * item); }
// Packed columns of a dense Cholesky factorization; matrices of one tile need none.
double cholesky_scratch(double m, double ld, double item) {
  return m <= kTile ? 0.0 : block(std::min(2.0 * kCholeskyDepth, round_up(m, kCholeskyDepth)) * ld * item);
}

}  // namespace

Index direct_peak_bytes(const ProblemShape& shape, const SolveOptions& options) noexcept {
  const bool single = options.precision == Precision::float32;
  const double item = single ? 4.0 : 8.0;
  const double t = static_cast<double>(shape.total_dim), d = static_cast<double>(shape.max_dim);
  const double k = static_cast<double>(shape.k);
  if (k > 1e9 || t * (d + k) > 1e18) return std::numeric_limits<Index>::max();
  const double ld = round_up(k, single ? 48.0 : 24.0);  // panels of 192 bytes

  // Kept: S (its factor takes its place), L_i, the reciprocals of its diagonal and the shifts of the rows, and vectors
  // over the border.
  const double schur = padded_matrix(k, ld, item);
  const double rows = block(t * d * item) + block(t * item) + block(t * 8.0);
  const double large_rows = d > kLargeRow ? (single ? 4.0 : 2.0) * d * d * 8.0 : 0.0;  // copies of a row block
  const double kept = schur + rows + large_rows + 12.0 * block(k * 8.0);

  // Reduction. Thin borders pack chunks that stay in L2 and sum S privately; wide ones pack a super-chunk.
  const bool alone = t * std::max(k, 1.0) < kParallelWork && t * k * k < kParallelFlops;
  const bool thin = k <= kThinBorder && (alone || t >= 2.0 * kThinGroups * k);
  const double groups = thin ? (alone ? 1.0 : kThinGroups) : std::max(1.0, std::round(t / kGroupRows));
  const double width = std::max(ld * item, 1.0);
  const double packed_rows = thin
                                 ? std::max(std::clamp(std::floor(kThinChunkBytes / width), 16.0, 512.0), d)
                                 : std::max(std::min(std::clamp(std::floor(kWideChunkBytes / width), 256.0, 2048.0), t),
                                            std::min(t, kGroupRows + d));
  const double private_sums = thin ? block((groups - 1.0) * round_up(k, 8.0) * ld * item) : 0.0;
  // The rows of one kernel call, narrowed from float64.
  const double narrowed =
      single ? std::min({kRowBlocks * d, packed_rows, thin ? t : std::min(t, kGroupRows + d)}) * k * item : 0.0;
  const double reduce =
      private_sums + block(packed_rows * ld * item) + block(groups * ld * item) + block(t * 8.0) + narrowed;

  // Certificate: residual and absolute sums of the rows, sums over the border per group of rows, chunks in the cache.
  const double chunk = std::clamp(std::floor(kThinChunkBytes / std::max(d * k * 8.0, 1.0)), 1.0, kRowBlocks) * d;
  const double certify = 2.0 * block(t * 8.0) + 2.0 * block(groups * k * 8.0) + 7.0 * chunk * 8.0;

  const double row_scratch = (d > kLargeRow ? 1.0 : kRowBlocks) * d * d * item;  // a copy of the row blocks of one call
  // The buffers of a stage are free in the next one.
  return saturated(kept + std::max({row_scratch, reduce, cholesky_scratch(k, ld, item), certify}) + kSmallBytes);
}

Index structured_peak_bytes(const PlanCandidate& candidate, const StructuredMemory& m, bool float32_whitened) noexcept {
  constexpr double kItem = 8.0;
  constexpr double kPanel = 24.0;
  const double t = m.total_dim, k = m.k, vector = block(t * 8.0);
  if (k > 1e9 || t * (k + 1.0) > 1e18) return std::numeric_limits<Index>::max();
  const double whitened =
      block(m.whitened_values * (float32_whitened ? 4.0 : 8.0)) + 3.0 * block(m.whitened_index_bytes);
  const double rows = block(m.row_entries * 8.0) + 2.0 * vector;
  const double kept = rows + whitened + 12.0 * block(k * 8.0) + (candidate.materialize ? block(m.slab_bytes) : 0.0);
  // Residual, B x, |B| by rows and columns, the row chunks of the certificate.
  const double certify = 5.0 * vector + m.product_bytes;
  double border = 0.0, scratch = 0.0;
  switch (candidate.route) {
    case Route::direct:
    case Route::sqrt_ba: {
      if (candidate.sparse_schur) {
        border = m.sparse_bytes;
        break;
      }
      const double ld = round_up(k, kPanel);
      border = padded_matrix(k, ld, kItem);
      scratch = cholesky_scratch(k, ld, kItem);
      break;
    }
    case Route::low_rank: {
      // X' = R^-1 W' in panels; then C, of which groups of rows of X' have copies where it has few tiles.
      const double ld = round_up(t, kPanel), c = padded_matrix(t, ld, kItem), tiles = std::ceil(t / kTile);
      const double copies = std::clamp(std::floor(16.0 / std::max(tiles * (tiles + 1.0) / 2.0, 1.0)), 1.0,
                                       std::max(1.0, std::floor(k / 1280.0)));
      const double copied = block((copies - 1.0) * round_up(t, 8.0) * ld * kItem);
      const double slab = m.dense_whitened ? 0.0 : block(t * k * 8.0);  // W, until X' stands and before C does
      border = m.border_factor_bytes + block(ld * k * 8.0) + c;
      scratch = std::max({copied, cholesky_scratch(t, ld, kItem), slab - c});
      break;
    }
    case Route::inexact_pcg:
      border = 8.0 * block(k * 8.0);
      break;
  }
  return saturated(kept + border + std::max(scratch, certify) + kSmallBytes);
}

Index machine_budget() noexcept {
  static const Index bytes = [] {
    const auto pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? static_cast<Index>(pages) * static_cast<Index>(size) / 5 * 4
                                 : std::numeric_limits<Index>::max();
  }();
  return bytes;
}

}  // namespace arrowschur
