// Border terms in their stored form. Dense data is read from the lower triangle only, once per product: a row gives its
// dot product with x and, transposed, its contribution to the rows above.
#include "system/border.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "linalg/blas.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/border_entries.hpp"
#include "system/border_kronecker.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace border {
namespace {

using linalg::Buffer;

constexpr Index kParallelBorder = 512;  // columns from which a dense product is shared
constexpr Index kMaxGroups = 32;  // partials of k entries
constexpr Index kRowBytes = Index{256} << 10;  // rows read twice out of L2
constexpr Index kMaxRows = 64;  // rows per kernel call
constexpr Index kSmallBlock = 32;  // below: plain loops
constexpr Index kTile = 64;  // rows of a product with many vectors
constexpr Index kDepth = 256;  // its inner dimension, converted at a time

// ---- one vector -----------------------------------------------------------------------------------------------------

// y += M x (x, y not null) and abs += off-diagonal absolute row sums (abs not null), M k x k from its lower triangle.
// Groups of rows are balanced by area and have private partials that are added in group order; they depend on k only.
template <class In>
void square_add(const In* m, Index k, const double* x, double* y, double* abs) {
  const Index groups = k < kParallelBorder ? 1 : std::min<Index>(k / 64, kMaxGroups);
  const Index rows_per_call = std::clamp<Index>(kRowBytes / (k * static_cast<Index>(sizeof(In))) / 4 * 4, 4, kMaxRows);
  const auto& kernel = linalg::kernels().data<In>();
  const auto first_row = [&](Index g) {
    if (g == groups) return k;
    return static_cast<Index>(static_cast<double>(k) * std::sqrt(static_cast<double>(g) / static_cast<double>(groups)));
  };

  Buffer<double> sums(groups * k), sizes(abs != nullptr ? groups * k : 0), zero(x == nullptr ? k : 0);
  if (x == nullptr) {
    std::fill(zero.begin(), zero.end(), 0.0);
    x = zero.data();
  }
  linalg::parallel_for_if(groups > 1, groups, [&](Index g) {
    const Index begin = first_row(g), end = first_row(g + 1);
    double* sum = sums.data() + g * k;
    double* size = abs != nullptr ? sizes.data() + g * k : nullptr;
    std::fill(sum, sum + end, 0.0);
    if (size != nullptr) std::fill(size, size + end, 0.0);
    for (Index i = begin; i < end; i += rows_per_call) {
      const Index rows = std::min(rows_per_call, end - i);
      double z[kMaxRows] = {}, a[kMaxRows] = {};
      if (i > 0) {  // left of the diagonal block
        kernel.rows_dot(rows, i, m + i * k, k, x, z, size != nullptr ? a : nullptr);
        kernel.rows_axpy(rows, i, m + i * k, k, x + i, sum, size);
      }
      for (Index r = 0; r < rows; ++r) {
        const In* row = m + (i + r) * k + i;
        for (Index c = 0; c < r; ++c) {
          const double value = static_cast<double>(row[c]);
          z[r] += value * x[i + c];
          sum[i + c] += value * x[i + r];
          if (size == nullptr) continue;
          a[r] += std::fabs(value);
          size[i + c] += std::fabs(value);
        }
        z[r] += static_cast<double>(row[r]) * x[i + r];
      }
      for (Index r = 0; r < rows; ++r) sum[i + r] += z[r];
      if (size == nullptr) continue;
      for (Index r = 0; r < rows; ++r) size[i + r] += a[r];
    }
  });
  const auto combine = [&](const Buffer<double>& parts, double* out) {
    for (Index g = 0; g < groups; ++g) {
      const double* part = parts.data() + g * k;
      const Index end = first_row(g + 1);
      for (Index j = 0; j < end; ++j) out[j] += part[j];
    }
  };
  if (y != nullptr) combine(sums, y);
  if (abs != nullptr) combine(sizes, abs);
}

// ---- many vectors ---------------------------------------------------------------------------------------------------

// The rows x cols block of the data at m as float64: in place, or converted into `scratch`.
inline const double* as_double(const double* m, Index ld, Index, Index, double*, Index& out_ld) {
  out_ld = ld;
  return m;
}
inline const double* as_double(const float* m, Index ld, Index rows, Index cols, double* scratch, Index& out_ld) {
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) scratch[r * cols + c] = static_cast<double>(m[r * ld + c]);
  }
  out_ld = cols;
  return scratch;
}

