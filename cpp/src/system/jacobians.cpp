// Gauss-Newton normal equations of residual blocks. Every sum runs in the order of the residual blocks, so the result
// does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/system.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"
#include "system/examine.hpp"
#include "system/jacobians.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur {

using validate::require_buffer;

namespace jacobians {

void require_finite(const double* x, Index size, const char* name, Index inner, Index middle) {
  const Index bad = validate::first_non_finite(x, size);
  if (bad < 0) return;
  std::string where = "[" + std::to_string(bad / (inner * middle));
  if (middle > 1 || inner > 1) where += ", " + std::to_string(bad / inner % middle);
  if (inner > 1) where += ", " + std::to_string(bad % inner);
  throw InvalidArgument(name, validate::describe(x[bad]) + " at " + where + "]", "finite entries");
}

void require_sizes(const JacobianParts& p, Index width) {
  const std::pair<Index, const char*> sizes[] = {{p.n, "n"}, {p.d, "d"}, {p.k, "k"}, {p.r, "r"}, {p.q, "q"}};
  for (const auto& [value, name] : sizes) {
    if (value < 0) throw InvalidArgument(name, std::to_string(value), "an integer >= 0");
  }
  const Index size = static_cast<Index>(sizeof(double));
  const Index residuals = checked_product(p.r, p.q, "the residuals (r x q)");
  const Index rows = checked_product(p.n, p.d, "the rows (n x d)");
  for (const Index columns : {p.d, width, Index{1}}) {
    checked_product(checked_product(residuals, columns, "the Jacobians"), size, "the Jacobians");
    checked_product(checked_product(rows, columns, "the system"), size, "the system");
  }
  checked_product(checked_product(width, width, "the border (k x k)"), size, "the border (k x k)");
}

void require_rows(const JacobianParts& p) {
  require_buffer(p.j_t, p.r * p.q * p.d, "j_t");
  require_buffer(p.residual, p.r * p.q, "residual");
}

void require_row_finite(const JacobianParts& p) {
  const Index residuals = p.r * p.q;
  require_finite(p.j_t, residuals * p.d, "j_t", p.d, p.q);
  require_finite(p.residual, residuals, "residual", 1, p.q);
}

void require_weights(const JacobianParts& p) {
  if (p.weights == nullptr) return;
  const Index inner = p.weights_per_residual ? p.q : 1, count = p.r * inner;
  require_finite(p.weights, count, "weights", 1, inner);
  for (Index i = 0; i < count; ++i) {
    if (p.weights[i] >= 0.0) continue;
    throw InvalidArgument("weights", validate::describe(p.weights[i]) + " at index " + std::to_string(i),
                          "weights >= 0");
  }
}

void require_row_index(const JacobianParts& p) {
  if (p.row_index == nullptr) {
    if (p.r == p.n) return;
    throw InvalidArgument("row_index",
                          "none with " + std::to_string(p.r) + " residual blocks and " + std::to_string(p.n) + " rows",
                          "one row per residual block");
  }
  for (Index b = 0; b < p.r; ++b) {
    if (p.row_index[b] >= 0 && p.row_index[b] < p.n) continue;
    throw InvalidArgument("row_index", std::to_string(p.row_index[b]) + " at index " + std::to_string(b),
                          "rows between 0 and " + std::to_string(p.n - 1));
  }
}

BlocksOfRows::BlocksOfRows(const JacobianParts& p) {
  if (p.row_index == nullptr) return;
  first.assign(static_cast<std::size_t>(p.n) + 1, 0);
  for (Index b = 0; b < p.r; ++b) ++first[static_cast<std::size_t>(p.row_index[b]) + 1];
  for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  blocks.resize(static_cast<std::size_t>(p.r));
  std::vector<Index> next(first.begin(), first.end() - 1);
  for (Index b = 0; b < p.r; ++b) {
    blocks[static_cast<std::size_t>(next[static_cast<std::size_t>(p.row_index[b])]++)] = b;
  }
}

}  // namespace jacobians

