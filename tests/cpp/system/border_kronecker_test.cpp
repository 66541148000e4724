#include <cmath>
#include <functional>
#include <limits>

#include "arrowschur/error.hpp"
#include "border/assemble.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"
#include "system/border_kronecker.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::random_vector;

namespace {

// A border over buffers it owns, and the same matrix written out entry by entry.
struct Example {
  std::string name;
  std::vector<double> data, more;  // values; frames or the second factor
  std::vector<float> data32, more32;
  Border border;
  std::vector<double> dense;
  bool bound = false;  // its absolute row sums are an upper bound
};

// Wider borders are not written out: the case of the threads compares products with each other, and the matrix of one of
// its borders would take 8 GB.
constexpr Index widest_written_out = 2000;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Rounds the data for float32, points at what is stored and returns it as the library sees it.
const void* stored(std::vector<double>& data, std::vector<float>& data32, bool single) {
  if (!single) return data.data();
  data32 = support::to_float(data);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>(data32[i]);
  return data32.data();
}

void append(std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); }

Example make_kronecker(Index p, bool single) {
  Example e;
  e.name = "kronecker p=" + std::to_string(p);
  const std::vector<Index> sizes{3, 1, 40, 2};
  for (const Index size : sizes)
    append(e.data, support::random_symmetric(size, static_cast<std::uint64_t>(size), true));
  const Index k = 46 * p;
  e.border = {k, single ? DType::float32 : DType::float64, {}, {}};
  const void* data = stored(e.data, e.data32, single);
  e.border.terms = {KroneckerBorder{data, sizes, p}};
  if (k > widest_written_out) return e;
  e.dense.assign(at(k * k), 0.0);
  Index first = 0, entry = 0;
  for (const Index size : sizes) {
    for (Index r = 0; r < size; ++r) {
      for (Index c = 0; c < size; ++c) {
        const double value = e.data[at(entry + std::max(r, c) * size + std::min(r, c))];
        for (Index q = 0; q < p; ++q) e.dense[at(((first + r) * p + q) * k + (first + c) * p + q)] = value;
      }
    }
    first += size;
    entry += size * size;
  }
  return e;
}

Example make_product(Index pa, Index pb, bool single) {
  Example e;
  e.name = "product " + std::to_string(pa) + " x " + std::to_string(pb);
  const Index offset = 3, k = offset + pa * pb + 2;
  e.data = support::random_symmetric(pa, 5, true);
  e.more = support::random_symmetric(pb, 6, true);
  e.border = {k, single ? DType::float32 : DType::float64, {}, {}};
  const void* a = stored(e.data, e.data32, single);
  e.border.terms = {KroneckerProductBorder{a, stored(e.more, e.more32, single), pa, pb, offset}};
  if (k > widest_written_out) return e;
  e.dense.assign(at(k * k), 0.0);
  const auto lower = [](const std::vector<double>& x, Index size, Index r, Index c) {
    return x[at(std::max(r, c) * size + std::min(r, c))];
  };
  for (Index i = 0; i < pa * pb; ++i) {
    for (Index j = 0; j < pa * pb; ++j) {
      e.dense[at((offset + i) * k + offset + j)] =
          lower(e.data, pa, i / pb, j / pb) * lower(e.more, pb, i % pb, j % pb);
    }
  }
  return e;
}

enum class Halves { mirror, mirror_above, both };

