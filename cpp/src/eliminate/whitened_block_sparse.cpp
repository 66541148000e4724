// Block-sparse W: the blocks of B, each whitened by its row's factor.
//
// W'W is owned by border blocks: the task of block a walks its entries in ascending rows and adds W_ia' W_ib for the
// blocks b <= a of each row. No partials, no conflicts, and the block row of S stays in cache. With few blocks of the
// usual sizes a task owns a band of them and reads W by chunks of rows instead.
#include <algorithm>

#include "eliminate/block_index.hpp"
#include "eliminate/whitened_forms.hpp"
#include "system/cross.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;

constexpr Index kGroupValues = Index{1} << 15;  // fewer are not worth a wake-up

Index stored_values(const ArrowSystem& s, const BlockSparseCross& cross) {
  Index values = 0;
  for (Index i = 0; i < s.n(); ++i) {
    Index width = 0;
    for (Index e = cross.indptr[i]; e < cross.indptr[i + 1]; ++e) {
      const auto b = static_cast<std::size_t>(cross.block_index[e]);
      width += cross.block_offsets[b + 1] - cross.block_offsets[b];
    }
    values += s.row_dim(i) * width;
  }
  return values;
}

class BlockSparseForm final : public BlockSparseWhitened {
 public:
  BlockSparseForm(const ArrowSystem& s, const RowFactors<double>& rows, WhitenedStorage storage, TransposeAlong* along)
      : BlockSparseWhitened(s.total_dim(), s.k(), index_of(s)), system_(s) {
    const auto& cross = std::get<BlockSparseCross>(system_.cross());
    indptr_ = {cross.indptr, static_cast<std::size_t>(s.n()) + 1};
    block_index_ = {cross.block_index, static_cast<std::size_t>(entries_)};
    offsets_ = cross.block_offsets;
    const Index values = value_ptr(entries_);
    if (storage == WhitenedStorage::float64) {
      values_ = Buffer<double>(values);
    } else {
      values32_ = Buffer<float>(values);
    }
    with_storage(s.dtype(), cross.values, [&](const auto* b) { fill(rows, b, along); });
  }

  void apply(const double* x, double* y, Index m) const override {
    with_values([&](const auto* w) {
      for_groups(std::max<Index>(1, m), [&](Index, Index begin, Index end) {
        if (m == 1) {
          pass(w, begin, end, x, y, nullptr, nullptr);
        } else {
          apply_many(w, begin, end, x, y, m);
        }
      });
    });
  }

  void transpose(const double* y, double* x, Index m) const override {
    if (m == 1) {
      return with_values([&](const auto* w) {
        with_partials(
            [&](Index begin, Index end, double* own) { pass(w, begin, end, nullptr, nullptr, y, own); },
            [&](const double* partial, Index stride) { linalg::sum_partials(cols_, groups(), stride, partial, x); });
      });
    }
    with_values([&](const auto* w) {
      linalg::parallel_for_if(value_ptr(entries_) * m >= linalg::kParallelWork, blocks_,
                              [&](Index b) { transpose_many(w, b, y, x, m); });
    });
  }

  void subtract_gram_apply(const double* x, double* y) const override {
    with_values([&](const auto* w) {
      Buffer<double> z(rows_);
      with_partials(
          [&](Index begin, Index end, double* own) { pass(w, begin, end, x, z.data(), nullptr, own); },
          [&](const double* partial, Index stride) { subtract_partials(cols_, groups(), stride, partial, y); });
    });
  }

  void column_squares(double* out) const override {
    with_values([&](const auto* w) {
      with_partials(
          [&](Index begin, Index end, double* own) {
            for (Index e = indptr(begin); e < indptr(end); ++e) {
              const Index first = offset(block(e)), width = offset(block(e) + 1) - first;
              for (Index v = value_ptr(e); v < value_ptr(e + 1); v += width) {
                for (Index q = 0; q < width; ++q) {
                  const double value = static_cast<double>(w[v + q]);
                  own[first + q] += value * value;
                }
              }
            }
          },
          [&](const double* partial, Index stride) { linalg::sum_partials(cols_, groups(), stride, partial, out); });
    });
  }

