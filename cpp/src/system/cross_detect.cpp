// Exact zeros in a dense cross block. A few rows tell most blocks apart: only one that looks sparse is read as a whole,
// and the pass ends as soon as too much of it has turned out to be filled.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <type_traits>

#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "system/cross_make.hpp"
#include "system/storage.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;

constexpr Index kLeastEntries = Index{1} << 16;  // smaller blocks are as fast dense
constexpr Index kSampledRows = 8;
constexpr Index kRowChunk = 64;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// True when one of `count` entries is not zero: their bits, but for the signs. Vectorised by the compiler.
template <class In>
bool any(const In* x, Index count) {
  using Bits = std::conditional_t<sizeof(In) == 8, std::uint64_t, std::uint32_t>;
  Bits seen = 0;
  for (Index j = 0; j < count; ++j) {
    Bits bits;
    std::memcpy(&bits, x + j, sizeof bits);
    seen |= bits;
  }
  return static_cast<Bits>(seen << 1) != 0;
}
// The same for columns [begin, end) of a row block with leading dimension ld.
template <class In>
bool any(const In* b, Index d, Index ld, Index begin, Index end) {
  bool found = false;
  for (Index r = 0; r < d && !found; ++r) found = any(b + r * ld + begin, end - begin);
  return found;
}

// What was found in a chunk of rows: the runs of columns of each row that are not zero throughout its block.
struct Runs {
  std::vector<Index> edges, counts;  // begin, end, begin, end ...; runs of each row
  Index blocks = 0, columns = 0, stored = 0, width = 0;  // sums; the greatest common divisor of all edges
};

// Appends row i. With blocks given, runs are of whole blocks.
template <class In>
void add_row(const Rows& rows, const In* data, Index i, const std::vector<Index>& blocks, Runs& out) {
  constexpr Index kSteps[] = {64, 8};  // stretches of zeros are passed at memory speed
  const Index k = rows.k, d = rows.dim(i);
  const In* b = data + rows.offset(i) * k;
  const std::size_t before = out.edges.size();
  Index columns = 0;
  const auto add = [&](Index begin, Index end) {
    columns += end - begin;
    if (out.edges.size() > before && out.edges.back() == begin) {
      out.edges.back() = end;
    } else {
      out.edges.push_back(begin);
      out.edges.push_back(end);
    }
  };
  if (d > 0 && !blocks.empty()) {
    for (std::size_t q = 1; q < blocks.size(); ++q) {
      if (!any(b, d, k, blocks[q - 1], blocks[q])) continue;
      add(blocks[q - 1], blocks[q]);
      ++out.blocks;
    }
  } else if (d > 0) {
    for (Index outer = 0; outer < k; outer += kSteps[0]) {
      const Index last = std::min(k, outer + kSteps[0]);
      if (!any(b, d, k, outer, last)) continue;
      for (Index begin = outer; begin < last; begin += kSteps[1]) {
        const Index end = std::min(last, begin + kSteps[1]);
        if (!any(b, d, k, begin, end)) continue;
        for (Index j = begin; j < end; ++j) {
          if (any(b, d, k, j, j + 1)) add(j, j + 1);
        }
      }
    }
  }
  for (std::size_t e = before; e < out.edges.size(); ++e) {
    if (out.width != 1) out.width = std::gcd(out.width, out.edges[e]);
  }
  out.counts.push_back(static_cast<Index>(out.edges.size() - before) / 2);
  out.columns += columns;
  out.stored += columns * d;
}

