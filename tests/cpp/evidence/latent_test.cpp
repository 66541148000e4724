#include <thread>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "check.hpp"
#include "support.hpp"

using namespace support;
using arrowschur::InvalidArgument;
using arrowschur::SolveOptions;

namespace {

std::vector<Problem> problems() {
  return {hand(), ragged(5), wide_rows(6), Problem(uniform(40, 3), 17, 1), Problem(uniform(64, 4), 200, 4)};
}

Vector latent_blocks(const Problem& p, const Vector& inverse, const std::vector<Index>& rows) {
  Vector out;
  for (const Index i : rows) {
    const Vector b = block(inverse, p.size(), p.offset(i), p.offset(i), p.dims[at(i)], p.dims[at(i)]);
    out.insert(out.end(), b.begin(), b.end());
  }
  return out;
}

std::vector<Index> all_rows(const Problem& p) {
  std::vector<Index> rows(at(p.n()));
  std::iota(rows.begin(), rows.end(), Index{0});
  return rows;
}

}  // namespace

TEST(HandSystemHasTheTabulatedVariances) {
  const Problem p = hand();
  const ArrowFactor f = p.factor(0.5, 0.25);
  Vector step(4), evidence(4);

  f.latent_inverse_diagonal(step);
  f.latent_inverse_diagonal(evidence, FactorSet::evidence);

  CHECK_NEAR(step, (Vector{0.315246181270405, 0.463664624743176, 0.588996498321135, 0.23314885444602}), 1e-13);
  CHECK_NEAR(evidence, (Vector{0.380114850541222, 0.620373201323831, 0.8546770757329, 0.265691862242692}), 1e-13);
}

TEST(DiagonalAndBlocksEqualTheDenseInverse) {
  for (const Problem& p : problems()) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const Vector inverse = Dense(p.dense(c.ridge_t, c.ridge_beta), p.size()).inverse();
      const Vector expected = latent_blocks(p, inverse, all_rows(p));
      Vector expected_diagonal;
      for (Index i = 0; i < p.total; ++i) expected_diagonal.push_back(inverse[at(i * p.size() + i)]);
      Vector diagonal(at(p.total)), blocks(expected.size());

      f.latent_inverse_diagonal(diagonal, c.set);
      f.latent_inverse_blocks({}, blocks, c.set);

      CHECK_NEAR(diagonal, expected_diagonal, 1e-11);
      CHECK_NEAR(blocks, expected, 1e-11);
      Index at_block = 0;
      for (const Index d : p.dims) {
        CHECK(symmetric(Vector(blocks.begin() + at_block, blocks.begin() + at_block + d * d), d));
        at_block += d * d;
      }
    }
  }
}

TEST(AnyListOfRowsIsServed) {
  for (const Problem& p : problems()) {
    const ArrowFactor f = p.factor();
    const Vector inverse = Dense(p.dense(), p.size()).inverse();
    std::vector<std::vector<Index>> lists = {{0}, {p.n() - 1}, {1, 0, 1}, all_rows(p)};
    std::reverse(lists.back().begin(), lists.back().end());
    for (const auto& rows : lists) {
      const Vector expected = latent_blocks(p, inverse, rows);
      Vector out(expected.size());

      f.latent_inverse_blocks(rows, out);

      CHECK_NEAR(out, expected, 1e-11);
    }
  }
}

TEST(CrossBlocksEqualTheDenseInverse) {
  for (const Problem& p : problems()) {
    const ArrowFactor f = p.factor(0.5, 0.25);
    for (const SetCase& c : kSets) {
      const Vector inverse = Dense(p.dense(c.ridge_t, c.ridge_beta), p.size()).inverse();
      for (Index i = 0; i < std::min<Index>(p.n(), 11); ++i) {
        Vector out(at(p.dims[at(i)] * p.k));

        f.cross_inverse_block(i, out, c.set);

        CHECK_NEAR(out, block(inverse, p.size(), p.offset(i), p.total, p.dims[at(i)], p.k), 1e-11);
      }
    }
  }
}

