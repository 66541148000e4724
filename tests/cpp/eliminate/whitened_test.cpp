// Every form of W against W = L^-1 B worked out entry by entry.
#include "eliminate/whitened.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/fixtures.hpp"
#include "check.hpp"
#include "eliminate/partition.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"
#include "system/cross.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::eliminate;
using support::random_vector;

namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }
Index size_of_vector(const std::vector<Index>& v) { return static_cast<Index>(v.size()); }

// A system with rows of the given sizes, its cross block in some form, and the same block dense.
struct Problem {
  std::vector<Index> dims, offsets;  // first flat row
  Index k = 0, total = 0;
  DType dtype = DType::float64;
  std::vector<double> h_tt, b, values, phi;
  std::vector<float> h_tt32, b32, values32, phi32, zeros32;
  std::vector<double> zeros;
  std::vector<Index> indptr, blocks, border, base, ptr, j_ptr, support_j;
  Cross cross;

  Problem(std::vector<Index> row_dims, Index width, std::uint64_t seed) : dims(std::move(row_dims)), k(width) {
    for (const Index d : dims) {
      const std::vector<double> j = random_vector((d + 2) * d, ++seed);
      for (Index r = 0; r < d; ++r) {
        for (Index c = 0; c < d; ++c) {
          double sum = r == c ? 0.3 : 0.0;
          for (Index q = 0; q < d + 2; ++q) sum += j[at(q * d + r)] * j[at(q * d + c)];
          h_tt.push_back(static_cast<float>(sum));
        }
      }
      offsets.push_back(total);
      total += d;
    }
    b.assign(at(total * k), 0.0);
    zeros.assign(at(std::max(total, k)), 0.0);
  }
  Index n() const { return size_of_vector(dims); }

  // Numbers that float32 holds exactly, so that both storage types of a system have the same W.
  static std::vector<double> short_random(Index size, std::uint64_t seed) {
    std::vector<double> x = random_vector(size, seed);
    for (double& v : x) v = static_cast<float>(v);
    return x;
  }

  void dense(std::uint64_t seed) {
    b = short_random(total * k, seed);
    use_dense();
  }
  void use_dense() {
    if (dtype == DType::float32) {
      b32 = support::to_float(b);
      cross = DenseCross{b32.data()};
    } else {
      cross = DenseCross{b.data()};
    }
  }
  // Row i touches a random part of the blocks, about `density` of them.
  BlockSparseCross sparse(std::vector<Index> widths, double density, std::uint64_t seed) {
    fixtures::SplitMix64 stream(seed);
    border = {0};
    for (const Index w : widths) border.push_back(border.back() + w);
    indptr = {0};
    for (Index i = 0; i < n(); ++i) {
      for (Index a = 0; a < size_of_vector(widths); ++a) {
        if (0.5 * (stream.signed_unit() + 1.0) > density) continue;
        blocks.push_back(a);
        for (Index r = 0; r < dims[at(i)]; ++r) {
          for (Index c = 0; c < widths[at(a)]; ++c) {
            values.push_back(static_cast<float>(stream.signed_unit()));
            b[at((offsets[at(i)] + r) * k + border[at(a)] + c)] += values.back();
          }
        }
      }
      indptr.push_back(size_of_vector(blocks));
    }
    values32 = support::to_float(values);
    return {indptr.data(), blocks.data(),
            dtype == DType::float32 ? static_cast<const void*>(values32.data()) : values.data(), border};
  }
  // `groups` groups of `basis` columns of width p each, some active per row, with one J or one per active group.
  void kronecker(Index p, Index groups, Index basis, Index active, bool several, std::uint64_t seed) {
    fixtures::SplitMix64 stream(seed);
    ptr = {0};
    j_ptr = {0};
    for (Index i = 0; i < n(); ++i) {
      std::vector<Index> chosen(at(groups));
      std::iota(chosen.begin(), chosen.end(), Index{0});
      for (std::size_t g = chosen.size(); g > 1; --g) std::swap(chosen[g - 1], chosen[stream.next() % g]);
      chosen.resize(at(active));
      std::sort(chosen.begin(), chosen.end());
      const Index matrices = several ? active : 1;
      const Index d = dims[at(i)];
      const std::size_t j0 = values.size();
      for (Index e = 0; e < matrices * d * p; ++e) values.push_back(static_cast<float>(stream.signed_unit()));
      for (Index g = 0; g < active; ++g) {
        for (Index l = 0; l < basis; ++l) {
          base.push_back((chosen[at(g)] * basis + l) * p);
          phi.push_back(static_cast<float>(stream.signed_unit()));
          support_j.push_back(several ? g : 0);
          for (Index r = 0; r < d; ++r) {
            for (Index c = 0; c < p; ++c) {
              b[at((offsets[at(i)] + r) * k + base.back() + c)] +=
                  phi.back() * values[j0 + at((support_j.back() * d + r) * p + c)];
            }
          }
        }
      }
      ptr.push_back(size_of_vector(base));
      j_ptr.push_back(j_ptr.back() + matrices);
    }
    KroneckerCross c;
    values32 = support::to_float(values);
    phi32 = support::to_float(phi);
    const bool single = dtype == DType::float32;
    c.j = single ? static_cast<const void*>(values32.data()) : values.data();
    c.support_phi = single ? static_cast<const void*>(phi32.data()) : phi.data();
    c.support_base = base.data();
    c.support_ptr = ptr.data();
    c.p = p;
    if (several) {
      c.j_ptr = j_ptr.data();
      c.support_j = support_j.data();
    }
    cross = c;
  }

