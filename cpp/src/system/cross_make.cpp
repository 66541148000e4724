#include "system/cross_make.hpp"

#include <algorithm>
#include <limits>

#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "system/cross_pattern.hpp"
#include "system/examine.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;
using validate::index_text;
using validate::require_buffer;
using validate::require_bytes;
using validate::throw_not_finite;

constexpr const char* kDenseName = "the cross block h_tb (T x k)";
constexpr Index kChunk = 4096;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

[[noreturn]] void throw_entry(const char* name, Index value, Index index, const std::string& rule) {
  throw InvalidArgument(name, std::to_string(value) + " at index " + std::to_string(index), rule);
}

// 0 = offsets[0] <= offsets[1] ...
void require_pointer(const Index* ptr, Index n, const char* name) {
  if (ptr == nullptr) {
    throw InvalidArgument(name, "a null pointer", "a buffer of " + std::to_string(n + 1) + " entries");
  }
  if (ptr[0] != 0) throw_entry(name, ptr[0], 0, "0 at index 0");
  for (Index i = 0; i < n; ++i) {
    if (ptr[i + 1] < ptr[i]) {
      throw_entry(name, ptr[i + 1], i + 1, "at least the entry before, " + std::to_string(ptr[i]));
    }
  }
}

// 0 = offsets[0] < offsets[1] < ... < k
void require_offsets(const std::vector<Index>& offsets, Index k, const char* name) {
  if (offsets.empty()) throw InvalidArgument(name, "no entries", "offsets from 0 to k = " + std::to_string(k));
  if (offsets.front() != 0) throw_entry(name, offsets.front(), 0, "0 at index 0");
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    if (offsets[b] > offsets[b - 1]) continue;
    throw_entry(name, offsets[b], static_cast<Index>(b),
                "more than the entry before, " + std::to_string(offsets[b - 1]));
  }
  if (offsets.back() != k) {
    throw_entry(name, offsets.back(), static_cast<Index>(offsets.size()) - 1,
                "k = " + std::to_string(k) + " at the end");
  }
}

// The first index below n for which bad(index), or -1.
template <class F>
Index first_index(Index n, Index work, F&& bad) {
  const Index chunks = (n + kChunk - 1) / kChunk;
  std::vector<Index> found(at(chunks), -1);
  linalg::parallel_for_if(work >= linalg::kParallelWork, chunks, [&](Index c) {
    for (Index i = c * kChunk; i < std::min(n, (c + 1) * kChunk); ++i) {
      if (!bad(i)) continue;
      found[at(c)] = i;
      return;
    }
  });
  const auto first = std::find_if(found.begin(), found.end(), [](Index i) { return i >= 0; });
  return first == found.end() ? -1 : *first;
}

// offsets[i + 1] - offsets[i] = size(i), checked for overflow.
template <class F>
std::vector<Index> running_sum(Index n, const char* what, F&& size) {
  std::vector<Index> sum(at(n + 1), 0);
  for (Index i = 0; i < n; ++i) sum[at(i + 1)] = checked_sum(sum[at(i)], size(i), what);
  return sum;
}

// Columns of every border block, or 0: they differ.
Index common_width(const std::vector<Index>& offsets) {
  const Index width = offsets.size() > 1 ? offsets[1] : 0;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    if (offsets[b] - offsets[b - 1] != width) return 0;
  }
  return width;
}

// Examined when its pattern was made.
bool known(const Rows& rows, const BlockSparseCross& c) {
  return c.pattern != nullptr && rows.dims == nullptr && c.pattern->is_of(rows.n, rows.d, rows.k, c);
}

// ---- sizes ----------------------------------------------------------------------------------------------------------

struct Shape {
  const Rows& rows;

