#include "border/sparse_schur.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"

namespace arrowschur::border {

SparseSchur::SparseSchur(const ArrowSystem& system, const eliminate::BlockSparseWhitened& w)
    : pattern_(*schur_blocks(w.offsets(), w.indptr(), w.block_index(), system.border())) {
  const Index blocks = pattern_.blocks();
  row_ptr_.assign(at(blocks) + 1, 0);
  for (const Index i : pattern_.rows) ++row_ptr_[at(i) + 1];
  for (Index b = 0; b < blocks; ++b) row_ptr_[at(b) + 1] += row_ptr_[at(b)] + 1;  // and its own block
  row_blocks_.resize(at(row_ptr_.back()));
  row_at_.resize(row_blocks_.size());
  place_.resize(pattern_.rows.size());
  std::vector<Index> next(row_ptr_.begin(), row_ptr_.end() - 1);
  for (Index j = 0; j < blocks; ++j) {
    row_blocks_[at(next[at(j)]++)] = j;  // the columns before j are complete
    for (Index e = pattern_.ptr[at(j)]; e < pattern_.ptr[at(j) + 1]; ++e) {
      const Index i = pattern_.rows[at(e)];
      place_[at(e)] = next[at(i)];
      row_blocks_[at(next[at(i)]++)] = j;
    }
  }
  strip_ptr_.assign(1, 0);
  for (Index b = 0; b < blocks; ++b) {
    Index columns = 0;
    for (Index e = row_ptr_[at(b)]; e < row_ptr_[at(b) + 1]; ++e) {
      row_at_[at(e)] = columns;
      columns += pattern_.width(row_blocks_[at(e)]);
    }
    ld_.push_back(columns);
    strip_ptr_.push_back(strip_ptr_.back() + columns * pattern_.width(b));
  }
  values_ = linalg::Buffer<double>(strip_ptr_.back());
  std::fill(values_.begin(), values_.end(), 0.0);

  std::vector<Index> block_of(at(k()));
  for (Index b = 0; b < blocks; ++b) {
    std::fill(block_of.begin() + pattern_.offsets[at(b)], block_of.begin() + pattern_.offsets[at(b) + 1], b);
  }
  for_each_lower(system.border(), [&](Index row, Index col, double value) {
    const Index a = block_of[at(row)], b = block_of[at(col)];
    const auto found =
        std::lower_bound(row_blocks_.begin() + row_ptr_[at(a)], row_blocks_.begin() + row_ptr_[at(a) + 1], b);
    const Index column = row_at_[at(found - row_blocks_.begin())] + col - pattern_.offsets[at(b)];
    values_[strip_ptr_[at(a)] + (row - pattern_.offsets[at(a)]) * ld_[at(a)] + column] += value;
  });

  // W'W by owners, as for a dense S.
  constexpr Index kTasks = 256;
  const auto entries = static_cast<Index>(w.block_index().size());
  const Index tasks = std::min(blocks, kTasks);
  Index common_width = blocks > 0 ? pattern_.width(0) : 0;
  for (Index b = 0; b < blocks; ++b) common_width = pattern_.width(b) == common_width ? common_width : 0;
  linalg::parallel_for_if(entries >= 4096, tasks, [&](Index task) {
    linalg::Buffer<Index> column(blocks), list(blocks);
    linalg::Buffer<double> tiles(blocks * linalg::kGramTile);
    linalg::Buffer<char> touched(blocks);
    std::fill(touched.begin(), touched.end(), char{0});
    for (Index b = task; b < blocks; b += tasks) {
      for (Index e = row_ptr_[at(b)]; e < row_ptr_[at(b) + 1]; ++e) column[row_blocks_[at(e)]] = row_at_[at(e)];
      linalg::BlockGramArgs<double> args;
      args.count = w.block_ptr()[at(b) + 1] - w.block_ptr()[at(b)];
      args.entries = w.by_block().data() + w.block_ptr()[at(b)];
      args.width = pattern_.width(b);
      args.d = system.is_uniform() ? system.max_dim() : 0;
      args.b = common_width;
      args.row_of = w.row_of().data();
      args.ptr = w.indptr().data();
      args.block = w.block_index().data();
      args.offsets = w.offsets().data();
      args.value_ptr = w.value_ptr().data();
      args.column = column.data();
      args.values = w.values();
      args.c = values_.data() + strip_ptr_[at(b)];
      args.ldc = ld_[at(b)];
      args.tiles = tiles.data();
      args.list = list.data();
      args.touched = touched.data();
      linalg::kernels().data64.block_gram(args);
    }
  });
}

Index SparseSchur::nbytes() const noexcept {
  const std::size_t indices = pattern_.offsets.size() + pattern_.ptr.size() + pattern_.rows.size() + row_ptr_.size() +
                              row_blocks_.size() + row_at_.size() + place_.size() + strip_ptr_.size() + ld_.size();
  return values_.nbytes() + static_cast<Index>(indices * sizeof(Index));
}

void SparseSchur::apply(const double* shift, const double* x, double* y, Index m) const {
  const auto& data = linalg::kernels().data64;
  linalg::parallel_for_if(values_.size() * m >= linalg::kParallelWork, pattern_.blocks(), [&](Index b) {
    const Index first = pattern_.offsets[at(b)], width = pattern_.width(b);
    double* own = y + first * m;
    for (Index r = 0; r < width; ++r) {
      for (Index c = 0; c < m; ++c) own[r * m + c] = shift[first + r] * x[(first + r) * m + c];
    }
    linalg::Buffer<double> line(m == 1 ? width : 0);
    for_each_in(b, [&](Index other, Block block, bool transposed) {
      const Index other_first = pattern_.offsets[at(other)], other_width = pattern_.width(other);
      if (other == b) {  // from its lower triangle
        for (Index r = 0; r < width; ++r) {
          for (Index q = 0; q < width; ++q) {
            const double v = q <= r ? block.data[r * block.ld + q] : block.data[q * block.ld + r];
            for (Index c = 0; c < m; ++c) own[r * m + c] += v * x[(first + q) * m + c];
          }
        }
      } else if (transposed && m == 1) {  // stored [b, other]
        data.rows_dot(width, other_width, block.data, block.ld, x + other_first, line.data(), nullptr);
        for (Index r = 0; r < width; ++r) own[r] += line[r];
      } else if (m == 1) {  // stored [other, b]
        data.rows_axpy(other_width, width, block.data, block.ld, x + other_first, own, nullptr);
      } else {
        for (Index r = 0; r < width; ++r) {
          for (Index q = 0; q < other_width; ++q) {
            const double v = transposed ? block.data[r * block.ld + q] : block.data[q * block.ld + r];
            for (Index c = 0; c < m; ++c) own[r * m + c] += v * x[(other_first + q) * m + c];
          }
        }
      }
    });
  });
}

void SparseSchur::off_diagonal_sums(const double* inverse_scale, double* sums) const {
  linalg::parallel_for_if(values_.size() >= linalg::kParallelWork, pattern_.blocks(), [&](Index b) {
    const Index first = pattern_.offsets[at(b)], width = pattern_.width(b);
    std::fill(sums + first, sums + first + width, 0.0);
    for_each_in(b, [&](Index other, Block block, bool transposed) {
      const Index other_first = pattern_.offsets[at(other)], other_width = pattern_.width(other);
      for (Index r = 0; r < width; ++r) {
        for (Index q = 0; q < other_width; ++q) {
          if (other == b && q == r) continue;
          const bool by_rows = other == b ? q <= r : transposed;
          const double v = std::abs(by_rows ? block.data[r * block.ld + q] : block.data[q * block.ld + r]);
          sums[first + r] +=
              inverse_scale == nullptr ? v : v * (inverse_scale[first + r] * inverse_scale[other_first + q]);
        }
      }
    });
  });
}

}  // namespace arrowschur::border