// Y += M X with X, Y [k, m]. Tasks own rows of Y and read their part of M in both roles, so that no partials of k x m
// are needed.
template <class In>
void square_add_many(const In* matrix, Index k, const double* x, double* y, Index m) {
  const auto& blas = linalg::blas_table<double>();
  const Index tiles = (k + kTile - 1) / kTile;
  linalg::parallel_for_if(k * k * m >= linalg::kParallelWork, tiles, [&](Index tile) {
    const Index i = tile * kTile, rows = std::min(kTile, k - i);
    Buffer<double> scratch(sizeof(In) == sizeof(double) ? 0 : kTile * kDepth);
    Index ld = 0;
    double* out = y + i * m;
    // A row-major [r, c] matrix is a column-major [c, r] one: Y' += X' M'.
    for (Index j = 0; j < i; j += kDepth) {
      const Index depth = std::min(kDepth, i - j);
      const double* block = as_double(matrix + i * k + j, k, rows, depth, scratch.data(), ld);
      blas.gemm('N', 'N', m, rows, depth, 1.0, x + j * m, m, block, ld, 1.0, out, m);
    }
    double diagonal[kTile * kTile];
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c <= r; ++c) {
        diagonal[r * rows + c] = diagonal[c * rows + r] = static_cast<double>(matrix[(i + r) * k + i + c]);
      }
    }
    blas.gemm('N', 'N', m, rows, rows, 1.0, x + i * m, m, diagonal, rows, 1.0, out, m);
    for (Index j = i + rows; j < k; j += kDepth) {
      const Index depth = std::min(kDepth, k - j);
      const double* block = as_double(matrix + j * k + i, k, depth, rows, scratch.data(), ld);
      blas.gemm('N', 'T', m, rows, depth, 1.0, x + j * m, m, block, ld, 1.0, out, m);
    }
  });
}

// A small block, any number of vectors.
template <class In>
void small_add(const In* block, Index size, const double* x, double* y, Index m) {
  for (Index r = 0; r < size; ++r) {
    for (Index c = 0; c <= r; ++c) {
      const double value = static_cast<double>(block[r * size + c]);
      for (Index q = 0; q < m; ++q) y[r * m + q] += value * x[c * m + q];
      if (c == r) continue;
      for (Index q = 0; q < m; ++q) y[c * m + q] += value * x[r * m + q];
    }
  }
}

template <class In>
void block_add(const In* block, Index size, const double* x, double* y, double* abs, Index m) {
  if (size == 0) return;
  if (size > kSmallBlock) {
    if (m > 1) return square_add_many(block, size, x, y, m);
    return square_add(block, size, x, y, abs);
  }
  if (y != nullptr) small_add(block, size, x, y, m);
  if (abs == nullptr) return;
  for (Index r = 0; r < size; ++r) {
    for (Index c = 0; c < r; ++c) {
      const double value = std::fabs(static_cast<double>(block[r * size + c]));
      abs[r] += value;
      abs[c] += value;
    }
  }
}

// ---- terms ----------------------------------------------------------------------------------------------------------

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Columns of the caller's operator, one at a time and, unless it is thread-safe, by one thread at a time.
class OperatorColumns {
 public:
  OperatorColumns(const OperatorBorder& op, Index k) : op_(op), in_(at(k), 0.0), out_(at(k)) {
    if (!op.thread_safe) lock_ = std::unique_lock(*op.lock);
  }
  std::vector<double>& in() { return in_; }
  const std::vector<double>& out() const { return out_; }
  void apply() { op_.matvec(in_, out_); }
  void probe(Index column) {
    in_[at(column)] = 1.0;
    apply();
    in_[at(column)] = 0.0;
  }

 private:
  const OperatorBorder& op_;
  std::unique_lock<std::recursive_mutex> lock_;
  std::vector<double> in_, out_;
};

