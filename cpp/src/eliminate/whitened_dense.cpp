// Dense W [T, k], row-major in the caller's row order.
#include <cstring>

#include "eliminate/whitened_forms.hpp"
#include "linalg/products.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;
using linalg::kPanel;

constexpr Index kSlabRows = 256;                  // rows per task of a product with many columns
constexpr Index kSlabCols = 192;                  // columns per task of a transposed one
constexpr Index kChunkBytes = Index{256} << 10;   // rows of W that are read several times while they lie in L2
constexpr Index kMostGroups = 32;                 // private partials of k entries

constexpr Index padded(Index k) { return linalg::round_up(k, 8); }  // whole cache lines

// A piece of W in float64: in place, or converted into `scratch`.
struct Piece {
  const double* data;
  Index ld;
};
Piece piece(const double* w, Index ld, Index, Index, Buffer<double>&) { return {w, ld}; }
Piece piece(const float* w, Index ld, Index rows, Index cols, Buffer<double>& scratch) {
  if (scratch.size() < rows * cols) scratch = Buffer<double>(rows * cols);
  for (Index r = 0; r < rows; ++r) {
    for (Index j = 0; j < cols; ++j) scratch[r * cols + j] = static_cast<double>(w[r * ld + j]);
  }
  return {scratch.data(), cols};
}

// out [cols, rows] <- x [rows, cols]
void transpose_copy(Index rows, Index cols, const double* x, double* out) {
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) out[c * rows + r] = x[r * cols + c];
  }
}

template <class In>
class DenseWhitened final : public Whitened {
 public:
  DenseWhitened(const ArrowSystem& s, const RowFactors<double>& rows)
      : Whitened(s.total_dim(), s.k()), w_(rows_ * cols_), products_(w_.data(), rows_, cols_) {
    with_storage(s.dtype(), s.h_tb(), [&](const auto* b) { fill(s, rows, b); });
  }
  void apply(const double* x, double* y, Index m) const override { products_.apply(x, y, m); }
  void transpose(const double* y, double* x, Index m) const override { products_.transpose(y, x, m); }
  void subtract_gram_apply(const double* x, double* y) const override { products_.subtract_gram_apply(x, y); }
  void column_squares(double* out) const override { products_.column_squares(out); }
  void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const override {
    products_.subtract_gram_blocks(sets, out);
  }
  void subtract_gram(double* s, Index ld) const override { products_.subtract_gram(s, ld); }
  void to_dense(double* out, Index ld) const override {
    linalg::parallel_for_if(rows_ * cols_ >= linalg::kParallelWork, (rows_ + kSlabRows - 1) / kSlabRows, [&](Index g) {
      for (Index r = g * kSlabRows; r < std::min(rows_, (g + 1) * kSlabRows); ++r) {
        std::copy(w_.data() + r * cols_, w_.data() + (r + 1) * cols_, out + r * ld);
      }
    });
  }
  Index nbytes() const override { return w_.nbytes(); }
  const char* form() const noexcept override { return "dense"; }
  const double* dense64() const noexcept override {
    if constexpr (std::is_same_v<In, double>) return w_.data();
    return nullptr;
  }
  const float* dense32() const noexcept override {
    if constexpr (std::is_same_v<In, float>) return w_.data();
    return nullptr;
  }

 private:
  template <class From>
  void fill(const ArrowSystem& s, const RowFactors<double>& rows, const From* b) {
    const Partition partition = Partition::make(s);
    linalg::parallel_for_if(
        rows_ * cols_ >= linalg::kParallelWork, static_cast<Index>(partition.groups.size()), [&](Index g) {
          const Group& group = partition.groups[static_cast<std::size_t>(g)];
          const RowRun run = Partition::run(s, group);
          const auto& f = rows.buckets[static_cast<std::size_t>(group.bucket)];
          const Index chunk = std::clamp<Index>(kChunkBytes / (8 * std::max<Index>(1, f.d * cols_)), 1, 64);
          Buffer<double> scratch(std::is_same_v<In, double> ? 0 : chunk * f.d * cols_);
          run.stretches([&](Index i0, Index blocks) {
            for (Index i = i0; i < i0 + blocks; i += chunk) {
              const Index count = std::min(chunk, i0 + blocks - i), first = run.offset(i) * cols_;
              const Index entries = count * f.d * cols_;
              const From* from = b + first;
              double* to;
              if constexpr (std::is_same_v<In, double>) {
                to = w_.data() + first;
              } else {
                to = scratch.data();
              }
              for (Index j = 0; j < entries; ++j) to[j] = static_cast<double>(from[j]);
              solve_blocks(backend::Part::lower, f, run.first + i, count, to, cols_);
              if constexpr (!std::is_same_v<In, double>) {
                for (Index j = 0; j < entries; ++j) w_[first + j] = static_cast<In>(to[j]);
              }
            }
          });
        });
  }