  ArrowSystem system() {
    SystemParts parts;
    parts.n = n();
    parts.k = k;
    const bool uniform = std::all_of(dims.begin(), dims.end(), [&](Index d) { return d == dims.front(); });
    if (uniform && !dims.empty()) {
      parts.d = dims.front();
    } else {
      parts.row_dims = dims;
    }
    parts.dtype = dtype;
    const bool single = dtype == DType::float32;
    h_tt32 = support::to_float(h_tt);
    zeros32 = support::to_float(zeros);
    const void* zero = single ? static_cast<const void*>(zeros32.data()) : zeros.data();
    parts.h_tt = single ? static_cast<const void*>(h_tt32.data()) : h_tt.data();
    parts.cross = cross;
    parts.border = {k, dtype, {DiagonalBorder{zero}}, {}};
    parts.g_t = zero;
    parts.g_beta = zero;
    ValidationOptions plain;
    plain.detect_structure = false;
    return ArrowSystem::make(std::move(parts), plain);
  }

  // W [T, k] by a textbook Cholesky and substitution.
  std::vector<double> whitened(double ridge) const {
    std::vector<double> w = b;
    std::size_t block = 0;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      const Index d = dims[i];
      std::vector<double> l(h_tt.begin() + static_cast<std::ptrdiff_t>(block),
                            h_tt.begin() + static_cast<std::ptrdiff_t>(block) + d * d);
      block += at(d * d);
      for (Index r = 0; r < d; ++r) {
        l[at(r * d + r)] += ridge;
        for (Index c = 0; c <= r; ++c) {
          double s = l[at(r * d + c)];
          for (Index q = 0; q < c; ++q) s -= l[at(r * d + q)] * l[at(c * d + q)];
          l[at(r * d + c)] = c < r ? s / l[at(c * d + c)] : std::sqrt(s);
        }
      }
      for (Index r = 0; r < d; ++r) {
        double* line = w.data() + (offsets[i] + r) * k;
        for (Index c = 0; c < r; ++c) {
          const double* above = w.data() + (offsets[i] + c) * k;
          for (Index j = 0; j < k; ++j) line[j] -= l[at(r * d + c)] * above[j];
        }
        for (Index j = 0; j < k; ++j) line[j] /= l[at(r * d + r)];
      }
    }
    return w;
  }
};

constexpr double kRidge = 0.125;

RowFactors<double> factors(const ArrowSystem& s) {
  RowFactors<double> rows;
  const backend::RowReport report = factor_rows(s, Partition::make(s), {kRidge, 0.0}, {}, rows);
  REQUIRE(report.ok);
  return rows;
}

// c [cols, cols] = W'W
std::vector<double> gram(const std::vector<double>& w, Index rows, Index k) {
  std::vector<double> g(at(k * k));
  for (Index r = 0; r < rows; ++r) {
    for (Index i = 0; i < k; ++i) {
      for (Index j = 0; j < k; ++j) g[at(i * k + j)] += w[at(r * k + i)] * w[at(r * k + j)];
    }
  }
  return g;
}

