#include "arrowschur/system.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"
#include "system/border_validation.hpp"
#include "system/cross_make.hpp"
#include "system/examine.hpp"
#include "system/format.hpp"
#include "system/lazy_fingerprint.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur {
namespace {

using linalg::Buffer;

using validate::asymmetric;
using validate::examine_block;
using validate::index_text;
using validate::kSmallBlock;
using validate::require_buffer;
using validate::require_bytes;
using validate::throw_asymmetric;
using validate::throw_not_finite;

void require_size(Index value, const char* name) {
  if (value < 0) throw InvalidArgument(name, std::to_string(value), "an integer >= 0");
}

}  // namespace

// ---- construction ---------------------------------------------------------------------------------------------------

namespace {

// Where an entry of h_tt sits: row block and position inside it.
struct BlockPlace {
  Index row, r, c;
};

template <class Data>
BlockPlace place_in_h_tt(const Data& data, Index flat) {
  if (data.parts.row_dims.empty()) {
    const Index d = data.parts.d, rest = flat % (d * d);
    return {flat / (d * d), rest / d, rest % d};
  }
  const auto next = std::upper_bound(data.block_offsets.begin(), data.block_offsets.end(), flat);
  const Index row = static_cast<Index>(next - data.block_offsets.begin()) - 1;
  const Index rest = flat - data.block_offsets[static_cast<std::size_t>(row)];
  const Index d = data.parts.row_dims[static_cast<std::size_t>(row)];
  return {row, rest / d, rest % d};
}

template <class Data>
Index block_start(const Data& data, Index i) {
  const Index d = data.parts.d;
  return data.parts.row_dims.empty() ? i * d * d : data.block_offsets[static_cast<std::size_t>(i)];
}
template <class Data>
Index block_size(const Data& data, Index i) {
  return data.parts.row_dims.empty() ? data.parts.d : data.parts.row_dims[static_cast<std::size_t>(i)];
}

// Sizes, offsets, buckets, in that order; nothing of the caller's data is touched.
template <class Data>
Index lay_out(Data& data) {
  SystemParts& p = data.parts;
  require_size(p.n, "n");
  require_size(p.k, "k");
  Index h_tt_entries = 0;
  if (p.row_dims.empty()) {
    require_size(p.d, "d");
    data.total_dim = checked_product(p.n, p.d, "the gradient g_t (n x d)");
    h_tt_entries = checked_product(data.total_dim, p.d, "the row blocks h_tt (n x d x d)");
    data.max_dim = p.n > 0 ? p.d : 0;
    if (data.total_dim > 0) data.buckets.push_back({p.d, {}, p.n});
  } else {
    if (static_cast<Index>(p.row_dims.size()) != p.n) {
      throw InvalidArgument("row_dims", std::to_string(p.row_dims.size()) + " entries",
                            "n = " + std::to_string(p.n) + " entries");
    }
    data.row_offsets.reserve(p.row_dims.size() + 1);
    data.block_offsets.reserve(p.row_dims.size() + 1);
    data.row_offsets.push_back(0);
    data.block_offsets.push_back(0);
    std::map<Index, RowBucket> by_size;
    for (Index i = 0; i < p.n; ++i) {
      const Index d = p.row_dims[static_cast<std::size_t>(i)];
      if (d < 0) {
        throw InvalidArgument("row_dims", std::to_string(d) + " at index " + std::to_string(i), "integers >= 0");
      }
      const Index square = checked_product(d, d, "the row blocks h_tt (sum of d_i^2 entries)");
      data.total_dim = checked_sum(data.total_dim, d, "the gradient g_t (sum of d_i entries)");
      h_tt_entries = checked_sum(h_tt_entries, square, "the row blocks h_tt (sum of d_i^2 entries)");
      data.max_dim = std::max(data.max_dim, d);
      data.row_offsets.push_back(data.total_dim);
      data.block_offsets.push_back(h_tt_entries);
      if (d > 0) {
        RowBucket& bucket = by_size[d];
        bucket.d = d;
        bucket.rows.push_back(i);
        ++bucket.count;
      }
    }
    for (auto& [d, bucket] : by_size) {
      if (bucket.count == p.n) bucket.rows.clear();  // all rows have this size: they follow one another
      data.buckets.push_back(std::move(bucket));
    }
  }
  require_bytes(h_tt_entries, p.dtype, "the row blocks h_tt");
  require_bytes(checked_sum(data.total_dim, p.k, "a vector of T + k entries"), DType::float64,
                "a vector of T + k entries");
  require_bytes(checked_product(p.k, p.k, "the border (k x k)"), DType::float64, "the border (k x k)");
  return h_tt_entries;
}

template <class Data, class T>
void examine_rows(Data& data, const ValidationOptions& options, Index entries) {
  SystemParts& p = data.parts;
  const T* h_tt = static_cast<const T*>(p.h_tt);
  if (options.check_finite) {
    const Index bad = validate::first_non_finite(h_tt, entries);
    if (bad >= 0) {
      const BlockPlace at = place_in_h_tt(data, bad);
      throw_not_finite("h_tt", static_cast<double>(h_tt[bad]), index_text({at.row, at.r, at.c}));
    }
  }
  if (data.max_dim <= 1 || options.symmetry == Symmetry::lower) return;

  const Index chunk = 256, chunks = (p.n + chunk - 1) / chunk;
  const bool parallel = entries >= linalg::kParallelWork;
  if (options.symmetry == Symmetry::average) {
    auto copy = std::make_shared<Buffer<T>>(entries);
    linalg::parallel_for_if(parallel, chunks, [&](Index c) {
      for (Index i = c * chunk; i < std::min(p.n, (c + 1) * chunk); ++i) {
        const Index start = block_start(data, i), d = block_size(data, i);
        if (d >= kSmallBlock) {
          validate::average_square(h_tt + start, d, copy->data() + start);
          continue;
        }
        for (Index r = 0; r < d; ++r) {
          for (Index q = 0; q < d; ++q) {
            copy->data()[start + r * d + q] = T(0.5) * h_tt[start + r * d + q] + T(0.5) * h_tt[start + q * d + r];
          }
        }
      }
    });
    p.h_tt = copy->data();
    data.copies.push_back(std::move(copy));
    return;
  }
  std::vector<Index> first_bad(static_cast<std::size_t>(chunks), -1);
  const auto examine = [&](Index i) {
    const Index d = block_size(data, i);
    const T* block = h_tt + block_start(data, i);
    return d >= kSmallBlock ? validate::examine_square(block, d) : examine_block(block, d);
  };
  linalg::parallel_for_if(parallel, chunks, [&](Index c) {
    for (Index i = c * chunk; i < std::min(p.n, (c + 1) * chunk); ++i) {
      if (block_size(data, i) < 2 || !asymmetric<T>(examine(i))) continue;
      first_bad[static_cast<std::size_t>(c)] = i;
      break;
    }
  });
  for (const Index i : first_bad) {
    if (i < 0) continue;
    const validate::SymmetryFacts f = examine(i);
    throw_asymmetric("h_tt", "row block " + std::to_string(i) + " ", f.difference, f.scale,
                     validate::kSymmetryTolerance<T>);
  }
}

template <class Data>
cross::Rows rows_of(const Data& data) {
  const SystemParts& p = data.parts;
  const bool uniform = p.row_dims.empty();
  return {p.n,
          p.k,
          p.d,
          data.total_dim,
          uniform ? nullptr : p.row_dims.data(),
          uniform ? nullptr : data.row_offsets.data(),
          p.dtype};
}

template <class Data>
void detect_cross_structure(Data& data, const cross::Rows& rows) {
  SystemParts& p = data.parts;
  const auto* dense = std::get_if<DenseCross>(&p.cross);
  if (dense == nullptr) return;
  std::optional<cross::Detected> found = cross::detect_blocks(rows, *dense, p.border_blocks);
  if (!found) return;
  p.cross = std::move(found->cross);
  data.copies.push_back(std::move(found->owner));
  data.detected.push_back(std::move(found->line));
  data.cross_layout = cross::examine(rows, p.cross, false, data.copies);
}

template <class T>
void examine_gradient(const T* g_t, const T* g_beta, Index total_dim, Index k, Index d, bool uniform) {
  const Index bad = validate::first_non_finite(g_t, total_dim);
  if (bad >= 0) {
    throw_not_finite("g_t", static_cast<double>(g_t[bad]),
                     uniform ? index_text({bad / d, bad % d}) : index_text({bad}));
  }
  const Index bad_beta = validate::first_non_finite(g_beta, k);
  if (bad_beta >= 0) throw_not_finite("g_beta", static_cast<double>(g_beta[bad_beta]), index_text({bad_beta}));
}

void require_span(std::size_t size, Index expected, const char* name) {
  if (static_cast<Index>(size) != expected) {
    throw InvalidArgument(name, std::to_string(size) + " entries", std::to_string(expected) + " entries");
  }
}

}  // namespace