// y += P x for m vectors where y is given, abs += off-diagonal sums where abs is (then m = 1).
template <class In>
struct ProductAdder {
  Index k, m;
  const double* x;
  double* y;
  double* abs;

  // The Kronecker forms.
  template <class Term>
  void operator()(const Term& t) const {
    const KroneckerProducts<In> products{k};
    if (y != nullptr) products.multiply_add(t, x, y, m);
    if (abs != nullptr) products.abs_sums_add(t, abs);
  }
  void operator()(const OperatorBorder& t) const {  // whose absolute sums nobody knows
    if (y == nullptr) return;
    OperatorColumns columns(t, k);
    for (Index q = 0; q < m; ++q) {
      for (Index i = 0; i < k; ++i) columns.in()[at(i)] = x[i * m + q];
      columns.apply();
      for (Index i = 0; i < k; ++i) y[i * m + q] += columns.out()[at(i)];
    }
  }
  void operator()(const DenseBorder& t) const { block_add(static_cast<const In*>(t.data), k, x, y, abs, m); }

  void operator()(const DiagonalBorder& t) const {
    if (y == nullptr) return;
    const In* diagonal = static_cast<const In*>(t.data);
    for (Index i = 0; i < k; ++i) {
      const double value = static_cast<double>(diagonal[i]);
      for (Index q = 0; q < m; ++q) y[i * m + q] += value * x[i * m + q];
    }
  }

  // Each task owns rows of y and reads every band as a sub-diagonal and as a super-diagonal.
  void operator()(const BandedBorder& t) const {
    const In* bands = static_cast<const In*>(t.bands);
    const Index chunk = 256;
    const bool parallel = (t.bandwidth + 1) * m >= linalg::kParallelWork / std::max<Index>(k, 1);
    linalg::parallel_for_if(parallel, (k + chunk - 1) / chunk, [&](Index task) {
      const Index begin = task * chunk, end = std::min(k, begin + chunk);
      for (Index j = 0; j <= t.bandwidth; ++j) {
        const In* band = bands + j * k;
        add_band(band, begin, std::min(end, k - j), j);  // M[i, i + j]
        if (j > 0) add_band(band - j, std::max(begin, j), end, -j);  // M[i, i - j]
      }
    });
  }
  void add_band(const In* band, Index begin, Index end, Index shift) const {
    if (y != nullptr && m == 1) {
      for (Index i = begin; i < end; ++i) y[i] += static_cast<double>(band[i]) * x[i + shift];
    } else if (y != nullptr) {
      for (Index i = begin; i < end; ++i) {
        const double value = static_cast<double>(band[i]);
        for (Index q = 0; q < m; ++q) y[i * m + q] += value * x[(i + shift) * m + q];
      }
    }
    if (abs == nullptr || shift == 0) return;
    for (Index i = begin; i < end; ++i) abs[i] += std::fabs(static_cast<double>(band[i]));
  }

  void operator()(const BlockDiagonalBorder& t) const {
    const In* block = static_cast<const In*>(t.data);
    Index first = 0;
    for (const Index size : t.sizes) {
      block_add(block, size, x == nullptr ? nullptr : x + first * m, y == nullptr ? nullptr : y + first * m,
                abs == nullptr ? nullptr : abs + first, m);
      block += size * size;
      first += size;
    }
  }
};

template <class In>
struct DiagonalAdder {
  Index k;
  double* out;

  template <class Term>
  void operator()(const Term& t) const {
    KroneckerProducts<In>{k}.diagonal_add(t, out);
  }
  void operator()(const OperatorBorder& t) const {
    for (Index i = 0; i < k; ++i) out[i] += t.diagonal[at(i)];
  }
  void operator()(const DenseBorder& t) const {
    for (Index i = 0; i < k; ++i) out[i] += static_cast<double>(static_cast<const In*>(t.data)[i * k + i]);
  }
  void operator()(const DiagonalBorder& t) const { add(static_cast<const In*>(t.data)); }
  void operator()(const BandedBorder& t) const { add(static_cast<const In*>(t.bands)); }
  void operator()(const BlockDiagonalBorder& t) const {
    const In* block = static_cast<const In*>(t.data);
    Index first = 0;
    for (const Index size : t.sizes) {
      for (Index i = 0; i < size; ++i) out[first + i] += static_cast<double>(block[i * size + i]);
      block += size * size;
      first += size;
    }
  }
  void add(const In* diagonal) const {
    for (Index i = 0; i < k; ++i) out[i] += static_cast<double>(diagonal[i]);
  }
};