void check_products(const Whitened& w, const std::vector<double>& expected, double tolerance) {
  const Index t = w.rows(), k = w.cols();
  for (const Index m : {1, 3, 20}) {
    const std::vector<double> x = random_vector(k * m, 11), y = random_vector(t * m, 12);
    std::vector<double> wx(at(t * m)), wy(at(k * m)), out(at(t * m), 7.0), back(at(k * m), 7.0);
    for (Index r = 0; r < t; ++r) {
      for (Index j = 0; j < k; ++j) {
        for (Index c = 0; c < m; ++c) {
          wx[at(r * m + c)] += expected[at(r * k + j)] * x[at(j * m + c)];
          wy[at(j * m + c)] += expected[at(r * k + j)] * y[at(r * m + c)];
        }
      }
    }
    w.apply(x.data(), out.data(), m);
    w.transpose(y.data(), back.data(), m);
    CHECK_NEAR(out, wx, tolerance);
    CHECK_NEAR(back, wy, tolerance);
  }
  std::vector<double> dense(at(t * (k + 3)), 5.0), plain(at(t * k));
  w.to_dense(dense.data(), k + 3);
  for (Index r = 0; r < t; ++r) std::copy_n(dense.begin() + r * (k + 3), k, plain.begin() + r * k);
  CHECK_NEAR(plain, expected, tolerance);
}

void check_grams(const Whitened& w, const std::vector<double>& expected, double tolerance) {
  const Index t = w.rows(), k = w.cols();
  const std::vector<double> full = gram(expected, t, k);
  const std::vector<double> x = random_vector(k, 13);
  std::vector<double> y = random_vector(k, 14), reference = y;
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j < k; ++j) reference[at(i)] -= full[at(i * k + j)] * x[at(j)];
  }
  w.subtract_gram_apply(x.data(), y.data());
  CHECK_NEAR(y, reference, tolerance);

  const Index ld = linalg::padded_ld<double>(k);
  std::vector<double> s(at(linalg::padded_size<double>(k)), 0.5), lower, lower_expected;
  w.subtract_gram(s.data(), ld);
  for (Index i = 0; i < k; ++i) {
    for (Index j = 0; j <= i; ++j) {
      lower.push_back(s[at(i * ld + j)]);
      lower_expected.push_back(0.5 - full[at(i * k + j)]);
    }
  }
  CHECK_NEAR(lower, lower_expected, tolerance);

  std::vector<double> squares(at(k), 3.0), squares_expected(at(k));
  for (Index j = 0; j < k && w.knows_gram(); ++j) squares_expected[at(j)] = full[at(j * k + j)];
  w.column_squares(squares.data());
  CHECK_NEAR(squares, squares_expected, tolerance);

  // Whole columns in pieces, single columns, every third one, and an overlap of all of them.
  ColumnSets sets;
  const auto add = [&](Index begin, Index end, Index step) {
    for (Index j = begin; j < end; j += step) sets.cols.push_back(j);
    sets.ptr.push_back(static_cast<Index>(sets.cols.size()));
  };
  for (Index j = 0; j < k; j += 9) add(j, std::min(k, j + 9), 1);
  add(0, std::min<Index>(k, 18), 1);
  add(k / 2, k / 2 + 1, 1);
  add(k / 4, k, 3);
  add(0, k, 1);
  sets.ptr.push_back(sets.ptr.back());  // an empty set
  std::vector<std::vector<double>> blocks;
  std::vector<double*> out;
  for (Index q = 0; q < sets.count(); ++q) blocks.emplace_back(sets.set(q).size() * sets.set(q).size(), 0.25);
  for (auto& block : blocks) out.push_back(block.data());
  w.subtract_gram_blocks(sets, out);
  for (Index q = 0; q < sets.count(); ++q) {
    std::vector<double> want;
    for (const Index i : sets.set(q)) {
      for (const Index j : sets.set(q)) want.push_back(0.25 - (w.knows_gram() ? full[at(i * k + j)] : 0.0));
    }
    CHECK_NEAR(blocks[at(q)], want, tolerance);
  }
}

