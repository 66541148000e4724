#include "system/border_kronecker.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using linalg::Buffer;

constexpr Index kChunk = 512;     // columns of a task: the rows of a small block stay in L1
constexpr Index kNarrow = 8;      // columns below which plain loops beat the kernels
constexpr Index kGemmBlock = 1024;  // entries of a block from which BLAS packs it
constexpr Index kSmallFactor = 32;
constexpr Index kGramEntries = Index{1} << 22;  // always allowed to be kept

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// The block in float64, [height, width]; a diagonal block is completed from its lower triangle.
template <class In>
void load(const LeftBlock<In>& a, bool symmetric, double* out) {
  const Index height = a.height(), width = a.width();
  for (Index r = 0; r < height; ++r) {
    for (Index c = 0; c < width; ++c) {
      out[r * width + c] = symmetric ? a(std::max(r, c), std::min(r, c)) : a(r, c);
    }
  }
}

// y += a x for n columns: a [height, width], x [width, n] and y [height, n] with leading dimensions ldx, ldy.
void combine(const double* a, Index height, Index width, const double* x, Index ldx, double* y, Index ldy, Index n) {
  if (n < kNarrow) {
    for (Index r = 0; r < height; ++r) {
      for (Index c = 0; c < width; ++c) {
        const double value = a[r * width + c];
        for (Index q = 0; q < n; ++q) y[r * ldy + q] += value * x[c * ldx + q];
      }
    }
  } else if (height * width >= kGemmBlock) {
    linalg::blas_table<double>().gemm('N', 'N', n, height, width, 1.0, x, ldx, a, width, 1.0, y, ldy);
  } else {
    const auto& kernel = linalg::kernels().data<double>();
    for (Index r = 0; r < height; ++r) kernel.rows_axpy(width, n, x, ldx, a + r * width, y + r * ldy, nullptr);
  }
}

void add_scaled(double value, const double* x, double* y, Index n) {
  for (Index q = 0; q < n; ++q) y[q] += value * x[q];
}

// y[l, :, :] += w x[l, :, :] for l < basis, w [rows, cols] row-major (or its transpose), m vectors.
void right_add(const double* w, Index rows, Index cols, bool transposed, const double* x, double* y, Index basis,
               Index m) {
  if (rows == 0 || cols == 0 || basis == 0) return;
  const auto& blas = linalg::blas_table<double>();
  const Index out = transposed ? cols : rows, in = transposed ? rows : cols;
  if (m == 1) {
    blas.gemm(transposed ? 'N' : 'T', 'N', out, basis, in, 1.0, w, cols, x, in, 1.0, y, out);
    return;
  }
  for (Index l = 0; l < basis; ++l) {
    blas.gemm('N', transposed ? 'T' : 'N', m, out, in, 1.0, x + l * in * m, m, w, cols, 1.0, y + l * out * m, m);
  }
}

inline const double* in_double(const double* x, Index, Buffer<double>&) { return x; }
inline const double* in_double(const float* x, Index size, Buffer<double>& converted) {
  converted = Buffer<double>(size);
  std::copy(x, x + size, converted.data());
  return converted.data();
}

// A block of A (x) I_p that is in use, in its lower position.
template <class Block>
bool used(const Block& block, bool mirror) {
  return mirror || block.row >= block.col;
}

// |A| off the diagonal summed over rows and over columns: rows[r] and, for its mirror image, cols[c].
template <class In>
void block_abs_sums(const LeftBlock<In>& a, bool diagonal, double* rows, double* cols) {
  for (Index r = 0; r < a.rows; ++r) {
    for (Index c = 0; c < (diagonal ? r : a.cols); ++c) {
      const double value = std::fabs(a(r, c));
      rows[r] += value;
      cols[c] += value;
    }
  }
}

void replicate_add(const double* left, Index size, Index p, double* out) {
  for (Index mu = 0; mu < size; ++mu) {
    for (Index c = 0; c < p; ++c) out[mu * p + c] += left[mu];
  }
}