template <class In>
std::optional<Detected> detect(const Rows& rows, const In* data, const std::vector<Index>& blocks) {
  Runs sample;
  Index sampled = 0;
  for (Index q = 0; q < std::min(kSampledRows, rows.n); ++q) {
    add_row(rows, data, rows.n / kSampledRows * q + rows.n % kSampledRows * q / kSampledRows, blocks, sample);
    sampled += rows.k;
  }
  if (sample.columns * 8 > sampled * 3) return std::nullopt;  // a quarter is the limit, the sample is small

  const Index chunks = (rows.n + kRowChunk - 1) / kRowChunk, limit = rows.total * rows.k / 4;
  const bool parallel = rows.total * rows.k >= linalg::kParallelWork;
  std::vector<Runs> found(at(chunks));
  std::atomic<Index> filled{0};
  linalg::parallel_for_if(parallel, chunks, [&](Index c) {
    if (filled.load(std::memory_order_relaxed) > limit) return;
    Runs own;
    for (Index i = c * kRowChunk; i < std::min(rows.n, (c + 1) * kRowChunk); ++i) add_row(rows, data, i, blocks, own);
    filled.fetch_add(own.stored, std::memory_order_relaxed);
    found[at(c)] = std::move(own);
  });
  const Index stored = filled.load();
  if (stored > limit) return std::nullopt;

  struct Owner {
    Buffer<Index> indptr, index;
    Buffer<In> values;
  };
  Detected out;
  out.cross.block_offsets = blocks;
  Index width = rows.k;  // of the widest uniform blocks of which all runs consist
  for (const Runs& part : found) width = std::gcd(width, part.width);
  if (blocks.empty()) {
    for (Index j = 0; j <= rows.k; j += width) out.cross.block_offsets.push_back(j);
  }
  const std::vector<Index>& offsets = out.cross.block_offsets;
  std::vector<Index> first_entry{0}, first_value{0};  // of the chunks
  for (const Runs& part : found) {
    first_entry.push_back(first_entry.back() + (blocks.empty() ? part.columns / width : part.blocks));
    first_value.push_back(first_value.back() + part.stored);
  }
  auto owner = std::make_shared<Owner>();
  owner->indptr = Buffer<Index>(rows.n + 1);
  owner->index = Buffer<Index>(first_entry.back());
  owner->values = Buffer<In>(stored);
  owner->indptr[0] = 0;
  linalg::parallel_for_if(parallel, chunks, [&](Index c) {
    const Runs& part = found[at(c)];
    const Index* run = part.edges.data();
    Index entry = first_entry[at(c)];
    In* to = owner->values.data() + first_value[at(c)];
    for (std::size_t q = 0; q < part.counts.size(); ++q) {
      const Index i = c * kRowChunk + static_cast<Index>(q), d = rows.dim(i);
      const In* b = data + rows.offset(i) * rows.k;
      for (Index e = 0; e < part.counts[q]; ++e, run += 2) {
        Index block = blocks.empty() ? run[0] / width
                                     : std::lower_bound(offsets.begin(), offsets.end(), run[0]) - offsets.begin();
        for (; block + 1 < static_cast<Index>(offsets.size()) && offsets[at(block)] < run[1]; ++block) {
          owner->index[entry++] = block;
          for (Index r = 0; r < d; ++r) {
            to = std::copy(b + r * rows.k + offsets[at(block)], b + r * rows.k + offsets[at(block + 1)], to);
          }
        }
      }
      owner->indptr[i + 1] = entry;
    }
  });
  out.cross.indptr = owner->indptr.data();
  out.cross.block_index = owner->index.data();
  out.cross.values = owner->values.data();
  out.owner = std::move(owner);
  char text[64];
  std::snprintf(text, sizeof text, "h_tb: block-sparse, %.2g %% of the entries",
                100.0 * static_cast<double>(stored) / static_cast<double>(rows.total * rows.k));
  out.line = text;
  return out;
}

}  // namespace

std::optional<Detected> detect_blocks(const Rows& rows, const DenseCross& c, const std::vector<Index>& blocks) {
  if (rows.total * rows.k < kLeastEntries) return std::nullopt;
  return with_dtype(rows.dtype, [&]<class In>(In) { return detect(rows, static_cast<const In*>(c.data), blocks); });
}

}  // namespace arrowschur::cross