// Same bits for one thread and three.
void check_determinism(const ArrowSystem& s, const RowFactors<double>& rows) {
  const auto run = [&](int threads) {
    const linalg::ThreadScope scope(threads);
    const auto w = whiten(s, rows);
    const Index k = s.k();
    std::vector<double> all = random_vector(k, 15), x = random_vector(k, 16), squares(at(k));
    w->subtract_gram_apply(x.data(), all.data());
    w->column_squares(squares.data());
    all.insert(all.end(), squares.begin(), squares.end());
    const std::vector<double> y = random_vector(s.total_dim(), 17);
    w->transpose(y.data(), squares.data(), 1);
    all.insert(all.end(), squares.begin(), squares.end());
    std::vector<double> schur(at(linalg::padded_size<double>(k)));
    w->subtract_gram(schur.data(), linalg::padded_ld<double>(k));
    for (Index i = 0; i < k; ++i) {
      const auto line = schur.begin() + i * linalg::padded_ld<double>(k);
      all.insert(all.end(), line, line + i + 1);
    }
    return all;
  };
  CHECK(run(1) == run(3));
}

void check_all(Problem& p, const char* form) {
  const ArrowSystem s = p.system();
  const RowFactors<double> rows = factors(s);
  const std::vector<double> expected = p.whitened(kRidge);
  const auto w = whiten(s, rows);
  CHECK_EQUAL(std::string(w->form()), std::string(form));
  CHECK_EQUAL(w->rows(), p.total);
  CHECK_EQUAL(w->cols(), p.k);
  CHECK_EQUAL(w->nbytes(), whitened_bytes(s, WhitenedStorage::float64));
  check_products(*w, expected, 1e-12);
  check_grams(*w, expected, 1e-12);
  const auto w32 = whiten(s, rows, WhitenedStorage::float32);
  CHECK_EQUAL(w32->nbytes(), whitened_bytes(s, WhitenedStorage::float32));
  check_products(*w32, expected, 2e-6);
  check_grams(*w32, expected, 2e-6);
  check_determinism(s, rows);
}

std::vector<Index> repeated(Index count, Index value) { return std::vector<Index>(at(count), value); }
std::vector<Index> ragged(Index count) {
  std::vector<Index> dims;
  for (Index i = 0; i < count; ++i) dims.push_back(std::vector<Index>{3, 1, 1, 6, 0, 2, 5, 17}[at(i % 8)]);
  return dims;
}

TEST(Dense) {
  for (const Index k : {1, 7, 24, 61, 300}) {
    Problem uniform(repeated(37, 2), k, 1), mixed(ragged(40), k, 2), wide({40, 3}, k, 3);
    for (Problem* p : {&uniform, &mixed, &wide}) {
      p->dense(4);
      check_all(*p, "dense");
    }
  }
}

TEST(DenseSlab) {
  Problem p(repeated(9, 2), 10, 1);
  p.dense(2);
  const ArrowSystem s = p.system();
  const RowFactors<double> rows = factors(s);
  const auto w = whiten(s, rows);
  REQUIRE(w->dense64() != nullptr);
  CHECK(w->dense32() == nullptr && w->block_sparse() == nullptr);
  CHECK_NEAR(std::vector<double>(w->dense64(), w->dense64() + 180), p.whitened(kRidge), 1e-13);
  CHECK(whiten(s, rows, WhitenedStorage::float32)->dense32() != nullptr);
}

TEST(DenseManyGroups) {
  Problem p(repeated(700, 2), 700, 1);
  p.dense(2);
  const ArrowSystem s = p.system();
  const RowFactors<double> rows = factors(s);
  const auto w = whiten(s, rows);
  const std::vector<double> x = random_vector(700, 3), expected = p.whitened(kRidge);
  std::vector<double> y(700), wx(at(p.total)), reference(700);
  w->subtract_gram_apply(x.data(), y.data());
  for (Index r = 0; r < p.total; ++r) {
    for (Index j = 0; j < 700; ++j) wx[at(r)] += expected[at(r * 700 + j)] * x[at(j)];
    for (Index j = 0; j < 700; ++j) reference[at(j)] -= expected[at(r * 700 + j)] * wx[at(r)];
  }
  CHECK_NEAR(y, reference, 1e-12);
  check_determinism(s, rows);
}

TEST(Float32System) {
  Problem p(repeated(30, 3), 27, 5), q(ragged(33), 27, 6), r(repeated(30, 3), 27, 7);
  p.dtype = q.dtype = r.dtype = DType::float32;
  p.dense(8);
  check_all(p, "dense");
  q.cross = q.sparse(repeated(3, 9), 0.6, 9);
  check_all(q, "block_sparse");
  r.kronecker(3, 3, 3, 2, false, 10);
  check_all(r, "kronecker");
}