namespace {

using jacobians::BlocksOfRows;
using jacobians::weight;
using linalg::Buffer;
using linalg::kPanel;
using linalg::kTile;

constexpr Index kPackedBytes = Index{16} << 20;  // weighted border Jacobians packed at a time
constexpr Index kRowsPerTask = 64;
constexpr Index kGradientGroups = 32;  // partials of g_beta

// h_tt[i] += J_t' W J_t, h_tb[i] += J_t' W J_beta, g_t[i] += J_t' W e of one residual block.
void add_block(const JacobianParts& p, Index block, double* weighted, double* h_tt, double* h_tb, double* g_t) {
  const double* j_t = p.j_t + block * p.q * p.d;
  const double* j_beta = p.j_beta + block * p.q * p.k;
  const double* e = p.residual + block * p.q;
  for (Index c = 0; c < p.d; ++c) {
    for (Index s = 0; s < p.q; ++s) weighted[s] = weight(p, block, s) * j_t[s * p.d + c];
    for (Index a = 0; a <= c; ++a) {
      double sum = 0.0;
      for (Index s = 0; s < p.q; ++s) sum += weighted[s] * j_t[s * p.d + a];
      h_tt[c * p.d + a] += sum;
    }
    double sum = 0.0;
    for (Index s = 0; s < p.q; ++s) sum += weighted[s] * e[s];
    g_t[c] += sum;
    if (p.k > 0) {
      linalg::kernels().data<double>().rows_axpy(p.q, p.k, j_beta, p.k, weighted, h_tb + c * p.k, nullptr);
    }
  }
}

void accumulate_rows(const JacobianParts& p, double* h_tt, double* h_tb, double* g_t) {
  const BlocksOfRows of(p);
  const Index tasks = (p.n + kRowsPerTask - 1) / kRowsPerTask;
  const bool parallel = p.r * p.q * std::max<Index>(p.d * (p.d + p.k), 1) >= linalg::kParallelWork;
  linalg::parallel_for_if(parallel, tasks, [&](Index task) {
    Buffer<double> weighted(p.q);
    for (Index i = task * kRowsPerTask; i < std::min(p.n, (task + 1) * kRowsPerTask); ++i) {
      double* block = h_tt + i * p.d * p.d;
      double* cross = h_tb + i * p.d * p.k;
      double* gradient = g_t + i * p.d;
      std::fill(block, block + p.d * p.d, 0.0);
      std::fill(cross, cross + p.d * p.k, 0.0);
      std::fill(gradient, gradient + p.d, 0.0);
      of.for_each(i, [&](Index b) { add_block(p, b, weighted.data(), block, cross, gradient); });
      for (Index c = 0; c < p.d; ++c) {
        for (Index a = 0; a < c; ++a) block[a * p.d + c] = block[c * p.d + a];
      }
    }
  });
}

// g_beta = J_beta' W e.
void accumulate_border_gradient(const JacobianParts& p, double* g_beta) {
  std::fill(g_beta, g_beta + p.k, 0.0);
  const Index groups = std::clamp<Index>(p.r * p.q * p.k / linalg::kParallelWork, 1, kGradientGroups);
  Buffer<double> partials(groups * p.k);
  linalg::parallel_for_if(groups > 1, groups, [&](Index g) {
    double* partial = partials.data() + g * p.k;
    std::fill(partial, partial + p.k, 0.0);
    Buffer<double> weighted(p.q);
    const Index begin = p.r / groups * g + std::min(g, p.r % groups);
    const Index end = begin + p.r / groups + (g < p.r % groups ? 1 : 0);
    for (Index b = begin; b < end; ++b) {
      for (Index s = 0; s < p.q; ++s) weighted[s] = weight(p, b, s) * p.residual[b * p.q + s];
      linalg::kernels().data<double>().rows_axpy(p.q, p.k, p.j_beta + b * p.q * p.k, p.k, weighted.data(), partial,
                                                 nullptr);
    }
  });
  for (Index g = 0; g < groups; ++g) {
    for (Index j = 0; j < p.k; ++j) g_beta[j] += partials[g * p.k + j];
  }
}

// Rows [begin, end) of sqrt(W) J_beta as packed panels; the task writes panel `panel`.
void pack_panel(const JacobianParts& p, Index begin, Index end, Index panel, double* out) {
  const Index col = panel * kPanel<double>, width = std::min(kPanel<double>, p.k - col);
  for (Index row = begin; row < end; ++row, out += kPanel<double>) {
    const double root = p.weights == nullptr ? 1.0 : std::sqrt(weight(p, row / p.q, row % p.q));
    const double* from = p.j_beta + row * p.k + col;
    for (Index j = 0; j < width; ++j) out[j] = root * from[j];
    for (Index j = width; j < kPanel<double>; ++j) out[j] = 0.0;
  }
}

// h_bb = J_beta' W J_beta: one symmetric rank-(r q) update on packed rows; tasks own tiles and add the rows in order.
void accumulate_border(const JacobianParts& p, double* h_bb) {
  const Index k = p.k, rows = p.r * p.q;
  const Index ld = linalg::padded_ld<double>(k), panels = ld / kPanel<double>;
  const Index fits = kPackedBytes / (std::max<Index>(ld, 1) * static_cast<Index>(sizeof(double)));
  const Index depth = std::clamp<Index>(fits / linalg::kDepth, 1, 16) * linalg::kDepth;
  const Index capacity = std::min(depth, rows), stride = capacity * kPanel<double>;
  const Index tiles = (k + kTile - 1) / kTile;
  const bool parallel = rows * k >= linalg::kParallelWork / std::max<Index>(k, 1);

  Buffer<double> packed(panels * stride), sum(linalg::padded_size<double>(k));
  std::fill(sum.begin(), sum.end(), 0.0);
  const auto& kernel = linalg::kernels().table<double>();
  for (Index begin = 0; begin < rows; begin += capacity) {
    const Index end = std::min(rows, begin + capacity);
    linalg::parallel_for_if(parallel, panels,
                            [&](Index panel) { pack_panel(p, begin, end, panel, packed.data() + panel * stride); });
    linalg::parallel_for_if(parallel, linalg::lower_tiles(tiles), [&](Index task) {
      const auto [i, j] = linalg::lower_tile(task);
      linalg::rank_update_tile<double>(kernel, {packed.data(), stride}, 0, end - begin, i * kTile,
                                       linalg::round_up(std::min(k, (i + 1) * kTile), linalg::kStrip), j * kTile,
                                       std::min(k, (j + 1) * kTile), 1.0, sum.data(), ld, false);
    });
  }
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j <= i; ++j) h_bb[i * k + j] = h_bb[j * k + i] = sum[i * ld + j];
  }
}

}  // namespace

void normal_equations(const JacobianParts& p, double* h_tt, double* h_tb, double* h_bb, double* g_t, double* g_beta) {
  jacobians::require_sizes(p, p.k);
  jacobians::require_row_index(p);
  jacobians::require_rows(p);
  require_buffer(p.j_beta, p.r * p.q * p.k, "j_beta");
  jacobians::require_weights(p);
  jacobians::require_row_finite(p);
  jacobians::require_finite(p.j_beta, p.r * p.q * p.k, "j_beta", p.k, p.q);
  accumulate_rows(p, h_tt, h_tb, g_t);
  if (p.k == 0) return;
  accumulate_border_gradient(p, g_beta);
  accumulate_border(p, h_bb);
}

}  // namespace arrowschur
