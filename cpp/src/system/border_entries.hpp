// The stored entries of a border inside a rectangle of rows and columns: what assembling, sub-blocks and factors read.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/system.hpp"
#include "linalg/buffer.hpp"
#include "system/border_kronecker.hpp"

namespace arrowschur::border {

// A set of ascending indices, addressed by position: all of begin .. end, or the listed ones.
struct IndexRange {
  Index begin, end;

  Index at(Index position) const { return begin + position; }
  Index low() const { return begin; }
  Index high() const { return end; }  // behind the last
  // Positions of the indices in [lo, hi).
  std::pair<Index, Index> slice(Index lo, Index hi) const {
    const Index first = std::max(lo, begin) - begin;
    return {first, std::max(first, std::min(hi, end) - begin)};
  }
  Index find(Index index) const { return index >= begin && index < end ? index - begin : -1; }
};
struct IndexList {
  std::span<const Index> indices;

  Index at(Index position) const { return indices[static_cast<std::size_t>(position)]; }
  Index low() const { return indices.empty() ? 0 : indices.front(); }
  Index high() const { return indices.empty() ? 0 : indices.back() + 1; }
  std::pair<Index, Index> slice(Index lo, Index hi) const {
    const auto first = std::lower_bound(indices.begin(), indices.end(), lo);
    const auto last = std::lower_bound(first, indices.end(), std::max(lo, hi));
    return {first - indices.begin(), last - indices.begin()};
  }
  Index find(Index index) const {
    const auto it = std::lower_bound(indices.begin(), indices.end(), index);
    return it != indices.end() && *it == index ? it - indices.begin() : -1;
  }
};

// Calls f(row position, column position, value) for the stored entries P[i, j], j <= i, of one term with i in `rows`
// and j in `cols`. The same entry may come several times, to be added. Cost: the entries of the rectangle, and one test per
// block of the term; never a scan of the rectangle where the term is sparse.
template <class In, class Set, class F>
struct EntryVisitor {
  Index k;
  const Set& rows;
  const Set& cols;
  F& f;

  void operator()(const DenseBorder& t) const { square(static_cast<const In*>(t.data), k, 0); }

  void operator()(const DiagonalBorder& t) const {
    const In* diagonal = static_cast<const In*>(t.data);
    const auto [begin, end] = rows.slice(cols.low(), cols.high());
    for (Index r = begin; r < end; ++r) {
      const Index i = rows.at(r), c = cols.find(i);
      if (c >= 0) f(r, c, static_cast<double>(diagonal[i]));
    }
  }

  void operator()(const BandedBorder& t) const {
    const In* bands = static_cast<const In*>(t.bands);
    const auto [begin, end] = rows.slice(cols.low(), cols.high() + t.bandwidth);
    for (Index r = begin; r < end; ++r) {
      const Index i = rows.at(r);
      const auto [first, last] = cols.slice(i - t.bandwidth, i + 1);
      for (Index c = first; c < last; ++c) {
        const Index j = cols.at(c);
        f(r, c, static_cast<double>(bands[(i - j) * k + j]));
      }
    }
  }

  void operator()(const BlockDiagonalBorder& t) const {
    const In* block = static_cast<const In*>(t.data);
    Index first = 0;
    for (const Index size : t.sizes) {
      if (first >= rows.high() || first >= cols.high()) return;
      square(block, size, first);
      block += size * size;
      first += size;
    }
  }

  void operator()(const KroneckerBorder& t) const {
    const In* factor = static_cast<const In*>(t.factors);
    Index first = 0;
    for (const Index size : t.sizes) {
      if (first >= rows.high() || first >= cols.high()) return;
      left_block({factor, size, size, false}, first, first, t.p);
      factor += size * size;
      first += size * t.p;
    }
  }

  void operator()(const KroneckerProductBorder& t) const {
    const In* a = static_cast<const In*>(t.a);
    const In* b = static_cast<const In*>(t.b);
    const auto lower = [](const In* x, Index size, Index r, Index c) {
      return static_cast<double>(x[std::max(r, c) * size + std::min(r, c)]);
    };
    const auto [begin, end] = rows.slice(t.offset, t.offset + t.pa * t.pb);
    for (Index r = begin; r < end; ++r) {
      const Index i = rows.at(r) - t.offset;
      const auto [first, last] = cols.slice(t.offset, t.offset + i + 1);
      for (Index c = first; c < last; ++c) {
        const Index j = cols.at(c) - t.offset;
        f(r, c, lower(a, t.pa, i / t.pb, j / t.pb) * lower(b, t.pb, i % t.pb, j % t.pb));
      }
    }
  }