  void operator()(std::monostate) const {}
  void operator()(const DenseCross& c) const {
    const Index entries = checked_product(rows.total, rows.k, kDenseName);
    require_bytes(entries, rows.dtype, kDenseName);
    require_buffer(c.data, entries, "h_tb");
  }
  void operator()(const BlockSparseCross& c) const {
    if (known(rows, c)) return require_buffer(c.values, c.pattern->layout->stored, "h_tb");
    require_pointer(c.indptr, rows.n, "indptr");
    require_offsets(c.block_offsets, rows.k, "block_offsets");
    const Index entries = c.indptr[rows.n], blocks = static_cast<Index>(c.block_offsets.size()) - 1;
    require_buffer(c.block_index, entries, "block_index");
    const auto out_of_range = [&](Index e) { return c.block_index[e] < 0 || c.block_index[e] >= blocks; };
    if (const Index e = first_index(entries, entries, out_of_range); e >= 0) {
      throw_entry("block_index", c.block_index[e], e, "border blocks between 0 and " + std::to_string(blocks - 1));
    }
    require_buffer(c.values, first_values(c).back(), "h_tb");
  }
  void operator()(const KroneckerCross& c) const {
    if (c.p < 1) throw InvalidArgument("p", std::to_string(c.p), "an integer >= 1");
    require_pointer(c.support_ptr, rows.n, "support_ptr");
    const Index pairs = c.support_ptr[rows.n];
    require_buffer(c.support_base, pairs, "support_base");
    require_buffer(c.support_phi, pairs, "support_phi");
    for (Index e = 0; e < pairs; ++e) {
      if (c.support_base[e] >= 0 && c.support_base[e] <= rows.k - c.p) continue;
      throw_entry("support_base", c.support_base[e], e,
                  "offsets between 0 and k - p = " + std::to_string(rows.k - c.p));
    }
    if (c.j_ptr != nullptr) {
      require_pointer(c.j_ptr, rows.n, "j_ptr");
      require_buffer(c.support_j, pairs, "support_j");
      for (Index i = 0; i < rows.n; ++i) {
        const Index matrices = c.j_ptr[i + 1] - c.j_ptr[i];
        for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
          if (c.support_j[e] >= 0 && c.support_j[e] < matrices) continue;
          throw_entry("support_j", c.support_j[e], e,
                      "one of the " + std::to_string(matrices) + " matrices of row " + std::to_string(i));
        }
      }
    }
    require_buffer(c.j, first_values(c).back(), "j");
  }
  void operator()(const OperatorCross& c) const {
    if (!c.forward || !c.transpose) {
      throw InvalidArgument("h_tb", c.forward ? "an operator without transpose" : "an operator without forward",
                            "both callbacks");
    }
    std::visit(*this, c.supplement);
  }

  std::vector<Index> first_values(const BlockSparseCross& c) const {
    // The columns of a row fit: none of its entries is wider than k, and their number was allocated.
    const char* what = "the block-sparse cross block h_tb";
    if (const Index width = common_width(c.block_offsets); rows.dims == nullptr && width > 0) {
      const Index size = checked_product(width, rows.d, what);
      require_bytes(checked_product(c.indptr[rows.n], size, what), rows.dtype, what);
      std::vector<Index> first(at(rows.n + 1));
      std::transform(c.indptr, c.indptr + rows.n + 1, first.begin(), [size](Index e) { return e * size; });
      return first;
    }
    std::vector<Index> sums = running_sum(rows.n, what, [&](Index i) {
      Index columns = 0;
      for (Index e = c.indptr[i]; e < c.indptr[i + 1]; ++e) {
        const Index b = c.block_index[e];
        columns = checked_sum(columns, c.block_offsets[at(b + 1)] - c.block_offsets[at(b)], what);
      }
      return checked_product(columns, rows.dim(i), what);
    });
    require_bytes(sums.back(), rows.dtype, what);
    return sums;
  }
  std::vector<Index> first_values(const KroneckerCross& c) const {
    const char* what = "the matrices J of the Kronecker cross block h_tb";
    std::vector<Index> sums = running_sum(rows.n, what, [&](Index i) {
      const Index matrices = c.j_ptr == nullptr ? 1 : c.j_ptr[i + 1] - c.j_ptr[i];
      return checked_product(checked_product(matrices, rows.dim(i), what), c.p, what);
    });
    require_bytes(sums.back(), rows.dtype, what);
    return sums;
  }
};

// ---- values and normal form -----------------------------------------------------------------------------------------

template <class In>
struct Examination {
  const Rows& rows;
  bool check_finite;
  std::vector<std::shared_ptr<const void>>& copies;

  Layout operator()(DenseCross& c) const {
    const In* data = static_cast<const In*>(c.data);
    Layout l;
    l.stored = l.structural = rows.total * rows.k;
    if (!check_finite) return l;
    const Index bad = validate::first_non_finite(data, l.stored);
    if (bad < 0) return l;
    const Index t = bad / rows.k, j = bad % rows.k;
    throw_not_finite("h_tb", static_cast<double>(data[bad]),
                     rows.dims == nullptr ? index_text({t / rows.d, t % rows.d, j}) : index_text({t, j}));
  }

  Layout operator()(BlockSparseCross& c) const {
    Layout l;
    l.first_value = Shape{rows}.first_values(c);
    if (check_finite) require_finite(c, l.first_value);
    const Index unsorted = first_index(rows.n, c.indptr[rows.n], [&](Index i) {
      bool ascending = true;
      for (Index e = c.indptr[i] + 1; e < c.indptr[i + 1]; ++e) ascending &= c.block_index[e - 1] < c.block_index[e];
      return !ascending;
    });
    c.pattern = nullptr;  // of other index arrays
    if (unsorted >= 0) merge(c, l);
    l.stored = l.structural = l.first_value.back();
    l.width = common_width(c.block_offsets);
    return l;
  }

