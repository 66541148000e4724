#include "system/cross.hpp"

#include <numeric>

#include "linalg/buffer.hpp"
#include "system/cross_forms.hpp"

namespace arrowschur::cross {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class F>
decltype(auto) with_form(const ArrowSystem& s, F&& f) {
  return std::visit([&](const auto& form) -> decltype(auto) { return f(form, s.cross_layout()); }, s.cross());
}

std::vector<Index> single_columns(Index k) {
  std::vector<Index> offsets(at(k + 1));
  std::iota(offsets.begin(), offsets.end(), Index{0});
  return offsets;
}

std::vector<Index> given_blocks(const ArrowSystem& s) {
  const auto blocks = s.border_blocks();
  return blocks.empty() ? single_columns(s.k()) : std::vector<Index>(blocks.begin(), blocks.end());
}

Support support_of(const ArrowSystem& s, const KroneckerCross& c) {
  Support out;
  if (!s.border_blocks().empty()) {
    out.offsets = given_blocks(s);
  } else {  // cut where a target begins or ends
    std::vector<Index> cuts{0, s.k()};
    for (const Index base : s.cross_layout().target_base) {
      cuts.push_back(base);
      cuts.push_back(base + c.p);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    out.offsets = std::move(cuts);
  }
  out.ptr.reserve(at(s.n() + 1));
  out.ptr.push_back(0);
  for (Index i = 0; i < s.n(); ++i) {
    const auto own = static_cast<std::ptrdiff_t>(out.blocks.size());
    for (Index e = c.support_ptr[i]; e < c.support_ptr[i + 1]; ++e) {  // ascending bases
      const Index begin = c.support_base[e], end = begin + c.p;
      Index b =
          static_cast<Index>(std::upper_bound(out.offsets.begin(), out.offsets.end(), begin) - out.offsets.begin()) - 1;
      if (static_cast<std::ptrdiff_t>(out.blocks.size()) > own) b = std::max(b, out.blocks.back() + 1);
      for (; out.offsets[at(b)] < end; ++b) out.blocks.push_back(b);
    }
    out.ptr.push_back(static_cast<Index>(out.blocks.size()));
  }
  return out;
}

}  // namespace

Index stored_entries(const ArrowSystem& s) { return s.cross_layout().stored; }
Index structural_entries(const ArrowSystem& s) { return s.cross_layout().structural; }
bool is_dense(const ArrowSystem& s) {
  return std::holds_alternative<DenseCross>(s.cross()) || std::holds_alternative<OperatorCross>(s.cross());
}

namespace {

struct Bytes {
  Index n, k, total, item;