// What group `target` gets from block `block`: G (x) W or, transposed, G' (x) W'.
struct Contribution {
  std::size_t block;
  bool transposed;
};
std::vector<std::vector<Contribution>> contributions(const FramedKroneckerBorder& t) {
  std::vector<std::vector<Contribution>> of_group(t.groups.size());
  for (std::size_t e = 0; e < t.blocks.size(); ++e) {
    const auto& block = t.blocks[e];
    if (block.a < block.b && !t.mirror) continue;
    of_group[at(block.a)].push_back({e, false});
    if (block.a != block.b) of_group[at(block.b)].push_back({e, true});
  }
  return of_group;
}

template <class In>
struct FramedProduct {
  const FramedKroneckerBorder& t;
  const std::vector<Index>& offsets;
  const double* x;
  double* y;
  Index m;

  const In* frame(Index group) const { return static_cast<const In*>(t.groups[at(group)].frame); }

  // y[l] += U x[l] ([p] from [width]) or U' x[l], for the vectors of one group.
  void frame_add(Index group, bool transposed, Index basis, const double* in, double* out) const {
    Buffer<double> converted;
    const Index width = t.groups[at(group)].width;
    right_add(in_double(frame(group), t.p * width, converted), t.p, width, transposed, in, out, basis, m);
  }

  // Y_a += sum_b U_a' (G_ab (U_b X_b)), with Z_b = U_b X_b given; a missing frame has Z_b = X_b.
  void through_frames(Index a, const std::vector<Contribution>& list, const std::vector<Buffer<double>>& z) const {
    const auto& group = t.groups[at(a)];
    const Index width = t.p * m;
    Buffer<double> factor, sum(frame(a) == nullptr ? 0 : group.basis * width);
    double* into = frame(a) == nullptr ? y + offsets[at(a)] * m : sum.data();
    if (frame(a) != nullptr) std::fill(sum.begin(), sum.end(), 0.0);
    for (const Contribution& c : list) {
      const Index source = source_of(c), cols = t.groups[at(source)].basis;
      load_factor(c, factor);
      const double* from = frame(source) == nullptr ? x + offsets[at(source)] * m : z[at(source)].data();
      combine(factor.data(), group.basis, cols, from, width, into, width, width);
    }
    if (frame(a) != nullptr) frame_add(a, true, group.basis, sum.data(), y + offsets[at(a)] * m);
  }

  // Y_a += sum_b (G_ab X_b) W_ab'
  void through_grams(Index a, const std::vector<Contribution>& list) const {
    const auto& group = t.groups[at(a)];
    double* out = y + offsets[at(a)] * m;
    Buffer<double> factor, product;
    for (const Contribution& c : list) {
      const Index source = source_of(c);
      const auto& from = t.groups[at(source)];
      const double* in = x + offsets[at(source)] * m;
      load_factor(c, factor);
      if (frame(a) == nullptr && frame(source) == nullptr) {
        combine(factor.data(), group.basis, from.basis, in, t.p * m, out, t.p * m, t.p * m);
        continue;
      }
      const Index width = from.width * m;
      product = Buffer<double>(group.basis * width);
      std::fill(product.begin(), product.end(), 0.0);
      combine(factor.data(), group.basis, from.basis, in, width, product.data(), width, width);
      if (frame(a) == nullptr) {
        frame_add(source, false, group.basis, product.data(), out);
      } else if (frame(source) == nullptr) {
        frame_add(a, true, group.basis, product.data(), out);
      } else {
        const auto& block = t.blocks[c.block];
        right_add(t.grams->data() + t.gram_at[c.block], t.groups[at(block.a)].width, t.groups[at(block.b)].width,
                  c.transposed, product.data(), out, group.basis, m);
      }
    }
  }

 private:
  Index source_of(const Contribution& c) const { return c.transposed ? t.blocks[c.block].a : t.blocks[c.block].b; }
  void load_factor(const Contribution& c, Buffer<double>& out) const {
    const auto& block = t.blocks[c.block];
    const LeftBlock<In> left{static_cast<const In*>(t.values) + block.data, t.groups[at(block.a)].basis,
                             t.groups[at(block.b)].basis, c.transposed};
    if (out.size() < left.rows * left.cols) out = Buffer<double>(left.rows * left.cols);
    load(left, block.a == block.b, out.data());
  }
};

}  // namespace

std::vector<Index> group_offsets(const FramedKroneckerBorder& t) {
  std::vector<Index> offsets(t.groups.size() + 1, 0);
  for (std::size_t a = 0; a < t.groups.size(); ++a) {
    offsets[a + 1] = offsets[a] + t.groups[a].basis * t.groups[a].width;
  }
  return offsets;
}

