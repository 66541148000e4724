#include "system/cross.hpp"

#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "arrowschur/error.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/scale.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::OwnedSystem;
using support::random_vector;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// A cross block with its buffers and the dense matrix that it stands for, worked out entry by entry.
struct Case {
  OwnedSystem rows;
  std::vector<Index> offsets{0};     // flat rows
  std::vector<double> dense, values, phi;
  std::vector<float> values32, phi32;
  std::vector<Index> ptr{0}, index, j_ptr, support_j;
  SystemParts parts;

  Case(std::vector<Index> dims, Index k, std::uint64_t seed) : rows(std::move(dims), k, seed) {
    for (const Index d : rows.dims) offsets.push_back(offsets.back() + d);
    dense.assign(at(rows.total * k), 0.0);
    parts = rows.parts();
    parts.h_tb = nullptr;
  }
  double& entry(Index t, Index j) { return dense[at(t * rows.k + j)]; }
  ArrowSystem system() const { return ArrowSystem::make(parts); }
  void to_float32() {
    values32 = support::to_float(values);
    phi32 = support::to_float(phi);
    for (std::vector<double>* x : {&rows.h_tt, &rows.h_bb, &rows.g_t, &rows.g_beta}) {
      floats.push_back(support::to_float(*x));
    }
    parts.dtype = parts.border.dtype = DType::float32;
    parts.h_tt = floats[0].data();
    parts.border.terms = {DenseBorder{floats[1].data()}};
    parts.g_t = floats[2].data();
    parts.g_beta = floats[3].data();
    if (auto* sparse = std::get_if<BlockSparseCross>(&parts.cross)) sparse->values = values32.data();
    if (auto* kronecker = std::get_if<KroneckerCross>(&parts.cross)) {
      kronecker->j = values32.data();
      kronecker->support_phi = phi32.data();
    }
    if (auto* slab = std::get_if<DenseCross>(&parts.cross)) slab->data = values32.data();
  }
  std::vector<std::vector<float>> floats;
};

Case dense_case(std::vector<Index> dims, Index k, std::uint64_t seed) {
  Case c(std::move(dims), k, seed);
  c.dense = c.values = c.rows.h_tb;
  c.parts.cross = DenseCross{c.values.data()};
  return c;
}

// About `share` of the blocks; `mixed`: out of order, some twice.
Case sparse_case(std::vector<Index> dims, const std::vector<Index>& widths, double share, bool mixed,
                 std::uint64_t seed) {
  std::vector<Index> blocks{0};
  for (const Index width : widths) blocks.push_back(blocks.back() + width);
  Case c(std::move(dims), blocks.back(), seed);
  fixtures::SplitMix64 stream(seed + 7);
  for (std::size_t i = 0; i < c.rows.dims.size(); ++i) {
    std::vector<Index> own;
    for (Index b = 0; b < static_cast<Index>(widths.size()); ++b) {
      if (std::fabs(stream.signed_unit()) < share) own.push_back(b);
    }
    if (mixed && !own.empty()) {
      own.push_back(own.front());
      std::reverse(own.begin(), own.end());
    }
    for (const Index b : own) {
      c.index.push_back(b);
      for (Index t = c.offsets[i]; t < c.offsets[i + 1]; ++t) {
        for (Index j = blocks[at(b)]; j < blocks[at(b + 1)]; ++j) {
          c.values.push_back(stream.signed_unit());
          c.entry(t, j) += c.values.back();
        }
      }
    }
    c.ptr.push_back(static_cast<Index>(c.index.size()));
  }
  c.parts.cross = BlockSparseCross{c.ptr.data(), c.index.data(), c.values.data(), blocks};
  return c;
}

