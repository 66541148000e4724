// Predictions and draws of the latent unknowns.
#include <algorithm>

#include "evidence/arguments.hpp"
#include "evidence/dense.hpp"
#include "evidence/philox.hpp"
#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "newton/factor_impl.hpp"

namespace arrowschur {
namespace {

using backend::Part;

// x [count, m] = z - x with normals z of the unknowns [first, first + count). Draw s of unknown u depends on (seed, u,
// s) alone: the first draws of a larger request are the draws of a smaller one.
void subtract_from_normal(std::uint64_t seed, Index first, Index count, Index m, double* x) {
  constexpr Index kNormals = 4096;  // per task, about 100 us
  const Index rows = std::max<Index>(1, kNormals / m);
  linalg::parallel_for_if(count * m >= 2 * kNormals, (count + rows - 1) / rows, [&](Index task) {
    for (Index u = task * rows; u < std::min(count, (task + 1) * rows); ++u) {
      for (Index s = 0; s < m; s += 2) {
        const auto pair =
            evidence::normal_pair(seed, static_cast<std::uint64_t>(first + u), static_cast<std::uint64_t>(s / 2));
        x[u * m + s] = pair[0] - x[u * m + s];
        if (s + 1 < m) x[u * m + s + 1] = pair[1] - x[u * m + s + 1];
      }
    }
  });
}

}  // namespace

void ArrowFactor::predict(std::span<const double> delta_beta, std::span<const double> delta_g_t,
                          std::span<double> delta_t) const {
  const ArrowSystem& system = impl_->system;
  const Index rows = system.total_dim();
  evidence::check_input("delta_beta", delta_beta, system.k(), "k");
  if (!delta_g_t.empty()) evidence::check_input("delta_g_t", delta_g_t, rows, "T");
  evidence::check_size("delta_t", delta_t.size(), rows, "T");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->frame(FactorSet::evidence);
  if (rows == 0) return;
  linalg::Buffer<double> g(rows);
  if (delta_g_t.empty()) {
    evidence::fill_zero(rows, g.data());
  } else {
    std::ranges::copy(delta_g_t, g.begin());
  }
  frame.expand(g.data(), delta_beta.data(), delta_t.data(), nullptr);
}

// H = R'R with R = [L' W; 0 G^-1], S^-1 = G G' (dense: G = L_S^-T), so x = R^-1 z has covariance H^-1:
//     x_b = G z_b,   x_i = L_i^-T (z_i - W_i x_b),   W_i = L_i^-1 B_i
void ArrowFactor::sample(Index m, std::uint64_t seed, std::span<double> x_t, std::span<double> x_beta,
                         FactorSet set) const {
  const ArrowSystem& system = impl_->system;
  const Index k = system.k();
  evidence::check_size("x_t", x_t.size(), evidence::entries(system.total_dim(), m), "T * m");
  evidence::check_size("x_beta", x_beta.size(), evidence::entries(k, m), "k * m");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "sample");

  const Index rows = system.total_dim();
  const Index root_rows = frame.root_rows();
  linalg::Buffer<double> own(frame.root_is_lower() ? 0 : root_rows * m);
  double* z = frame.root_is_lower() ? x_beta.data() : own.data();
  evidence::fill_zero(root_rows * m, z);
  subtract_from_normal(seed, rows, root_rows, m, z);
  if (k > 0) frame.border_root_transpose(z, x_beta.data(), m);
  if (rows == 0) return;
  if (k > 0) {
    frame.cross_apply(0, system.n(), x_beta.data(), x_t.data(), m);
    frame.solve_rows(Part::lower, 0, system.n(), x_t.data(), m);
  } else {
    evidence::fill_zero(rows * m, x_t.data());
  }
  subtract_from_normal(seed, 0, rows, m, x_t.data());
  frame.solve_rows(Part::upper, 0, system.n(), x_t.data(), m);
}

}  // namespace arrowschur