ArrowSystem ArrowSystem::make(SystemParts parts, const ValidationOptions& options) {
  auto data = std::make_shared<Data>();
  data->parts = std::move(parts);
  data->fingerprint = std::make_shared<Data::LazyFingerprint>();
  SystemParts& p = data->parts;

  if (p.h_tb != nullptr) p.cross = DenseCross{std::exchange(p.h_tb, nullptr)};
  const Index h_tt_entries = lay_out(*data);
  require_buffer(p.h_tt, h_tt_entries, "h_tt");
  const cross::Rows rows = rows_of(*data);
  cross::require_shape(rows, p.cross);
  if (!p.border_blocks.empty()) cross::require_border_blocks(p.border_blocks, p.k);
  require_buffer(p.g_t, data->total_dim, "g_t");
  require_buffer(p.g_beta, p.k, "g_beta");
  if (p.border.terms.empty()) {
    p.border.k = p.k;
    p.border.dtype = p.dtype;
  }
  validate::require_border_shape(p.border, p.k, p.dtype);

  with_dtype(p.dtype, [&]<class T>(T) {
    examine_rows<Data, T>(*data, options, h_tt_entries);
    data->cross_layout = cross::examine(rows, p.cross, options.check_finite, data->copies);
    if (options.detect_structure) detect_cross_structure(*data, rows);
    if (const auto* sparse = std::get_if<BlockSparseCross>(&p.cross); sparse != nullptr && p.border_blocks.empty()) {
      p.border_blocks = sparse->block_offsets;
    }
    validate::examine_border(p.border, options, data->copies, data->detected);
    if (options.check_finite) {
      examine_gradient(static_cast<const T*>(p.g_t), static_cast<const T*>(p.g_beta), data->total_dim, p.k, p.d,
                       p.row_dims.empty());
    }
  });

  ArrowSystem system;
  system.g_t_ = p.g_t;
  system.g_beta_ = p.g_beta;
  system.d_ = std::move(data);
  return system;
}