// `several`: up to three matrices J a row. `aligned`: bases are multiples of p; else anywhere, disjoint in each row.
// `twice`: some pairs are given in two parts.
Case kronecker_case(std::vector<Index> dims, Index k, Index p, double share, bool several, bool aligned, bool twice,
                    std::uint64_t seed) {
  Case c(std::move(dims), k, seed);
  fixtures::SplitMix64 stream(seed + 9);
  if (several) c.j_ptr.push_back(0);
  for (std::size_t i = 0; i < c.rows.dims.size(); ++i) {
    const Index d = c.rows.dims[i], matrices = several ? static_cast<Index>(i % 4) : 1;
    const std::size_t first = c.values.size();
    for (Index e = 0; e < matrices * d * p; ++e) c.values.push_back(stream.signed_unit());
    Index base = aligned ? 0 : static_cast<Index>(i % 3);
    for (; matrices > 0 && base + p <= k; base += aligned ? p : p + static_cast<Index>(i % 2)) {
      if (std::fabs(stream.signed_unit()) >= share) continue;
      const Index j = base % matrices;
      for (int part = 0; part < (twice && base % 2 == 0 ? 2 : 1); ++part) {
        c.index.push_back(base);
        c.phi.push_back(stream.signed_unit());
        c.support_j.push_back(j);
        for (Index r = 0; r < d; ++r) {
          for (Index q = 0; q < p; ++q) {
            c.entry(c.offsets[i] + r, base + q) += c.phi.back() * c.values[first + at((j * d + r) * p + q)];
          }
        }
      }
    }
    c.ptr.push_back(static_cast<Index>(c.index.size()));
    if (several) c.j_ptr.push_back(c.j_ptr.back() + matrices);
  }
  KroneckerCross cross;
  cross.j = c.values.data();
  cross.support_base = c.index.data();
  cross.support_phi = c.phi.data();
  cross.support_ptr = c.ptr.data();
  cross.p = p;
  if (several) {
    cross.j_ptr = c.j_ptr.data();
    cross.support_j = c.support_j.data();
  }
  c.parts.cross = cross;
  return c;
}

// Callbacks on the dense matrix of `c`, with its former form as the supplement when `supplemented`. Not movable.
void make_operator(Case& c, bool supplemented, int* calls = nullptr) {
  const Index k = c.rows.k, total = c.rows.total;
  auto matrix = std::make_shared<std::vector<double>>(c.dense);
  OperatorCross op;
  op.forward = [=](std::span<const double> x, std::span<double> y) {
    if (calls != nullptr) ++*calls;
    for (Index t = 0; t < total; ++t) {
      y[at(t)] = 0.0;
      for (Index j = 0; j < k; ++j) y[at(t)] += (*matrix)[at(t * k + j)] * x[at(j)];
    }
  };
  op.transpose = [=](std::span<const double> y, std::span<double> x) {
    if (calls != nullptr) ++*calls;
    for (Index j = 0; j < k; ++j) {
      x[at(j)] = 0.0;
      for (Index t = 0; t < total; ++t) x[at(j)] += (*matrix)[at(t * k + j)] * y[at(t)];
    }
  };
  if (supplemented) {
    if (const auto* slab = std::get_if<DenseCross>(&c.parts.cross)) op.supplement = *slab;
    if (const auto* sparse = std::get_if<BlockSparseCross>(&c.parts.cross)) op.supplement = *sparse;
    for (double& v : c.dense) v *= 2.0;
  }
  c.parts.cross = std::move(op);
}