  void subtract_gram(double* s, Index ld) const override {
    with_values([&](const auto* w) {
      if (subtract_gram_in_bands(w, s, ld)) return;
      const Index tasks = blocks_;
      linalg::parallel_for_if(entries_ >= kSerialEntries, tasks, [&](Index task) {
        const Index a = tasks - 1 - task;  // the last blocks meet the longest prefixes: they go first
        if (offset(a) == offset(a + 1)) return;
        auto args = gram_args(w, a);
        args.c = s + offset(a) * ld;
        args.ldc = ld;
        run(args);
      });
    });
  }

  void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const override {
    const Index count = sets.count(), tasks = std::min(count, kSetTasks);
    with_values([&](const auto* w) {
      linalg::parallel_for_if(entries_ >= kSerialEntries, tasks, [&](Index task) {
        Buffer<Index> column(blocks_), first(blocks_);
        std::fill(column.begin(), column.end(), Index{-1});
        for (Index s = task; s < count; s += tasks) {
          subtract_set(w, sets.set(s), column.data(), first.data(), out[static_cast<std::size_t>(s)]);
        }
      });
    });
  }

  void to_dense(double* out, Index ld) const override {
    with_values([&](const auto* w) {
      linalg::parallel_for_if(rows_ * cols_ >= linalg::kParallelWork, groups(), [&](Index g) {
        for (Index i = index_->bounds[g]; i < index_->bounds[g + 1]; ++i) {
          const Index d = system_.row_dim(i);
          double* row = out + system_.row_offset(i) * ld;
          for (Index r = 0; r < d; ++r) std::fill(row + r * ld, row + r * ld + cols_, 0.0);
          for (Index e = indptr(i); e < indptr(i + 1); ++e) {
            const Index first = offset(block(e)), width = offset(block(e) + 1) - first;
            for (Index r = 0; r < d; ++r) {
              for (Index q = 0; q < width; ++q) {
                row[r * ld + first + q] = static_cast<double>(w[value_ptr(e) + r * width + q]);
              }
            }
          }
        }
      });
    });
  }

  Index nbytes() const override { return values_.nbytes() + values32_.nbytes() + index_->nbytes(); }

 private:
  static constexpr Index kSerialEntries = 4096;  // fewer are not worth a wake-up
  static constexpr Index kSetTasks = 64;

  Index indptr(Index row) const { return indptr_[static_cast<std::size_t>(row)]; }
  Index block(Index e) const { return block_index_[static_cast<std::size_t>(e)]; }
  Index offset(Index b) const { return offsets_[static_cast<std::size_t>(b)]; }
  Index groups() const { return index_->bounds.size() - 1; }

  template <class F>
  void with_values(F&& f) const {
    values32_.size() > 0 ? f(values32_.data()) : f(values_.data());
  }
  template <class In>
  static const linalg::DataKernelTable<In>& kernel(const In*) {
    return linalg::kernels().data<In>();
  }

  template <class F>
  void for_groups(Index m, F&& f) const {
    linalg::parallel_for_if(value_ptr(entries_) * m >= kGroupValues * 2, groups(),
                            [&](Index g) { f(g, index_->bounds[g], index_->bounds[g + 1]); });
  }
  // f(row begin, row end, partial [k]) for every group, then g(partials, stride).
  template <class F, class G>
  void with_partials(F&& f, G&& g) const {
    const Index stride = linalg::round_up(cols_, 8);
    Buffer<double> partial(groups() * stride);
    for_groups(1, [&](Index group, Index begin, Index end) {
      double* own = partial.data() + group * stride;
      std::fill(own, own + stride, 0.0);
      f(begin, end, own);
    });
    g(partial.data(), stride);
  }

  // f(stretch) for the parts of the stretches that lie in rows [begin, end).
  template <class F>
  void within(Index begin, Index end, F&& f) const {
    auto at = std::upper_bound(index_->stretches.begin(), index_->stretches.end(), begin,
                               [](Index row, const Stretch& s) { return row < s.row; });
    if (at != index_->stretches.begin()) --at;
    for (; at != index_->stretches.end() && at->row < end; ++at) {
      const Index first = std::max(begin, at->row), last = std::min(end, at->row + at->count);
      if (first < last && at->d > 0) f(Stretch{first, last - first, at->d});
    }
  }