template <class In>
struct DenseAdder {
  Index k;
  double* out;
  Index ld;

  template <class Term>
  void operator()(const Term& t) const {
    const IndexRange all{0, k};
    auto add_entry = [&](Index r, Index c, double value) { add(r, c, value); };
    EntryVisitor<In, IndexRange, decltype(add_entry)>{k, all, all, add_entry}(t);
  }
  void operator()(const OperatorBorder& t) const {
    OperatorColumns columns(t, k);
    for (Index j = 0; j < k; ++j) {
      columns.probe(j);
      for (Index i = j; i < k; ++i) add(i, j, columns.out()[at(i)]);
    }
  }
  void operator()(const DenseBorder& t) const { add_square(static_cast<const In*>(t.data), k, 0); }
  void operator()(const BlockDiagonalBorder& t) const {
    const In* block = static_cast<const In*>(t.data);
    Index first = 0;
    for (const Index size : t.sizes) {
      add_square(block, size, first);
      block += size * size;
      first += size;
    }
  }
  void add(Index r, Index c, double value) const {
    out[r * ld + c] += value;
    if (r != c) out[c * ld + r] += value;
  }
  // Tile by tile, so that the transposed writes stay in the cache.
  void add_square(const In* m, Index size, Index first) const {
    const Index tiles = (size + kTile - 1) / kTile;
    linalg::parallel_for_if(size * size >= linalg::kParallelWork, tiles, [&](Index tile) {
      const Index i = tile * kTile;
      for (Index j = 0; j <= i; j += kTile) {
        for (Index r = i; r < std::min(size, i + kTile); ++r) {
          for (Index c = j; c < std::min(r + 1, j + kTile); ++c) {
            add(first + r, first + c, static_cast<double>(m[r * size + c]));
          }
        }
      }
    });
  }
};

bool any_above_one(const std::vector<Index>& sizes) {
  return std::any_of(sizes.begin(), sizes.end(), [](Index size) { return size > 1; });
}

// What the absolute row sums of a term are: nothing off the diagonal, exact, or a bound.
struct SumsOf {
  Index k;
  enum Kind { none, exact, bound };

  Kind operator()(const DenseBorder&) const { return k > 1 ? exact : none; }
  Kind operator()(const DiagonalBorder&) const { return none; }
  Kind operator()(const BandedBorder& t) const { return t.bandwidth > 0 ? exact : none; }
  Kind operator()(const BlockDiagonalBorder& t) const { return any_above_one(t.sizes) ? exact : none; }
  Kind operator()(const KroneckerBorder& t) const { return any_above_one(t.sizes) ? exact : none; }
  Kind operator()(const KroneckerProductBorder& t) const { return t.pa * t.pb > 1 ? exact : none; }
  Kind operator()(const SparseBlockKroneckerBorder& t) const { return sums_are_bound(t) ? bound : exact; }
  Kind operator()(const FramedKroneckerBorder& t) const { return sums_are_bound(t) ? bound : exact; }
  Kind operator()(const OperatorBorder&) const { return bound; }
};

template <template <class> class Adder, class... Args>
void add_terms(const Border& border, Args... args) {
  with_dtype(border.dtype, [&]<class In>(In) {
    for (const BorderTerm& term : border.terms) std::visit(Adder<In>{border.k, args...}, term);
  });
}

bool is_bound(const Border& border) {
  Index with_sums = 0;
  for (const BorderTerm& term : border.terms) {
    const SumsOf::Kind kind = std::visit(SumsOf{border.k}, term);
    if (kind == SumsOf::bound) return true;
    if (kind == SumsOf::exact) ++with_sums;
  }
  return with_sums > 1;
}

void require_span(std::size_t size, Index expected, const char* name) {
  if (static_cast<Index>(size) != expected) {
    throw InvalidArgument(name, std::to_string(size) + " entries", std::to_string(expected) + " entries");
  }
}

}  // namespace