ArrowSystem ArrowSystem::uniform(Index n, Index d, Index k, const double* h_tt, const double* h_tb, const double* h_bb,
                                 const double* g_t, const double* g_beta, const ValidationOptions& options) {
  SystemParts parts;
  parts.n = n;
  parts.k = k;
  parts.d = d;
  parts.h_tt = h_tt;
  parts.h_tb = h_tb;
  parts.border = {k, DType::float64, {DenseBorder{h_bb}}, {}};
  parts.g_t = g_t;
  parts.g_beta = g_beta;
  return make(std::move(parts), options);
}

Index ArrowSystem::nbytes() const noexcept {
  const SystemParts& p = d_->parts;
  const Index h_tt = is_uniform() ? d_->total_dim * p.d : d_->block_offsets.back();
  Index entries = h_tt + d_->total_dim + p.k;
  for (const BorderTerm& term : p.border.terms) {
    entries += std::visit([&](const auto& t) { return term_entries(t, p.k); }, term);  // fits: checked by make()
  }
  return entries * static_cast<Index>(size_of(p.dtype)) + cross::nbytes(*this);
}

ArrowSystem ArrowSystem::with_gradient(const void* g_t, const void* g_beta, std::shared_ptr<const void> owner,
                                       bool check_finite) const {
  require_buffer(g_t, total_dim(), "g_t");
  require_buffer(g_beta, k(), "g_beta");
  if (check_finite) {
    with_dtype(dtype(), [&]<class T>(T) {
      examine_gradient(static_cast<const T*>(g_t), static_cast<const T*>(g_beta), total_dim(), k(), d_->parts.d,
                       is_uniform());
    });
  }
  ArrowSystem system = *this;
  system.g_t_ = g_t;
  system.g_beta_ = g_beta;
  system.gradient_owner_ = std::move(owner);
  return system;
}

// ---- products -------------------------------------------------------------------------------------------------------

