#include "system/border_graph.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "system/border.hpp"

namespace arrowschur::border {
namespace {

// Visits of all blocks that are worth a better partition: about a second.
constexpr Index kMostVisits = Index{1} << 29;
// Stored entries of the border per column up to which its couplings are looked at.
constexpr Index kBorderEntries = 64;

std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }

// Entries that for_each_lower() goes through, about; -1 for terms that couple all columns anyway.
Index expanded_entries(const BorderTerm& term) {
  const auto squares = [](const std::vector<Index>& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), Index{0}, [](Index sum, Index s) { return sum + s * s; });
  };
  if (std::holds_alternative<DiagonalBorder>(term)) return 0;
  if (const auto* banded = std::get_if<BandedBorder>(&term)) return banded->bandwidth;
  if (const auto* blocks = std::get_if<BlockDiagonalBorder>(&term)) return squares(blocks->sizes);
  if (const auto* kronecker = std::get_if<KroneckerBorder>(&term)) return kronecker->p * squares(kronecker->sizes);
  if (const auto* sparse = std::get_if<SparseBlockKroneckerBorder>(&term)) return sparse->p * sparse->entries;
  return -1;
}

// Index of the block of each column.
std::vector<Index> block_of_column(const std::vector<Index>& offsets) {
  std::vector<Index> block(at(offsets.back()));
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    std::fill(block.begin() + offsets[b], block.begin() + offsets[b + 1], static_cast<Index>(b));
  }
  return block;
}

Index root(std::vector<Index>& parent, Index a) {
  while (parent[at(a)] != a) {
    parent[at(a)] = parent[at(parent[at(a)])];
    a = parent[at(a)];
  }
  return a;
}

// The lower block becomes the root, so that a component is known by its lowest block.
void unite(std::vector<Index>& parent, Index a, Index b) {
  a = root(parent, a);
  b = root(parent, b);
  parent[at(std::max(a, b))] = std::min(a, b);
}

}  // namespace

std::optional<BorderGraph> BorderGraph::make(const ArrowSystem& system) {
  if (system.k() == 0) return std::nullopt;
  BorderGraph graph;
  if (const auto* sparse = std::get_if<BlockSparseCross>(&system.cross())) {
    graph.offsets_ = sparse->block_offsets;
    graph.row_ptr_ = {sparse->indptr, at(system.n()) + 1};
    graph.row_blocks_ = {sparse->block_index, at(sparse->indptr[system.n()])};
  } else if (const auto* kronecker = std::get_if<KroneckerCross>(&system.cross())) {
    graph.take_pairs(*kronecker, system);
  } else {
    return std::nullopt;
  }
  graph.transpose_rows();
  graph.join_by_border(system.border());
  return graph;
}

void BorderGraph::take_pairs(const KroneckerCross& cross, const ArrowSystem& system) {
  const Index n = system.n(), pairs = cross.support_ptr[n];
  offsets_.assign(system.border_blocks().begin(), system.border_blocks().end());
  if (offsets_.empty()) {
    offsets_ = {0, system.k()};
    for (Index s = 0; s < pairs; ++s) {
      offsets_.push_back(cross.support_base[s]);
      offsets_.push_back(cross.support_base[s] + cross.p);
    }
    std::sort(offsets_.begin(), offsets_.end());
    offsets_.erase(std::unique(offsets_.begin(), offsets_.end()), offsets_.end());
  }
  const std::vector<Index> block = block_of_column(offsets_);
  own_ptr_.assign(1, 0);
  for (Index i = 0; i < n; ++i) {
    const auto begin = static_cast<std::ptrdiff_t>(own_blocks_.size());
    for (Index s = cross.support_ptr[i]; s < cross.support_ptr[i + 1] && cross.p > 0; ++s) {
      const Index base = cross.support_base[s];
      for (Index b = block[at(base)]; b <= block[at(base + cross.p - 1)]; ++b) own_blocks_.push_back(b);
    }
    std::sort(own_blocks_.begin() + begin, own_blocks_.end());
    own_blocks_.erase(std::unique(own_blocks_.begin() + begin, own_blocks_.end()), own_blocks_.end());
    own_ptr_.push_back(static_cast<Index>(own_blocks_.size()));
  }
  row_ptr_ = own_ptr_;
  row_blocks_ = own_blocks_;
}

void BorderGraph::transpose_rows() {
  const Index rows = static_cast<Index>(row_ptr_.size()) - 1;
  const auto length = [&](Index i) { return row_ptr_[at(i) + 1] - row_ptr_[at(i)]; };
  Index visits = 0;
  for (Index i = 0; i < rows; ++i) {
    if (length(i) <= kLongRow) visits += length(i) * length(i);
  }
  const Index stride = visits / kMostVisits + 1;
  const auto counts = [&](Index i) { return i % stride == 0 && length(i) <= kLongRow; };

  block_ptr_.assign(at(blocks()) + 1, 0);
  for (Index i = 0; i < rows; i += stride) {
    if (!counts(i)) continue;
    for (Index e = row_ptr_[at(i)]; e < row_ptr_[at(i) + 1]; ++e) ++block_ptr_[at(row_blocks_[at(e)]) + 1];
  }
  std::partial_sum(block_ptr_.begin(), block_ptr_.end(), block_ptr_.begin());
  block_rows_.resize(at(block_ptr_.back()));
  std::vector<Index> next(block_ptr_.begin(), block_ptr_.end() - 1);
  for (Index i = 0; i < rows; i += stride) {
    if (!counts(i)) continue;
    for (Index e = row_ptr_[at(i)]; e < row_ptr_[at(i) + 1]; ++e) {
      block_rows_[at(next[at(row_blocks_[at(e)])]++)] = i;
    }
  }
}