// Blocks over a left factor of size 12, two of them at the same place.
Example make_sparse(Index p, Halves halves, bool single) {
  Example e;
  e.name = "sparse blocks p=" + std::to_string(p) + " halves " + std::to_string(static_cast<int>(halves));
  const Index left = 12, k = left * p;
  std::vector<double> a(at(left * left), 0.0);
  SparseBlockKroneckerBorder term;
  term.p = p;
  term.mirror = halves != Halves::both;
  e.bound = true;
  e.border = {k, single ? DType::float32 : DType::float64, {}, {}};
  const std::vector<SparseBlockKroneckerBorder::Block> places{{0, 0, 4, 4, 0}, {4, 4, 1, 1, 0}, {6, 6, 6, 6, 0},
                                                              {4, 0, 2, 3, 0}, {8, 4, 4, 2, 0}, {4, 0, 2, 3, 0},
                                                              {5, 5, 1, 1, 0}, {7, 1, 1, 1, 0}};
  for (auto block : places) {
    const bool diagonal = block.row == block.col;
    const std::vector<double> values =
        diagonal ? support::random_symmetric(block.rows, static_cast<std::uint64_t>(block.row + 1), true)
                 : random_vector(block.rows * block.cols, e.data.size());
    const std::vector<double> seen = single ? [&] {
      std::vector<double> rounded;
      for (const float v : support::to_float(values)) rounded.push_back(static_cast<double>(v));
      return rounded;
    }()
                                            : values;
    for (Index r = 0; r < block.rows; ++r) {
      for (Index c = 0; c < (diagonal ? r + 1 : block.cols); ++c) {
        const double value = seen[at(r * block.cols + c)];
        a[at((block.row + r) * left + block.col + c)] += value;
        if (block.row + r != block.col + c) a[at((block.col + c) * left + block.row + r)] += value;
      }
    }
    std::vector<double> image(values.size());
    for (Index r = 0; r < block.rows; ++r) {
      for (Index c = 0; c < block.cols; ++c) image[at(c * block.rows + r)] = values[at(r * block.cols + c)];
    }
    const auto give = [&](bool transposed) {
      auto given = block;
      if (transposed) given = {block.col, block.row, block.cols, block.rows, 0};
      given.data = static_cast<Index>(e.data.size());
      append(e.data, transposed ? image : values);
      term.blocks.push_back(given);
    };
    if (diagonal || halves != Halves::mirror_above) give(false);
    if (!diagonal && halves != Halves::mirror) give(true);
  }
  term.entries = static_cast<Index>(e.data.size());
  term.values = stored(e.data, e.data32, single);
  e.border.terms = {term};
  if (k > widest_written_out) return e;
  e.dense.assign(at(k * k), 0.0);
  for (Index r = 0; r < left; ++r) {
    for (Index c = 0; c < left; ++c) {
      for (Index q = 0; q < p; ++q) e.dense[at((r * p + q) * k + c * p + q)] = a[at(r * left + c)];
    }
  }
  return e;
}

// Three groups with frames where `framed`, all pairs of them.
Example make_framed(Index p, std::vector<bool> framed, Halves halves, bool single) {
  Example e;
  e.name = "framed p=" + std::to_string(p) + " halves " + std::to_string(static_cast<int>(halves));
  const std::vector<Index> basis{2, 3, 1}, widths{3, 2, 4};
  FramedKroneckerBorder term;
  term.p = p;
  term.mirror = halves != Halves::both;
  std::vector<Index> offsets{0}, frame_at;
  std::vector<std::vector<double>> frames;
  for (std::size_t a = 0; a < 3; ++a) {
    const Index width = framed[a] ? widths[a] : p;
    term.groups.push_back({basis[a], width, nullptr});
    offsets.push_back(offsets.back() + basis[a] * width);
    frame_at.push_back(static_cast<Index>(e.more.size()));
    std::vector<double> frame = random_vector(p * width, 30 + a);
    if (framed[a]) append(e.more, frame);
  }
  const void* frame_data = stored(e.more, e.more32, single);
  for (std::size_t a = 0; a < 3; ++a) {
    std::vector<double> frame(at(p * term.groups[a].width), 0.0);
    if (framed[a]) {
      term.groups[a].frame = static_cast<const char*>(frame_data) + frame_at[a] * (single ? 4 : 8);
      std::copy_n(e.more.begin() + frame_at[a], frame.size(), frame.begin());
    } else {
      for (Index q = 0; q < p; ++q) frame[at(q * p + q)] = 1.0;
    }
    frames.push_back(frame);
    if (framed[a]) e.bound = true;
  }
  struct Given {
    Index a, b;
    std::vector<double> g;
  };
  std::vector<Given> given;
  for (Index a = 0; a < 3; ++a) {
    for (Index b = 0; b <= a; ++b) {
      const Index ma = basis[at(a)], mb = basis[at(b)];
      std::vector<double> g = a == b ? support::random_symmetric(ma, 9, true) : random_vector(ma * mb, at(10 + a + b));
      std::vector<double> image(g.size());
      for (Index r = 0; r < ma; ++r) {
        for (Index c = 0; c < mb; ++c) image[at(c * ma + r)] = g[at(r * mb + c)];
      }
      if (a == b || halves != Halves::mirror_above) given.push_back({a, b, g});
      if (a != b && halves != Halves::mirror) given.push_back({b, a, image});
    }
  }
  for (const Given& block : given) {
    term.blocks.push_back({block.a, block.b, static_cast<Index>(e.data.size())});
    append(e.data, block.g);
  }
  term.entries = static_cast<Index>(e.data.size());
  term.values = stored(e.data, e.data32, single);
  const Index k = offsets.back();
  e.border = {k, single ? DType::float32 : DType::float64, {term}, {}};
  if (k > widest_written_out) return e;
  e.dense.assign(at(k * k), 0.0);
  for (std::size_t n = 0; n < given.size(); ++n) {
    const Index a = given[n].a, b = given[n].b;
    if (halves == Halves::both && a < b) continue;
    const Index ma = basis[at(a)], mb = basis[at(b)], ra = term.groups[at(a)].width, rb = term.groups[at(b)].width;
    for (Index i = 0; i < ma * ra; ++i) {
      for (Index j = 0; j < mb * rb; ++j) {
        double w = 0.0;
        for (Index s = 0; s < p; ++s) w += frames[at(a)][at(s * ra + i % ra)] * frames[at(b)][at(s * rb + j % rb)];
        const Index l = i / ra, m = j / rb;
        const double g = e.data[at(term.blocks[n].data + (a == b ? std::max(l, m) * mb + std::min(l, m) : l * mb + m))];
        e.dense[at((offsets[at(a)] + i) * k + offsets[at(b)] + j)] += g * w;
        if (a != b) e.dense[at((offsets[at(b)] + j) * k + offsets[at(a)] + i)] += g * w;
      }
    }
  }
  return e;
}