  // Rows [begin, end): z = W x and own += W'z, or own += W'v when x is null; nothing is added when own is null.
  template <class In>
  void pass(const In* w, Index begin, Index end, const double* x, double* z, const double* v, double* own) const {
    within(begin, end, [&](const Stretch& s) {
      linalg::BlockRowsArgs<In> args;
      args.d = s.d;
      args.count = s.count;
      args.b = index_->width;
      args.ptr = indptr_.data() + s.row;
      args.block = block_index_.data();
      args.offsets = offsets_.data();
      args.values = w + value_ptr(indptr(s.row));
      args.x = x;
      args.z = z == nullptr ? nullptr : z + system_.row_offset(s.row);
      args.v = v == nullptr ? nullptr : v + system_.row_offset(s.row);
      args.acc = own;
      kernel(w).block_rows(args);
    });
  }

  template <class In>
  void apply_many(const In* w, Index begin, Index end, const double* x, double* y, Index m) const {
    const auto& axpy = linalg::kernels().data64.rows_axpy;
    Buffer<double> line(std::max<Index>(1, widest()));
    for (Index i = begin; i < end; ++i) {
      const Index d = system_.row_dim(i);
      double* out = y + system_.row_offset(i) * m;
      std::fill(out, out + d * m, 0.0);
      for (Index e = indptr(i); e < indptr(i + 1); ++e) {
        const Index first = offset(block(e)), width = offset(block(e) + 1) - first;
        for (Index r = 0; r < d; ++r) {
          for (Index q = 0; q < width; ++q) line[q] = static_cast<double>(w[value_ptr(e) + r * width + q]);
          axpy(width, m, x + first * m, m, line.data(), out + r * m, nullptr);
        }
      }
    }
  }
  template <class In>
  void transpose_many(const In* w, Index b, const double* y, double* x, Index m) const {
    const auto& axpy = linalg::kernels().data64.rows_axpy;
    const Index first = offset(b), width = offset(b + 1) - first;
    std::fill(x + first * m, x + (first + width) * m, 0.0);
    Buffer<double> column(std::max<Index>(1, system_.max_dim()));
    for (Index t = index_->block_ptr[b]; t < index_->block_ptr[b + 1]; ++t) {
      const Index e = index_->by_block[t], row = index_->row_of[e], d = system_.row_dim(row);
      for (Index q = 0; q < width; ++q) {
        for (Index r = 0; r < d; ++r) column[r] = static_cast<double>(w[value_ptr(e) + r * width + q]);
        axpy(d, m, y + system_.row_offset(row) * m, m, column.data(), x + (first + q) * m, nullptr);
      }
    }
  }
  Index widest() const {
    Index most = 0;
    for (Index b = 0; b < blocks_; ++b) most = std::max(most, offset(b + 1) - offset(b));
    return most;
  }

  template <class In>
  linalg::BlockGramArgs<In> gram_args(const In* w, Index a) const {
    linalg::BlockGramArgs<In> args;
    args.count = index_->block_ptr[a + 1] - index_->block_ptr[a];
    args.entries = index_->by_block.data() + index_->block_ptr[a];
    args.width = offset(a + 1) - offset(a);
    args.d = index_->height;
    args.b = index_->width;
    args.row_of = index_->row_of.data();
    args.ptr = indptr_.data();
    args.block = block_index_.data();
    args.offsets = offsets_.data();
    args.value_ptr = index_->value_ptr.data();
    args.values = w;
    return args;
  }

  // False: too many border blocks, or sizes without a kernel.
  template <class In>
  bool subtract_gram_in_bands(const In* w, double* s, Index ld) const {
    linalg::GramBandArgs<In> args;
    args.d = index_->height;
    args.b = index_->width;
    if (!index_->tiles_fit() || !kernel(w).gram_band(args)) return false;  // no entries yet: only asks
    const BlockIndex::GramLists& lists = index_->gram_lists();
    args.chunks = lists.chunks;
    args.blocks = blocks_;
    args.list = lists.list.data();
    args.ptr = lists.ptr.data();
    args.block = block_index_.data();
    args.values = w;

    // A tile is summed in the order of the rows, whatever its band: bands follow the threads, with equal numbers of
    // pairs.
    const Index bands = linalg::current_threads();
    const std::vector<Index>& pairs = lists.pairs;
    const auto bound = [&](Index band) {
      return std::lower_bound(pairs.begin(), pairs.end() - 1, pairs.back() * band / bands) - pairs.begin();
    };
    linalg::parallel_for(bands, [&](Index band) {
      auto own = args;
      own.begin = bound(band);
      own.end = band + 1 == bands ? blocks_ : bound(band + 1);
      const auto before = [](Index a) { return a * (a + 1) / 2; };
      Buffer<double> tiles((before(own.end) - before(own.begin)) * linalg::kGramTile);
      std::fill(tiles.begin(), tiles.end(), 0.0);
      own.tiles = tiles.data();
      kernel(w).gram_band(own);
      const double* tile = tiles.data();
      for (Index a = own.begin; a < own.end; ++a) {
        for (Index b = 0; b <= a; ++b, tile += linalg::kGramTile) {
          linalg::kernels().only64.subtract_gram_tile(args.b, tile, s + offset(a) * ld + offset(b), ld, a == b);
        }
      }
    });
    return true;
  }