  Buffer<In> w_;
  DenseProducts<In> products_;
};

}  // namespace

template <class In>
Index DenseProducts<In>::groups() const {
  return std::clamp<Index>(rows_ * k_ / linalg::kParallelWork, 1, std::clamp<Index>(rows_, 1, kMostGroups));
}

template <class In>
void DenseProducts<In>::apply(const double* x, double* y, Index m) const {
  if (rows_ == 0 || m == 0) return;
  const bool many = m >= linalg::kManyColumns;
  const Index chunk =
      many ? kSlabRows
           : std::clamp<Index>(kChunkBytes / (std::max<Index>(1, k_) * static_cast<Index>(sizeof(In))), 8, kSlabRows);
  const linalg::PackedColumns packed(many ? k_ : 0, many ? m : 0, x);
  Buffer<double> columns(many || m == 1 ? 0 : k_ * m);
  if (columns.size() > 0) transpose_copy(k_, m, x, columns.data());
  const auto& kernel = linalg::kernels().data<In>();
  linalg::parallel_for_if(rows_ * k_ * m >= linalg::kParallelWork, (rows_ + chunk - 1) / chunk, [&](Index task) {
    const Index begin = task * chunk, count = std::min(chunk, rows_ - begin);
    const In* w = w_ + begin * k_;
    if (many) {
      Buffer<double> scratch;
      const Piece p = piece(w, k_, count, k_, scratch);
      linalg::multiply_rows(count, k_, p.data, p.ld, packed, y + begin * m);
    } else if (m == 1) {
      kernel.rows_dot(count, k_, w, k_, x, y + begin, nullptr);
    } else {
      double z[kSlabRows];
      for (Index c = 0; c < m; ++c) {
        kernel.rows_dot(count, k_, w, k_, columns.data() + c * k_, z, nullptr);
        for (Index r = 0; r < count; ++r) y[(begin + r) * m + c] = z[r];
      }
    }
  });
}

template <class In>
void DenseProducts<In>::transpose(const double* y, double* x, Index m) const {
  if (k_ == 0 || m == 0) return;
  const auto& kernel = linalg::kernels().data<In>();
  if (m >= linalg::kManyColumns) {
    const linalg::PackedStrips strips(rows_, m, y);
    linalg::parallel_for_if(rows_ * k_ * m >= linalg::kParallelWork, (k_ + kSlabCols - 1) / kSlabCols, [&](Index task) {
      const Index col = task * kSlabCols, cols = std::min(kSlabCols, k_ - col);
      std::fill(x + col * m, x + (col + cols) * m, 0.0);
      if constexpr (std::is_same_v<In, double>) {
        linalg::multiply_transposed(rows_, cols, w_ + col, k_, strips, 0, x + col * m);
      } else {
        Buffer<double> scratch;
        for (Index r = 0; r < rows_; r += kSlabRows) {
          const Index count = std::min(kSlabRows, rows_ - r);
          const Piece p = piece(w_ + r * k_ + col, k_, count, cols, scratch);
          linalg::multiply_transposed(count, cols, p.data, p.ld, strips, r, x + col * m);
        }
      }
    });
    return;
  }
  // Few rows at a time, so that the hardware follows their streams.
  constexpr Index kRowsAtOnce = 8;
  const Index parts = groups(), stride = padded(k_);
  Buffer<double> partial(parts * m * stride), lines(m == 1 ? 0 : rows_ * m), sums(m == 1 ? 0 : k_);
  if (m > 1) transpose_copy(rows_, m, y, lines.data());
  const double* v = m == 1 ? y : lines.data();
  linalg::parallel_for_if(parts > 1, parts, [&](Index g) {
    double* own = partial.data() + g * m * stride;
    std::fill(own, own + m * stride, 0.0);
    const Index end = rows_ * (g + 1) / parts;
    for (Index r = rows_ * g / parts; r < end; r += kRowsAtOnce) {
      for (Index c = 0; c < m; ++c) {
        kernel.rows_axpy(std::min(kRowsAtOnce, end - r), k_, w_ + r * k_, k_, v + c * rows_ + r, own + c * stride,
                         nullptr);
      }
    }
  });
  for (Index c = 0; c < m; ++c) {
    linalg::sum_partials(k_, parts, m * stride, partial.data() + c * stride, m == 1 ? x : sums.data());
    if (m > 1) {
      for (Index j = 0; j < k_; ++j) x[j * m + c] = sums[j];
    }
  }
}