// Every function of cross.hpp against the dense matrix.
void examine(const Case& c, double tolerance = 1e-13) {
  const ArrowSystem s = c.system();
  const Index k = s.k(), total = s.total_dim(), n = s.n();
  const std::vector<double>& b = c.dense;
  const auto transposed = [&] {
    std::vector<double> out(at(k * total));
    for (Index t = 0; t < total; ++t) {
      for (Index j = 0; j < k; ++j) out[at(j * total + t)] = b[at(t * k + j)];
    }
    return out;
  }();
  const auto product = [](const std::vector<double>& a, Index rows, Index cols, const std::vector<double>& x, Index m) {
    std::vector<double> y(at(rows * m), 0.0);
    for (Index r = 0; r < rows; ++r) {
      for (Index j = 0; j < cols; ++j) {
        for (Index q = 0; q < m; ++q) y[at(r * m + q)] += a[at(r * cols + j)] * x[at(j * m + q)];
      }
    }
    return y;
  };

  for (const Index m : {1, 3, 8, 19, 40}) {
    const std::vector<double> x = random_vector(k * m, 3), y = random_vector(total * m, 4);
    const std::vector<double> expected = product(b, total, k, x, m);
    std::vector<double> got(at(total * m), 1e300);
    cross::apply(s, 0, n, x.data(), got.data(), m);
    CHECK_NEAR(got, expected, tolerance * 10);
    if (n > 2) {  // a range of rows
      const Index first = c.offsets[1], last = c.offsets[at(n - 1)];
      std::vector<double> part(at((last - first) * m), 1e300);
      cross::apply(s, 1, n - 1, x.data(), part.data(), m);
      CHECK_NEAR(part, std::vector<double>(expected.begin() + first * m, expected.begin() + last * m), tolerance * 10);
    }
    got.assign(at(k * m), 1e300);
    cross::transpose(s, y.data(), got.data(), m);
    CHECK_NEAR(got, product(transposed, k, total, y, m), tolerance * 10);
  }

  std::vector<double> slab(at(total * (k + 2)), 7.0), tight(b.size());
  cross::materialize(s, 0, n, slab.data(), k + 2);
  for (Index t = 0; t < total; ++t) {
    std::copy(slab.begin() + t * (k + 2), slab.begin() + t * (k + 2) + k, tight.begin() + t * k);
    CHECK(slab[at(t * (k + 2) + k)] == 7.0);
  }
  CHECK_NEAR(tight, b, tolerance);
  const ArrowSystem copy = cross::densified(s);
  CHECK(copy.h_tb() != nullptr || total * k == 0);
  CHECK(copy.dtype() == s.dtype());
  cross::materialize(copy, 0, n, tight.data(), k);
  CHECK_NEAR(tight, b, tolerance);

  const std::vector<double> weights = [&] {
    std::vector<double> m = random_vector(k, 5);  // of either sign
    return m;
  }();
  double largest = 0.0;
  for (const double v : b) largest = std::max(largest, std::fabs(v));
  const bool bare = std::holds_alternative<OperatorCross>(s.cross());
  for (Index i = 0; i < n; ++i) {
    double plain = 0.0, weighted = 0.0;
    for (Index t = c.offsets[at(i)]; t < c.offsets[at(i + 1)]; ++t) {
      for (Index j = 0; j < k; ++j) {
        const double square = b[at(t * k + j)] * b[at(t * k + j)];
        plain += square;
        if (weights[at(j)] > 0.0) weighted += square / weights[at(j)];
      }
    }
    CHECK_NEAR(cross::row_norm_sq(s, i), plain, tolerance * std::max(1.0, plain));
    CHECK_NEAR(cross::coupling(s, i, weights.data()), weighted, tolerance * std::max(1.0, weighted));
  }
  if (!bare) {
    CHECK_NEAR(cross::max_abs(s), largest, tolerance);
    std::vector<double> row_abs(at(total), 1e300), col_abs(at(k), 1e300), rows(at(total)), cols(at(k));
    CHECK(!cross::abs_sums(s, row_abs.data(), col_abs.data()));
    for (Index t = 0; t < total; ++t) {
      for (Index j = 0; j < k; ++j) {
        rows[at(t)] += std::fabs(b[at(t * k + j)]);
        cols[at(j)] += std::fabs(b[at(t * k + j)]);
      }
    }
    CHECK_NEAR(row_abs, rows, tolerance * 10);
    CHECK_NEAR(col_abs, cols, tolerance * 10);
  } else {
    CHECK((cross::max_abs(s) > 0.0) == (largest > 0.0));
  }

  const cross::Support support = cross::support(s);
  CHECK(support.everything == cross::is_dense(s));
  CHECK(support.offsets.front() == 0 && support.offsets.back() == k);
  if (!support.everything) {
    Index structural = 0;
    for (Index i = 0; i < n; ++i) {
      std::vector<bool> touched(at(k), false);
      for (Index e = support.ptr[at(i)]; e < support.ptr[at(i + 1)]; ++e) {
        const Index block = support.blocks[at(e)];
        CHECK(e == support.ptr[at(i)] || block > support.blocks[at(e - 1)]);
        for (Index j = support.offsets[at(block)]; j < support.offsets[at(block + 1)]; ++j) touched[at(j)] = true;
      }
      for (Index t = c.offsets[at(i)]; t < c.offsets[at(i + 1)]; ++t) {
        for (Index j = 0; j < k; ++j) {
          CHECK(touched[at(j)] || b[at(t * k + j)] == 0.0);
          structural += touched[at(j)] ? 1 : 0;
        }
      }
    }
    CHECK(structural == cross::structural_entries(s));
  }

  // The system's own products.
  const Ridges ridges{0.5, 0.25, {}, {}};
  const Index size = total + k;
  std::vector<double> h(at(size * size)), g(at(size)), x = random_vector(size, 6), y(at(size));
  s.to_dense(h, g);
  for (Index t = 0; t < total; ++t) {
    for (Index j = 0; j < k; ++j) {
      tight[at(t * k + j)] = h[at(t * size + total + j)];
      CHECK(h[at(t * size + total + j)] == h[at((total + j) * size + t)]);
    }
  }
  CHECK_NEAR(tight, b, tolerance);
  for (Index i = 0; i < size; ++i) h[at(i * size + i)] += i < total ? ridges.t : ridges.beta;
  const std::span<double> in(x), out(y);
  s.apply(in.first(at(total)), in.subspan(at(total)), out.first(at(total)), out.subspan(at(total)), ridges);
  CHECK_NEAR(y, support::multiply(h, x, size), tolerance * 10);
}