void BorderGraph::join_by_border(const Border& border) {
  border_ptr_.assign(at(blocks()) + 1, 0);
  Border couplings{border.k, border.dtype, {}, {}};
  Index entries = 0;
  for (const BorderTerm& term : border.terms) {
    const Index here = expanded_entries(term);
    if (here <= 0) continue;  // diagonal, or everything with everything: says nothing
    entries += std::holds_alternative<BandedBorder>(term) ? here * border.k : here;
    couplings.terms.push_back(term);
  }
  if (couplings.terms.empty() || entries > kBorderEntries * border.k) return;

  const std::vector<Index> block = block_of_column(offsets_);
  std::vector<std::pair<Index, Index>> edges;
  for_each_lower(couplings, [&](Index row, Index col, double value) {
    const Index a = block[at(row)], b = block[at(col)];
    if (a == b || value == 0.0) return;
    edges.emplace_back(a, b);
    edges.emplace_back(b, a);
  });
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  for (const auto& [a, b] : edges) {
    ++border_ptr_[at(a) + 1];
    border_blocks_.push_back(b);
  }
  std::partial_sum(border_ptr_.begin(), border_ptr_.end(), border_ptr_.begin());
}

Index BorderGraph::columns(std::span<const Index> group) const {
  Index sum = 0;
  for (const Index b : group) sum += width(b);
  return sum;
}

template <class F>
void BorderGraph::visit(Index block, F&& f) const {
  for (Index r = block_ptr_[at(block)]; r < block_ptr_[at(block) + 1]; ++r) {
    const Index row = block_rows_[at(r)];
    for (Index e = row_ptr_[at(row)]; e < row_ptr_[at(row) + 1]; ++e) f(row_blocks_[at(e)]);
  }
  for (Index e = border_ptr_[at(block)]; e < border_ptr_[at(block) + 1]; ++e) f(border_blocks_[at(e)]);
}

BlockGroups BorderGraph::components() const {
  std::vector<Index> parent(at(blocks()));
  std::iota(parent.begin(), parent.end(), Index{0});
  for (std::size_t i = 0; i + 1 < row_ptr_.size(); ++i) {
    for (Index e = row_ptr_[i] + 1; e < row_ptr_[i + 1]; ++e) {
      unite(parent, row_blocks_[at(e - 1)], row_blocks_[at(e)]);
    }
  }
  for (Index a = 0; a < blocks(); ++a) {
    for (Index e = border_ptr_[at(a)]; e < border_ptr_[at(a) + 1]; ++e) unite(parent, a, border_blocks_[at(e)]);
  }
  BlockGroups groups;
  std::vector<Index> group_of(at(blocks()));
  for (Index b = 0; b < blocks(); ++b) {
    const Index lowest = root(parent, b);
    if (lowest == b) {
      group_of[at(b)] = static_cast<Index>(groups.size());
      groups.emplace_back();
    }
    groups[at(group_of[at(lowest)])].push_back(b);
  }
  return groups;
}

BlockGroups BorderGraph::partition(Index max_columns) const {
  BlockGroups groups;
  std::vector<char> assigned(at(blocks()), 0);
  std::vector<Index> weight(at(blocks()), 0), candidates, touched;
  for (Index seed = 0; seed < blocks(); ++seed) {
    if (assigned[at(seed)]) continue;
    std::vector<Index> group;
    Index wide = 0;
    for (Index next = seed; next >= 0;) {
      assigned[at(next)] = 1;
      group.push_back(next);
      wide += width(next);
      visit(next, [&](Index b) {
        if (assigned[at(b)]) return;
        if (weight[at(b)]++ == 0) {
          candidates.push_back(b);
          touched.push_back(b);
        }
      });
      next = -1;
      std::size_t kept = 0;
      for (const Index b : candidates) {
        // Who does not fit now will not fit later.
        if (assigned[at(b)] || wide + width(b) > max_columns) continue;
        candidates[kept++] = b;
        const bool heavier = next < 0 || weight[at(b)] > weight[at(next)];
        if (heavier || (weight[at(b)] == weight[at(next)] && b < next)) next = b;
      }
      candidates.resize(kept);  // a dropped one keeps a positive weight: it is not listed again
    }
    for (const Index b : touched) weight[at(b)] = 0;
    touched.clear();
    candidates.clear();
    std::sort(group.begin(), group.end());
    groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<Index> BorderGraph::grown(std::span<const Index> group, Index hops, Index max_columns) const {
  std::vector<Index> all(group.begin(), group.end());
  std::vector<char> inside(at(blocks()), 0);
  for (const Index b : all) inside[at(b)] = 1;
  Index wide = columns(all);
  std::size_t frontier = 0;
  for (Index hop = 0; hop < hops && frontier < all.size(); ++hop) {
    std::vector<Index> weight(at(blocks()), 0), candidates;
    for (const std::size_t end = all.size(); frontier < end; ++frontier) {
      visit(all[frontier], [&](Index b) {
        if (!inside[at(b)] && weight[at(b)]++ == 0) candidates.push_back(b);
      });
    }
    std::sort(candidates.begin(), candidates.end(),
              [&](Index a, Index b) { return weight[at(a)] != weight[at(b)] ? weight[at(a)] > weight[at(b)] : a < b; });
    for (const Index b : candidates) {
      if (wide + width(b) > max_columns) continue;
      inside[at(b)] = 1;
      all.push_back(b);
      wide += width(b);
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace arrowschur::border