namespace {

constexpr Index kMaxGroups = 64;  // partials of k entries
constexpr Index kGroupWork = Index{1} << 16;  // entries of h_tb that a group should have
constexpr Index kChunkBytes = Index{256} << 10;  // rows of h_tb read twice: fit L2, and their pages fit the TLB
constexpr Index kMaxChunk = 256;  // rows per kernel call

// First row block whose rows start at or behind `t`.
Index row_from(const ArrowSystem& s, Index t) {
  Index low = 0, high = s.n();
  while (low < high) {
    const Index middle = low + (high - low) / 2;
    if (s.row_offset(middle) < t) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// y = A x for rows [begin, end), shifts included. Consecutive rows of equal size are one kernel call; a large block is
// read once, from its lower triangle.
template <class In>
void apply_row_blocks(const ArrowSystem& s, Index begin, Index end, const double* x, double* y, const Ridges& ridges) {
  const auto& kernel = linalg::kernels().data<In>();
  Buffer<double> shift(std::max(kMaxChunk, s.max_dim()));
  for (Index i = begin; i < end;) {
    const Index d = s.row_dim(i), t = s.row_offset(i);
    Index j = i + 1;
    while (j < end && s.row_dim(j) == d && (j - i + 1) * d <= kMaxChunk) ++j;
    const Index rows = (j - i) * d;
    const In* blocks = static_cast<const In*>(s.h_tt()) + s.block_offset(i);
    for (Index r = 0; r < rows; ++r) {
      shift[r] = ridges.t + (ridges.damping_t.empty() ? 0.0 : ridges.damping_t[static_cast<std::size_t>(t + r)]);
    }
    if (d >= kSmallBlock) {
      for (Index r = 0; r < rows; ++r) y[t + r] = shift[r] * x[t + r];
      for (Index b = 0; b < j - i; ++b) border::square_matvec_add(blocks + b * d * d, d, x + t + b * d, y + t + b * d);
    } else if (rows > 0) {
      kernel.block_matvec(d, j - i, blocks, shift.data(), x + t, y + t, nullptr);
    }
    i = j;
  }
}

template <class In>
void apply_rows(const ArrowSystem& s, const double* x_t, const double* x_beta, double* y_t, double* y_beta,
                const Ridges& ridges) {
  const Index t_dim = s.total_dim(), k = s.k();
  if (t_dim == 0) return;
  const Index work = t_dim * std::max<Index>(k, s.max_dim());
  // The grouping depends on the shape only: the same bits for every number of threads.
  const Index groups = std::clamp<Index>(work / kGroupWork, 1, std::min<Index>(kMaxGroups, s.n()));
  const Index row_bytes = std::max<Index>(k, 1) * static_cast<Index>(sizeof(In));
  const Index chunk = std::clamp<Index>(kChunkBytes / row_bytes / 4 * 4, 4, kMaxChunk);
  const In* h_tb = static_cast<const In*>(s.h_tb());
  const auto& kernel = linalg::kernels().data<In>();

  Buffer<double> partials(groups * k);
  linalg::parallel_for_if(work >= linalg::kParallelWork, groups, [&](Index g) {
    const Index begin = row_from(s, t_dim / groups * g + t_dim % groups * g / groups);
    const Index next = t_dim / groups * (g + 1) + t_dim % groups * (g + 1) / groups;
    const Index end = g + 1 == groups ? s.n() : row_from(s, next);
    double* partial = partials.data() + g * k;
    std::fill(partial, partial + k, 0.0);
    apply_row_blocks<In>(s, begin, end, x_t, y_t, ridges);
    if (k == 0 || begin == end) return;

    const Index last = end == s.n() ? t_dim : s.row_offset(end);
    for (Index t = s.row_offset(begin); t < last; t += chunk) {
      const Index rows = std::min(chunk, last - t);
      double z[kMaxChunk];
      kernel.rows_dot(rows, k, h_tb + t * k, k, x_beta, z, nullptr);
      for (Index r = 0; r < rows; ++r) y_t[t + r] += z[r];
      kernel.rows_axpy(rows, k, h_tb + t * k, k, x_t + t, partial, nullptr);
    }
  });
  for (Index g = 0; g < groups; ++g) {
    const double* partial = partials.data() + g * k;
    for (Index j = 0; j < k; ++j) y_beta[j] += partial[j];
  }
}

// The same for the other forms of the cross block: rows, then B x_beta, then B' x_t.
template <class In>
void apply_structured(const ArrowSystem& s, const double* x_t, const double* x_beta, double* y_t, double* y_beta,
                      const Ridges& ridges) {
  constexpr Index kRows = 1024;
  linalg::parallel_for_if(s.total_dim() * s.max_dim() >= linalg::kParallelWork, (s.n() + kRows - 1) / kRows,
                          [&](Index task) {
                            const Index end = std::min(s.n(), (task + 1) * kRows);
                            apply_row_blocks<In>(s, task * kRows, end, x_t, y_t, ridges);
                          });
  Buffer<double> b_x(s.total_dim()), bt_x(s.k());
  cross::apply(s, 0, s.n(), x_beta, b_x.data(), 1);
  cross::transpose(s, x_t, bt_x.data(), 1);
  for (Index t = 0; t < s.total_dim(); ++t) y_t[t] += b_x[t];
  for (Index j = 0; j < s.k(); ++j) y_beta[j] += bt_x[j];
}

// Sum of f(i) over [0, size) in runs of 1024: the error grows with the run and the number of runs, not with the size.
template <class F>
double chunked_sum(Index size, F&& f) {
  double total = 0.0;
  for (Index begin = 0; begin < size; begin += 1024) {
    double sum = 0.0;
    for (Index i = begin; i < std::min(size, begin + 1024); ++i) sum += f(i);
    total += sum;
  }
  return total;
}

}  // namespace

void ArrowSystem::apply(std::span<const double> x_t, std::span<const double> x_beta, std::span<double> y_t,
                        std::span<double> y_beta, const Ridges& ridges) const {
  require_span(x_t.size(), total_dim(), "x_t");
  require_span(x_beta.size(), k(), "x_beta");
  require_span(y_t.size(), total_dim(), "y_t");
  require_span(y_beta.size(), k(), "y_beta");
  validate::require_ridges(ridges, total_dim(), k());

  for (std::size_t j = 0; j < y_beta.size(); ++j) {
    y_beta[j] = (ridges.beta + (ridges.damping_beta.empty() ? 0.0 : ridges.damping_beta[j])) * x_beta[j];
  }
  border().matvec_add(x_beta, y_beta);
  with_dtype(dtype(), [&]<class T>(T) {
    if (h_tb() != nullptr || total_dim() == 0 || k() == 0) {
      apply_rows<T>(*this, x_t.data(), x_beta.data(), y_t.data(), y_beta.data(), ridges);
    } else {
      apply_structured<T>(*this, x_t.data(), x_beta.data(), y_t.data(), y_beta.data(), ridges);
    }
  });
}

void ArrowSystem::to_dense(std::span<double> h, std::span<double> g) const {
  const Index t_dim = total_dim(), size = t_dim + k();
  require_span(g.size(), size, "g");
  require_span(h.size(), checked_product(size, size, "the dense matrix H"), "h");

  std::fill(h.begin(), h.end(), 0.0);
  with_dtype(dtype(), [&]<class T>(T) {
    const T* blocks = static_cast<const T*>(h_tt());
    for (Index i = 0; i < n(); ++i) {
      const Index d = row_dim(i), t = row_offset(i);
      const T* block = blocks + block_offset(i);
      for (Index r = 0; r < d; ++r) {
        for (Index c = 0; c <= r; ++c) {
          const double value = static_cast<double>(block[r * d + c]);
          h[static_cast<std::size_t>((t + r) * size + t + c)] = value;
          h[static_cast<std::size_t>((t + c) * size + t + r)] = value;
        }
      }
    }
    cross::materialize(*this, 0, n(), h.data() + t_dim, size);
    for (Index t = 0; t < t_dim; ++t) {
      for (Index j = 0; j < k(); ++j) {
        h[static_cast<std::size_t>((t_dim + j) * size + t)] = h[static_cast<std::size_t>(t * size + t_dim + j)];
      }
    }
    for (Index t = 0; t < t_dim; ++t)
      g[static_cast<std::size_t>(t)] = static_cast<double>(static_cast<const T*>(g_t_)[t]);
    for (Index j = 0; j < k(); ++j) {
      g[static_cast<std::size_t>(t_dim + j)] = static_cast<double>(static_cast<const T*>(g_beta_)[j]);
    }
  });
  if (k() > 0) border::to_dense_add(border(), h.data() + t_dim * size + t_dim, size);
}

double ArrowSystem::gradient_norm() const {
  return with_dtype(dtype(), [&]<class T>(T) {
    const T* g_t = static_cast<const T*>(g_t_);
    const T* g_beta = static_cast<const T*>(g_beta_);
    const auto square = [](T x) { return static_cast<double>(x) * static_cast<double>(x); };
    return std::sqrt(chunked_sum(total_dim(), [&](Index i) { return square(g_t[i]); }) +
                     chunked_sum(k(), [&](Index j) { return square(g_beta[j]); }));
  });
}

double ArrowSystem::gradient_dot(std::span<const double> delta_t, std::span<const double> delta_beta) const {
  require_span(delta_t.size(), total_dim(), "delta_t");
  require_span(delta_beta.size(), k(), "delta_beta");
  return with_dtype(dtype(), [&]<class T>(T) {
    const T* g_t = static_cast<const T*>(g_t_);
    const T* g_beta = static_cast<const T*>(g_beta_);
    const auto product = [](T g, double x) { return static_cast<double>(g) * x; };
    return chunked_sum(total_dim(), [&](Index i) { return product(g_t[i], delta_t[static_cast<std::size_t>(i)]); }) +
           chunked_sum(k(), [&](Index j) { return product(g_beta[j], delta_beta[static_cast<std::size_t>(j)]); });
  });
}

}  // namespace arrowschur
