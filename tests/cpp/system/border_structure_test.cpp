#include "system/border_structure.hpp"

#include <limits>
#include <tuple>

#include "arrowschur/error.hpp"
#include "check.hpp"
#include "system/border.hpp"
#include "system/border_validation.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::random_vector;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// A border over parts of `data`, examined; k rows of nothing else.
struct Examined {
  Border border;
  std::vector<std::shared_ptr<const void>> copies;
  std::vector<std::string> detected;

  Examined(Index k, BorderTerm term, const ValidationOptions& options = {}, DType dtype = DType::float64)
      : border{k, dtype, {std::move(term)}, {}} {
    validate::require_border_shape(border, k, dtype);
    validate::examine_border(border, options, copies, detected);
  }
};

std::vector<double> dense_of(const Border& border) {
  std::vector<double> dense(at(border.k * border.k));
  border.to_dense_add(dense);
  return dense;
}

// Entries |i - j| <= bandwidth of a random symmetric matrix.
std::vector<double> banded(Index k, Index bandwidth) {
  std::vector<double> m = support::random_symmetric(k, 7);
  for (Index r = 0; r < k; ++r) {
    for (Index c = 0; c < k; ++c) {
      if (std::max(r - c, c - r) > bandwidth) m[at(r * k + c)] = r > c ? -0.0 : 0.0;
    }
  }
  return m;
}

SparseBlockKroneckerBorder sparse(const std::vector<double>& values,
                                  std::vector<SparseBlockKroneckerBorder::Block> blocks, bool mirror, Index p = 1) {
  SparseBlockKroneckerBorder term;
  term.blocks = std::move(blocks);
  term.values = values.data();
  term.entries = static_cast<Index>(values.size());
  term.p = p;
  term.mirror = mirror;
  return term;
}

}  // namespace

TEST(DiagonalAndBandsAreRecognised) {
  for (const auto& [k, bandwidth, what] : {std::tuple<Index, Index, std::string>{32, 0, "h_bb: diagonal"},
                                           {40, 1, "h_bb: banded, 1 sub-diagonal"},
                                           {700, 5, "h_bb: banded, 5 sub-diagonals"},
                                           {64, 15, "h_bb: banded, 15 sub-diagonals"}}) {
    const std::vector<double> m = banded(k, bandwidth);
    const Examined e(k, DenseBorder{m.data()});
    REQUIRE(e.detected.size() == 1);
    CHECK_EQUAL(e.detected[0], what);
    CHECK(!std::holds_alternative<DenseBorder>(e.border.terms[0]));
    CHECK(dense_of(e.border) == m);

    const std::vector<float> single = support::to_float(m);
    const Examined f(k, DenseBorder{single.data()}, {}, DType::float32);
    CHECK(f.detected == e.detected);

    const Examined off(k, DenseBorder{m.data()}, {.detect_structure = false});
    CHECK(off.detected.empty());
    CHECK(std::holds_alternative<DenseBorder>(off.border.terms[0]));
  }
}

TEST(BlocksAreRecognised) {
  const std::vector<Index> sizes{9, 1, 20, 2, 2, 30, 6, 30};
  std::vector<double> m(100 * 100, 0.0);
  Index first = 0;
  for (const Index size : sizes) {
    const std::vector<double> block = support::random_symmetric(size, at(size));
    for (Index r = 0; r < size; ++r) {
      for (Index c = 0; c < size; ++c) m[at((first + r) * 100 + first + c)] = block[at(r * size + c)];
    }
    first += size;
  }
  const Examined e(100, DenseBorder{m.data()}, {.symmetry = Symmetry::lower});
  REQUIRE(e.detected.size() == 1);
  CHECK_EQUAL(e.detected[0], std::string("h_bb: block-diagonal, 8 blocks of size at most 30"));
  CHECK(std::get<BlockDiagonalBorder>(e.border.terms[0]).sizes == sizes);
  CHECK(dense_of(e.border) == m);
}

TEST(OtherMatricesStayDense) {
  std::vector<double> arrow = banded(200, 0);
  arrow[at(199 * 200)] = arrow[199] = 1.0;  // one entry in the corner
  for (const auto& [k, m] : {std::pair<Index, std::vector<double>>{31, banded(31, 0)},
                             {64, banded(64, 16)},
                             {200, support::random_symmetric(200, 1)},
                             {200, arrow}}) {
    const Examined e(k, DenseBorder{m.data()});
    CHECK(e.detected.empty());
    CHECK(std::holds_alternative<DenseBorder>(e.border.terms[0]));
  }
}