namespace {

// W [width_a, width_b] = U_a' U_b, frames [p, width].
template <class In>
void frame_gram(const In* ua, const In* ub, Index p, Index width_a, Index width_b, double* w) {
  Buffer<double> a, b;
  const double* left = in_double(ua, p * width_a, a);
  const double* right = in_double(ub, p * width_b, b);
  linalg::blas_table<double>().gemm('N', 'T', width_b, width_a, p, 1.0, right, width_b, left, width_a, 0.0, w, width_b);
}

}  // namespace

template <class In>
FrameProduct<In>::FrameProduct(const FramedKroneckerBorder& t, std::size_t e) {
  const auto& block = t.blocks[e];
  const auto &a = t.groups[at(block.a)], &b = t.groups[at(block.b)];
  cols_ = b.width;
  if (a.frame == nullptr) {
    frame_ = static_cast<const In*>(b.frame);
    row_step_ = b.width;
    col_step_ = 1;
  } else if (b.frame == nullptr) {
    frame_ = static_cast<const In*>(a.frame);
    row_step_ = 1;
    col_step_ = a.width;
  } else if (t.grams != nullptr) {
    gram_ = t.grams->data() + t.gram_at[e];
  } else {
    own_ = Buffer<double>(a.width * b.width);
    if (own_.size() > 0) {
      frame_gram(static_cast<const In*>(a.frame), static_cast<const In*>(b.frame), t.p, a.width, b.width, own_.data());
    }
    gram_ = own_.data();
  }
}

void prepare_grams(FramedKroneckerBorder& t, DType dtype) {
  double through_frames = 0.0, through_grams = 0.0;
  for (const auto& group : t.groups) {
    if (group.frame != nullptr) {
      through_frames += 2.0 * static_cast<double>(group.basis) * static_cast<double>(group.width * t.p);
    }
  }
  Index entries = 0, kept = t.entries;
  std::vector<Index> gram_at(t.blocks.size(), -1);
  for (std::size_t e = 0; e < t.blocks.size(); ++e) {
    const auto& block = t.blocks[e];
    const auto &a = t.groups[at(block.a)], &b = t.groups[at(block.b)];
    const double ma = static_cast<double>(a.basis), mb = static_cast<double>(b.basis);
    const double ra = static_cast<double>(a.width), rb = static_cast<double>(b.width);
    const bool both = a.frame != nullptr && b.frame != nullptr, none = a.frame == nullptr && b.frame == nullptr;
    const double twice = block.a == block.b ? 1.0 : 2.0;
    through_frames += twice * ma * mb * static_cast<double>(t.p);
    through_grams += ma * mb * rb + (block.a == block.b ? 0.0 : ma * mb * ra) + (none ? 0.0 : twice * ma * ra * rb);
    if (!both || (block.a < block.b && !t.mirror)) continue;
    gram_at[e] = entries;
    entries += a.width * b.width;
  }
  for (const auto& group : t.groups) kept += group.frame == nullptr ? 0 : t.p * group.width;
  if (entries == 0 || through_grams > through_frames || entries > std::max(kGramEntries, 4 * kept)) return;

  auto grams = std::make_shared<std::vector<double>>(at(entries));
  linalg::parallel_for_if(entries * t.p >= linalg::kParallelWork, static_cast<Index>(t.blocks.size()), [&](Index e) {
    if (gram_at[at(e)] < 0) return;
    const auto &a = t.groups[at(t.blocks[at(e)].a)], &b = t.groups[at(t.blocks[at(e)].b)];
    double* w = grams->data() + gram_at[at(e)];
    if (a.width == 0 || b.width == 0) return;
    if (dtype == DType::float64) {
      frame_gram(static_cast<const double*>(a.frame), static_cast<const double*>(b.frame), t.p, a.width, b.width, w);
    } else {
      frame_gram(static_cast<const float*>(a.frame), static_cast<const float*>(b.frame), t.p, a.width, b.width, w);
    }
  });
  t.grams = std::move(grams);
  t.gram_at = std::move(gram_at);
}

// ---- products -------------------------------------------------------------------------------------------------------

