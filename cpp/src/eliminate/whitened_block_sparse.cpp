// Block-sparse W: the blocks of B, each whitened by its row's factor.
//
// W'W is owned by border blocks: the task of block a walks its entries in ascending rows and adds W_ia' W_ib for the
// blocks b <= a of each row. No partials, no conflicts, and the block row of S stays in cache. With few blocks of the
// usual sizes a task owns a band of them and reads W in order instead.
#include <numeric>

#include "eliminate/whitened_forms.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;

constexpr Index kMostGroups = 32;  // private partials of k entries
constexpr Index kGroupValues = Index{1} << 15;
constexpr Index kBandBytes = Index{1} << 18;  // of tiles: leaves room for W in an L2 cache
constexpr Index kMostBands = 16;

// Rows that follow one another in the caller's order and have the same size.
struct Stretch {
  Index row, count, d;
};
std::vector<Stretch> stretches_of(const ArrowSystem& s) {
  std::vector<Stretch> out;
  if (s.is_uniform()) {
    if (s.n() > 0) out.push_back({0, s.n(), s.row_dim(0)});
    return out;
  }
  for (Index i = 0; i < s.n(); ++i) {
    if (out.empty() || out.back().d != s.row_dim(i)) out.push_back({i, 0, s.row_dim(i)});
    ++out.back().count;
  }
  return out;
}