  void require_finite(const BlockSparseCross& c, const std::vector<Index>& first_value) const {
    const In* values = static_cast<const In*>(c.values);
    const Index bad = validate::first_non_finite(values, first_value.back());
    if (bad < 0) return;
    const Index i =
        static_cast<Index>(std::upper_bound(first_value.begin(), first_value.end(), bad) - first_value.begin()) - 1;
    Index rest = bad - first_value[at(i)];
    for (Index e = c.indptr[i];; ++e) {
      const Index first = c.block_offsets[at(c.block_index[e])];
      const Index width = c.block_offsets[at(c.block_index[e] + 1)] - first;
      if (rest < rows.dim(i) * width) {
        const Index r = rest / width, j = first + rest % width;
        throw_not_finite("h_tb", static_cast<double>(values[bad]),
                         rows.dims == nullptr ? index_text({i, r, j}) : index_text({rows.offset(i) + r, j}));
      }
      rest -= rows.dim(i) * width;
    }
  }

  // Entries of each row in ascending order, repeated blocks added in the order given.
  void merge(BlockSparseCross& c, Layout& l) const {
    struct Copy {
      std::vector<Index> indptr, index;
      Buffer<In> values;
    };
    const In* from = static_cast<const In*>(c.values);
    auto copy = std::make_shared<Copy>();
    copy->indptr.push_back(0);
    copy->index.reserve(at(c.indptr[rows.n]));
    copy->values = Buffer<In>(l.first_value.back());
    std::vector<Index> first_value{0};
    std::vector<std::pair<Index, const In*>> entries;
    In* to = copy->values.data();
    for (Index i = 0; i < rows.n; ++i) {
      const In* v = from + l.first_value[at(i)];
      entries.clear();
      for (Index e = c.indptr[i]; e < c.indptr[i + 1]; ++e) {
        entries.emplace_back(c.block_index[e], v);
        v += rows.dim(i) * width_of(c, c.block_index[e]);
      }
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      Index size = 0;
      for (std::size_t e = 0; e < entries.size(); ++e) {
        const auto& [block, data] = entries[e];
        if (e > 0 && entries[e - 1].first == block) {
          for (Index q = 0; q < size; ++q) to[q - size] += data[q];
          continue;
        }
        size = rows.dim(i) * width_of(c, block);
        to = std::copy(data, data + size, to);
        copy->index.push_back(block);
      }
      copy->indptr.push_back(static_cast<Index>(copy->index.size()));
      first_value.push_back(to - copy->values.data());
    }
    l.first_value = std::move(first_value);
    c.indptr = copy->indptr.data();
    c.block_index = copy->index.data();
    c.values = copy->values.data();
    copies.push_back(std::move(copy));
  }
  static Index width_of(const BlockSparseCross& c, Index block) {
    return c.block_offsets[at(block + 1)] - c.block_offsets[at(block)];
  }

  Layout operator()(KroneckerCross& c) const {
    Layout l;
    l.first_value = Shape{rows}.first_values(c);
    if (check_finite) {
      require_finite("j", static_cast<const In*>(c.j), l.first_value.back());
      require_finite("support_phi", static_cast<const In*>(c.support_phi), c.support_ptr[rows.n]);
    }
    const Index mixed = first_index(rows.n, c.support_ptr[rows.n], [&](Index i) {
      bool disjoint = true;
      for (Index e = c.support_ptr[i] + 1; e < c.support_ptr[i + 1]; ++e) {
        disjoint &= c.support_base[e] - c.support_base[e - 1] >= c.p;
      }
      return !disjoint;
    });
    if (mixed >= 0) merge(c);
    l.slots = c.j_ptr == nullptr ? rows.n : c.j_ptr[rows.n];
    l.stored = l.first_value.back() + c.support_ptr[rows.n];
    for (Index i = 0; i < rows.n; ++i) l.structural += rows.dim(i) * c.p * (c.support_ptr[i + 1] - c.support_ptr[i]);
    sort_by_base(c, l);
    return l;
  }

  void require_finite(const char* name, const In* data, Index size) const {
    const Index bad = validate::first_non_finite(data, size);
    if (bad >= 0) throw_not_finite(name, static_cast<double>(data[bad]), "index " + std::to_string(bad));
  }