const std::vector<Index> kUniform(23, 3);
const std::vector<Index> kRagged{2, 1, 0, 5, 3, 3, 1, 0, 4, 2, 7};

}  // namespace

TEST(Dense) {
  examine(dense_case(kUniform, 17, 1));
  examine(dense_case(kRagged, 9, 2));
  Case c = dense_case(kUniform, 30, 3);
  c.to_float32();
  examine(c, 1e-6);
}

TEST(BlockSparse) {
  for (const Index d : {1, 2, 3, 4}) {
    for (const Index b : {1, 2, 3, 6, 9}) {
      examine(sparse_case(std::vector<Index>(12, d), std::vector<Index>(7, b), 0.4, false, 10));
    }
  }
  examine(sparse_case(kRagged, {1, 4, 2, 2, 3}, 0.5, false, 11));
  examine(sparse_case(kRagged, {1, 4, 2, 2, 3}, 0.5, true, 12));
  examine(sparse_case(kUniform, {3, 3, 3, 3}, 0.0, false, 13));  // B = 0
  Case c = sparse_case(kUniform, {9, 9, 9}, 0.5, true, 14);
  c.to_float32();
  examine(c, 1e-6);
}

TEST(BlockSparseInManyGroups) {
  const Case c = sparse_case(std::vector<Index>(3000, 2), std::vector<Index>(8, 6), 0.6, true, 15);
  const ArrowSystem s = c.system();
  CHECK(cross::stored_entries(s) > 8 * (Index{1} << 14));
  for (const Index m : {1, 5, 40}) {
    const std::vector<double> y = random_vector(s.total_dim() * m, 4), x = random_vector(s.k() * m, 3);
    std::vector<double> one(at(s.k() * m)), four(one.size()), row_one(y.size()), row_four(y.size());
    {
      const linalg::ThreadScope threads(1);
      cross::transpose(s, y.data(), one.data(), m);
      cross::apply(s, 0, s.n(), x.data(), row_one.data(), m);
    }
    {
      const linalg::ThreadScope threads(4);
      cross::transpose(s, y.data(), four.data(), m);
      cross::apply(s, 0, s.n(), x.data(), row_four.data(), m);
    }
    CHECK(one == four);
    CHECK(row_one == row_four);
    double expected = 0.0;
    for (Index t = 0; t < s.total_dim(); ++t) expected += c.dense[at(t * s.k() + 20)] * y[at(t * m + m - 1)];
    CHECK_NEAR(one[at(20 * m + m - 1)], expected, 1e-11);
  }
}