template <class In>
void DenseProducts<In>::subtract_gram_apply(const double* x, double* y) const {
  if (rows_ == 0 || k_ == 0) return;
  const Index parts = groups(), stride = padded(k_);
  Buffer<double> partial(parts * stride);
  const auto& kernel = linalg::kernels().data<In>();
  linalg::parallel_for_if(parts > 1, parts, [&](Index g) {
    double* own = partial.data() + g * stride;
    std::fill(own, own + stride, 0.0);
    const Index begin = rows_ * g / parts, end = rows_ * (g + 1) / parts;
    kernel.rows_gram(end - begin, k_, w_ + begin * k_, k_, x, own);
  });
  subtract_partials(k_, parts, stride, partial.data(), y);
}

template <class In>
void DenseProducts<In>::column_squares(double* out) const {
  const Index parts = groups(), stride = padded(k_);
  Buffer<double> partial(parts * stride);
  linalg::parallel_for_if(parts > 1, parts, [&](Index g) {
    double* own = partial.data() + g * stride;
    std::fill(own, own + stride, 0.0);
    for (Index r = rows_ * g / parts; r < rows_ * (g + 1) / parts; ++r) {
      const In* w = w_ + r * k_;
      for (Index j = 0; j < k_; ++j) own[j] += static_cast<double>(w[j]) * static_cast<double>(w[j]);
    }
  });
  linalg::sum_partials(k_, parts, stride, partial.data(), out);
}

template <class In>
void DenseProducts<In>::subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const {
  // Sets that lie side by side share the cache lines of a chunk of rows: they go to one task.
  std::vector<Index> bundles{0};
  for (Index s = 0, width = 0; s < sets.count(); ++s) {
    width += static_cast<Index>(sets.set(s).size());
    if (width >= kSlabCols || s + 1 == sets.count()) {
      bundles.push_back(s + 1);
      width = 0;
    }
  }
  const auto& kernel = linalg::kernels().f64;
  const Index tasks = static_cast<Index>(bundles.size()) - 1;
  linalg::parallel_for_if(rows_ * k_ >= linalg::kParallelWork, tasks, [&](Index task) {
    const Index first = bundles[static_cast<std::size_t>(task)], last = bundles[static_cast<std::size_t>(task) + 1];
    Index entries = 0, widest = 0;
    for (Index s = first; s < last; ++s) {
      const auto c = static_cast<Index>(sets.set(s).size());
      entries += linalg::padded_size<double>(c);
      widest = std::max(widest, c);
    }
    constexpr Index kStride = linalg::kDepth * kPanel<double>;
    Buffer<double> grams(entries), packed(linalg::padded_ld<double>(widest) * linalg::kDepth);
    std::fill(grams.begin(), grams.end(), 0.0);
    for (Index r = 0; r < rows_; r += linalg::kDepth) {
      const Index count = std::min(linalg::kDepth, rows_ - r);
      double* gram = grams.data();
      for (Index s = first; s < last; ++s) {
        const auto cols = sets.set(s);
        const auto c = static_cast<Index>(cols.size());
        pack_rows(count, c, w_ + r * k_, k_, cols.data(), packed.data(), kStride);
        linalg::parallel_for_if(tasks == 1, (c + linalg::kTile - 1) / linalg::kTile, [&](Index i) {
          const Index i0 = i * linalg::kTile, i1 = std::min(c, i0 + linalg::kTile);
          linalg::rank_update_tile<double>(kernel, {packed.data(), kStride}, 0, count, i0,
                                           linalg::round_up(i1, linalg::kStrip), 0, i1, 1.0, gram,
                                           linalg::padded_ld<double>(c), false);
        });
        gram += linalg::padded_size<double>(c);
      }
    }
    const double* gram = grams.data();
    for (Index s = first; s < last; ++s) {
      const auto c = static_cast<Index>(sets.set(s).size());
      subtract_symmetric(c, gram, linalg::padded_ld<double>(c), out[static_cast<std::size_t>(s)]);
      gram += linalg::padded_size<double>(c);
    }
  });
}

template <class In>
void DenseProducts<In>::subtract_gram(double* s, Index ld) const {
  gram_of_packed(rows_, k_, -1.0, s, ld, [&](Index begin, Index end, double* packed, Index stride) {
    pack_rows(end - begin, k_, w_ + begin * k_, k_, nullptr, packed, stride);
  });
}

template class DenseProducts<double>;
template class DenseProducts<float>;

std::unique_ptr<Whitened> whiten_dense(const ArrowSystem& s, const RowFactors<double>& rows, WhitenedStorage storage) {
  if (storage == WhitenedStorage::float64) return std::make_unique<DenseWhitened<double>>(s, rows);
  return std::make_unique<DenseWhitened<float>>(s, rows);
}

}  // namespace arrowschur::eliminate