Example with_grams(Example e) {
  e.name += " with grams";
  e.bound = false;
  border::prepare_grams(std::get<FramedKroneckerBorder>(e.border.terms[0]), e.border.dtype);
  REQUIRE(std::get<FramedKroneckerBorder>(e.border.terms[0]).grams != nullptr);
  return e;
}

Example make_operator(Index k) {
  Example e;
  e.name = "operator";
  e.bound = true;
  e.dense = support::random_symmetric(k, 4, false);
  OperatorBorder term;
  for (Index i = 0; i < k; ++i) {
    term.diagonal.push_back(e.dense[at(i * k + i)]);
    for (Index j = 0; j < i; ++j) e.dense[at(j * k + i)] = e.dense[at(i * k + j)];
  }
  term.matvec = [dense = e.dense, k](std::span<const double> x, std::span<double> y) {
    for (Index i = 0; i < k; ++i) {
      y[at(i)] = 0.0;
      for (Index j = 0; j < k; ++j) y[at(i)] += dense[at(i * k + j)] * x[at(j)];
    }
  };
  e.border = {k, DType::float64, {term}, {}};
  return e;
}

void for_each_example(const std::function<void(const Example&)>& f) {
  std::vector<Example> examples;
  for (const bool single : {false, true}) {
    for (const Index p : {1, 3, 11}) examples.push_back(make_kronecker(p, single));
    examples.push_back(make_product(5, 7, single));
    examples.push_back(make_product(33, 12, single));
    for (const Halves halves : {Halves::mirror, Halves::mirror_above, Halves::both}) {
      for (const Index p : {1, 2, 60}) examples.push_back(make_sparse(p, halves, single));
      examples.push_back(make_framed(9, {true, true, true}, halves, single));
      examples.push_back(with_grams(make_framed(40, {true, true, true}, halves, single)));
      examples.push_back(make_framed(5, {false, false, false}, halves, single));
      examples.back().bound = false;
      examples.push_back(make_framed(5, {true, false, true}, halves, single));
      examples.push_back(with_grams(make_framed(60, {true, true, false}, halves, single)));
      examples.push_back(make_framed(5, {false, false, true}, halves, single));
    }
  }
  examples.push_back(make_operator(23));
  for (const Example& e : examples) {
    const int before = checks::failures_of_case();
    f(e);
    if (checks::failures_of_case() > before) {
      std::cout << "  for " << e.name << (e.border.dtype == DType::float32 ? " float32" : "") << "\n";
    }
  }
}

}  // namespace