// Blocks are independent; a wide p is cut into chunks as well.
template <class In>
void KroneckerProducts<In>::multiply_add(const KroneckerBorder& t, const double* x, double* y, Index m) const {
  const Index width = t.p * m, chunks = (width + kChunk - 1) / kChunk;
  std::vector<std::pair<Index, Index>> places;  // of a block: its first row, its first entry
  Index row = 0, entry = 0;
  for (const Index size : t.sizes) {
    places.emplace_back(row, entry);
    row += size;
    entry += size * size;
  }
  const In* factors = static_cast<const In*>(t.factors);
  const Index blocks = static_cast<Index>(t.sizes.size());
  linalg::parallel_for_if(entry * width >= linalg::kParallelWork, blocks * chunks, [&](Index task) {
    const Index b = task / chunks, begin = task % chunks * kChunk, n = std::min(kChunk, width - begin);
    const Index size = t.sizes[at(b)];
    if (size > kSmallFactor) return;
    double full[kSmallFactor * kSmallFactor];
    load(LeftBlock<In>{factors + places[at(b)].second, size, size, false}, true, full);
    const Index first = places[at(b)].first * width + begin;
    combine(full, size, size, x + first, width, y + first, width, n);
  });
  for (Index b = 0; b < blocks; ++b) {
    const Index size = t.sizes[at(b)], first = places[at(b)].first * width;
    if (size > kSmallFactor) square_matvec_add(factors + places[at(b)].second, size, x + first, y + first, width);
  }
}

// Y += A (X B): both factors symmetric.
template <class In>
void KroneckerProducts<In>::multiply_add(const KroneckerProductBorder& t, const double* x, double* y, Index m) const {
  if (t.pa == 0 || t.pb == 0) return;
  Buffer<double> a(t.pa * t.pa), b(t.pb * t.pb), product(t.pa * t.pb * m);
  load(LeftBlock<In>{static_cast<const In*>(t.a), t.pa, t.pa, false}, true, a.data());
  load(LeftBlock<In>{static_cast<const In*>(t.b), t.pb, t.pb, false}, true, b.data());
  x += t.offset * m;
  y += t.offset * m;
  const Index width = t.pb * m, rows = 16;
  const bool parallel = t.pa * t.pb * (t.pa + t.pb) * m >= linalg::kParallelWork;
  std::fill(product.begin(), product.end(), 0.0);
  linalg::parallel_for_if(parallel, (t.pa + rows - 1) / rows, [&](Index task) {
    const Index begin = task * rows, count = std::min(rows, t.pa - begin);
    right_add(b.data(), t.pb, t.pb, false, x + begin * width, product.data() + begin * width, count, m);
  });
  linalg::parallel_for_if(parallel, (width + kChunk - 1) / kChunk, [&](Index task) {
    const Index begin = task * kChunk;
    combine(a.data(), t.pa, t.pa, product.data() + begin, width, y + begin, width, std::min(kChunk, width - begin));
  });
}

// Tasks own columns of x [left, p m], so that blocks may overlap and mirror one another.
template <class In>
void KroneckerProducts<In>::multiply_add(const SparseBlockKroneckerBorder& t, const double* x, double* y,
                                         Index m) const {
  const Index width = t.p * m;
  Index largest = 0;
  for (const auto& block : t.blocks) largest = std::max(largest, block.rows * block.cols);
  linalg::parallel_for_if(t.entries * width >= linalg::kParallelWork, (width + kChunk - 1) / kChunk, [&](Index task) {
    const Index begin = task * kChunk, n = std::min(kChunk, width - begin);
    Buffer<double> full(largest);
    for (const auto& block : t.blocks) {
      if (!used(block, t.mirror)) continue;
      if (block.rows == 1 && block.cols == 1) {
        const double value = static_cast<double>(static_cast<const In*>(t.values)[block.data]);
        add_scaled(value, x + block.col * width + begin, y + block.row * width + begin, n);
        if (block.row != block.col) add_scaled(value, x + block.row * width + begin, y + block.col * width + begin, n);
        continue;
      }
      LeftBlock<In> left{static_cast<const In*>(t.values) + block.data, block.rows, block.cols, false};
      const Index row = block.row * width + begin, col = block.col * width + begin;
      load(left, block.row == block.col, full.data());
      combine(full.data(), block.rows, block.cols, x + col, width, y + row, width, n);
      if (block.row == block.col) continue;
      left.transposed = true;
      load(left, false, full.data());
      combine(full.data(), block.cols, block.rows, x + row, width, y + col, width, n);
    }
  });
}

