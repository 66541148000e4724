#include "system/jacobian_pattern.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "arrowschur/error.hpp"
#include "system/cross_make.hpp"
#include "system/examine.hpp"

namespace arrowschur {
namespace {

using linalg::Buffer;

constexpr Index kMaxGroups = 16;  // partials of the border
constexpr Index kRowChunk = 256;  // rows per symbolic task

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

Buffer<Index> copy_of(const Index* from, Index count) {
  Buffer<Index> copy(count);
  std::copy_n(from, count, copy.data());
  return copy;
}

}  // namespace

JacobianPattern::JacobianPattern(const JacobianParts& p, const BlockSparseCross& j_beta)
    : n(p.n),
      d(p.d),
      k(p.k),
      r(p.r),
      q(p.q),
      own_rows(p.row_index == nullptr),
      offsets(j_beta.block_offsets),
      of(p),
      cross(std::make_shared<cross::Pattern>()) {
  for (std::size_t b = 1; b < offsets.size(); ++b) sizes.push_back(offsets[b] - offsets[b - 1]);

  // The normal form is that of j_beta with any values.
  const arrowschur::cross::Rows residuals{r, k, q, r * q, nullptr, nullptr, DType::float64};
  Cross normal = j_beta;
  std::vector<std::shared_ptr<const void>> copies;
  Buffer<double> zeros;
  const auto ascending = [&](Index b) {
    for (Index e = j_beta.indptr[b] + 1; e < j_beta.indptr[b + 1]; ++e) {
      if (j_beta.block_index[e - 1] >= j_beta.block_index[e]) return false;
    }
    return true;
  };
  for (Index b = 0; b < r && !merged; ++b) merged = !ascending(b);
  if (merged) {
    for (Index e = 0; e < j_beta.indptr[r]; ++e)
      values = checked_sum(values, q * width(j_beta.block_index[e]), "j_beta");
    zeros = Buffer<double>(values);
    std::fill(zeros.begin(), zeros.end(), 0.0);
    std::get<BlockSparseCross>(normal).values = zeros.data();
    given_ptr = copy_of(j_beta.indptr, r + 1);
    given_block = copy_of(j_beta.block_index, j_beta.indptr[r]);
  }
  layout = arrowschur::cross::examine(residuals, normal, false, copies);
  const auto& j = std::get<BlockSparseCross>(normal);
  j_ptr = copy_of(j.indptr, r + 1);
  j_block = copy_of(j.block_index, j.indptr[r]);
  if (!merged) values = layout->stored;
  find_cross(p.row_index);
  find_border();
}

// The union of the blocks that the residual blocks of a row touch.
void JacobianPattern::find_cross(const Index* row_index) {
  const Index entries = j_ptr[r];
  std::vector<Index> begin(at(n + 1), 0), count(at(n), 0);  // of each row's list before and after merging
  for (Index b = 0; b < r; ++b) begin[at((own_rows ? b : row_index[b]) + 1)] += j_ptr[b + 1] - j_ptr[b];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  Buffer<Index> touched(entries);
  const Index chunks = (n + kRowChunk - 1) / kRowChunk;
  const auto for_rows = [&](auto&& f) {
    linalg::parallel_for_if(large(), chunks, [&](Index c) {
      for (Index i = c * kRowChunk; i < std::min(n, (c + 1) * kRowChunk); ++i) f(i);
    });
  };
  for_rows([&](Index i) {
    Index* const first = touched.data() + begin[at(i)];
    Index* last = first;
    of.for_each(i, [&](Index b) { last = std::copy(j_block.data() + j_ptr[b], j_block.data() + j_ptr[b + 1], last); });
    if (std::adjacent_find(first, last, std::greater_equal<>()) != last) {
      std::sort(first, last);
      last = std::unique(first, last);
    }
    count[at(i)] = last - first;
  });
  Buffer<Index> indptr(n + 1);
  indptr[0] = 0;
  std::partial_sum(count.begin(), count.end(), indptr.data() + 1);
  const Index found = indptr[n];
  Buffer<Index> index(found);
  place = Buffer<Index>(entries);
  value_ptr = Buffer<Index>(found + 1);
  for_rows([&](Index i) {
    Index* const own = index.data() + indptr[i];
    std::copy(touched.data() + begin[at(i)], touched.data() + begin[at(i)] + count[at(i)], own);
    Index next = 0;  // where the entry is when the residual blocks of the row come in the order of their border blocks
    of.for_each(i, [&](Index b) {
      for (Index e = j_ptr[b]; e < j_ptr[b + 1]; ++e, ++next) {
        if (next >= count[at(i)] || own[next] != j_block[e]) {
          next = std::lower_bound(own, own + count[at(i)], j_block[e]) - own;
        }
        place[e] = indptr[i] + next;
      }
    });
  });
  const char* what = "the block-sparse cross block h_tb";
  auto rows = std::make_shared<arrowschur::cross::Layout>();
  rows->width = layout->width;
  value_ptr[0] = 0;
  for (Index e = 0; e < found; ++e) {
    value_ptr[e + 1] = checked_sum(value_ptr[e], checked_product(d, width(index[e]), what), what);
  }
  checked_product(value_ptr[found], static_cast<Index>(sizeof(double)), what);
  rows->first_value.resize(at(n + 1));
  for (Index i = 0; i <= n; ++i) rows->first_value[at(i)] = value_ptr[indptr[i]];
  rows->stored = rows->structural = value_ptr[found];
  cross->n = n;
  cross->d = d;
  cross->k = k;
  cross->indptr = std::move(indptr);
  cross->block_index = std::move(index);
  cross->block_offsets = offsets;
  cross->layout = std::move(rows);
}

void JacobianPattern::find_border() {
  Index most = 0;
  for (Index b = 0; b < r; ++b) most = std::max(most, j_ptr[b + 1] - j_ptr[b]);
  border_at.push_back(0);
  for (const Index size : sizes) {
    widest = std::max(widest, size);
    border_at.push_back(
        checked_sum(border_at.back(), checked_product(size, size, "the border h_bb"), "the border h_bb"));
  }
  diagonal = most <= 1;
  const Index size = border_at.back() + k;
  const Index partials = diagonal ? std::min(kMaxGroups, layout->stored / std::max<Index>(4 * size, 1)) : 0;
  fused = partials >= 4;
  groups = fused ? partials : std::clamp<Index>(n / kRowChunk, 1, kMaxTasks);
  if (!fused) list_border_rows();
}

void JacobianPattern::list_border_rows() {
  const Index entries = j_ptr[r];
  border.entry_ptr.assign(at(blocks() + 1), 0);
  for (Index e = 0; e < entries; ++e) ++border.entry_ptr[at(j_block[e] + 1)];
  std::partial_sum(border.entry_ptr.begin(), border.entry_ptr.end(), border.entry_ptr.begin());
  std::vector<Index> next(border.entry_ptr.begin(), border.entry_ptr.end() - 1);
  border.entry.resize(at(entries));
  border.residual.resize(at(entries));
  for (Index b = 0; b < r; ++b) {
    for (Index e = j_ptr[b]; e < j_ptr[b + 1]; ++e) {
      const Index to = next[at(j_block[e])]++;
      border.entry[at(to)] = e;
      border.residual[at(to)] = b;
    }
  }

  std::vector<std::vector<Index>> cols(at(blocks()));
  for_block_rows([&](Index row, std::vector<Index>& mark) {
    std::vector<Index>& own = cols[at(row)];
    own.push_back(row);
    mark[at(row)] = 0;
    for (Index i = border.entry_ptr[at(row)]; i < border.entry_ptr[at(row + 1)]; ++i) {
      for (Index e = j_ptr[border.residual[at(i)]]; e < border.entry[at(i)]; ++e) {
        if (std::exchange(mark[at(j_block[e])], 0) < 0) own.push_back(j_block[e]);
      }
    }
    std::sort(own.begin(), own.end());
    for (const Index col : own) mark[at(col)] = -1;
  });
  border.ptr.push_back(0);
  border.data.push_back(0);
  for (Index row = 0; row < blocks(); ++row) {
    for (const Index col : cols[at(row)]) {
      border.cols.push_back(col);
      border.data.push_back(checked_sum(border.data.back(), width(row) * width(col), "the border h_bb"));
    }
    border.ptr.push_back(static_cast<Index>(border.cols.size()));
  }
}

std::shared_ptr<const JacobianPattern> jacobian_pattern(const JacobianParts& p, const BlockSparseCross& j_beta) {
  jacobians::require_sizes(p, 0);
  jacobians::require_row_index(p);
  BlockSparseCross indices = j_beta;
  const double unread = 0.0;
  indices.values = &unread;  // only asked whether they are there
  indices.pattern = nullptr;
  cross::require_shape({p.r, p.k, p.q, p.r * p.q, nullptr, nullptr, DType::float64}, indices);
  return std::make_shared<const JacobianPattern>(p, indices);
}

Index jacobian_values(const JacobianPattern& pattern) noexcept { return pattern.values; }

}  // namespace arrowschur