void to_dense_add(const Border& border, double* out, Index ld) { add_terms<DenseAdder>(border, out, ld); }

template <class In>
void square_matvec_add(const In* m, Index size, const double* x, double* y, Index vectors) {
  block_add(m, size, x, y, static_cast<double*>(nullptr), vectors);
}
template void square_matvec_add<double>(const double*, Index, const double*, double*, Index);
template void square_matvec_add<float>(const float*, Index, const double*, double*, Index);

bool matvec_and_abs_sums_add(const Border& border, const double* x, double* y, double* abs) {
  add_terms<ProductAdder>(border, Index{1}, x, y, abs);
  return is_bound(border);
}

bool has_dense(const Border& border) {
  return std::none_of(border.terms.begin(), border.terms.end(),
                      [](const BorderTerm& term) { return std::holds_alternative<OperatorBorder>(term); });
}

Index stored_entries(const Border& border) {
  Index entries = 0;
  for (const BorderTerm& term : border.terms) {
    entries = checked_sum(entries, std::visit([&](const auto& t) { return term_entries(t, border.k); }, term),
                          "the border h_bb");
  }
  return entries;
}

namespace {

// out [size, size] += P[indices, indices] for an index set, full symmetric.
template <class Set>
void principal_add(const Border& border, const Set& set, Index size, double* out) {
  auto add = [&](Index r, Index c, double value) {
    out[r * size + c] += value;
    if (r != c) out[c * size + r] += value;
  };
  with_dtype(border.dtype, [&]<class In>(In) {
    const EntryVisitor<In, Set, decltype(add)> visitor{border.k, set, set, add};
    for (const BorderTerm& term : border.terms) {
      if (const auto* op = std::get_if<OperatorBorder>(&term)) {
        OperatorColumns columns(*op, border.k);
        for (Index c = 0; c < size; ++c) {
          columns.probe(set.at(c));
          for (Index r = c; r < size; ++r) add(r, c, columns.out()[at(set.at(r))]);
        }
      } else {
        std::visit(visitor, term);
      }
    }
  });
}

}  // namespace

void block_add(const Border& border, Index begin, Index end, double* out) {
  principal_add(border, IndexRange{begin, end}, end - begin, out);
}

void subblock_add(const Border& border, std::span<const Index> cols, double* out) {
  principal_add(border, IndexList{cols}, static_cast<Index>(cols.size()), out);
}

void for_each_lower(const Border& border, const std::function<void(Index, Index, double)>& f) {
  const IndexRange all{0, border.k};
  with_dtype(border.dtype, [&]<class In>(In) {
    const EntryVisitor<In, IndexRange, const std::function<void(Index, Index, double)>> visitor{border.k, all, all, f};
    for (const BorderTerm& term : border.terms) std::visit(visitor, term);
  });
}

}  // namespace border

void Border::matvec_add(std::span<const double> x, std::span<double> y, Index m) const {
  if (m < 0) throw InvalidArgument("m", std::to_string(m), "an integer >= 0");
  const Index entries = checked_product(k, m, "k x m right-hand sides");
  border::require_span(x.size(), entries, "x");
  border::require_span(y.size(), entries, "y");
  if (entries == 0) return;
  border::add_terms<border::ProductAdder>(*this, m, x.data(), y.data(), static_cast<double*>(nullptr));
}

void Border::diagonal_add(std::span<double> out) const {
  border::require_span(out.size(), k, "out");
  border::add_terms<border::DiagonalAdder>(*this, out.data());
}

void Border::to_dense_add(std::span<double> out) const {
  border::require_span(out.size(), checked_product(k, k, "the dense border (k x k)"), "out");
  border::to_dense_add(*this, out.data(), k);
}

bool Border::off_diagonal_abs_sums_add(std::span<double> out) const {
  border::require_span(out.size(), k, "out");
  border::add_terms<border::ProductAdder>(*this, Index{1}, static_cast<const double*>(nullptr),
                                          static_cast<double*>(nullptr), out.data());
  return border::is_bound(*this);
}

}  // namespace arrowschur