TEST(Kronecker) {
  for (const bool several : {false, true}) {
    for (const bool aligned : {false, true}) {
      for (const bool twice : {false, true}) {
        examine(kronecker_case(kUniform, 41, 4, 0.4, several, aligned, twice, 20));
        examine(kronecker_case(kRagged, 23, 3, 0.6, several, aligned, twice, 21));
      }
    }
  }
  examine(kronecker_case(kUniform, 12, 1, 0.5, false, true, false, 22));
  examine(kronecker_case(kUniform, 12, 5, 0.0, false, true, false, 23));  // no pairs
  Case c = kronecker_case(kUniform, 40, 4, 0.4, true, false, true, 24);
  c.to_float32();
  examine(c, 1e-6);
}

TEST(KroneckerWithFullWeightsIsAMatrixProduct) {
  for (const double share : {1.1, 0.6}) {
    const Case c = kronecker_case(std::vector<Index>(300, 2), 75, 6, share, share < 1.0, true, false, 25);
    CHECK(c.system().cross_layout().dense_weights);
    examine(c);
  }
  CHECK(!kronecker_case(std::vector<Index>(300, 2), 75, 6, 0.1, false, true, false, 26)
             .system()
             .cross_layout()
             .dense_weights);
}

TEST(KroneckerStagesCompose) {
  const Case c = kronecker_case(kUniform, 41, 4, 0.4, true, false, false, 27);
  const ArrowSystem s = c.system();
  const Index m = 3, slots = s.cross_layout().slots, width = 4 * m;
  const std::vector<double> x = random_vector(s.k() * m, 1), v = random_vector(slots * width, 2);
  std::vector<double> z(at(slots * width)), back(x.size());
  cross::gather(s, 0, s.n(), x.data(), z.data(), m);
  cross::scatter(s, v.data(), back.data(), m);  // the adjoint: <z, v> = <x, back>
  CHECK_NEAR(std::inner_product(z.begin(), z.end(), v.begin(), 0.0),
             std::inner_product(x.begin(), x.end(), back.begin(), 0.0), 1e-12);
  std::vector<double> part(at((cross::slot_begin(s, 9) - cross::slot_begin(s, 5)) * width));
  cross::gather(s, 5, 9, x.data(), part.data(), m);
  CHECK(std::equal(part.begin(), part.end(), z.begin() + cross::slot_begin(s, 5) * width));
}

TEST(Operator) {
  for (const bool supplemented : {false, true}) {
    Case slab = dense_case(kUniform, 9, 30);
    make_operator(slab, supplemented);
    examine(slab);
    Case sparse = sparse_case(kRagged, {1, 4, 2, 2, 3}, 0.5, true, 31);
    make_operator(sparse, supplemented);
    examine(sparse);
  }
  Case empty = sparse_case(kUniform, {3, 3}, 0.0, false, 32);
  make_operator(empty, false);
  examine(empty);
}

TEST(AnOperatorIsProbedByTheSmallerSide) {
  int calls = 0;
  Case wide = dense_case({2, 1}, 40, 33);
  make_operator(wide, false, &calls);
  cross::densified(wide.system());
  CHECK(calls == 3);
  Case tall = dense_case(kUniform, 4, 34);
  calls = 0;
  make_operator(tall, false, &calls);
  cross::densified(tall.system());
  CHECK(calls == 4);
  const ArrowSystem s = tall.system();
  CHECK(cross::abs_sums(s, std::vector<double>(69).data(), std::vector<double>(4).data()));
  CHECK(cross::stored_entries(s) == 4);
}

TEST(SupportFollowsTheBorderBlocks) {
  Case c = kronecker_case(kUniform, 40, 4, 0.4, false, true, false, 40);
  c.parts.border_blocks = {0, 10, 20, 30, 40};
  const cross::Support support = cross::support(c.system());
  CHECK(support.offsets == c.parts.border_blocks);
  for (std::size_t e = 0; e < support.blocks.size(); ++e) CHECK(support.blocks[e] < 4);
  const Case sparse = sparse_case(kUniform, {3, 4, 5}, 0.5, false, 41);
  const ArrowSystem s = sparse.system();
  const auto blocks = s.border_blocks();
  CHECK(std::vector<Index>(blocks.begin(), blocks.end()) == std::vector<Index>({0, 3, 7, 12}));
}