  Index operator()(std::monostate, const Layout*) const { return 0; }
  Index operator()(const DenseCross&, const Layout*) const { return total * k * item; }
  Index operator()(const BlockSparseCross& c, const Layout* l) const {
    return l->stored * item + (c.indptr[n] + n + 1 + static_cast<Index>(c.block_offsets.size())) * kIndex;
  }
  Index operator()(const KroneckerCross& c, const Layout* l) const {
    const Index several = c.j_ptr == nullptr ? 0 : c.support_ptr[n] + n + 1;
    return l->stored * item + (c.support_ptr[n] + n + 1 + several) * kIndex;
  }
  Index operator()(const OperatorCross& c, const Layout* l) const {
    return std::visit([&](const auto& form) { return (*this)(form, l->supplement.get()); }, c.supplement);
  }
  static constexpr Index kIndex = static_cast<Index>(sizeof(Index));
};

}  // namespace

Index nbytes(const ArrowSystem& s) noexcept {
  const Bytes bytes{s.n(), s.k(), s.total_dim(), static_cast<Index>(size_of(s.dtype()))};
  return std::visit([&](const auto& form) { return bytes(form, &s.cross_layout()); }, s.cross());
}

void apply(const ArrowSystem& s, Index row_begin, Index row_end, const double* x, double* y, Index m) {
  if (row_end <= row_begin || m == 0) return;
  with_form(s, [&](const auto& form, const Layout& l) { apply(s, form, l, row_begin, row_end, x, y, m); });
}

void transpose(const ArrowSystem& s, const double* y, double* x, Index m) {
  if (s.k() == 0 || m == 0) return;
  with_form(s, [&](const auto& form, const Layout& l) { transpose(s, form, l, y, x, m); });
}

void materialize(const ArrowSystem& s, Index row_begin, Index row_end, double* out, Index ld) {
  if (row_end <= row_begin) return;
  with_form(s, [&](const auto& form, const Layout& l) { materialize(s, form, l, row_begin, row_end, out, ld); });
}

bool abs_sums(const ArrowSystem& s, double* row_abs, double* col_abs) {
  return with_form(s, [&](const auto& form, const Layout& l) { return abs_sums(s, form, l, row_abs, col_abs); });
}

double max_abs(const ArrowSystem& s) {
  return with_form(s, [&](const auto& form, const Layout& l) { return max_abs(s, form, l); });
}

double coupling(const ArrowSystem& s, Index row, const double* m_diagonal) {
  return with_form(s, [&](const auto& form, const Layout& l) { return row_squares(s, form, l, row, m_diagonal); });
}

double row_norm_sq(const ArrowSystem& s, Index row) {
  return with_form(s, [&](const auto& form, const Layout& l) { return row_squares(s, form, l, row, nullptr); });
}

Support support(const ArrowSystem& s) {
  if (const auto* sparse = std::get_if<BlockSparseCross>(&s.cross())) {
    return {sparse->block_offsets, std::vector<Index>(sparse->indptr, sparse->indptr + s.n() + 1),
            std::vector<Index>(sparse->block_index, sparse->block_index + sparse->indptr[s.n()]), false};
  }
  if (const auto* kronecker = std::get_if<KroneckerCross>(&s.cross())) return support_of(s, *kronecker);
  Support out;
  out.offsets = given_blocks(s);
  out.everything = true;
  return out;
}

ArrowSystem densified(const ArrowSystem& s) {
  // The copies of `s` (symmetrised parts, say) stay alive with it.
  return with_dtype(s.dtype(), [&]<class T>(T) {
    struct Owner {
      ArrowSystem system;
      linalg::Buffer<T> slab;
    };
    const Index k = s.k(), t = s.total_dim();
    const Index entries = checked_product(t, k, "the dense cross block h_tb (T x k)");
    checked_product(entries, static_cast<Index>(sizeof(double)), "the dense cross block h_tb (T x k)");
    auto owner = std::make_shared<Owner>(Owner{s, linalg::Buffer<T>(entries)});
    if constexpr (std::is_same_v<T, double>) {
      materialize(s, 0, s.n(), owner->slab.data(), k);
    } else {
      const bool whole = std::holds_alternative<OperatorCross>(s.cross());
      const Index rows =
          whole ? std::max<Index>(s.n(), 1) : std::max<Index>(1, (Index{1} << 18) / std::max<Index>(k, 1));
      linalg::Buffer<double> wide;
      for (Index i = 0; i < s.n(); i += rows) {
        const Index end = std::min(s.n(), i + rows), first = s.row_offset(i) * k;
        const Index size = s.row_offset(end) * k - first;
        if (wide.size() < size) wide = linalg::Buffer<double>(size);
        materialize(s, i, end, wide.data(), k);
        for (Index e = 0; e < size; ++e) owner->slab[first + e] = static_cast<T>(wide[e]);
      }
    }
    SystemParts parts;
    parts.n = s.n();
    parts.k = k;
    if (s.is_uniform()) {
      parts.d = s.n() > 0 ? s.row_dim(0) : 0;
    } else {
      for (Index i = 0; i < s.n(); ++i) parts.row_dims.push_back(s.row_dim(i));
    }
    parts.dtype = s.dtype();
    parts.h_tt = s.h_tt();
    parts.h_tb = owner->slab.data();
    parts.border_blocks.assign(s.border_blocks().begin(), s.border_blocks().end());
    parts.border = s.border();
    parts.g_t = s.g_t();
    parts.g_beta = s.g_beta();
    parts.owner = std::move(owner);
    // The parts have been checked; since then the lower triangles are the matrix.
    ValidationOptions trusted;
    trusted.check_finite = false;
    trusted.symmetry = Symmetry::lower;
    trusted.detect_structure = false;
    return ArrowSystem::make(std::move(parts), trusted);
  });
}

}  // namespace arrowschur::cross
