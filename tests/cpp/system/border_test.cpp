#include "system/border.hpp"

#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::random_vector;

namespace {

// A border over buffers it owns, and the same matrix written out.
struct Example {
  std::string name;
  std::vector<double> data;
  std::vector<float> data32;
  Border border;
  std::vector<double> dense;
};

void add_symmetric(std::vector<double>& dense, Index k, Index r, Index c, double value) {
  dense[static_cast<std::size_t>(r * k + c)] += value;
  if (r != c) dense[static_cast<std::size_t>(c * k + r)] += value;
}

// Data whose unused entries (upper triangles, behind the bands) are large numbers: reading one shows.
Example make_example(const std::string& kind, Index k, bool single) {
  Example e{kind + " k=" + std::to_string(k) + (single ? " float32" : " float64"), {}, {}, {}, {}};
  e.dense.resize(static_cast<std::size_t>(k * k));
  e.border.k = k;
  std::vector<Index> sizes;
  const Index bandwidth = std::min<Index>(k - 1, 3);
  if (kind == "dense") {
    e.data = support::random_symmetric(k, 1, true);
    sizes = {k};
  } else if (kind == "blocks") {
    for (Index left = k, next = 1; left > 0; next = 3 * next % 41) {
      sizes.push_back(std::min(left, next));
      left -= sizes.back();
    }
    for (const Index size : sizes) {
      const std::vector<double> block = support::random_symmetric(size, static_cast<std::uint64_t>(size), true);
      e.data.insert(e.data.end(), block.begin(), block.end());
    }
  } else if (kind == "diagonal") {
    e.data = random_vector(k, 2);
  } else {
    e.data = random_vector((bandwidth + 1) * k, 3);
    for (Index j = 1; j <= bandwidth; ++j) {
      for (Index i = k - j; i < k; ++i) e.data[static_cast<std::size_t>(j * k + i)] = 1e6;
    }
  }
  e.data32 = support::to_float(e.data);
  const auto value = [&](Index i) {
    const std::size_t at = static_cast<std::size_t>(i);
    return single ? static_cast<double>(e.data32[at]) : e.data[at];
  };
  Index first = 0, offset = 0;
  for (const Index size : sizes) {
    for (Index r = 0; r < size; ++r) {
      for (Index c = 0; c <= r; ++c) add_symmetric(e.dense, k, first + r, first + c, value(offset + r * size + c));
    }
    first += size;
    offset += size * size;
  }
  if (kind == "diagonal") {
    for (Index i = 0; i < k; ++i) add_symmetric(e.dense, k, i, i, value(i));
  } else if (kind == "banded") {
    for (Index j = 0; j <= bandwidth; ++j) {
      for (Index i = 0; i + j < k; ++i) add_symmetric(e.dense, k, i + j, i, value(j * k + i));
    }
  }
  const void* data = single ? static_cast<const void*>(e.data32.data()) : e.data.data();
  e.border.dtype = single ? DType::float32 : DType::float64;
  if (kind == "dense") e.border.terms = {DenseBorder{data}};
  if (kind == "blocks") e.border.terms = {BlockDiagonalBorder{data, sizes}};
  if (kind == "diagonal") e.border.terms = {DiagonalBorder{data}};
  if (kind == "banded") e.border.terms = {BandedBorder{data, bandwidth}};
  return e;
}

template <class F>
void for_each_example(F&& f) {
  for (const char* kind : {"dense", "blocks", "diagonal", "banded"}) {
    for (const Index k : {1, 2, 7, 33, 130, 515, 700}) {
      for (const bool single : {false, true}) {
        const Example e = make_example(kind, k, single);
        const int before = checks::failures_of_case();
        f(e);
        if (checks::failures_of_case() > before) std::cout << "  for " << e.name << "\n";
      }
    }
  }
}

}  // namespace