TEST(ProductsAreThoseOfTheDenseMatrix) {
  for_each_example([](const Example& e) {
    for (const Index m : {1, 2, 17}) {
      const std::vector<double> x = random_vector(e.border.k * m, 7);
      std::vector<double> y = random_vector(e.border.k * m, 8), expected = support::multiply(e.dense, x, e.border.k, m);
      for (std::size_t i = 0; i < y.size(); ++i) expected[i] += y[i];
      e.border.matvec_add(x, y, m);
      CHECK_NEAR(y, expected, 1e-13);
    }
  });
}

TEST(TheDiagonalAndTheDenseForm) {
  for_each_example([](const Example& e) {
    const Index k = e.border.k;
    std::vector<double> dense(e.dense.size()), diagonal(at(k), 2.0), expected(at(k));
    e.border.to_dense_add(dense);
    e.border.diagonal_add(diagonal);
    CHECK_NEAR(dense, e.dense, 1e-14);
    for (Index i = 0; i < k; ++i) expected[at(i)] = 2.0 + e.dense[at(i * k + i)];
    CHECK_NEAR(diagonal, expected, 1e-14);
  });
}

TEST(AbsoluteRowSumsAreExactOrABound) {
  for_each_example([](const Example& e) {
    const Index k = e.border.k;
    std::vector<double> sums(at(k)), expected(at(k)), fused(at(k)), y(at(k)), fused_y(at(k));
    for (Index r = 0; r < k; ++r) {
      for (Index c = 0; c < k; ++c) {
        if (c != r) expected[at(r)] += std::fabs(e.dense[at(r * k + c)]);
      }
    }
    const bool bound = e.border.off_diagonal_abs_sums_add(sums);
    CHECK(bound == e.bound);
    if (!bound) CHECK_NEAR(sums, expected, 1e-13);
    if (bound && e.name != "operator") {
      for (Index i = 0; i < k; ++i) CHECK(sums[at(i)] >= expected[at(i)] * (1.0 - 1e-13));
    }
    const std::vector<double> x = random_vector(k, 3);
    e.border.matvec_add(x, y);
    CHECK(border::matvec_and_abs_sums_add(e.border, x.data(), fused_y.data(), fused.data()) == bound);
    CHECK(y == fused_y);
    CHECK(sums == fused);
  });
}

TEST(SubBlocksAreThoseOfTheDenseMatrix) {
  for_each_example([](const Example& e) {
    const Index k = e.border.k;
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, k}, {k / 3, k / 2 + 1}, {k - 1, k}}) {
      const Index size = end - begin;
      std::vector<double> block(at(size * size)), expected;
      for (Index r = begin; r < end; ++r) {
        for (Index c = begin; c < end; ++c) expected.push_back(e.dense[at(r * k + c)]);
      }
      border::block_add(e.border, begin, end, block.data());
      CHECK_NEAR(block, expected, 1e-14);
    }
    std::vector<Index> cols;
    for (Index c = 1; c < k; c += 1 + c % 3) cols.push_back(c);
    std::vector<double> block(cols.size() * cols.size()), expected;
    for (const Index r : cols) {
      for (const Index c : cols) expected.push_back(e.dense[at(r * k + c)]);
    }
    border::subblock_add(e.border, cols, block.data());
    CHECK_NEAR(block, expected, 1e-14);
  });
}

