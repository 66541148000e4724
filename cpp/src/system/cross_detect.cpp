// Exact zeros in a dense cross block. A few rows tell most blocks apart: only one that looks sparse is read as a whole,
// and the pass ends as soon as too much of it has turned out to be filled.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <optional>

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

// Runs of columns that are not zero throughout a row block: begin, end, begin, end ...
template <class In>
class Runs {
 public:
  Runs(const Rows& rows, const In* data) : rows_(rows), data_(data) {}

  // Appends the runs of row i; returns their columns. With blocks given, runs are of whole blocks.
  Index of_row(Index i, const std::vector<Index>& blocks, std::vector<Index>& out) const {
    const Index k = rows_.k, d = rows_.dim(i), first = static_cast<Index>(out.size());
    const In* b = data_ + rows_.offset(i) * k;
    const auto filled = [&](Index begin, Index end) {
      for (Index r = 0; r < d; ++r) {
        for (Index j = begin; j < end; ++j) {
          if (b[r * k + j] != In(0)) return true;
        }
      }
      return false;
    };
    Index columns = 0;
    const auto add = [&](Index begin, Index end) {
      columns += end - begin;
      if (static_cast<Index>(out.size()) > first && out.back() == begin) {
        out.back() = end;
      } else {
        out.push_back(begin);
        out.push_back(end);
      }
    };
    if (!blocks.empty()) {
      for (std::size_t q = 1; q < blocks.size(); ++q) {
        if (filled(blocks[q - 1], blocks[q])) add(blocks[q - 1], blocks[q]);
      }
      return columns;
    }
    constexpr Index kStep = 16;  // stretches of zeros are passed at memory speed
    for (Index begin = 0; begin < k; begin += kStep) {
      const Index end = std::min(k, begin + kStep);
      if (!any(b, d, begin, end)) continue;
      for (Index j = begin; j < end; ++j) {
        if (filled(j, j + 1)) add(j, j + 1);
      }
    }
    return columns;
  }

 private:
  bool any(const In* b, Index d, Index begin, Index end) const {
    bool found = false;
    for (Index r = 0; r < d; ++r) {
      for (Index j = begin; j < end; ++j) found |= b[r * rows_.k + j] != In(0);
    }
    return found;
  }
  const Rows& rows_;
  const In* data_;
};

template <class In>
std::optional<Detected> detect(const Rows& rows, const In* data, const std::vector<Index>& blocks) {
  const Runs<In> runs(rows, data);
  Index sampled = 0, columns = 0;
  std::vector<Index> sample;
  for (Index q = 0; q < std::min(kSampledRows, rows.n); ++q) {
    const Index i = rows.n / kSampledRows * q + rows.n % kSampledRows * q / kSampledRows;
    if (rows.dim(i) == 0) continue;
    columns += runs.of_row(i, blocks, sample);
    sampled += rows.k;
  }
  if (columns * 8 > sampled * 3) return std::nullopt;  // a quarter is the limit, the sample is small

  const Index chunks = (rows.n + kRowChunk - 1) / kRowChunk, limit = rows.total * rows.k / 4;
  std::vector<std::vector<Index>> found(at(chunks)), counts(at(chunks));  // runs, and how many of them each row has
  std::atomic<Index> filled{0};
  linalg::parallel_for_if(rows.total * rows.k >= linalg::kParallelWork, chunks, [&](Index c) {
    Index own = 0;
    for (Index i = c * kRowChunk; i < std::min(rows.n, (c + 1) * kRowChunk); ++i) {
      if (filled.load(std::memory_order_relaxed) > limit) return;
      const std::size_t before = found[at(c)].size();
      if (rows.dim(i) > 0) own += rows.dim(i) * runs.of_row(i, blocks, found[at(c)]);
      counts[at(c)].push_back(static_cast<Index>(found[at(c)].size() - before) / 2);
    }
    filled.fetch_add(own, std::memory_order_relaxed);
  });
  const Index stored = filled.load();
  if (stored > limit) return std::nullopt;

  struct Owner {
    std::vector<Index> indptr, index;
    Buffer<In> values;
  };
  Detected out;
  out.cross.block_offsets = blocks;
  if (blocks.empty()) {  // the widest uniform blocks of which all runs consist
    Index width = rows.k;
    for (const std::vector<Index>& part : found) {
      for (const Index edge : part) width = std::gcd(width, edge);
    }
    for (Index j = 0; j <= rows.k; j += width) out.cross.block_offsets.push_back(j);
  }
  const std::vector<Index>& offsets = out.cross.block_offsets;
  auto owner = std::make_shared<Owner>();
  owner->indptr.reserve(at(rows.n + 1));
  owner->indptr.push_back(0);
  owner->values = Buffer<In>(stored);
  In* to = owner->values.data();
  for (Index c = 0; c < chunks; ++c) {
    const Index* run = found[at(c)].data();
    for (std::size_t q = 0; q < counts[at(c)].size(); ++q) {
      const Index i = c * kRowChunk + static_cast<Index>(q), d = rows.dim(i);
      const In* b = data + rows.offset(i) * rows.k;
      for (Index e = 0; e < counts[at(c)][q]; ++e, run += 2) {
        Index block = static_cast<Index>(std::lower_bound(offsets.begin(), offsets.end(), run[0]) - offsets.begin());
        for (; offsets[at(block)] < run[1]; ++block) {
          owner->index.push_back(block);
          for (Index r = 0; r < d; ++r) {
            to = std::copy(b + r * rows.k + offsets[at(block)], b + r * rows.k + offsets[at(block + 1)], to);
          }
        }
      }
      owner->indptr.push_back(static_cast<Index>(owner->index.size()));
    }
  }
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