TEST(BlockSparseSizes) {
  for (const Index width : {1, 2, 3, 4, 6, 9}) {
    for (const Index d : {1, 2, 3, 5, 6, 33}) {
      Problem p(repeated(d > 6 ? 6 : 40, d), 7 * width, 20 + width);
      p.cross = p.sparse(repeated(7, width), 0.5, 30 + d);
      check_all(p, "block_sparse");
    }
  }
}

TEST(BlockSparseRagged) {
  Problem p(ragged(50), 0, 40);
  const std::vector<Index> widths{9, 1, 4, 12, 3, 1};
  p.k = 30;
  p.b.assign(at(p.total * p.k), 0.0);
  p.zeros.assign(at(std::max(p.total, p.k)), 0.0);
  p.cross = p.sparse(widths, 0.5, 41);
  check_all(p, "block_sparse");
}

TEST(BlockSparsePattern) {
  Problem p(repeated(12, 3), 18, 50);
  p.cross = p.sparse(repeated(6, 3), 0.4, 51);
  const ArrowSystem s = p.system();
  const RowFactors<double> rows = factors(s);
  const auto w = whiten(s, rows);
  const BlockSparseWhitened* sparse = w->block_sparse();
  REQUIRE(sparse != nullptr);
  const std::vector<double> expected = p.whitened(kRidge);
  Index seen = 0;
  for (Index a = 0; a < 6; ++a) {
    Index last = -1;
    for (Index t = sparse->block_ptr()[at(a)]; t < sparse->block_ptr()[at(a + 1)]; ++t, ++seen) {
      const Index e = sparse->by_block()[at(t)], row = sparse->row_of()[at(e)];
      CHECK_EQUAL(sparse->block_index()[at(e)], a);
      CHECK(row > last);
      CHECK(sparse->indptr()[at(row)] <= e && e < sparse->indptr()[at(row + 1)]);
      last = row;
      CHECK_NEAR(sparse->values()[sparse->value_ptr()[at(e)]], expected[at(row * 3 * 18 + sparse->offsets()[at(a)])],
                 1e-13);
    }
  }
  CHECK_EQUAL(seen, size_of_vector(p.blocks));
}

// Few and more border blocks: W'W by tiles in bands. Many, and a row size without a kernel: by single blocks.
TEST(BlockSparseParallel) {
  struct Size {
    Index n, d, blocks, width;
  };
  for (const Size size : {Size{2500, 3, 20, 9}, Size{400, 3, 90, 3}, Size{400, 3, 110, 2}, Size{1500, 1, 12, 9},
                          Size{1500, 2, 12, 6}, Size{800, 6, 20, 9}, Size{1500, 5, 12, 3}}) {
    Problem p(repeated(size.n, size.d), size.width * size.blocks, 60);
    p.cross = p.sparse(repeated(size.blocks, size.width), 0.3, 61);
    const ArrowSystem s = p.system();
    const RowFactors<double> rows = factors(s);
    check_grams(*whiten(s, rows), p.whitened(kRidge), 1e-12);
    check_determinism(s, rows);
  }
}

TEST(ATransposeAlongTheWayHasTheBitsOfItsOwnPass) {
  for (const Index n : {0, 3, 2500}) {
    for (const bool uneven : {false, true}) {
      Problem p(uneven ? ragged(n) : repeated(n, 3), 54, 62);
      p.cross = p.sparse(repeated(6, 9), 0.4, 63);
      const ArrowSystem s = p.system();
      const RowFactors<double> rows = factors(s);
      const std::vector<double> y = random_vector(p.total, 64);
      std::vector<double> own(54, 1.0), along(54, 2.0);
      cross::transpose(s, y.data(), own.data(), 1);
      for (const WhitenedStorage storage : {WhitenedStorage::float64, WhitenedStorage::float32}) {
        TransposeAlong request{y.data(), along.data()};
        const auto w = whiten(s, rows, storage, &request);
        CHECK(request.done);
        CHECK(along == own);
        CHECK_EQUAL(w->rows(), p.total);
      }
    }
  }
}