TEST(ScaleAndBytes) {
  Case c = sparse_case(kUniform, {3, 3}, 0.0, false, 42);
  CHECK(system::max_abs(c.system()) == system::max_abs_rows(c.system()) ||
        system::max_abs(c.system()) == system::max_abs_border(c.system()));
  const Case k = kronecker_case(kUniform, 40, 4, 0.4, true, false, false, 43);
  CHECK(k.system().nbytes() < dense_case(kUniform, 40, 43).system().nbytes());
}

TEST(FingerprintsFollowTheContent) {
  const Case sparse = sparse_case(kUniform, {3, 4, 5}, 0.5, true, 50);
  const std::uint64_t own = sparse.system().fingerprint();
  CHECK(sparse.system().fingerprint() == own);
  Case other = sparse_case(kUniform, {3, 4, 5}, 0.5, true, 50);
  other.values[3] += 1e-9;
  CHECK(other.system().fingerprint() != own);

  for (const bool several : {false, true}) {
    Case kronecker = kronecker_case(kUniform, 40, 4, 0.4, several, false, true, 51);
    const std::uint64_t first = kronecker.system().fingerprint();
    kronecker.phi[2] += 1e-9;
    CHECK(kronecker.system().fingerprint() != first);
  }
  Case op = dense_case(kUniform, 9, 52);
  make_operator(op, true);
  const std::uint64_t untagged = op.system().fingerprint();
  CHECK(op.system().fingerprint() == untagged);  // the same object
  std::get<OperatorCross>(op.parts.cross).lock = std::make_shared<std::recursive_mutex>();
  CHECK(op.system().fingerprint() != untagged);
  std::get<OperatorCross>(op.parts.cross).tag = 5;
  const std::uint64_t tagged = op.system().fingerprint();
  std::get<OperatorCross>(op.parts.cross).lock = std::make_shared<std::recursive_mutex>();
  CHECK(op.system().fingerprint() == tagged);
  op.values[0] += 1.0;  // of the supplement
  CHECK(op.system().fingerprint() != tagged);
}

TEST(DenseBlocksWithManyZerosAreRecognised) {
  for (const bool blocks_given : {false, true}) {
    for (const bool float32 : {false, true}) {
      Case c = sparse_case(std::vector<Index>(500, 3), std::vector<Index>(20, 6), 0.1, false, 60);
      c.values = c.dense;
      c.parts.cross = DenseCross{c.values.data()};
      if (float32) c.to_float32();
      if (blocks_given) c.parts.border_blocks = {0, 12, 24, 36, 54, 66, 78, 84, 96, 108, 114, 120};
      const ArrowSystem s = c.system();
      const auto* found = std::get_if<BlockSparseCross>(&s.cross());
      CHECK(found != nullptr);
      if (found == nullptr) continue;
      CHECK(found->block_offsets.size() == (blocks_given ? 12u : 21u));
      CHECK(s.detected().size() == 1);
      CHECK(s.detected()[0].starts_with("h_tb: block-sparse, "));
      std::vector<double> dense(c.dense.size());
      cross::materialize(s, 0, s.n(), dense.data(), s.k());
      CHECK_NEAR(dense, c.dense, float32 ? 1e-7 : 0.0);

      ValidationOptions off;
      off.detect_structure = false;
      CHECK(ArrowSystem::make(c.parts, off).h_tb() != nullptr);
      CHECK(ArrowSystem::make(c.parts, off).detected().empty());
    }
  }
}

TEST(DenseBlocksWithFewZerosAreLeftAlone) {
  const Case full = dense_case(std::vector<Index>(500, 3), 120, 61);
  CHECK(full.system().h_tb() != nullptr);
  CHECK(full.system().detected().empty());
  Case half = sparse_case(std::vector<Index>(500, 3), std::vector<Index>(20, 6), 0.3, false, 62);
  half.values = half.dense;
  half.parts.cross = DenseCross{half.values.data()};
  CHECK(half.system().h_tb() != nullptr);
  Case tail = dense_case(std::vector<Index>(500, 3), 120, 63);  // a sample at the head would be fooled
  std::fill(tail.values.begin(), tail.values.begin() + 120 * 3 * 350, 0.0);
  CHECK(tail.system().h_tb() != nullptr);
  Case small = sparse_case(std::vector<Index>(20, 3), std::vector<Index>(20, 6), 0.1, false, 64);
  small.values = small.dense;
  small.parts.cross = DenseCross{small.values.data()};
  CHECK(small.system().h_tb() != nullptr);
}