TEST(BothHalvesBecomeTheLowerOne) {
  const std::vector<double> values{4.0, 1.0,  1.0, 5.0,  // on the diagonal
                                   0.5, 0.25,           // below, and its image in two pieces
                                   0.5, 0.25, 7.0};
  const std::vector<SparseBlockKroneckerBorder::Block> given{
      {0, 0, 2, 2, 0}, {2, 0, 1, 2, 4}, {0, 2, 1, 1, 6}, {1, 2, 1, 1, 7}, {2, 2, 1, 1, 8}};
  const std::vector<double> expected{4.0, 1.0, 0.5, 1.0, 5.0, 0.25, 0.5, 0.25, 7.0};
  for (const Symmetry symmetry : {Symmetry::check, Symmetry::average, Symmetry::lower}) {
    const Examined e(3, sparse(values, given, false), {.symmetry = symmetry});
    CHECK(dense_of(e.border) == expected);
    CHECK(std::get<SparseBlockKroneckerBorder>(e.border.terms[0]).mirror);
  }
  std::vector<double> skew(values);
  skew[6] = 0.75;
  CHECK_THROWS_WITH(InvalidArgument, "a left factor at [2, 0]", Examined(3, sparse(skew, given, false)));
  const Examined average(3, sparse(skew, given, false), {.symmetry = Symmetry::average});
  CHECK(dense_of(average.border)[2] == 0.625);
  CHECK(dense_of(Examined(3, sparse(skew, given, false), {.symmetry = Symmetry::lower}).border) == expected);

  std::vector<double> block(values);
  block[1] = 1.5;
  CHECK_THROWS_WITH(InvalidArgument, "block 0", Examined(3, sparse(block, given, false)));
  CHECK(dense_of(Examined(3, sparse(block, given, false), {.symmetry = Symmetry::average}).border)[1] == 1.25);
}

TEST(BlocksComeInTheOrderOfTheirRows) {
  const std::vector<double> values = random_vector(40, 3);
  std::vector<SparseBlockKroneckerBorder::Block> blocks;
  for (Index e = 0; e < 10; ++e) blocks.push_back({(7 * e) % 10, (7 * e) % 10, 1, 1, e});
  blocks.push_back({1, 6, 3, 4, 10});
  blocks.push_back({5, 0, 0, 3, 10});  // empty
  const Border plain{20, DType::float64, {sparse(values, blocks, true, 2)}, {}};
  const Examined e(20, sparse(values, blocks, true, 2));
  const auto& term = std::get<SparseBlockKroneckerBorder>(e.border.terms[0]);
  CHECK_EQUAL(term.tallest, Index{4});
  CHECK_EQUAL(term.blocks.size(), std::size_t{11});
  CHECK(dense_of(e.border) == dense_of(plain));
  std::vector<double> tile(20 * 20);
  border::block_add(e.border, 9, 17, tile.data());
  std::vector<double> other(20 * 20);
  border::block_add(plain, 9, 17, other.data());
  CHECK(tile == other);
}

TEST(FramesGetTheirProductsWhereTheyPay) {
  const Index p = 50;
  const std::vector<double> frames = random_vector(2 * p * 3, 1);
  std::vector<double> values = random_vector(12, 2);
  values[2] = values[1];
  values[10] = values[9];
  FramedKroneckerBorder term;
  term.groups = {{2, 3, frames.data()}, {2, 3, frames.data() + 3 * p}};
  term.blocks = {{0, 0, 0}, {0, 1, 4}, {1, 1, 8}};
  term.values = values.data();
  term.entries = 12;
  term.p = p;
  term.mirror = true;
  const Border plain{12, DType::float64, {term}, {}};
  const Examined e(12, term);
  CHECK(std::get<FramedKroneckerBorder>(e.border.terms[0]).grams != nullptr);
  CHECK_NEAR(dense_of(e.border), dense_of(plain), 1e-14);
  std::vector<double> bad(frames);
  bad[at(3 * p + 7)] = kNaN;
  term.groups[1].frame = bad.data() + 3 * p;
  CHECK_THROWS_WITH(InvalidArgument, "nan at [2, 1] of frame 1", Examined(12, term));
}

