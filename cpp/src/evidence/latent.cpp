#include "evidence/latent.hpp"

#include <algorithm>
#include <vector>

#include "evidence/arguments.hpp"
#include "evidence/dense.hpp"
#include "linalg/blas.hpp"
#include "linalg/pool.hpp"
#include "newton/factor_impl.hpp"

namespace arrowschur {
namespace evidence {
namespace {

using backend::Part;

// Blocks up to this size share one matrix product per group: the Gram matrix of up to kGroup columns of Z, of which the
// diagonal blocks are kept. The rest is wasted (kGroup / k of the work of the solve), but no loop is shorter than k.
constexpr Index kGroup = 32;

// Scalar rows per piece: 512 KiB of B at k = 2048.
constexpr Index kPieceRows = 32;

struct Group {
  Index begin = 0, end = 0;     // positions
  Index flat = 0, columns = 0;  // first scalar row inside the batch, and their number
  Index entries = 0;            // where its blocks begin in the output of the batch
};

linalg::Buffer<double>& grow(linalg::Buffer<double>& buffer, Index size) {
  if (buffer.size() < size) {
    buffer = {};  // first return the old block, so that the peak is one buffer
    buffer = linalg::Buffer<double>(size);
  }
  return buffer;
}

}  // namespace

Index batch_columns(Index k) noexcept {
  return std::clamp(kBatchEntries / std::max<Index>(k, 1) / 128 * 128, kBatchRowsMin, kBatchRowsMax);
}

LatentBatches::LatentBatches(const backend::Frame& frame, RowList rows)
    : frame_(frame), rows_(rows), k_(frame.system().k()), root_rows_(frame.root_rows()) {}

bool LatentBatches::next() {
  linalg::poll_interrupt();
  const Index limit = batch_columns(k_);
  RowBatch next{batch_.end, batch_.end, 0, 0};
  while (next.end < rows_.count()) {
    const Index d = rows_.dim(next.end);
    const Index flat = next.flat + d, max_dim = std::max(next.max_dim, d);
    if (next.flat > 0 && (flat > limit || flat * max_dim > kBatchEntries)) break;
    next.flat = flat;
    next.max_dim = max_dim;
    ++next.end;
  }
  batch_ = next;

  pieces_.clear();
  Index flat = 0;
  for (Index at = batch_.begin; at < batch_.end; ++at) {
    const Index row = rows_.row(at), d = rows_.dim(at);
    if (pieces_.empty() || pieces_.back().row_end != row || pieces_.back().flat + d > kPieceRows) {
      pieces_.push_back({row, row, flat, 0});
    }
    pieces_.back().row_end = row + 1;
    pieces_.back().flat += d;
    flat += d;
  }
  return batch_.end > batch_.begin;
}

void LatentBatches::solve_z() {
  if (k_ == 0 || batch_.flat == 0) return;
  const bool in_place = frame_.root_is_lower();
  double* out = grow(in_place ? z_ : x_, k_ * batch_.flat).data();
  linalg::parallel_for_if(batch_.flat * k_ >= linalg::kParallelWork, static_cast<Index>(pieces_.size()),
                          [&](Index task) {
                            const RowPiece& piece = pieces_[static_cast<std::size_t>(task)];
                            if (piece.flat == 0) return;
                            linalg::Buffer<double> y(piece.flat * k_);
                            frame_.cross_block(piece.row_begin, piece.row_end, y.data());
                            frame_.solve_rows(Part::full, piece.row_begin, piece.row_end, y.data(), k_);
                            transpose(piece.flat, k_, y.data(), out + piece.first, batch_.flat);
                          });
  frame_.border_root(out, in_place ? out : grow(z_, root_rows_ * batch_.flat).data(), batch_.flat);
}

void LatentBatches::solve_v() {
  const Index width = batch_.max_dim;
  double* v = grow(v_, batch_.flat * width).data();
  linalg::parallel_for_if(batch_.flat * width * width >= linalg::kParallelWork, static_cast<Index>(pieces_.size()),
                          [&](Index task) {
                            const RowPiece& piece = pieces_[static_cast<std::size_t>(task)];
                            if (piece.flat == 0) return;
                            double* x = v + piece.first * width;
                            std::fill_n(x, piece.flat * width, 0.0);
                            for (Index row = piece.row_begin, flat = 0; row < piece.row_end; ++row) {
                              const Index d = frame_.system().row_dim(row);
                              for (Index a = 0; a < d; ++a) x[(flat + a) * width + a] = 1.0;
                              flat += d;
                            }
                            frame_.solve_rows(Part::lower, piece.row_begin, piece.row_end, x, width);
                          });
}

void LatentBatches::diagonal(double* out) {
  if (batch_.flat == 0) return;
  solve_v();
  Index flat = 0;
  for (Index at = batch_.begin; at < batch_.end; ++at) {
    const Index d = rows_.dim(at);
    const double* v = v_.data() + flat * batch_.max_dim;
    std::fill_n(out + flat, d, 0.0);
    for (Index r = 0; r < d; ++r) {
      for (Index a = 0; a <= r; ++a) out[flat + a] += v[r * batch_.max_dim + a] * v[r * batch_.max_dim + a];
    }
    flat += d;
  }
  if (k_ > 0) add_column_squares(root_rows_, batch_.flat, z_.data(), out);
}

void LatentBatches::blocks(double* out) {
  if (batch_.flat == 0) return;
  solve_v();
  std::vector<Group> groups;
  Group open{batch_.begin, batch_.begin, 0, 0, 0};
  Index entries = 0;
  for (Index at = batch_.begin; at < batch_.end; ++at) {
    const Index d = rows_.dim(at);
    if (open.columns > 0 && open.columns + d > kGroup) {
      groups.push_back(open);
      open = {at, at, open.flat + open.columns, 0, entries};
    }
    open.end = at + 1;
    open.columns += d;
    entries += d * d;
  }
  groups.push_back(open);

  const Index width = batch_.max_dim;
  const auto small = [&](const Group& g) { return g.columns <= kGroup; };
  // L_i^-1 is lower triangular: the products are summed from the diagonal on.
  linalg::parallel_for_if(
      batch_.flat * (k_ + width) >= linalg::kParallelWork / kGroup, static_cast<Index>(groups.size()), [&](Index task) {
        const Group& g = groups[static_cast<std::size_t>(task)];
        if (!small(g) || g.columns == 0) return;
        double gram[kGroup * kGroup] = {};
        if (k_ > 0) {
          linalg::blas_table<double>().gemm('N', 'T', g.columns, g.columns, root_rows_, 1.0, z_.data() + g.flat,
                                            batch_.flat, z_.data() + g.flat, batch_.flat, 0.0, gram, g.columns);
        }
        Index column = 0;
        double* block = out + g.entries;
        for (Index at = g.begin; at < g.end; ++at) {
          const Index d = rows_.dim(at);
          const double* v = v_.data() + (g.flat + column) * width;
          for (Index a = 0; a < d; ++a) {
            for (Index b = 0; b <= a; ++b) {
              double sum = gram[(column + a) * g.columns + column + b];
              for (Index r = a; r < d; ++r) sum += v[r * width + a] * v[r * width + b];
              block[a * d + b] = block[b * d + a] = sum;
            }
          }
          block += d * d;
          column += d;
        }
      });
  for (const Group& g : groups) {  // large blocks, one at a time on all threads
    if (small(g)) continue;
    double* block = out + g.entries;
    gram_lower(root_rows_, g.columns, z_.data() + g.flat, batch_.flat, block);
    gram_lower(g.columns, g.columns, v_.data() + g.flat * width, width, block, /*add=*/true);
    mirror_lower(g.columns, block);
  }
}

void LatentBatches::cross(double* out, double scale) {
  if (k_ == 0 || batch_.flat == 0) return;
  double* x = frame_.root_is_lower() ? z_.data() : x_.data();
  frame_.border_root_transpose(z_.data(), x, batch_.flat);
  transpose(k_, batch_.flat, x, out, k_, scale);
}

double trace_of_blocks(const ArrowSystem& system, std::span<const double> blocks) {
  double trace = 0.0;
  const double* block = blocks.data();
  for (Index i = 0; i < system.n(); ++i) {
    const Index d = system.row_dim(i);
    for (Index a = 0; a < d; ++a) trace += block[a * d + a];
    block += d * d;
  }
  return trace;
}

}  // namespace evidence

using evidence::LatentBatches;
using evidence::RowList;

void ArrowFactor::latent_inverse_diagonal(std::span<double> out, FactorSet set) const {
  const ArrowSystem& system = impl_->system;
  evidence::check_size("out", out.size(), system.total_dim(), "T");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "latent_inverse_diagonal");
  std::vector<double> blocks(frame.latent_blocks_cheap() ? static_cast<std::size_t>(system.block_offset(system.n()))
                                                         : 0);
  if (!blocks.empty() && frame.latent_blocks({}, blocks.data())) {
    for (Index i = 0; i < system.n(); ++i) {
      const Index d = system.row_dim(i);
      const double* block = blocks.data() + system.block_offset(i);
      for (Index a = 0; a < d; ++a) out[static_cast<std::size_t>(system.row_offset(i) + a)] = block[a * d + a];
    }
    return;
  }
  double* to = out.data();
  for (LatentBatches batches(frame, RowList(system, {})); batches.next();) {
    batches.solve_z();
    batches.diagonal(to);
    to += batches.batch().flat;
  }
}

