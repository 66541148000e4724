// Reverse-mode derivatives: of x = H^-1 w, and of log|H|.
//
// The parts are treated as in dH = sym(...): a gradient with respect to a symmetric part is the symmetric matrix G with
// df = <G, dH_tt>, and df = <G, dH_tb> counts the two places of h_tb in H together.
#include <algorithm>
#include <string>

#include "evidence/arguments.hpp"
#include "evidence/dense.hpp"
#include "evidence/latent.hpp"
#include "evidence/log_det.hpp"
#include "linalg/blas.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"
#include "newton/factor_impl.hpp"
#include "system/cross.hpp"

namespace arrowschur {
namespace {

using linalg::kTile;

constexpr Index kRowTile = 64;
constexpr Index kColumnTile = 1024;

std::vector<double> zeros(Index size) { return std::vector<double>(static_cast<std::size_t>(size), 0.0); }

// c[i, j] = scale (a_i' b_j + p_i' q_j) for a tile of rows x cols; a, p [rows, m] and b, q [cols, m], one after
// another.
void outer_sum(Index rows, Index cols, Index m, double scale, const double* a, const double* b, const double* p,
               const double* q, double* c, Index ldc) {
  if (m == 1) {  // an inner dimension of one is not worth the packing of a matrix product
    for (Index i = 0; i < rows; ++i) {
      const double s = scale * a[i], t = scale * p[i];
      for (Index j = 0; j < cols; ++j) c[i * ldc + j] = s * b[j] + t * q[j];
    }
    return;
  }
  const auto gemm = linalg::blas_table<double>().gemm;
  gemm('T', 'N', cols, rows, m, scale, b, m, a, m, 0.0, c, ldc);
  gemm('T', 'N', cols, rows, m, scale, q, m, p, m, 1.0, c, ldc);
}

double row_dot(Index m, const double* x, const double* y) {
  double sum = 0.0;
  for (Index s = 0; s < m; ++s) sum += x[s] * y[s];
  return sum;
}

// f(first flat row, first column, rows, columns, first value) for every block of the rows [begin, end).
template <class F>
void for_each_block(const ArrowSystem& s, const BlockSparseCross& cross, F&& f, Index begin, Index end) {
  const auto width = [&](Index block) {
    const auto b = static_cast<std::size_t>(block);
    return cross.block_offsets[b + 1] - cross.block_offsets[b];
  };
  Index at = 0;
  for (Index i = 0; i < end; ++i) {
    for (Index e = cross.indptr[i]; e < cross.indptr[i + 1]; ++e) {
      const Index cols = width(cross.block_index[e]);
      if (i >= begin) {
        f(s.row_offset(i), cross.block_offsets[static_cast<std::size_t>(cross.block_index[e])], s.row_dim(i), cols, at);
      }
      at += s.row_dim(i) * cols;
    }
  }
}
template <class F>
void for_each_block(const ArrowSystem& s, const BlockSparseCross& cross, F&& f) {
  for_each_block(s, cross, f, 0, s.n());
}

// The pattern that a gradient with respect to the cross block has; null: dense, also where the caller handed in a dense
// array whose zeros were recognised, because these have derivatives like any other entry.
const BlockSparseCross* pattern_of(const ArrowSystem& s) {
  for (const std::string& line : s.detected()) {
    if (line.starts_with("h_tb")) return nullptr;
  }
  return std::get_if<BlockSparseCross>(&s.cross());
}

// Entries of the gradient with respect to the cross block.
Index cross_entries(const ArrowSystem& s, const char* feature, Route route) {
  const bool sparse = std::holds_alternative<BlockSparseCross>(s.cross());
  if (s.h_tb() != nullptr || s.total_dim() == 0 || s.k() == 0 || (sparse && pattern_of(s) == nullptr)) {
    return s.total_dim() * s.k();
  }
  if (!sparse) {
    throw UnsupportedConfiguration(std::string(feature) + " with a Kronecker or operator cross block", to_string(route),
                                   "the gradient is available for dense and block-sparse cross blocks");
  }
  return cross::stored_entries(s);
}

}  // namespace

// x = H^-1 w, f with df = c'dx, lam = H^-1 c:  df = lam'dw - lam' dH x.
SystemGradient ArrowFactor::vjp(std::span<const double> x_t, std::span<const double> x_beta,
                                std::span<const double> c_t, std::span<const double> c_beta, Index m,
                                FactorSet set) const {
  const ArrowSystem& system = impl_->system;
  const Index n = system.n(), k = system.k(), total = system.total_dim();
  const Index size_t_part = evidence::entries(total, m), size_beta = evidence::entries(k, m);
  evidence::check_input("x_t", x_t, size_t_part, "T * m");
  evidence::check_input("x_beta", x_beta, size_beta, "k * m");
  evidence::check_input("cotangent_t", c_t, size_t_part, "T * m");
  evidence::check_input("cotangent_beta", c_beta, size_beta, "k * m");
  const linalg::ThreadScope threads(impl_->options.num_threads);

  SystemGradient g;
  g.w_t = zeros(size_t_part);
  g.w_beta = zeros(size_beta);
  solve(c_t, c_beta, g.w_t, g.w_beta, m, set);
  const double *lam_t = g.w_t.data(), *lam_b = g.w_beta.data(), *xt = x_t.data(), *xb = x_beta.data();
  g.ridge_t = -evidence::dot(size_t_part, lam_t, xt);
  g.ridge_beta = -evidence::dot(size_beta, lam_b, xb);

  g.h_tt = zeros(system.block_offset(n));
  linalg::parallel_for_if(
      system.block_offset(n) * m >= linalg::kParallelWork, (n + kRowTile - 1) / kRowTile, [&](Index task) {
        for (Index i = task * kRowTile; i < std::min(n, (task + 1) * kRowTile); ++i) {
          const Index d = system.row_dim(i), at = system.row_offset(i) * m;
          double* block = g.h_tt.data() + system.block_offset(i);
          for (Index a = 0; a < d; ++a) {
            for (Index b = 0; b <= a; ++b) {
              const double sum =
                  row_dot(m, lam_t + at + a * m, xt + at + b * m) + row_dot(m, xt + at + a * m, lam_t + at + b * m);
              block[a * d + b] = block[b * d + a] = -0.5 * sum;
            }
          }
        }
      });

  g.h_tb = zeros(cross_entries(system, "vjp", impl_->diagnostics.plan.route));
  const BlockSparseCross* sparse = pattern_of(system);
  if (sparse != nullptr) {
    for_each_block(system, *sparse, [&](Index row, Index col, Index rows, Index cols, Index at) {
      outer_sum(rows, cols, m, -1.0, lam_t + row * m, xb + col * m, xt + row * m, lam_b + col * m, g.h_tb.data() + at,
                cols);
    });
  }
  const Index row_tiles = (total + kRowTile - 1) / kRowTile, column_tiles = (k + kColumnTile - 1) / kColumnTile;
  const Index dense_tasks = sparse != nullptr ? 0 : row_tiles * column_tiles;
  linalg::parallel_for_if(total * k * m >= linalg::kParallelWork, dense_tasks, [&](Index task) {
    const Index r = task / column_tiles * kRowTile, c = task % column_tiles * kColumnTile;
    outer_sum(std::min(kRowTile, total - r), std::min(kColumnTile, k - c), m, -1.0, lam_t + r * m, xb + c * m,
              xt + r * m, lam_b + c * m, g.h_tb.data() + r * k + c, k);
  });

  g.h_bb = zeros(k * k);
  linalg::parallel_for_if(k * k * m >= linalg::kParallelWork, linalg::lower_tiles((k + kTile - 1) / kTile),
                          [&](Index task) {
                            const auto [ti, tj] = linalg::lower_tile(task);
                            const Index i = ti * kTile, j = tj * kTile;
                            outer_sum(std::min(kTile, k - i), std::min(kTile, k - j), m, -0.5, lam_b + i * m,
                                      xb + j * m, xb + i * m, lam_b + j * m, g.h_bb.data() + i * k + j, k);
                          });
  evidence::mirror_lower(k, g.h_bb.data());
  return g;
}

// d log|H| = trace(H^-1 dH). There is no right-hand side: w_t and w_beta stay empty.
SystemGradient ArrowFactor::log_det_vjp(FactorSet set) const {
  evidence::require_unlifted(*impl_, set, "log_det_vjp");
  const ArrowSystem& system = impl_->system;
  const Index n = system.n(), k = system.k();
  const linalg::ThreadScope threads(impl_->options.num_threads);

  SystemGradient g;
  g.h_tt = zeros(system.block_offset(n));
  g.h_tb = zeros(cross_entries(system, "log_det_vjp", impl_->diagnostics.plan.route));
  g.h_bb = zeros(k * k);
  const BlockSparseCross* sparse = pattern_of(system);
  std::vector<double> dense;  // A^-1 B S^-1 of a batch, of which the pattern is kept
  for (evidence::LatentBatches batches(impl_->exact_frame(set, "log_det_vjp"), evidence::RowList(system, {}));
       batches.next();) {
    const Index first = batches.batch().begin;
    batches.solve_z();
    batches.blocks(g.h_tt.data() + system.block_offset(first));
    if (sparse == nullptr) {
      batches.cross(g.h_tb.data() + system.row_offset(first) * k, -2.0);
      continue;
    }
    dense.resize(static_cast<std::size_t>(batches.batch().flat * k));
    batches.cross(dense.data(), -2.0);
    const Index base = system.row_offset(first);
    for_each_block(
        system, *sparse,
        [&](Index row, Index col, Index rows, Index cols, Index at) {
          for (Index r = 0; r < rows; ++r) {
            std::copy_n(dense.data() + (row - base + r) * k + col, cols, g.h_tb.data() + at + r * cols);
          }
        },
        first, batches.batch().end);
  }
  border_inverse_block({}, g.h_bb, set);
  g.ridge_t = evidence::trace_of_blocks(system, g.h_tt);
  for (Index j = 0; j < k; ++j) g.ridge_beta += g.h_bb[static_cast<std::size_t>(j * k + j)];
  return g;
}

}  // namespace arrowschur