  template <class In>
  void run(linalg::BlockGramArgs<In>& args) const {
    const bool tiled = index_->width > 1;
    const Index used = args.own_only ? 1 : blocks_;
    Buffer<double> tiles(tiled ? used * linalg::kGramTile : 0);
    Buffer<Index> list(tiled ? used : 0);
    Buffer<char> touched(tiled ? used : 0);
    std::fill(touched.begin(), touched.end(), char{0});
    args.tiles = tiles.data();
    args.list = list.data();
    args.touched = touched.data();
    kernel(args.values).block_gram(args);
  }

  // out [c, c] -= the columns' part of W'W. `column` [blocks] is -1 everywhere, and left so; `first` is scratch.
  template <class In>
  void subtract_set(const In* w, std::span<const Index> cols, Index* column, Index* first, double* out) const {
    const auto c = static_cast<Index>(cols.size());
    Buffer<double> gram(c * c);
    std::fill(gram.begin(), gram.end(), 0.0);
    // Blocks of the set: block b has the positions column[b] .. column[b] + live[b] of the set.
    struct Part {
      Index block, begin, count;
    };
    std::vector<Part> parts;
    bool whole = true;
    for (Index j = 0; j < c;) {
      const Index col = cols[static_cast<std::size_t>(j)];
      const Index b = std::upper_bound(offsets_.begin(), offsets_.end(), col) - offsets_.begin() - 1;
      Index end = j;
      while (end < c && cols[static_cast<std::size_t>(end)] < offset(b + 1)) ++end;
      whole = whole && end - j == offset(b + 1) - offset(b);
      parts.push_back({b, j, end - j});
      column[b] = j;
      first[b] = static_cast<Index>(parts.size()) - 1;
      j = end;
    }
    const auto count = static_cast<Index>(parts.size());
    const auto part = [&](Index p) -> const Part& { return parts[static_cast<std::size_t>(p)]; };
    linalg::parallel_for_if(entries_ >= kSerialEntries && count > 1, count, [&](Index p) {
      const Part& a = part(count - 1 - p);
      if (whole) {
        auto args = gram_args(w, a.block);
        args.column = column;
        args.own_only = count == 1;
        args.c = gram.data() + a.begin * c;
        args.ldc = c;
        return run(args);
      }
      const Index width_a = offset(a.block + 1) - offset(a.block);
      for (Index t = index_->block_ptr[a.block]; t < index_->block_ptr[a.block + 1]; ++t) {
        const Index e = index_->by_block[t], d = system_.row_dim(index_->row_of[e]);
        for (Index f = indptr(index_->row_of[e]); f <= e; ++f) {
          if (column[block(f)] < 0) continue;
          const Part& b = part(first[block(f)]);
          const Index width_b = offset(b.block + 1) - offset(b.block);
          for (Index i = a.begin; i < a.begin + a.count; ++i) {
            const In* wa = w + value_ptr(e) + cols[static_cast<std::size_t>(i)] - offset(a.block);
            for (Index j = b.begin; j < b.begin + b.count && j <= i; ++j) {
              const In* wb = w + value_ptr(f) + cols[static_cast<std::size_t>(j)] - offset(b.block);
              double sum = 0.0;
              for (Index r = 0; r < d; ++r) {
                sum += static_cast<double>(wa[r * width_a]) * static_cast<double>(wb[r * width_b]);
              }
              gram[i * c + j] -= sum;
            }
          }
        }
      }
    });
    for (const Part& a : parts) column[a.block] = -1;
    for (Index i = 0; i < c; ++i) {
      for (Index j = 0; j <= i; ++j) {
        out[i * c + j] += gram[i * c + j];
        if (j < i) out[j * c + i] += gram[i * c + j];
      }
    }
  }