TEST(Kronecker) {
  for (const bool several : {false, true}) {
    Problem thin(repeated(30, 2), 5 * 3 * 4, 70), wide(ragged(25), 70 * 4, 71), few(repeated(40, 1), 30 * 8, 72);
    thin.kronecker(4, 5, 3, 2, several, 73);
    wide.kronecker(70, 2, 2, 1, several, 74);
    few.kronecker(8, 30, 1, 2, several, 75);  // sparse enough for pairs of pairs
    for (Problem* p : {&thin, &wide, &few}) check_all(*p, "kronecker");
  }
}

TEST(Operator) {
  struct Shape {
    std::vector<Index> dims;
    Index k;
  };
  for (const Shape& shape : {Shape{repeated(30, 2), 20}, Shape{ragged(30), 90}, Shape{repeated(4, 3), 200}}) {
    Problem p(shape.dims, shape.k, 80);
    p.dense(81);
    const std::vector<double> own = p.b;
    OperatorCross op;
    int forward = 0, transposed = 0;
    op.forward = [&](std::span<const double> x, std::span<double> y) {
      ++forward;
      std::fill(y.begin(), y.end(), 0.0);
      for (std::size_t r = 0; r < y.size(); ++r) {
        for (std::size_t j = 0; j < x.size(); ++j) y[r] += own[r * x.size() + j] * x[j];
      }
    };
    op.transpose = [&](std::span<const double> y, std::span<double> x) {
      ++transposed;
      std::fill(x.begin(), x.end(), 0.0);
      for (std::size_t r = 0; r < y.size(); ++r) {
        for (std::size_t j = 0; j < x.size(); ++j) x[j] += own[r * x.size() + j] * y[r];
      }
    };
    std::vector<Index> widths = repeated(shape.k / 10, 10);
    op.supplement = p.sparse(widths, 0.3, 82);  // adds to p.b
    p.cross = op;
    const ArrowSystem s = p.system();
    const RowFactors<double> rows = factors(s);
    const auto w = whiten(s, rows);
    const std::vector<double> expected = p.whitened(kRidge);
    CHECK_EQUAL(std::string(w->form()), std::string("operator"));
    CHECK_EQUAL(w->nbytes(), whitened_bytes(s, WhitenedStorage::float64));
    CHECK_EQUAL(w->knows_gram(), std::min(p.total, p.k) <= 64);
    check_products(*w, expected, 1e-12);
    check_grams(*w, expected, 1e-12);
    const std::vector<double> x = random_vector(p.k, 83);
    std::vector<double> y(at(p.k));
    forward = transposed = 0;
    w->subtract_gram_apply(x.data(), y.data());
    CHECK(forward == 1 && transposed == 1);
    if (!w->knows_gram()) {
      w->column_squares(y.data());
      CHECK(forward == 1 && transposed == 1);
    }
  }
}

TEST(Empty) {
  for (const bool rows_too : {false, true}) {
    Problem p(rows_too ? std::vector<Index>{} : repeated(3, 2), rows_too ? 4 : 0, 90);
    p.dense(91);
    const ArrowSystem s = p.system();
    const RowFactors<double> rows = factors(s);
    const auto w = whiten(s, rows);
    std::vector<double> x(at(p.k + 1), 1.0), y(at(p.total + 1), 1.0), out = x;
    w->subtract_gram_apply(x.data(), out.data());
    CHECK(out == x);
    w->apply(x.data(), y.data(), 1);
    if (p.total > 0) CHECK_EQUAL(y[0], 0.0);
  }
}

// The kernels of every instruction set that this CPU runs.
TEST(InstructionSets) {
  const std::string in_use = linalg::instruction_set();
  for (const std::string& name : linalg::compiled_instruction_sets()) {
    try {
      linalg::force_instruction_set(name);
    } catch (const InvalidArgument&) {
      continue;
    }
    Problem dense(repeated(20, 2), 45, 100), sparse(repeated(40, 3), 45, 101), mixed(ragged(24), 45, 102);
    dense.dense(103);
    check_all(dense, "dense");
    sparse.cross = sparse.sparse(repeated(5, 9), 0.5, 104);
    check_all(sparse, "block_sparse");
    mixed.cross = mixed.sparse({9, 3, 3, 10, 20}, 0.5, 105);
    check_all(mixed, "block_sparse");
  }
  linalg::force_instruction_set(in_use);
}

}  // namespace

CHECK_MAIN()
