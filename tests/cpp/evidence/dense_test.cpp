#include "evidence/dense.hpp"

#include "check.hpp"
#include "support.hpp"

using arrowschur::Index;
using support::at;
using support::Vector;
namespace evidence = arrowschur::evidence;

TEST(TransposeHandlesEveryRemainder) {
  for (const Index rows : {1, 7, 8, 33}) {
    for (const Index cols : {1, 9, 64, 131}) {
      const Vector x = support::random_vector(rows * cols, 3);
      const Index ldo = rows + 5;
      Vector out(at(cols * ldo), 9.0), expected(at(cols * ldo), 9.0);
      for (Index r = 0; r < rows; ++r) {
        for (Index c = 0; c < cols; ++c) expected[at(c * ldo + r)] = -2.0 * x[at(r * cols + c)];
      }

      evidence::transpose(rows, cols, x.data(), out.data(), ldo, -2.0);

      CHECK(out == expected);
    }
  }
}

TEST(GramOfAKnownMatrix) {
  const Vector x = {1, 2, 3, 4, 5, 6};  // [3, 2]
  Vector out(4, 0.0);

  evidence::gram_lower(3, 2, x.data(), 2, out.data());
  evidence::mirror_lower(2, out.data());

  CHECK(out == (Vector{35, 44, 44, 56}));
}

TEST(GramAcrossTilesEqualsThePlainSum) {
  const Index rows = 50, cols = 401, ld = 410;
  const Vector x = support::random_vector(rows * ld, 5);
  Vector expected(at(cols * cols), 0.25);
  for (Index r = 0; r < rows; ++r) {
    for (Index i = 0; i < cols; ++i) {
      for (Index j = 0; j < cols; ++j) expected[at(i * cols + j)] += x[at(r * ld + i)] * x[at(r * ld + j)];
    }
  }
  Vector out(at(cols * cols), 0.25);

  evidence::gram_lower(rows, cols, x.data(), ld, out.data(), /*add=*/true);
  evidence::mirror_lower(cols, out.data());

  CHECK_NEAR(out, expected, 1e-14);
  CHECK(support::symmetric(out, cols));
}

TEST(GramSkipsLeadingZerosOfColumns) {
  const Index rows = 300, cols = 250;
  Vector x = support::random_vector(rows * cols, 6);
  std::vector<Index> first;
  for (Index j = 0; j < cols; ++j) {
    first.push_back((j * 37) % rows);
    for (Index r = 0; r < first.back(); ++r) x[at(r * cols + j)] = 0.0;
  }
  Vector all(at(cols * cols)), skipped(at(cols * cols));

  evidence::gram_lower(rows, cols, x.data(), cols, all.data());
  evidence::gram_lower(rows, cols, x.data(), cols, skipped.data(), false, first);
  evidence::mirror_lower(cols, all.data());
  evidence::mirror_lower(cols, skipped.data());

  CHECK_NEAR(skipped, all, 1e-14);
}

TEST(ColumnSquaresAndDotAddUp) {
  const Index rows = 3000, cols = 101;
  const Vector x = support::random_vector(rows * cols, 7), y = support::random_vector(rows * cols, 8);
  Vector squares(at(cols), 1.0), expected(at(cols), 1.0);
  long double xy = 0;
  for (Index i = 0; i < rows * cols; ++i) {
    expected[at(i % cols)] += x[at(i)] * x[at(i)];
    xy += static_cast<long double>(x[at(i)]) * y[at(i)];
  }

  evidence::add_column_squares(rows, cols, x.data(), squares.data());

  CHECK_NEAR(squares, expected, 1e-13);
  CHECK(std::fabs(evidence::dot(rows * cols, x.data(), y.data()) - static_cast<double>(xy)) < 1e-10);
}

CHECK_MAIN()
