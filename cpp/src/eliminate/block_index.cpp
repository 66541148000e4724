#include "eliminate/block_index.hpp"

#include <algorithm>
#include <numeric>

#include "system/cross_pattern.hpp"

namespace arrowschur::eliminate {
namespace {

constexpr Index kMostGroups = 32;  // private partials of k entries
constexpr Index kGroupValues = Index{1} << 15;
constexpr Index kChunkBytes = Index{1} << 17;  // of W in float64: two chunks and the tiles of a block fit an L2 cache

constexpr Index kMostTileBytes = Index{1} << 22;
constexpr Index kFewEntries = 4096;  // are not worth their lists

// For uniform rows and border blocks.
bool tiles_fit_in(Index entries, Index blocks) {
  const Index tile = linalg::kGramTile * static_cast<Index>(sizeof(double));
  return entries >= kFewEntries && blocks * (blocks + 1) / 2 * tile <= kMostTileBytes;
}
// Of the lists, about: chunks are few.
Index list_bytes(Index entries) { return entries * static_cast<Index>(sizeof(linalg::GramEntry)); }

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

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

}  // namespace

BlockIndex::BlockIndex(const ArrowSystem& s) : stretches(stretches_of(s)) {
  const auto& cross = std::get<BlockSparseCross>(s.cross());
  const std::vector<Index>& offsets = cross.block_offsets;
  const Index count = static_cast<Index>(offsets.size()) - 1;
  entries = cross.indptr[s.n()];
  indptr_ = {cross.indptr, at(s.n()) + 1};
  block_ = {cross.block_index, at(entries)};
  width = common_width(offsets);
  height = stretches.size() == 1 ? stretches.front().d : 0;

  value_ptr = linalg::Buffer<Index>(entries + 1);
  row_of = linalg::Buffer<Index>(entries);
  block_ptr = linalg::Buffer<Index>(count + 1);
  by_block = linalg::Buffer<Index>(entries);
  std::fill(block_ptr.begin(), block_ptr.end(), Index{0});
  Index value = 0;
  for (const Stretch& stretch : stretches) {
    for (Index i = stretch.row; i < stretch.row + stretch.count; ++i) {
      for (Index e = indptr_[at(i)]; e < indptr_[at(i + 1)]; ++e) {
        const Index b = block_[at(e)];
        row_of[e] = i;
        value_ptr[e] = value;
        value += stretch.d * (offsets[at(b + 1)] - offsets[at(b)]);
        ++block_ptr[b + 1];
      }
    }
  }
  value_ptr[entries] = value;
  for (Index b = 0; b < count; ++b) block_ptr[b + 1] += block_ptr[b];
  std::vector<Index> next(block_ptr.data(), block_ptr.data() + count);
  for (Index e = 0; e < entries; ++e) by_block[next[at(block_[at(e)])]++] = e;
  split_rows(s.n(), s.k());
}

void BlockIndex::split_rows(Index n, Index k) {
  const Index values = value_ptr[entries];
  const Index parts = std::clamp<Index>(values / std::max(kGroupValues, 2 * k), 1, kMostGroups);
  bounds = linalg::Buffer<Index>(parts + 1);
  bounds[0] = 0;
  bounds[parts] = n;
  for (Index g = 1; g < parts; ++g) {
    const Index* first = std::lower_bound(value_ptr.data(), value_ptr.data() + entries, values * g / parts);
    bounds[g] = row_of[first - value_ptr.data()];
  }
}

bool BlockIndex::tiles_fit() const noexcept { return height > 0 && width > 1 && tiles_fit_in(entries, blocks()); }

const BlockIndex::GramLists& BlockIndex::gram_lists() const {
  std::call_once(gram_once_, [this] {
    const Index n = static_cast<Index>(indptr_.size()) - 1, count = blocks();
    const Index size = std::max<Index>(height * width, 1) * static_cast<Index>(sizeof(double));
    const Index capacity = std::max<Index>(kChunkBytes / size, 1);  // entries of a chunk
    std::vector<Index> chunk_rows{0};
    while (chunk_rows.back() < n) {
      Index row = chunk_rows.back() + 1;
      const Index first = indptr_[at(chunk_rows.back())];
      while (row < n && indptr_[at(row + 1)] - first <= capacity) ++row;
      chunk_rows.push_back(row);
    }
    GramLists lists;
    lists.chunks = static_cast<Index>(chunk_rows.size()) - 1;
    lists.list = linalg::Buffer<linalg::GramEntry>(entries);
    lists.ptr = linalg::Buffer<Index>(lists.chunks * count + 1);
    lists.pairs.assign(at(count + 1), 0);
    std::vector<Index> next(at(count));
    lists.ptr[0] = 0;
    for (Index c = 0; c < lists.chunks; ++c) {
      Index* ptr = lists.ptr.data() + c * count;
      const Index begin = chunk_rows[at(c)], end = chunk_rows[at(c + 1)];
      std::fill(next.begin(), next.end(), Index{0});
      for (Index e = indptr_[at(begin)]; e < indptr_[at(end)]; ++e) ++next[at(block_[at(e)])];
      for (Index b = 0; b < count; ++b) {
        ptr[b + 1] = ptr[b] + next[at(b)];
        next[at(b)] = ptr[b];
      }
      for (Index i = begin; i < end; ++i) {
        const Index first = indptr_[at(i)];
        for (Index e = first; e < indptr_[at(i + 1)]; ++e) {
          lists.list[next[at(block_[at(e)])]++] = {e, first};
          lists.pairs[at(block_[at(e)]) + 1] += e - first + 1;
        }
      }
    }
    std::partial_sum(lists.pairs.begin(), lists.pairs.end(), lists.pairs.begin());
    gram_ = std::move(lists);
  });
  return gram_;
}

Index BlockIndex::nbytes() const noexcept {
  return value_ptr.nbytes() + row_of.nbytes() + block_ptr.nbytes() + by_block.nbytes() +
         (tiles_fit() ? list_bytes(entries) : 0) + static_cast<Index>(stretches.size() * sizeof(Stretch));
}

Index BlockIndex::nbytes(const ArrowSystem& s) {
  const auto& cross = std::get<BlockSparseCross>(s.cross());
  const Index count = static_cast<Index>(cross.block_offsets.size()) - 1, entries = cross.indptr[s.n()];
  const std::vector<Stretch> stretches = stretches_of(s);
  const bool lists = stretches.size() == 1 && common_width(cross.block_offsets) > 1 && tiles_fit_in(entries, count);
  return static_cast<Index>(sizeof(Index)) * (3 * entries + count + 2) + (lists ? list_bytes(entries) : 0) +
         static_cast<Index>(stretches.size() * sizeof(Stretch));
}

std::shared_ptr<const BlockIndex> index_of(const ArrowSystem& s) {
  const auto& cross = std::get<BlockSparseCross>(s.cross());
  const auto make = [&] { return std::make_shared<const BlockIndex>(s); };
  return cross.pattern == nullptr ? make() : cross.pattern->derived<BlockIndex>(make);
}

}  // namespace arrowschur::eliminate