TEST(ProductsAreThoseOfTheDenseMatrix) {
  for_each_example([](const Example& e) {
    for (const Index m : {1, 2, 5}) {
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
    std::vector<double> dense(e.dense.size(), 1.0), diagonal(static_cast<std::size_t>(k), 2.0);
    e.border.to_dense_add(dense);
    e.border.diagonal_add(diagonal);
    for (std::size_t i = 0; i < dense.size(); ++i) dense[i] -= 1.0;
    CHECK_NEAR(dense, e.dense, 1e-15);
    for (Index i = 0; i < k; ++i) {
      CHECK_NEAR(diagonal[static_cast<std::size_t>(i)] - 2.0, e.dense[static_cast<std::size_t>(i * k + i)], 1e-12);
    }
  });
}

TEST(AbsoluteRowSumsLeaveOutTheDiagonal) {
  for_each_example([](const Example& e) {
    const Index k = e.border.k;
    std::vector<double> sums(static_cast<std::size_t>(k), 0.5), expected(static_cast<std::size_t>(k), 0.5);
    for (Index r = 0; r < k; ++r) {
      for (Index c = 0; c < k; ++c) {
        if (c != r) expected[static_cast<std::size_t>(r)] += std::fabs(e.dense[static_cast<std::size_t>(r * k + c)]);
      }
    }
    CHECK(!e.border.off_diagonal_abs_sums_add(sums));
    CHECK_NEAR(sums, expected, 1e-14);
  });
}

TEST(TheFusedPassGivesTheSameBits) {
  for_each_example([](const Example& e) {
    const std::size_t k = static_cast<std::size_t>(e.border.k);
    const std::vector<double> x = random_vector(e.border.k, 9);
    std::vector<double> y(k), sums(k), fused_y(k), fused_sums(k);
    e.border.matvec_add(x, y);
    (void)e.border.off_diagonal_abs_sums_add(sums);
    CHECK(!border::matvec_and_abs_sums_add(e.border, x.data(), fused_y.data(), fused_sums.data()));
    CHECK(y == fused_y);
    CHECK(sums == fused_sums);
  });
}

TEST(TheNumberOfThreadsChangesNoBit) {
  for (const char* kind : {"dense", "blocks", "banded"}) {
    const Example e = make_example(kind, 1500, false);
    for (const Index m : {1, 3}) {
      const std::vector<double> x = random_vector(1500 * m, 10);
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

TEST(SumsAddTheirTermsAndMayBoundTheNorm) {
  const Example dense = make_example("dense", 40, false), banded = make_example("banded", 40, false),
                diagonal = make_example("diagonal", 40, false);
  Border sum{40, DType::float64, {dense.border.terms[0], diagonal.border.terms[0]}, {}};
  std::vector<double> total(40 * 40), expected(40 * 40), abs_sums(40);

  sum.to_dense_add(total);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = dense.dense[i] + diagonal.dense[i];
  CHECK_NEAR(total, expected, 1e-15);
  CHECK(!sum.off_diagonal_abs_sums_add(abs_sums));  // one term has off-diagonal entries: exact

  sum.terms.push_back(banded.border.terms[0]);
  CHECK(sum.off_diagonal_abs_sums_add(abs_sums));
  CHECK(!Border{}.off_diagonal_abs_sums_add({}));
}

TEST(ABandOfWidthOneAndBlocksOfSizeOneAreDiagonal) {
  const std::vector<double> diagonal{1.0, 2.0, 3.0};
  const Border sum{3,
                   DType::float64,
                   {BandedBorder{diagonal.data(), 0}, BlockDiagonalBorder{diagonal.data(), {1, 1, 1}},
                    DiagonalBorder{diagonal.data()}},
                   {}};
  std::vector<double> sums(3), dense(9);

  CHECK(!sum.off_diagonal_abs_sums_add(sums));
  sum.to_dense_add(dense);
  CHECK(sums == std::vector<double>(3, 0.0));
  CHECK(dense == (std::vector<double>{3.0, 0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 9.0}));
}

TEST(WrongLengthsAreErrors) {
  const Example e = make_example("dense", 4, false);
  std::vector<double> four(4), eight(8), sixteen(16);

  CHECK_THROWS_WITH(InvalidArgument, "x: got 8 entries", e.border.matvec_add(eight, four));
  CHECK_THROWS_WITH(InvalidArgument, "y: got 4 entries", e.border.matvec_add(eight, four, 2));
  CHECK_THROWS_WITH(InvalidArgument, "m: got -1", e.border.matvec_add(eight, eight, -1));
  CHECK_THROWS_WITH(InvalidArgument, "out", e.border.diagonal_add(eight));
  CHECK_THROWS_WITH(InvalidArgument, "out", e.border.to_dense_add(eight));
  CHECK_THROWS_WITH(InvalidArgument, "out", e.border.off_diagonal_abs_sums_add(sixteen));
}

CHECK_MAIN()