  void operator()(const SparseBlockKroneckerBorder& t) const {
    const In* values = static_cast<const In*>(t.values);
    auto first = t.blocks.begin(), last = t.blocks.end();
    if (t.tallest > 0) {
      const auto starts_before = [](const auto& block, Index row) { return std::max(block.row, block.col) < row; };
      first = std::lower_bound(first, last, rows.low() / t.p - t.tallest + 1, starts_before);
      last = std::lower_bound(first, last, (rows.high() + t.p - 1) / t.p, starts_before);
    }
    for (auto it = first; it != last; ++it) {
      const auto& block = *it;
      const bool above = block.row < block.col;
      if (above && !t.mirror) continue;
      const LeftBlock<In> left{values + block.data, block.rows, block.cols, above};
      left_block(left, (above ? block.col : block.row) * t.p, (above ? block.row : block.col) * t.p, t.p);
    }
  }

  void operator()(const FramedKroneckerBorder& t) const {
    const In* values = static_cast<const In*>(t.values);
    const std::vector<Index> offsets = group_offsets(t);
    for (std::size_t e = 0; e < t.blocks.size(); ++e) {
      const auto& block = t.blocks[e];
      const bool above = block.a < block.b;
      if (above && !t.mirror) continue;
      const Index a = above ? block.b : block.a, b = above ? block.a : block.b;
      const auto &row_group = t.groups[static_cast<std::size_t>(a)], &col_group = t.groups[static_cast<std::size_t>(b)];
      const Index row_first = offsets[static_cast<std::size_t>(a)], col_first = offsets[static_cast<std::size_t>(b)];
      const auto [begin, end] = rows.slice(row_first, row_first + row_group.basis * row_group.width);
      const auto [first, last] = cols.slice(col_first, col_first + col_group.basis * col_group.width);
      if (begin == end || first == last) continue;
      const LeftBlock<In> left{values + block.data, t.groups[static_cast<std::size_t>(block.a)].basis,
                               t.groups[static_cast<std::size_t>(block.b)].basis, above};
      if (row_group.frame == nullptr && col_group.frame == nullptr) {
        left_block(left, row_first, col_first, t.p);
        continue;
      }
      const FrameProduct<In> w(t, e);
      for (Index r = begin; r < end; ++r) {
        const Index i = rows.at(r) - row_first, l = i / row_group.width, q = i % row_group.width;
        const auto [from, to] =
            cols.slice(col_first, std::min(rows.at(r), col_first + col_group.basis * col_group.width - 1) + 1);
        for (Index c = from; c < to; ++c) {
          const Index j = cols.at(c) - col_first, m = j / col_group.width, s = j % col_group.width;
          f(r, c, left(l, m) * (above ? w(s, q) : w(q, s)));
        }
      }
    }
  }

  void operator()(const OperatorBorder&) const {
    throw UnsupportedConfiguration("an operator border", "direct", "mode='inexact_pcg', or a border with entries");
  }

 private:
  void square(const In* m, Index size, Index first) const {
    const auto [begin, end] = rows.slice(first, first + size);
    for (Index r = begin; r < end; ++r) {
      const Index i = rows.at(r);
      const In* row = m + (i - first) * size - first;
      const auto [from, to] = cols.slice(first, i + 1);
      for (Index c = from; c < to; ++c) f(r, c, static_cast<double>(row[cols.at(c)]));
    }
  }

  // A (x) I_p with its first row and column at the given indices.
  void left_block(const LeftBlock<In>& a, Index row_first, Index col_first, Index p) const {
    const auto [begin, end] = rows.slice(row_first, row_first + a.height() * p);
    if (col_first >= cols.high() || col_first + a.width() * p <= cols.low()) return;
    for (Index r = begin; r < end; ++r) {
      const Index i = rows.at(r) - row_first, mu = i / p, c = i % p;
      // Column col_first + nu p + c between low() and high(), and not right of the diagonal.
      const Index below = cols.low() - col_first - c, above = cols.high() - col_first - c;
      const Index nu_begin = below <= 0 ? 0 : (below + p - 1) / p;
      Index nu_end = std::min(a.width(), above <= 0 ? 0 : (above + p - 1) / p);
      if (row_first == col_first) nu_end = std::min(nu_end, mu + 1);
      for (Index nu = nu_begin; nu < nu_end; ++nu) {
        const Index position = cols.find(col_first + nu * p + c);
        if (position >= 0) f(r, position, a(mu, nu));
      }
    }
  }
};

}  // namespace arrowschur::border