// 9000 scalar rows are three batches; the reference is one solve with a unit vector.
TEST(SeveralBatchesEqualSolvesWithUnitVectors) {
  std::vector<Index> dims;
  for (Index i = 0; i < 4500; ++i) dims.push_back(i % 5);
  const Problem p(dims, 9, 12);
  const ArrowFactor f = p.factor(0.1, 0.1);
  Index entries = 0;
  for (const Index d : dims) entries += d * d;
  Vector diagonal(at(p.total)), blocks(at(entries));

  f.latent_inverse_diagonal(diagonal);
  f.latent_inverse_blocks({}, blocks);

  Index scalar = 0, entry = 0;
  for (const Index d : dims) {
    for (Index a = 0; a < d; ++a, ++scalar) {
      CHECK_NEAR(diagonal[at(scalar)], blocks[at(entry + a * d + a)], 1e-13);
      if (scalar % 450 > 1) continue;
      Vector unit(at(p.total), 0.0), zero(at(p.k), 0.0), x(at(p.total)), x_beta(at(p.k));
      unit[at(scalar)] = 1.0;
      f.solve(unit, zero, x, x_beta);
      const Vector row(blocks.begin() + entry + a * d, blocks.begin() + entry + (a + 1) * d);
      CHECK_NEAR(row, Vector(x.begin() + scalar - a, x.begin() + scalar - a + d), 1e-12);
    }
    entry += d * d;
  }
}

TEST(BitsDoNotDependOnTheNumberOfThreads) {
  const Problem p(uniform(700, 3), 130, 2);
  Vector first;
  for (const int count : {1, 2, 4}) {
    SolveOptions options;
    options.num_threads = count;
    const ArrowFactor f = p.factor(0.0, 0.0, options);
    Vector out(at(p.total + 9 * 700));

    f.latent_inverse_diagonal(std::span(out).first(at(p.total)));
    f.latent_inverse_blocks({}, std::span(out).subspan(at(p.total)));

    if (first.empty()) first = out;
    CHECK(out == first);
  }
}

// The evidence set is built on first use, here by whichever thread comes first.
TEST(SeveralThreadsMayAskAtOnce) {
  const Problem p(uniform(700, 3), 130, 2);
  const ArrowFactor f = p.factor(0.5, 0.25);
  std::vector<Vector> out(4, Vector(at(p.total)));
  std::vector<std::thread> threads;

  for (Vector& diagonal : out) {
    threads.emplace_back([&f, &diagonal] { f.latent_inverse_diagonal(diagonal, FactorSet::evidence); });
  }
  for (std::thread& thread : threads) thread.join();

  Vector expected(at(p.total));
  p.factor().latent_inverse_diagonal(expected);
  for (const Vector& diagonal : out) CHECK(diagonal == expected);
}

TEST(RowsWithoutBorderAndBorderWithoutRows) {
  const Problem rows({2, 0, 40}, 0, 7), border({}, 6, 8), empty_rows({0, 0}, 3, 8);
  const Vector inverse = Dense(rows.dense(), 42).inverse();
  Vector blocks(4 + 1600), diagonal(42), none;

  rows.factor().latent_inverse_blocks({}, blocks);
  rows.factor().latent_inverse_diagonal(diagonal);
  rows.factor().cross_inverse_block(0, none);
  for (const Problem& p : {border, empty_rows}) {
    p.factor().latent_inverse_diagonal(none);
    p.factor().latent_inverse_blocks({}, none);
  }
  empty_rows.factor().cross_inverse_block(1, none);

  CHECK_NEAR(blocks, latent_blocks(rows, inverse, {0, 1, 2}), 1e-11);
  for (Index i = 0; i < 42; ++i) CHECK_NEAR(diagonal[at(i)], inverse[at(i * 42 + i)], 1e-11);
}

TEST(SinglePrecisionFactorsGiveSinglePrecisionVariances) {
  const Problem p(uniform(40, 3), 17, 1);
  SolveOptions options;
  options.precision = arrowschur::Precision::float32;
  const Vector inverse = Dense(p.dense(), p.size()).inverse();
  Vector expected, diagonal(at(p.total));
  for (Index i = 0; i < p.total; ++i) expected.push_back(inverse[at(i * p.size() + i)]);

  p.factor(0.0, 0.0, options).latent_inverse_diagonal(diagonal);

  CHECK_NEAR(diagonal, expected, 1e-4);  // condition 8.5e2 times 6e-8, with room
}

TEST(WrongArgumentsAreNamed) {
  const Problem p = ragged(3);
  const ArrowFactor f = p.factor();
  Vector out(at(p.total)), none;
  const std::vector<Index> high = {0, p.n()}, low = {-1}, two = {1, 2};

  CHECK_THROWS_WITH(InvalidArgument, "rows", f.latent_inverse_blocks(high, out));
  CHECK_THROWS_WITH(InvalidArgument, "rows", f.latent_inverse_blocks(low, out));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.latent_inverse_blocks(two, out));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.latent_inverse_diagonal(none));
  CHECK_THROWS_WITH(InvalidArgument, "i", f.cross_inverse_block(-1, out));
  CHECK_THROWS_WITH(InvalidArgument, "i", f.cross_inverse_block(p.n(), out));
  CHECK_THROWS_WITH(InvalidArgument, "out", f.cross_inverse_block(1, none));
}

CHECK_MAIN()