template <class In>
void KroneckerProducts<In>::multiply_add(const FramedKroneckerBorder& t, const double* x, double* y, Index m) const {
  const std::vector<Index> offsets = group_offsets(t);
  const auto lists = contributions(t);
  const FramedProduct<In> product{t, offsets, x, y, m};
  const Index groups = static_cast<Index>(t.groups.size());
  const bool parallel = (t.entries + k) * t.p * m >= linalg::kParallelWork;
  if (t.grams != nullptr) {
    linalg::parallel_for_if(parallel, groups, [&](Index a) { product.through_grams(a, lists[at(a)]); });
    return;
  }
  std::vector<Buffer<double>> z(t.groups.size());
  for (Index b = 0; b < groups; ++b) {
    if (product.frame(b) != nullptr) z[at(b)] = Buffer<double>(t.groups[at(b)].basis * t.p * m);
  }
  linalg::parallel_for_if(parallel, groups, [&](Index b) {
    if (product.frame(b) == nullptr) return;
    std::fill(z[at(b)].begin(), z[at(b)].end(), 0.0);
    product.frame_add(b, false, t.groups[at(b)].basis, x + offsets[at(b)] * m, z[at(b)].data());
  });
  linalg::parallel_for_if(parallel, groups, [&](Index a) { product.through_frames(a, lists[at(a)], z); });
}

// ---- diagonals ------------------------------------------------------------------------------------------------------

template <class In>
void KroneckerProducts<In>::diagonal_add(const KroneckerBorder& t, double* out) const {
  const In* factor = static_cast<const In*>(t.factors);
  for (const Index size : t.sizes) {
    for (Index mu = 0; mu < size; ++mu, out += t.p) {
      for (Index c = 0; c < t.p; ++c) out[c] += static_cast<double>(factor[mu * size + mu]);
    }
    factor += size * size;
  }
}

template <class In>
void KroneckerProducts<In>::diagonal_add(const KroneckerProductBorder& t, double* out) const {
  const In* a = static_cast<const In*>(t.a);
  const In* b = static_cast<const In*>(t.b);
  for (Index i = 0; i < t.pa; ++i) {
    for (Index j = 0; j < t.pb; ++j) {
      out[t.offset + i * t.pb + j] += static_cast<double>(a[i * t.pa + i]) * static_cast<double>(b[j * t.pb + j]);
    }
  }
}

template <class In>
void KroneckerProducts<In>::diagonal_add(const SparseBlockKroneckerBorder& t, double* out) const {
  for (const auto& block : t.blocks) {
    if (block.row != block.col) continue;
    const In* a = static_cast<const In*>(t.values) + block.data;
    for (Index mu = 0; mu < block.rows; ++mu) {
      for (Index c = 0; c < t.p; ++c) out[(block.row + mu) * t.p + c] += static_cast<double>(a[mu * block.cols + mu]);
    }
  }
}

// G_ll |u_c|^2
template <class In>
void KroneckerProducts<In>::diagonal_add(const FramedKroneckerBorder& t, double* out) const {
  const std::vector<Index> offsets = group_offsets(t);
  for (const auto& block : t.blocks) {
    if (block.a != block.b) continue;
    const auto& group = t.groups[at(block.a)];
    std::vector<double> squares(at(group.width), group.frame == nullptr ? 1.0 : 0.0);
    if (group.frame != nullptr) {
      const In* u = static_cast<const In*>(group.frame);
      for (Index s = 0; s < t.p; ++s) {
        for (Index c = 0; c < group.width; ++c) {
          const double value = static_cast<double>(u[s * group.width + c]);
          squares[at(c)] += value * value;
        }
      }
    }
    const In* g = static_cast<const In*>(t.values) + block.data;
    double* to = out + offsets[at(block.a)];
    for (Index l = 0; l < group.basis; ++l) {
      for (Index c = 0; c < group.width; ++c) {
        to[l * group.width + c] += static_cast<double>(g[l * group.basis + l]) * squares[at(c)];
      }
    }
  }
}