  template <class From>
  void fill(const RowFactors<double>& rows, const From* b, TransposeAlong* along) {
    if (along == nullptr) {
      return for_groups(1, [&](Index, Index begin, Index end) { fill_rows(rows, b, begin, end, nullptr, nullptr); });
    }
    const std::vector<Index> bounds = cross::transpose_groups(system_);
    const Index parts = static_cast<Index>(bounds.size()) - 1, stride = linalg::round_up(cols_, 8);
    Buffer<double> partial(parts * stride);
    linalg::parallel_for_if(value_ptr(entries_) >= kGroupValues * 2, parts, [&](Index g) {
      double* own = partial.data() + g * stride;
      std::fill(own, own + stride, 0.0);
      const auto first = static_cast<std::size_t>(g);
      fill_rows(rows, b, bounds[first], bounds[first + 1], along->y, own);
    });
    linalg::sum_partials(cols_, parts, stride, partial.data(), along->out);
    along->done = true;
  }

  // Rows [begin, end), and partial += B'y when y is given.
  template <class From>
  void fill_rows(const RowFactors<double>& rows, const From* b, Index begin, Index end, const double* y,
                 double* partial) {
    constexpr Index kRows = 64;  // whose values stay in cache
    const bool keep = values_.size() > 0 || value_ptr(entries_) == 0;
    const auto& buckets = system_.buckets();
    Buffer<double> scratch;
    within(begin, end, [&](const Stretch& stretch) {
      std::size_t bucket = 0;
      while (buckets[bucket].d != stretch.d) ++bucket;
      const auto& listed = buckets[bucket].rows;
      const Index position =
          listed.empty() ? stretch.row : std::lower_bound(listed.begin(), listed.end(), stretch.row) - listed.begin();
      const BucketFactor<double>& f = rows.buckets[bucket];
      for (Index i = 0; i < stretch.count; i += kRows) {
        const Index count = std::min(kRows, stretch.count - i), row = stretch.row + i;
        const Index v0 = value_ptr(indptr(row)), v1 = value_ptr(indptr(row + count));
        double* to = keep ? values_.data() + v0 : nullptr;
        if (!keep) {
          if (scratch.size() < v1 - v0) scratch = Buffer<double>(v1 - v0);
          to = scratch.data();
        }
        if constexpr (std::is_same_v<From, double>) {
          whiten_rows(f, position + i, row, count, b + v0, to);
        } else {
          for (Index v = v0; v < v1; ++v) to[v - v0] = static_cast<double>(b[v]);
          whiten_rows(f, position + i, row, count, to, to);
        }
        if (!keep) {
          for (Index v = v0; v < v1; ++v) values32_[v] = static_cast<float>(to[v - v0]);
        }
        if (y != nullptr) cross::add_transposed(system_, row, row + count, y, partial);
      }
    });
  }
  // `values` may be `from`.
  void whiten_rows(const BucketFactor<double>& f, Index position, Index row, Index count, const double* from,
                   double* values) const {
    if (f.d <= linalg::kMaxSmall) {
      return linalg::kernels().only64.whiten_blocks(f.d, index_->width, count, f.l.data() + position * f.d * f.d,
                                                    f.inv.data() + position * f.d, indptr_.data() + row,
                                                    index_->value_ptr.data(), from, values);
    }
    const Index v0 = value_ptr(indptr(row));
    if (values != from) std::copy(from, from + value_ptr(indptr(row + count)) - v0, values);
    for (Index i = 0; i < count; ++i) {
      for (Index e = indptr(row + i); e < indptr(row + i + 1); ++e) {
        solve_blocks(backend::Part::lower, f, position + i, 1, values + value_ptr(e) - v0,
                     offset(block(e) + 1) - offset(block(e)));
      }
    }
  }

  Index value_ptr(Index e) const { return index_->value_ptr[e]; }

  ArrowSystem system_;
  Index entries_ = index_->entries, blocks_ = index_->blocks();
};

}  // namespace

std::unique_ptr<Whitened> whiten_block_sparse(const ArrowSystem& s, const RowFactors<double>& rows,
                                              WhitenedStorage storage, TransposeAlong* along) {
  return std::make_unique<BlockSparseForm>(s, rows, storage, along);
}

Index whitened_bytes_block_sparse(const ArrowSystem& s, WhitenedStorage storage) {
  return stored_values(s, std::get<BlockSparseCross>(s.cross())) * bytes_of(storage) + BlockIndex::nbytes(s);
}

}  // namespace arrowschur::eliminate
