#include "plan/memory.hpp"

#include <algorithm>
#include <limits>

namespace arrowschur {
namespace {

// The layout of packed panels and padded storage (linalg/kernels.hpp, linalg/rank_update.hpp), in float64 so that no
// product overflows; beyond 2^53 the answer only has to be "too much".
double round_up(Index x, Index multiple) { return static_cast<double>((x + multiple - 1) / multiple * multiple); }

constexpr double kThinPartials = 16.0;                 // private k x k sums of a thin border at most
constexpr double kSuperChunkBytes = 16.0 * (1 << 20);  // packed W of a wide border
constexpr double kMaxSuperChunkRows = 2048.0;
constexpr double kCholeskyDepth = 768.0;         // columns of L packed per outer step; two steps are alive
constexpr double kFixedBytes = 4.0 * (1 << 20);  // per-thread chunks, alignment, small vectors

}  // namespace

Index direct_peak_bytes(const ProblemShape& shape, const SolveOptions& options) noexcept {
  const bool single = options.precision == Precision::float32;
  const double item = single ? 4.0 : 8.0;
  const double t = static_cast<double>(shape.total_dim), d = static_cast<double>(shape.max_dim);
  const double k = static_cast<double>(shape.k);
  const double ld = round_up(shape.k, single ? 48 : 24);  // panels of 192 bytes

  const double schur = round_up(shape.k, 8) * ld * item;  // S, its factor in the same storage
  const double rows = t * (d + 1.0) * item                // L_i and the reciprocals of its diagonal
                      + t * 8.0 * 8.0;                    // shifts, guards, u, step, residual and their copies
  const double border = 12.0 * k * 8.0;                   // right-hand sides, scales, residual, norms
  const bool thin = shape.k <= 512;
  // Wide borders pack whitened rows by super-chunks; thin ones keep chunks in L2 and sum S privately, which may cost at
  // most half of what the cross block holds.
  const double packed_rows =
      std::min(t, std::clamp(kSuperChunkBytes / std::max(ld * item, 1.0), 256.0, kMaxSuperChunkRows));
  const double thin_sums = thin ? std::min(kThinPartials * schur, std::max(t * k * item / 2.0, schur)) : 0.0;
  const double reduce = std::max(thin_sums, packed_rows * ld * item);  // thin borders with few rows take the wide way
  const double partials = 64.0 * k * 8.0;                              // sums of r and B'x per group of rows
  const double cholesky = std::min(2.0 * kCholeskyDepth, k) * ld * item;  // after the reduction: its buffers are free
  const double total = schur + rows + border + partials + std::max(reduce, cholesky) + kFixedBytes;

  constexpr Index kMost = std::numeric_limits<Index>::max();
  return total >= 9.2e18 ? kMost : static_cast<Index>(total);
}

}  // namespace arrowschur