TEST(BadCrossBlocksAreNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto sparse = [](auto change) {
    Case c = sparse_case({2, 3, 2}, {2, 3, 2}, 1.1, false, 70);
    auto& cross = std::get<BlockSparseCross>(c.parts.cross);
    change(c, cross);
    return c.system();
  };
  using S = BlockSparseCross;
  CHECK_THROWS_WITH(InvalidArgument, "indptr: got 1 at index 0", sparse([](Case& c, S&) { c.ptr[0] = 1; }));
  CHECK_THROWS_WITH(InvalidArgument, "indptr: got 2 at index 2", sparse([](Case& c, S&) { c.ptr[2] = 2; }));
  CHECK_THROWS_WITH(InvalidArgument, "indptr: got a null pointer", sparse([](Case&, S& s) { s.indptr = nullptr; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_index: got 3 at index 4", sparse([](Case& c, S&) { c.index[4] = 3; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_index: got -1 at index 0", sparse([](Case& c, S&) { c.index[0] = -1; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_offsets: got 6 at index 3",
                    sparse([](Case&, S& s) { s.block_offsets[3] = 6; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_offsets: got 2 at index 2",
                    sparse([](Case&, S& s) { s.block_offsets[2] = 2; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_offsets: got no entries",
                    sparse([](Case&, S& s) { s.block_offsets = {}; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_offsets: got 1 at index 0",
                    sparse([](Case&, S& s) { s.block_offsets[0] = 1; }));
  CHECK_THROWS_WITH(InvalidArgument, "h_tb: got a null pointer", sparse([](Case&, S& s) { s.values = nullptr; }));
  CHECK_THROWS_WITH(InvalidArgument, "h_tb: got nan at [3, 3]", sparse([&](Case& c, S&) { c.values[24] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "border_blocks: got 3 at index 1",
                    sparse([](Case& c, S&) { c.parts.border_blocks = {0, 3}; }));

  const auto kronecker = [](bool several, auto change) {
    Case c = kronecker_case(std::vector<Index>(5, 2), 12, 3, 1.1, several, true, false, 71);
    auto& cross = std::get<KroneckerCross>(c.parts.cross);
    change(c, cross);
    return c.system();
  };
  using K = KroneckerCross;
  CHECK_THROWS_WITH(InvalidArgument, "p: got 0", kronecker(false, [](Case&, K& s) { s.p = 0; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_ptr: got 20 at index 5",
                    kronecker(false, [](Case& c, K&) { c.ptr[4] = 21; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_base: got 10 at index 1",
                    kronecker(false, [](Case& c, K&) { c.index[1] = 10; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_base: got the offsets 3 and 4 in row 1",
                    kronecker(false, [](Case& c, K&) { c.index[6] = 4; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_base: got the offsets 0 and 0 in row 2", kronecker(true, [](Case& c, K&) {
                      c.index[5] = 0;
                      c.support_j[5] = 1 - c.support_j[4];
                    }));
  CHECK_THROWS_WITH(InvalidArgument, "j: got a null pointer", kronecker(false, [](Case&, K& s) { s.j = nullptr; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_phi: got nan at index 7",
                    kronecker(false, [&](Case& c, K&) { c.phi[7] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "j: got nan at index 3",
                    kronecker(false, [&](Case& c, K&) { c.values[3] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "support_j: got 1 at index 0",
                    kronecker(true, [](Case& c, K&) { c.support_j[0] = 1; }));
  CHECK_THROWS_WITH(InvalidArgument, "j_ptr: got 0 at index 3", kronecker(true, [](Case& c, K&) { c.j_ptr[3] = 0; }));

  Case op = dense_case(kUniform, 9, 72);
  make_operator(op, false);
  std::get<OperatorCross>(op.parts.cross).transpose = nullptr;
  CHECK_THROWS_WITH(InvalidArgument, "h_tb: got an operator without transpose", op.system());
}

CHECK_MAIN()