// ---- absolute row sums ----------------------------------------------------------------------------------------------

template <class In>
void KroneckerProducts<In>::abs_sums_add(const KroneckerBorder& t, double* out) const {
  const In* factor = static_cast<const In*>(t.factors);
  std::vector<double> sums;
  for (const Index size : t.sizes) {
    sums.assign(at(size), 0.0);
    block_abs_sums(LeftBlock<In>{factor, size, size, false}, true, sums.data(), sums.data());
    replicate_add(sums.data(), size, t.p, out);
    factor += size * size;
    out += size * t.p;
  }
}

// |A| |B| row sums multiply: (off A)(all B) + (diagonal A)(off B).
template <class In>
void KroneckerProducts<In>::abs_sums_add(const KroneckerProductBorder& t, double* out) const {
  const In* a = static_cast<const In*>(t.a);
  const In* b = static_cast<const In*>(t.b);
  std::vector<double> off_a(at(t.pa)), off_b(at(t.pb));
  block_abs_sums(LeftBlock<In>{a, t.pa, t.pa, false}, true, off_a.data(), off_a.data());
  block_abs_sums(LeftBlock<In>{b, t.pb, t.pb, false}, true, off_b.data(), off_b.data());
  for (Index i = 0; i < t.pa; ++i) {
    const double diagonal_a = std::fabs(static_cast<double>(a[i * t.pa + i]));
    for (Index j = 0; j < t.pb; ++j) {
      const double all_b = off_b[at(j)] + std::fabs(static_cast<double>(b[j * t.pb + j]));
      out[t.offset + i * t.pb + j] += off_a[at(i)] * all_b + diagonal_a * off_b[at(j)];
    }
  }
}

template <class In>
void KroneckerProducts<In>::abs_sums_add(const SparseBlockKroneckerBorder& t, double* out) const {
  std::vector<double> sums(at(k / t.p), 0.0);
  for (const auto& block : t.blocks) {
    if (!used(block, t.mirror)) continue;
    block_abs_sums(LeftBlock<In>{static_cast<const In*>(t.values) + block.data, block.rows, block.cols, false},
                   block.row == block.col, sums.data() + block.row, sums.data() + block.col);
  }
  replicate_add(sums.data(), k / t.p, t.p, out);
}

// Row (l, c) of G_ab (x) W_ab sums to (sum |G_l.|)(sum |W_c.|); where W_ab is not at hand, |U_a|' |U_b| bounds it.
template <class In>
void KroneckerProducts<In>::abs_sums_add(const FramedKroneckerBorder& t, double* out) const {
  const std::vector<Index> offsets = group_offsets(t);
  for (std::size_t e = 0; e < t.blocks.size(); ++e) {
    const auto& block = t.blocks[e];
    if (block.a < block.b && !t.mirror) continue;
    const auto &a = t.groups[at(block.a)], &b = t.groups[at(block.b)];
    const bool diagonal = block.a == block.b;
    // |W| summed over its rows and columns; of a diagonal block, without its diagonal.
    std::vector<double> rows_w(at(a.width), 0.0), cols_w(at(b.width), 0.0), diagonal_w(at(a.width), 1.0);
    if (a.frame == nullptr && b.frame == nullptr) {
      if (!diagonal) {
        std::fill(rows_w.begin(), rows_w.end(), 1.0);
        std::fill(cols_w.begin(), cols_w.end(), 1.0);
      }
    } else if (t.grams == nullptr && a.frame != nullptr && b.frame != nullptr) {
      const In* ua = static_cast<const In*>(a.frame);
      const In* ub = static_cast<const In*>(b.frame);
      std::fill(diagonal_w.begin(), diagonal_w.end(), 0.0);
      for (Index s = 0; s < t.p; ++s) {
        double sum_a = 0.0, sum_b = 0.0;
        for (Index c = 0; c < a.width; ++c) sum_a += std::fabs(static_cast<double>(ua[s * a.width + c]));
        for (Index c = 0; c < b.width; ++c) sum_b += std::fabs(static_cast<double>(ub[s * b.width + c]));
        for (Index c = 0; c < a.width; ++c) {
          const double size = std::fabs(static_cast<double>(ua[s * a.width + c]));
          rows_w[at(c)] += size * (diagonal ? sum_b - size : sum_b);
          diagonal_w[at(c)] += size * size;
        }
        for (Index c = 0; c < b.width; ++c) {
          cols_w[at(c)] += std::fabs(static_cast<double>(ub[s * b.width + c])) * sum_a;
        }
      }
    } else {
      const FrameProduct<In> w(t, e);
      for (Index r = 0; r < a.width; ++r) {
        for (Index c = 0; c < b.width; ++c) {
          const double size = std::fabs(w(r, c));
          if (diagonal && r == c) {
            diagonal_w[at(r)] = size;
            continue;
          }
          rows_w[at(r)] += size;
          cols_w[at(c)] += size;
        }
      }
    }
    std::vector<double> rows_g(at(a.basis), 0.0), cols_g(at(b.basis), 0.0);
    const LeftBlock<In> g{static_cast<const In*>(t.values) + block.data, a.basis, b.basis, false};
    block_abs_sums(g, diagonal, rows_g.data(), diagonal ? rows_g.data() : cols_g.data());
    for (Index l = 0; l < a.basis; ++l) {
      for (Index c = 0; c < a.width; ++c) {
        double& sum = out[offsets[at(block.a)] + l * a.width + c];
        sum += rows_g[at(l)] * rows_w[at(c)];
        if (diagonal) sum += rows_g[at(l)] * diagonal_w[at(c)] + std::fabs(g(l, l)) * rows_w[at(c)];
      }
    }
    if (diagonal) continue;
    for (Index l = 0; l < b.basis; ++l) {
      for (Index c = 0; c < b.width; ++c) {
        out[offsets[at(block.b)] + l * b.width + c] += cols_g[at(l)] * cols_w[at(c)];
      }
    }
  }
}

