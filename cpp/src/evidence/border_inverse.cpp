// The border block of the inverse: (H^-1)_bb = S^-1 with S = L L'. Sub-blocks come from Z = L^-1 E (E: unit columns) as
// Z'Z, which is symmetric and positive definite by construction.
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

using backend::Part;

// z [k, cols.size()] = L^-1 E.
void unit_solves(const backend::Frame& frame, std::span<const Index> cols, double* z) {
  const auto count = static_cast<Index>(cols.size());
  evidence::fill_zero(frame.system().k() * count, z);
  for (Index j = 0; j < count; ++j) z[cols[static_cast<std::size_t>(j)] * count + j] = 1.0;
  frame.solve_border(Part::lower, z, count);
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
  frame.solve_border(Part::full, out.data(), m);
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
  const backend::Frame& frame = impl_->frame(set);
  if (count == 0) return;
  linalg::Buffer<double> z(k * count);
  unit_solves(frame, cols, z.data());
  // Column j of L^-1 is zero above its diagonal entry.
  evidence::gram_lower(k, count, z.data(), count, out.data(), /*add=*/false, cols);
  evidence::mirror_lower(count, out.data());
}

void ArrowFactor::border_inverse_diagonal(std::span<double> out, FactorSet set) const {
  const Index k = impl_->system.k();
  evidence::check_size("out", out.size(), k, "k");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->frame(set);
  if (k == 0) return;
  const Index width = std::min(k, evidence::batch_columns(k));
  std::vector<Index> cols(static_cast<std::size_t>(k));
  std::iota(cols.begin(), cols.end(), Index{0});
  linalg::Buffer<double> z(k * width);
  for (Index begin = 0; begin < k; begin += width) {
    const Index count = std::min(width, k - begin);
    unit_solves(frame, std::span(cols).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
                z.data());
    std::fill_n(out.data() + begin, count, 0.0);
    evidence::add_column_squares(k - begin, count, z.data() + begin * count, out.data() + begin);
    linalg::poll_interrupt();
  }
}

}  // namespace arrowschur