TEST(TilesAndEntriesMakeUpTheLowerTriangle) {
  for_each_example([](const Example& e) {
    const Index k = e.border.k;
    std::vector<double> expected(e.dense);
    for (Index r = 0; r < k; ++r) std::fill(&expected[at(r * k + r)] + 1, expected.data() + (r + 1) * k, 0.0);
    std::vector<double> tiles(e.dense.size(), 7.0), entries(e.dense.size());
    if (!border::has_dense(e.border)) {
      CHECK_THROWS(UnsupportedConfiguration, border::assemble_tile(e.border, 0, k, 0, k, tiles.data(), k));
      return;
    }
    for (Index i = 0; i < k; i += 24) {
      for (Index j = 0; j < k; j += 24) {
        border::assemble_tile(e.border, i, std::min(k, i + 24), j, std::min(k, j + 24), tiles.data(), k);
      }
    }
    CHECK_NEAR(tiles, expected, 1e-14);
    border::for_each_lower(e.border, [&](Index r, Index c, double value) {
      CHECK(c <= r);
      entries[at(r * k + c)] += value;
    });
    CHECK_NEAR(entries, expected, 1e-14);
    CHECK(border::stored_entries(e.border) > 0);
  });
}

TEST(TheNumberOfThreadsChangesNoBit) {
  for (const Example& e : {make_kronecker(700, false), make_sparse(1100, Halves::mirror, false),
                           make_product(60, 80, false), make_framed(300, {true, true, false}, Halves::mirror, false),
                           with_grams(make_framed(300, {true, true, false}, Halves::mirror, false))}) {
    for (const Index m : {1, 3}) {
      const std::vector<double> x = random_vector(e.border.k * m, 10);
      std::vector<double> one(x.size()), four(x.size());
      {
        const linalg::ThreadScope threads(1);
        e.border.matvec_add(x, one, m);
      }
      {
        const linalg::ThreadScope threads(4);
        e.border.matvec_add(x, four, m);
      }
      CHECK(one == four);
    }
  }
}

TEST(MissingFramesAreTheSparseBlockForm) {
  for (const Halves halves : {Halves::mirror, Halves::both}) {
    const Example e = make_framed(6, {false, false, false}, halves, false);
    const auto& framed = std::get<FramedKroneckerBorder>(e.border.terms[0]);
    SparseBlockKroneckerBorder sparse;
    sparse.p = 6;
    sparse.mirror = framed.mirror;
    sparse.values = framed.values;
    sparse.entries = framed.entries;
    const std::vector<Index> first{0, 2, 5}, basis{2, 3, 1};
    for (const auto& block : framed.blocks) {
      sparse.blocks.push_back(
          {first[at(block.a)], first[at(block.b)], basis[at(block.a)], basis[at(block.b)], block.data});
    }
    const Border other{e.border.k, DType::float64, {sparse}, {}};
    const std::vector<double> x = random_vector(e.border.k, 11);
    std::vector<double> y(x.size()), z(x.size());
    e.border.matvec_add(x, y);
    other.matvec_add(x, z);
    CHECK_NEAR(y, z, 1e-14);
  }
}

// Nothing of size k x k: 64 GiB at this k.
TEST(AWideKroneckerBorder) {
  const Index p = 2048, left = 256, k = p * left;
  std::vector<double> values;
  SparseBlockKroneckerBorder term;
  term.p = p;
  term.mirror = true;
  for (Index a = 0; a < left / 8; ++a) {
    term.blocks.push_back({8 * a, 8 * a, 8, 8, static_cast<Index>(values.size())});
    append(values, support::random_symmetric(8, at(a), false));
    if (a == 0) continue;
    term.blocks.push_back({8 * a, 8 * (a - 1), 8, 8, static_cast<Index>(values.size())});
    append(values, random_vector(64, at(a)));
  }
  term.values = values.data();
  term.entries = static_cast<Index>(values.size());
  const Border border{k, DType::float64, {term}, {}};
  const std::vector<double> x = random_vector(k, 1);
  std::vector<double> y(at(k));
  border.matvec_add(x, y);
  for (const Index i : {Index{0}, k / 2, k - 1}) {
    double expected = 0.0;
    border::for_each_lower(Border{left,
                                  DType::float64,
                                  {[&] {
                                    auto narrow = term;
                                    narrow.p = 1;
                                    return narrow;
                                  }()},
                                  {}},
                           [&](Index r, Index c, double value) {
                             if (r == i / p) expected += value * x[at(c * p + i % p)];
                             if (c == i / p && c != r) expected += value * x[at(r * p + i % p)];
                           });
    CHECK_NEAR(y[at(i)], expected, 1e-12);
  }
}

CHECK_MAIN()