TEST(FactorsAreChecked) {
  std::vector<double> a = support::random_symmetric(3, 1), b = support::random_symmetric(4, 2);
  CHECK(Examined(12, KroneckerProductBorder{a.data(), b.data(), 3, 4, 0}).detected.empty());
  CHECK(Examined(6, KroneckerBorder{a.data(), {3}, 2}).detected.empty());
  a[1] += 0.5;
  CHECK_THROWS_WITH(InvalidArgument, "left Kronecker factor",
                    Examined(12, KroneckerProductBorder{a.data(), b.data(), 3, 4, 0}));
  CHECK_THROWS_WITH(InvalidArgument, "Kronecker factor 0", Examined(6, KroneckerBorder{a.data(), {3}, 2}));
  const ValidationOptions average{.symmetry = Symmetry::average};
  const Examined product(12, KroneckerProductBorder{a.data(), b.data(), 3, 4, 0}, average);
  CHECK_NEAR(dense_of(product.border)[4], 0.5 * (a[1] + a[3]) * b[0], 1e-15);
  const Examined kronecker(6, KroneckerBorder{a.data(), {3}, 2}, average);
  CHECK_NEAR(dense_of(kronecker.border)[2], 0.5 * (a[1] + a[3]), 1e-15);
  a[8] = kNaN;
  CHECK_THROWS_WITH(InvalidArgument, "nan at [2, 2] of Kronecker factor 0",
                    Examined(6, KroneckerBorder{a.data(), {3}, 2}));
}

TEST(AnOperatorNeedsAProductAndADiagonal) {
  OperatorBorder op;
  op.diagonal = {1.0, 2.0};
  CHECK_THROWS_WITH(InvalidArgument, "a callable", Examined(2, op));
  op.matvec = [](std::span<const double> x, std::span<double> y) { y[0] = x[0], y[1] = 2.0 * x[1]; };
  CHECK(dense_of(Examined(2, op).border) == (std::vector<double>{1.0, 0.0, 0.0, 2.0}));
  CHECK_THROWS_WITH(InvalidArgument, "k = 3 entries", Examined(3, op));
  op.diagonal[1] = kNaN;
  CHECK_THROWS_WITH(InvalidArgument, "the operator's diagonal", Examined(2, op));
}

TEST(ShapesOfKroneckerBorders) {
  const std::vector<double> values = random_vector(64, 1);
  const double* v = values.data();
  CHECK_THROWS_WITH(InvalidArgument, "p times the sum", Examined(6, KroneckerBorder{v, {2}, 2}));
  CHECK_THROWS_WITH(InvalidArgument, "p >= 1", Examined(6, KroneckerBorder{v, {2}, 0}));
  CHECK_THROWS_WITH(InvalidArgument, "sizes >= 0", Examined(6, KroneckerBorder{v, {-2, 4}, 3}));
  CHECK_THROWS_WITH(InvalidArgument, "null pointer", Examined(6, KroneckerBorder{nullptr, {2}, 3}));
  CHECK_THROWS_WITH(InvalidArgument, "offset + size <= k", Examined(6, KroneckerProductBorder{v, v, 2, 3, 1}));
  CHECK_THROWS_WITH(InvalidArgument, "integers >= 0", Examined(6, KroneckerProductBorder{v, v, 2, 3, -1}));
  CHECK_THROWS_WITH(InvalidArgument, "divisor of k", Examined(6, sparse(values, {}, true, 4)));
  CHECK_THROWS_WITH(InvalidArgument, "inside the left factor", Examined(6, sparse(values, {{2, 0, 2, 1, 0}}, true, 2)));
  CHECK_THROWS_WITH(InvalidArgument, "square", Examined(6, sparse(values, {{0, 0, 2, 1, 0}}, true, 2)));
  CHECK_THROWS_WITH(InvalidArgument, "across the diagonal", Examined(6, sparse(values, {{1, 0, 2, 2, 0}}, true, 2)));
  CHECK_THROWS_WITH(InvalidArgument, "inside their 64 values",
                    Examined(6, sparse(values, {{0, 0, 1, 1, 64}}, true, 2)));
  FramedKroneckerBorder framed;
  framed.p = 4;
  framed.groups = {{2, 3, nullptr}};
  CHECK_THROWS_WITH(InvalidArgument, "width p = 4 without a frame", Examined(6, framed));
  framed.groups = {{2, 3, v}};
  framed.blocks = {{0, 1, 0}};
  framed.values = v;
  framed.entries = 64;
  CHECK_THROWS_WITH(InvalidArgument, "groups 0 to 0", Examined(6, framed));
  CHECK_THROWS_WITH(InvalidArgument, "sum of k = 7", Examined(7, framed));
  CHECK_THROWS_WITH(InvalidArgument, "another dtype",
                    validate::require_border_shape(Border{6, DType::float32, {}, {}}, 6, DType::float64));
}

CHECK_MAIN()