  // Pairs of each row by base, those with the same base and the same J as one; overlaps are refused.
  void merge(KroneckerCross& c) const {
    struct Copy {
      std::vector<Index> ptr, base, matrix;
      std::vector<In> phi;
    };
    struct Pair {
      Index base, matrix;
      In phi;
    };
    const In* phi = static_cast<const In*>(c.support_phi);
    auto copy = std::make_shared<Copy>();
    copy->ptr.push_back(0);
    std::vector<Pair> pairs;
    for (Index i = 0; i < rows.n; ++i) {
      pairs.clear();
      for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
        pairs.push_back({c.support_base[e], c.j_ptr == nullptr ? 0 : c.support_j[e], phi[e]});
      }
      std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.base < b.base; });
      for (std::size_t e = 0; e < pairs.size(); ++e) {
        const Pair& pair = pairs[e];
        const bool first = e == 0 || pair.base - copy->base.back() >= c.p;
        if (!first && (pair.base != copy->base.back() || pair.matrix != copy->matrix.back())) {
          throw InvalidArgument(
              "support_base",
              "the offsets " + std::to_string(copy->base.back()) + " and " + std::to_string(pair.base) + " in row " +
                  std::to_string(i),
              "disjoint ranges of p = " + std::to_string(c.p) + " columns, or equal ones of the same J");
        }
        if (first) {
          copy->base.push_back(pair.base);
          copy->matrix.push_back(pair.matrix);
          copy->phi.push_back(pair.phi);
        } else {
          copy->phi.back() += pair.phi;
        }
      }
      copy->ptr.push_back(static_cast<Index>(copy->base.size()));
    }
    c.support_ptr = copy->ptr.data();
    c.support_base = copy->base.data();
    c.support_phi = copy->phi.data();
    if (c.j_ptr != nullptr) c.support_j = copy->matrix.data();
    copies.push_back(std::move(copy));
  }

  // The pairs by target: a counting sort over the columns, which keeps the order of the rows.
  void sort_by_base(const KroneckerCross& c, Layout& l) const {
    const Index pairs = c.support_ptr[rows.n];
    std::vector<Index> target(at(rows.k + 1), 0);
    for (Index e = 0; e < pairs; ++e) ++target[at(c.support_base[e])];
    l.target_ptr.push_back(0);
    for (Index j = 0; j < rows.k; ++j) {
      if (target[at(j)] == 0) continue;
      l.target_base.push_back(j);
      l.target_ptr.push_back(l.target_ptr.back() + target[at(j)]);
      target[at(j)] = static_cast<Index>(l.target_base.size()) - 1;
    }
    l.target_pair.resize(at(pairs));
    l.target_slot.resize(at(pairs));
    std::vector<Index> next(l.target_ptr.begin(), l.target_ptr.end() - 1);
    for (Index i = 0; i < rows.n; ++i) {
      for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {
        const Index to = next[at(target[at(c.support_base[e])])]++;
        l.target_pair[at(to)] = e;
        l.target_slot[at(to)] = c.j_ptr == nullptr ? i : c.j_ptr[i] + c.support_j[e];
      }
    }
    const Index targets = static_cast<Index>(l.target_base.size());
    l.stride = targets > 1 ? l.target_base[1] - l.target_base[0] : c.p;
    for (Index t = 1; t < targets; ++t) {
      if (l.target_base[at(t)] - l.target_base[at(t - 1)] != l.stride) l.stride = 0;
    }
    if (l.stride < c.p) l.stride = 0;
    // A matrix product is several times as fast as sums of stretches; a quarter of the weights pays for the rest.
    l.dense_weights = l.stride > 0 && targets >= 8 && pairs >= l.slots * targets / 4;
  }

  Layout operator()(OperatorCross& c) const {
    Layout l;
    l.stored = std::min(rows.total, rows.k);
    if (__builtin_mul_overflow(rows.total, rows.k, &l.structural)) l.structural = std::numeric_limits<Index>::max();
    std::visit(
        [&]<class Form>(Form& form) {
          if constexpr (!std::is_same_v<Form, std::monostate>) {
            l.supplement = std::make_shared<const Layout>((*this)(form));
            l.stored += l.supplement->stored;
          }
        },
        c.supplement);
    return l;
  }
};

}  // namespace

void require_shape(const Rows& rows, const Cross& cross) { std::visit(Shape{rows}, cross); }

void require_border_blocks(const std::vector<Index>& offsets, Index k) { require_offsets(offsets, k, "border_blocks"); }

std::shared_ptr<const Layout> examine(const Rows& rows, Cross& cross, bool check_finite,
                                      std::vector<std::shared_ptr<const void>>& copies) {
  return with_dtype(rows.dtype, [&]<class In>(In) {
    if (auto* c = std::get_if<BlockSparseCross>(&cross); c != nullptr && known(rows, *c)) {
      if (check_finite) Examination<In>{rows, true, copies}.require_finite(*c, c->pattern->layout->first_value);
      return c->pattern->layout;
    }
    return std::make_shared<const Layout>(std::visit(Examination<In>{rows, check_finite, copies}, cross));
  });
}

}  // namespace arrowschur::cross