Index common_width(std::span<const Index> offsets) {
  const Index width = offsets.size() > 1 ? offsets[1] - offsets[0] : 0;
  for (std::size_t b = 1; b + 1 < offsets.size(); ++b) {
    if (offsets[b + 1] - offsets[b] != width) return 0;
  }
  return width;
}

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
  BlockSparseForm(const ArrowSystem& s, const RowFactors<double>& rows, WhitenedStorage storage)
      : BlockSparseWhitened(s.total_dim(), s.k()), system_(s), stretches_(stretches_of(s)) {
    const auto& cross = std::get<BlockSparseCross>(system_.cross());
    indptr_ = {cross.indptr, static_cast<std::size_t>(s.n()) + 1};
    entries_ = cross.indptr[s.n()];
    block_index_ = {cross.block_index, static_cast<std::size_t>(entries_)};
    offsets_ = cross.block_offsets;
    blocks_ = static_cast<Index>(offsets_.size()) - 1;
    width_ = common_width(offsets_);
    height_ = stretches_.size() == 1 ? stretches_.front().d : 0;
    index_pattern();
    const Index values = value_ptr_[entries_];
    if (storage == WhitenedStorage::float64) {
      values_ = Buffer<double>(values);
    } else {
      values32_ = Buffer<float>(values);
    }
    split_rows();
    with_storage(s.dtype(), cross.values, [&](const auto* b) { fill(rows, b); });
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
      linalg::parallel_for_if(value_ptr_[entries_] * m >= linalg::kParallelWork, blocks_,
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
              for (Index v = value_ptr_[e]; v < value_ptr_[e + 1]; v += width) {
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
        for (Index i = bounds_[g]; i < bounds_[g + 1]; ++i) {
          const Index d = system_.row_dim(i);
          double* row = out + system_.row_offset(i) * ld;
          for (Index r = 0; r < d; ++r) std::fill(row + r * ld, row + r * ld + cols_, 0.0);
          for (Index e = indptr(i); e < indptr(i + 1); ++e) {
            const Index first = offset(block(e)), width = offset(block(e) + 1) - first;
            for (Index r = 0; r < d; ++r) {
              for (Index q = 0; q < width; ++q) {
                row[r * ld + first + q] = static_cast<double>(w[value_ptr_[e] + r * width + q]);
              }
            }
          }
        }
      });
    });
  }

  Index nbytes() const override {
    return values_.nbytes() + values32_.nbytes() + value_ptr_.nbytes() + block_ptr_.nbytes() + by_block_.nbytes() +
           row_of_.nbytes() + static_cast<Index>(stretches_.size() * sizeof(Stretch));
  }

 private:
  static constexpr Index kSerialEntries = 4096;  // fewer are not worth a wake-up
  static constexpr Index kSetTasks = 64;

  Index indptr(Index row) const { return indptr_[static_cast<std::size_t>(row)]; }
  Index block(Index e) const { return block_index_[static_cast<std::size_t>(e)]; }
  Index offset(Index b) const { return offsets_[static_cast<std::size_t>(b)]; }
  Index groups() const { return bounds_.size() - 1; }

  template <class F>
  void with_values(F&& f) const {
    values32_.size() > 0 ? f(values32_.data()) : f(values_.data());
  }
  template <class In>
  static const linalg::DataKernelTable<In>& kernel(const In*) {
    return linalg::kernels().data<In>();
  }

  void index_pattern() {
    value_ptr_ = Buffer<Index>(entries_ + 1);
    row_of_ = Buffer<Index>(entries_);
    block_ptr_ = Buffer<Index>(blocks_ + 1);
    by_block_ = Buffer<Index>(entries_);
    std::fill(block_ptr_.begin(), block_ptr_.end(), Index{0});
    Index value = 0;
    for (const Stretch& stretch : stretches_) {
      for (Index i = stretch.row; i < stretch.row + stretch.count; ++i) {
        for (Index e = indptr(i); e < indptr(i + 1); ++e) {
          row_of_[e] = i;
          value_ptr_[e] = value;
          value += stretch.d * (offset(block(e) + 1) - offset(block(e)));
          ++block_ptr_[block(e) + 1];
        }
      }
    }
    value_ptr_[entries_] = value;
    for (Index b = 0; b < blocks_; ++b) block_ptr_[b + 1] += block_ptr_[b];
    Buffer<Index> next(blocks_);
    std::copy(block_ptr_.data(), block_ptr_.data() + blocks_, next.data());
    for (Index e = 0; e < entries_; ++e) by_block_[next[block(e)]++] = e;
  }

  // Groups of rows with about equal numbers of values, fixed by the pattern.
  void split_rows() {
    const Index values = value_ptr_[entries_], n = system_.n();
    const Index parts = std::clamp<Index>(values / std::max(kGroupValues, 2 * cols_), 1, kMostGroups);
    bounds_ = Buffer<Index>(parts + 1);
    bounds_[0] = 0;
    bounds_[parts] = n;
    for (Index g = 1; g < parts; ++g) {
      const Index* at = std::lower_bound(value_ptr_.data(), value_ptr_.data() + entries_, values * g / parts);
      bounds_[g] = row_of_[at - value_ptr_.data()];
    }
  }

  template <class F>
  void for_groups(Index m, F&& f) const {
    linalg::parallel_for_if(value_ptr_[entries_] * m >= kGroupValues * 2, groups(),
                            [&](Index g) { f(g, bounds_[g], bounds_[g + 1]); });
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
    auto at = std::upper_bound(stretches_.begin(), stretches_.end(), begin,
                               [](Index row, const Stretch& s) { return row < s.row; });
    if (at != stretches_.begin()) --at;
    for (; at != stretches_.end() && at->row < end; ++at) {
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
      args.b = width_;
      args.ptr = indptr_.data() + s.row;
      args.block = block_index_.data();
      args.offsets = offsets_.data();
      args.values = w + value_ptr_[indptr(s.row)];
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
          for (Index q = 0; q < width; ++q) line[q] = static_cast<double>(w[value_ptr_[e] + r * width + q]);
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
    for (Index t = block_ptr_[b]; t < block_ptr_[b + 1]; ++t) {
      const Index e = by_block_[t], row = row_of_[e], d = system_.row_dim(row);
      for (Index q = 0; q < width; ++q) {
        for (Index r = 0; r < d; ++r) column[r] = static_cast<double>(w[value_ptr_[e] + r * width + q]);
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
    args.count = block_ptr_[a + 1] - block_ptr_[a];
    args.entries = by_block_.data() + block_ptr_[a];
    args.width = offset(a + 1) - offset(a);
    args.d = height_;
    args.b = width_;
    args.row_of = row_of_.data();
    args.ptr = indptr_.data();
    args.block = block_index_.data();
    args.offsets = offsets_.data();
    args.value_ptr = value_ptr_.data();
    args.values = w;
    return args;
  }

  // False: too many border blocks, or sizes without a kernel.
  template <class In>
  bool subtract_gram_in_bands(const In* w, double* s, Index ld) const {
    linalg::GramBandArgs<In> args;
    args.d = height_;
    args.b = width_;
    // A tile is summed in the order of the rows, whatever its band: their number is free to follow the threads.
    const Index bytes = blocks_ * (blocks_ + 1) / 2 * linalg::kGramTile * 8, threads = linalg::current_threads();
    const Index bands = linalg::round_up(std::max(bytes / kBandBytes, Index{1}), threads);
    if (bytes > kMostBands * kBandBytes || entries_ < kSerialEntries || !kernel(w).gram_band(args))
      return false;  // only asks
    args.rows = system_.n();
    args.ptr = indptr_.data();
    args.block = block_index_.data();
    args.values = w;

    // Equal numbers of pairs.
    std::vector<Index> pairs(static_cast<std::size_t>(blocks_) + 1, 0);
    for (Index i = 0; i < args.rows; ++i) {
      for (Index e = indptr(i); e < indptr(i + 1); ++e)
        pairs[static_cast<std::size_t>(block(e)) + 1] += e - indptr(i) + 1;
    }
    std::partial_sum(pairs.begin(), pairs.end(), pairs.begin());
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
          linalg::kernels().only64.subtract_gram_tile(width_, tile, s + offset(a) * ld + offset(b), ld, a == b);
        }
      }
    });
    return true;
  }

  template <class In>
  void run(linalg::BlockGramArgs<In>& args) const {
    const bool tiled = width_ > 1;
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
      for (Index t = block_ptr_[a.block]; t < block_ptr_[a.block + 1]; ++t) {
        const Index e = by_block_[t], d = system_.row_dim(row_of_[e]);
        for (Index f = indptr(row_of_[e]); f <= e; ++f) {
          if (column[block(f)] < 0) continue;
          const Part& b = part(first[block(f)]);
          const Index width_b = offset(b.block + 1) - offset(b.block);
          for (Index i = a.begin; i < a.begin + a.count; ++i) {
            const In* wa = w + value_ptr_[e] + cols[static_cast<std::size_t>(i)] - offset(a.block);
            for (Index j = b.begin; j < b.begin + b.count && j <= i; ++j) {
              const In* wb = w + value_ptr_[f] + cols[static_cast<std::size_t>(j)] - offset(b.block);
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
  void fill(const RowFactors<double>& rows, const From* b) {
    const bool keep = values_.size() > 0 || value_ptr_[entries_] == 0;
    const auto& buckets = system_.buckets();
    for_groups(1, [&](Index, Index begin, Index end) {
      constexpr Index kRows = 64;
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
          const Index v0 = value_ptr_[indptr(row)], v1 = value_ptr_[indptr(row + count)];
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
        }
      });
    });
  }
  // `values` may be `from`.
  void whiten_rows(const BucketFactor<double>& f, Index position, Index row, Index count, const double* from,
                   double* values) const {
    if (f.d <= linalg::kMaxSmall) {
      return linalg::kernels().only64.whiten_blocks(f.d, count, f.l.data() + position * f.d * f.d,
                                                    f.inv.data() + position * f.d, indptr_.data() + row,
                                                    value_ptr_.data(), from, values);
    }
    const Index v0 = value_ptr_[indptr(row)];
    if (values != from) std::copy(from, from + value_ptr_[indptr(row + count)] - v0, values);
    for (Index i = 0; i < count; ++i) {
      for (Index e = indptr(row + i); e < indptr(row + i + 1); ++e) {
        solve_blocks(backend::Part::lower, f, position + i, 1, values + value_ptr_[e] - v0,
                     offset(block(e) + 1) - offset(block(e)));
      }
    }
  }

  ArrowSystem system_;
  std::vector<Stretch> stretches_;
  Index entries_ = 0, blocks_ = 0;
  Index height_ = 0, width_ = 0;  // of every block; 0: they differ
  Buffer<Index> bounds_;          // rows of the groups
};

}  // namespace

std::unique_ptr<Whitened> whiten_block_sparse(const ArrowSystem& s, const RowFactors<double>& rows,
                                              WhitenedStorage storage) {
  return std::make_unique<BlockSparseForm>(s, rows, storage);
}

Index whitened_bytes_block_sparse(const ArrowSystem& s, WhitenedStorage storage) {
  const auto& cross = std::get<BlockSparseCross>(s.cross());
  const Index entries = cross.indptr[s.n()], blocks = static_cast<Index>(cross.block_offsets.size()) - 1;
  return stored_values(s, cross) * bytes_of(storage) + static_cast<Index>(sizeof(Index)) * (3 * entries + blocks + 2) +
         static_cast<Index>(stretches_of(s).size() * sizeof(Stretch));
}

}  // namespace arrowschur::eliminate
