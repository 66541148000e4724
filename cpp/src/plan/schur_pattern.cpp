#include "plan/schur_pattern.hpp"

#include <algorithm>
#include <numeric>

#include <Eigen/OrderingMethods>
#include <Eigen/SparseCore>

#include "system/border.hpp"
#include "system/cross.hpp"

namespace arrowschur {
namespace {

constexpr double kDensest = 0.3;       // of S: fuller ones are left to the dense route
constexpr double kFullestFactor = 0.6;  // of the lower triangle
constexpr Index kSampledColumns = 32;
constexpr double kClearly = 1.25;  // times kDensest, in a sample
constexpr Index kSmallest = 512;  // columns below which a dense factor takes less time than the pattern
constexpr double kFullBand = 1.25;  // envelope / entries of S: no order fills much less
constexpr Index kPanelColumns = 128;  // wider supernodes are cut

// Zeros that a merged supernode may store, by its columns: narrow panels cost more in calls than in zeros.
double allowed_zeros(Index columns) {
  if (columns <= 8) return 1.0;
  if (columns <= 32) return 0.3;
  return columns <= 96 ? 0.1 : 0.05;
}

using List = std::vector<Index>;
std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Rows by block: rows_of[ptr[b]] .. rows_of[ptr[b + 1]] touch block b, ascending.
struct Incidence {
  List ptr, rows;
  Incidence(Index count, std::span<const Index> row_ptr, std::span<const Index> blocks)
      : ptr(at(count) + 1, 0), rows(blocks.size()) {
    for (const Index b : blocks) ++ptr[at(b) + 1];
    std::partial_sum(ptr.begin(), ptr.end(), ptr.begin());
    List next(ptr.begin(), ptr.end() - 1);
    for (std::size_t i = 0; i + 1 < row_ptr.size(); ++i) {
      for (Index e = row_ptr[i]; e < row_ptr[i + 1]; ++e) {
        rows[at(next[at(blocks[at(e)])]++)] = static_cast<Index>(i);
      }
    }
  }
};

// Elimination tree of the permuted pattern by rows (Liu, ACM Trans. Math. Softw. 12(2), 1986): up[i] lists the
// columns j < i with S_ij != 0 in the new order.
struct UpperLists {
  List ptr, cols;
};
UpperLists upper_lists(const BlockPattern& s, const List& place) {
  const Index count = s.blocks();
  UpperLists up;
  up.ptr.assign(at(count) + 1, 0);
  const auto each = [&](auto&& f) {
    for (Index j = 0; j < count; ++j) {
      for (const Index i : s.column(j)) f(std::max(place[at(i)], place[at(j)]), std::min(place[at(i)], place[at(j)]));
    }
  };
  each([&](Index row, Index) { ++up.ptr[at(row) + 1]; });
  std::partial_sum(up.ptr.begin(), up.ptr.end(), up.ptr.begin());
  up.cols.resize(s.rows.size());
  List next(up.ptr.begin(), up.ptr.end() - 1);
  each([&](Index row, Index col) { up.cols[at(next[at(row)]++)] = col; });
  return up;
}

List elimination_tree(const UpperLists& up) {
  const auto count = static_cast<Index>(up.ptr.size()) - 1;
  List parent(at(count), -1), ancestor(at(count), -1);
  for (Index i = 0; i < count; ++i) {
    for (Index e = up.ptr[at(i)]; e < up.ptr[at(i) + 1]; ++e) {
      for (Index j = up.cols[at(e)]; j != -1 && j != i;) {
        const Index next = ancestor[at(j)];
        ancestor[at(j)] = i;
        if (next == -1) parent[at(j)] = i;
        j = next;
      }
    }
  }
  return parent;
}

// post[t] = the node visited t-th, children in ascending order.
List postorder(const List& parent) {
  const auto count = static_cast<Index>(parent.size());
  List head(at(count), -1), next(at(count), -1), roots, post, stack;
  for (Index j = count - 1; j >= 0; --j) {
    if (parent[at(j)] == -1) {
      roots.push_back(j);
    } else {
      next[at(j)] = head[at(parent[at(j)])];
      head[at(parent[at(j)])] = j;
    }
  }
  post.reserve(at(count));
  for (auto root = roots.rbegin(); root != roots.rend(); ++root) {
    stack.push_back(*root);
    while (!stack.empty()) {
      const Index j = stack.back(), child = head[at(j)];
      if (child == -1) {
        post.push_back(j);
        stack.pop_back();
      } else {
        head[at(j)] = next[at(child)];
        stack.push_back(child);
      }
    }
  }
  return post;
}

List inverse_of(const List& order) {
  List place(order.size());
  for (std::size_t t = 0; t < order.size(); ++t) place[at(order[t])] = static_cast<Index>(t);
  return place;
}

List minimum_degree(const BlockPattern& s) {
  using Matrix = Eigen::SparseMatrix<double, Eigen::ColMajor, int>;
  const auto count = static_cast<int>(s.blocks());
  Matrix graph(count, count);
  Eigen::VectorXi sizes(count);
  for (int j = 0; j < count; ++j) sizes[j] = static_cast<int>(s.column(j).size()) + 1;
  graph.reserve(sizes);
  for (int j = 0; j < count; ++j) {
    graph.insert(j, j) = 1.0;
    for (const Index i : s.column(j)) graph.insert(static_cast<int>(i), j) = 1.0;
  }
  graph.makeCompressed();
  Eigen::AMDOrdering<int>::PermutationType permutation;
  Eigen::AMDOrdering<int>()(graph.selfadjointView<Eigen::Lower>(), permutation);
  List order(at(count));
  for (int t = 0; t < count; ++t) order[at(t)] = permutation.indices()[t];
  return order;
}

// Entries and flops of a factor whose block column of `width` columns has `below` rows under its diagonal block.
struct Size {
  double entries = 0.0, flops = 0.0;
  void add(Index width, double below) {
    const double w = static_cast<double>(width);
    entries += w * (w + 1.0) / 2.0 + w * below;
    flops += w * w * w / 3.0 + w * w * below + w * below * below;
  }
};

// The factor in the natural order stays inside the envelope of S.
Size envelope(const BlockPattern& s) {
  List first(at(s.blocks()));
  std::iota(first.begin(), first.end(), Index{0});
  for (Index j = s.blocks() - 1; j >= 0; --j) {
    for (const Index i : s.column(j)) first[at(i)] = j;
  }
  // Column j holds the rows whose envelope reaches it.
  std::vector<double> below(at(s.blocks()) + 1, 0.0);
  for (Index i = 0; i < s.blocks(); ++i) {
    below[at(first[at(i)])] += static_cast<double>(s.width(i));
    below[at(i)] -= static_cast<double>(s.width(i));
  }
  Size size;
  double open = 0.0;
  for (Index j = 0; j < s.blocks(); ++j) {
    open += below[at(j)];
    size.add(s.width(j), open);
  }
  return size;
}

// Rows below the diagonal block of each column of the factor, blocks and scalars: the row subtrees, walked.
struct Counts {
  List blocks, scalars;
  bool too_many = false;
};
Counts column_counts(const UpperLists& up, const List& parent, const List& widths, double max_entries) {
  const auto count = static_cast<Index>(parent.size());
  Counts c{List(at(count), 0), List(at(count), 0), false};
  List mark(at(count), -1);
  double entries = 0.0;
  for (Index i = 0; i < count; ++i) {
    mark[at(i)] = i;
    const double width = static_cast<double>(widths[at(i)]);
    for (Index e = up.ptr[at(i)]; e < up.ptr[at(i) + 1]; ++e) {
      for (Index j = up.cols[at(e)]; mark[at(j)] != i; j = parent[at(j)]) {
        mark[at(j)] = i;
        ++c.blocks[at(j)];
        c.scalars[at(j)] += widths[at(i)];
        entries += width * static_cast<double>(widths[at(j)]);
      }
    }
    if (entries > max_entries) {
      c.too_many = true;
      return c;
    }
  }
  return c;
}

struct Supernode {
  Index begin = 0, end = 0;  // new blocks
  List rows;                 // below
  double zeros = 0.0;
};

Index columns_of(const List& offsets, const Supernode& s) { return offsets[at(s.end)] - offsets[at(s.begin)]; }

// Fundamental supernodes with their rows, the last of each merged into its parent where that stores few zeros.
std::vector<Supernode> supernodes(const UpperLists& up, const List& parent, const Counts& counts, const List& widths,
                                  const List& offsets) {
  const auto count = static_cast<Index>(parent.size());
  std::vector<Supernode> all;
  List owner(at(count));
  for (Index j = 0; j < count; ++j) {
    const bool joins = j > 0 && parent[at(j) - 1] == j && counts.blocks[at(j) - 1] == counts.blocks[at(j)] + 1;
    if (!joins) all.push_back({j, j, {}, 0.0});
    all.back().end = j + 1;
    owner[at(j)] = static_cast<Index>(all.size()) - 1;
  }
  // A row subtree passes through each supernode once or along its columns: row i is below every supernode that it
  // meets.
  for (Index i = 0; i < count; ++i) {
    for (Index e = up.ptr[at(i)]; e < up.ptr[at(i) + 1]; ++e) {
      for (Index j = up.cols[at(e)]; j != -1 && j < i;) {
        Supernode& s = all[at(owner[at(j)])];
        if (s.end > i || (!s.rows.empty() && s.rows.back() == i)) break;
        s.rows.push_back(i);
        j = parent[at(s.end) - 1];
      }
    }
  }

  const auto scalars = [&](const List& rows) {
    Index sum = 0;
    for (const Index b : rows) sum += widths[at(b)];
    return sum;
  };
  std::vector<Supernode> merged;
  for (Supernode& s : all) {
    const double below = static_cast<double>(scalars(s.rows));
    while (!merged.empty()) {
      const Supernode& child = merged.back();
      if (child.rows.empty() || child.rows.front() >= s.end) break;  // s is not its parent
      const double child_width = static_cast<double>(columns_of(offsets, child));
      const double own_width = static_cast<double>(columns_of(offsets, s));
      const double zeros =
          child.zeros + s.zeros + child_width * (own_width + below - static_cast<double>(scalars(child.rows)));
      const double width = child_width + own_width;
      if (zeros > allowed_zeros(static_cast<Index>(width)) * width * (width / 2.0 + below)) break;
      s.begin = child.begin;
      s.zeros = zeros;
      merged.pop_back();
    }
    merged.push_back(std::move(s));
  }
  return merged;
}

}  // namespace

double BlockPattern::entries() const {
  double sum = 0.0;
  for (Index j = 0; j < blocks(); ++j) {
    double below = 0.0;
    for (const Index i : column(j)) below += static_cast<double>(width(i));
    sum += static_cast<double>(width(j)) * (static_cast<double>(width(j)) + 2.0 * below);
  }
  return sum;
}

std::optional<BlockPattern> schur_blocks(std::span<const Index> offsets, std::span<const Index> ptr,
                                         std::span<const Index> blocks, const Border& border, double max_density) {
  BlockPattern s;
  s.offsets.assign(offsets.begin(), offsets.end());
  const Index count = s.blocks();
  const double k = static_cast<double>(s.offsets.back());
  if (!border::has_dense(border)) return std::nullopt;
  if (max_density < 1.0 && static_cast<double>(border::stored_entries(border)) > max_density * k * k)
    return std::nullopt;

  const Incidence touching(count, ptr, blocks);
  List mark(at(count), -1);
  // f(i) for every block i that shares a row with j, once; the marks of column j are `tag`.
  const auto neighbours = [&](Index j, Index tag, auto&& f) {
    for (Index r = touching.ptr[at(j)]; r < touching.ptr[at(j) + 1]; ++r) {
      const Index row = touching.rows[at(r)];
      for (Index e = ptr[at(row)]; e < ptr[at(row) + 1]; ++e) {
        const Index i = blocks[at(e)];
        if (mark[at(i)] == tag) continue;
        mark[at(i)] = tag;
        f(i);
      }
    }
  };
  if (max_density < 1.0 && count > 4 * kSampledColumns) {
    double found = 0.0, sampled = 0.0;
    for (Index t = 0; t < kSampledColumns; ++t) {
      const Index j = (2 * t + 1) * count / (2 * kSampledColumns);
      neighbours(j, count + t, [&](Index i) { found += static_cast<double>(s.width(i) * s.width(j)); });
      sampled += k * static_cast<double>(s.width(j));
    }
    if (found > kClearly * max_density * sampled) return std::nullopt;
  }

  // Blocks of the border, by column.
  List block_of(at(s.offsets.back()));
  for (Index b = 0; b < count; ++b) {
    std::fill(block_of.begin() + s.offsets[at(b)], block_of.begin() + s.offsets[at(b) + 1], b);
  }
  std::vector<List> of_border(at(count));
  border::for_each_lower(border, [&](Index row, Index col, double) {
    const Index i = block_of[at(row)], j = block_of[at(col)];
    List& list = of_border[at(j)];
    if (i != j && (list.empty() || list.back() != i)) list.push_back(i);
  });

  double entries = 0.0;
  s.ptr.push_back(0);
  for (Index j = 0; j < count; ++j) {
    const std::size_t begin = s.rows.size();
    mark[at(j)] = j;
    double below = 0.0;
    const auto add = [&](Index i) {
      if (i <= j) return;
      s.rows.push_back(i);
      below += static_cast<double>(s.width(i));
    };
    neighbours(j, j, add);
    for (const Index i : of_border[at(j)]) {
      if (mark[at(i)] == j) continue;
      mark[at(i)] = j;
      add(i);
    }
    std::sort(s.rows.begin() + static_cast<std::ptrdiff_t>(begin), s.rows.end());
    s.ptr.push_back(static_cast<Index>(s.rows.size()));
    entries += static_cast<double>(s.width(j)) * (static_cast<double>(s.width(j)) + 2.0 * below);
    if (entries > max_density * k * k) return std::nullopt;
  }
  return s;
}

std::optional<FactorPattern> factor_pattern(const BlockPattern& s, double max_entries) {
  const Index count = s.blocks();
  FactorPattern f;
  UpperLists up;
  List parent, widths(at(count));
  Counts counts;
  Size size;
  const auto analyse = [&](List order) {
    // Postordered, so that columns of one supernode are neighbours. The fill is the same.
    up = upper_lists(s, inverse_of(order));
    const List post = postorder(elimination_tree(up));
    f.order.resize(at(count));
    for (Index t = 0; t < count; ++t) f.order[at(t)] = order[at(post[at(t)])];
    f.place = inverse_of(f.order);
    up = upper_lists(s, f.place);
    parent = elimination_tree(up);
    for (Index t = 0; t < count; ++t) widths[at(t)] = s.width(f.order[at(t)]);
    counts = column_counts(up, parent, widths, max_entries);
    size = {};
    for (Index j = 0; j < count; ++j) size.add(widths[at(j)], static_cast<double>(counts.scalars[at(j)]));
  };
  List natural(at(count));
  std::iota(natural.begin(), natural.end(), Index{0});
  const Size banded = envelope(s);
  const bool full_band = banded.entries <= kFullBand * (s.entries() + static_cast<double>(s.offsets.back())) / 2.0;
  if (!full_band) analyse(minimum_degree(s));
  if (full_band || counts.too_many || banded.flops <= size.flops) analyse(std::move(natural));
  if (counts.too_many || size.entries > max_entries) return std::nullopt;
  f.entries = size.entries;
  f.flops = size.flops;

  f.offsets.assign(1, 0);
  for (const Index w : widths) f.offsets.push_back(f.offsets.back() + w);
  f.panel_ptr.assign(1, 0);
  f.row_ptr.assign(1, 0);
  f.value_ptr.assign(1, 0);
  for (const Supernode& node : supernodes(up, parent, counts, widths, f.offsets)) {
    const Index columns = columns_of(f.offsets, node);
    const Index pieces = (columns + kPanelColumns - 1) / kPanelColumns;
    Index begin = node.begin;
    for (Index piece = 1; begin < node.end; ++piece) {
      Index end = begin + 1;
      const Index until = f.offsets[at(node.begin)] + columns * std::min(piece, pieces) / pieces;
      while (end < node.end && f.offsets[at(end) + 1] <= until) ++end;
      for (Index b = end; b < node.end; ++b) f.rows.push_back(b);
      f.rows.insert(f.rows.end(), node.rows.begin(), node.rows.end());
      Index height = f.offsets[at(end)] - f.offsets[at(begin)];
      const Index own = height;
      for (Index r = f.row_ptr.back(); r < static_cast<Index>(f.rows.size()); ++r) height += widths[at(f.rows[at(r)])];
      f.panel_ptr.push_back(end);
      f.row_ptr.push_back(static_cast<Index>(f.rows.size()));
      f.value_ptr.push_back(f.value_ptr.back() + height * own);
      begin = end;
    }
  }
  return f;
}

SchurPattern schur_pattern(const ArrowSystem& system) {
  if (!std::holds_alternative<BlockSparseCross>(system.cross()) || system.k() < kSmallest) return {};
  const cross::Support support = cross::support(system);
  if (support.everything) return {};
  const double k = static_cast<double>(system.k());
  const auto s = schur_blocks(support.offsets, support.ptr, support.blocks, system.border(), kDensest);
  if (!s) return {};
  const auto factor = factor_pattern(*s, kFullestFactor * k * k / 2.0);
  if (!factor) return {};
  SchurPattern p;
  p.sparse = true;
  p.s_entries = s->entries();
  p.l_entries = factor->entries;
  p.flops = factor->flops;
  const double lists = static_cast<double>(4 * s->rows.size() + factor->rows.size() + 8 * support.offsets.size());
  p.peak_bytes =
      static_cast<Index>(8.0 * ((p.s_entries + k) / 2.0 + static_cast<double>(factor->value_ptr.back()) + lists));
  return p;
}

}  // namespace arrowschur