// Whether two blocks share an entry: in strips of rows between the edges of blocks, their columns overlap.
bool sums_are_bound(const SparseBlockKroneckerBorder& t) {
  struct Piece {
    Index strip, col, col_end;
    bool operator<(const Piece& other) const { return std::pair(strip, col) < std::pair(other.strip, other.col); }
  };
  Index left = 0;
  for (const auto& block : t.blocks) left = std::max({left, block.row + block.rows, block.col + block.cols});
  std::vector<Index> strip_of(at(left + 1), 0);  // number of edges up to a row
  const auto place = [&](const SparseBlockKroneckerBorder::Block& block) {
    return block.row < block.col ? std::tuple(block.col, block.cols, block.row, block.rows)
                                 : std::tuple(block.row, block.rows, block.col, block.cols);
  };
  for (const auto& block : t.blocks) {
    const auto [row, rows, col, cols] = place(block);
    strip_of[at(row)] = strip_of[at(row + rows)] = 1;
  }
  for (Index r = 0; r < left; ++r) strip_of[at(r + 1)] += strip_of[at(r)];
  std::vector<Piece> pieces;
  for (const auto& block : t.blocks) {
    if (!used(block, t.mirror) || block.rows == 0 || block.cols == 0) continue;
    const auto [row, rows, col, cols] = place(block);
    for (Index s = strip_of[at(row)]; s < strip_of[at(row + rows)]; ++s) pieces.push_back({s, col, col + cols});
  }
  if (!std::is_sorted(pieces.begin(), pieces.end())) std::sort(pieces.begin(), pieces.end());
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    if (pieces[i].strip == pieces[i - 1].strip && pieces[i].col < pieces[i - 1].col_end) return true;
  }
  return false;
}

bool sums_are_bound(const FramedKroneckerBorder& t) {
  std::vector<std::pair<Index, Index>> pairs;
  for (const auto& block : t.blocks) {
    if (block.a < block.b && !t.mirror) continue;
    pairs.emplace_back(std::max(block.a, block.b), std::min(block.a, block.b));
    if (t.grams == nullptr && t.groups[at(block.a)].frame != nullptr && t.groups[at(block.b)].frame != nullptr) {
      return true;
    }
  }
  std::sort(pairs.begin(), pairs.end());
  return std::adjacent_find(pairs.begin(), pairs.end()) != pairs.end();
}

template class FrameProduct<double>;
template class FrameProduct<float>;
template struct KroneckerProducts<double>;
template struct KroneckerProducts<float>;

}  // namespace arrowschur::border
