// The border block of the inverse: (H^-1)_bb = S^-1 = G G' (dense S = L L': G' = L^-1). Sub-blocks come from Z = G' E
// (E: unit columns) as Z'Z, which is symmetric and positive definite by construction.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "evidence/arguments.hpp"
#include "evidence/dense.hpp"
#include "evidence/latent.hpp"
#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "newton/factor_impl.hpp"

namespace arrowschur {
namespace {

// z [root_rows, cols.size()] = G' E.
void unit_solves(const backend::Frame& frame, std::span<const Index> cols, double* z) {
  const auto count = static_cast<Index>(cols.size());
  const Index k = frame.system().k();
  linalg::Buffer<double> own(frame.root_is_lower() ? 0 : k * count);
  double* x = frame.root_is_lower() ? z : own.data();
  evidence::fill_zero(k * count, x);
  for (Index j = 0; j < count; ++j) x[cols[static_cast<std::size_t>(j)] * count + j] = 1.0;
  frame.border_root(x, z, count);
}

}  // namespace

void ArrowFactor::schur_apply(std::span<const double> v, std::span<double> out, Index m, FactorSet set) const {
  const Index size = evidence::entries(impl_->system.k(), m);
  evidence::check_input("v", v, size, "k * m");
  evidence::check_size("out", out.size(), size, "k * m");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->frame(set);
  if (size == 0) return;
  if (!evidence::overlap(v, out)) return frame.schur_apply(v.data(), out.data(), m);
  linalg::Buffer<double> copy(size);
  std::ranges::copy(v, copy.begin());
  frame.schur_apply(copy.data(), out.data(), m);
}

void ArrowFactor::border_inverse_apply(std::span<const double> v, std::span<double> out, Index m, FactorSet set) const {
  const Index size = evidence::entries(impl_->system.k(), m);
  evidence::check_input("v", v, size, "k * m");
  evidence::check_size("out", out.size(), size, "k * m");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->frame(set);
  if (size == 0) return;
  std::memmove(out.data(), v.data(), v.size_bytes());
  frame.solve_border(out.data(), m);
}

void ArrowFactor::border_inverse_block(std::span<const Index> cols, std::span<double> out, FactorSet set) const {
  const Index k = impl_->system.k();
  for (const Index col : cols) evidence::check_index("cols", col, k);
  std::vector<Index> all;
  if (cols.empty()) {
    all.resize(static_cast<std::size_t>(k));
    std::iota(all.begin(), all.end(), Index{0});
    cols = all;
  }
  const auto count = static_cast<Index>(cols.size());
  evidence::check_size("out", out.size(), count * count, "square of the number of columns");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "border_inverse_block");
  if (count == 0) return;
  const Index root_rows = frame.root_rows();
  linalg::Buffer<double> z(root_rows * count);
  unit_solves(frame, cols, z.data());
  // Column j of a lower G' is zero above its diagonal entry.
  const auto first = frame.root_is_lower() ? cols : std::span<const Index>{};
  evidence::gram_lower(root_rows, count, z.data(), count, out.data(), /*add=*/false, first);
  evidence::mirror_lower(count, out.data());
}

void ArrowFactor::border_inverse_diagonal(std::span<double> out, FactorSet set) const {
  const Index k = impl_->system.k();
  evidence::check_size("out", out.size(), k, "k");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "border_inverse_diagonal");
  if (k == 0) return;
  const Index root_rows = frame.root_rows();
  const Index width = std::min(k, evidence::batch_columns(k));
  std::vector<Index> cols(static_cast<std::size_t>(k));
  std::iota(cols.begin(), cols.end(), Index{0});
  linalg::Buffer<double> z(root_rows * width);
  for (Index begin = 0; begin < k; begin += width) {
    const Index count = std::min(width, k - begin);
    unit_solves(frame, std::span(cols).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                z.data());
    std::fill_n(out.data() + begin, count, 0.0);
    const Index from = frame.root_is_lower() ? begin : 0;
    evidence::add_column_squares(root_rows - from, count, z.data() + from * count, out.data() + begin);
    linalg::poll_interrupt();
  }
}

}  // namespace arrowschur