void ArrowFactor::latent_inverse_blocks(std::span<const Index> rows, std::span<double> out, FactorSet set) const {
  const ArrowSystem& system = impl_->system;
  for (const Index row : rows) evidence::check_index("rows", row, system.n());
  const RowList list(system, rows);
  const auto squares = [&](Index begin, Index end) {
    Index sum = 0;
    for (Index at = begin; at < end; ++at) sum += list.dim(at) * list.dim(at);
    return sum;
  };
  evidence::check_size("out", out.size(), squares(0, list.count()), "sum of d_i^2");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  const backend::Frame& frame = impl_->exact_frame(set, "latent_inverse_blocks");
  if (frame.latent_blocks(rows, out.data())) return;
  double* to = out.data();
  for (LatentBatches batches(frame, list); batches.next();) {
    batches.solve_z();
    batches.blocks(to);
    to += squares(batches.batch().begin, batches.batch().end);
  }
}

void ArrowFactor::cross_inverse_block(Index i, std::span<double> out, FactorSet set) const {
  const ArrowSystem& system = impl_->system;
  evidence::check_index("i", i, system.n());
  evidence::check_size("out", out.size(), system.row_dim(i) * system.k(), "d_i * k");
  const linalg::ThreadScope threads(impl_->options.num_threads);
  LatentBatches batches(impl_->exact_frame(set, "cross_inverse_block"), RowList(system, {&i, 1}));
  batches.next();
  batches.solve_z();
  batches.cross(out.data(), -1.0);
}

}  // namespace arrowschur
