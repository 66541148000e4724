#include <algorithm>
#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "arrowschur/system.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/cross.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::random_vector;

namespace {

struct Equations {
  std::vector<double> h_tt, h_tb, h_bb, g_t, g_beta;
  bool operator==(const Equations&) const = default;
};

// Owns random Jacobians.
struct Problem {
  JacobianParts p;
  std::vector<double> j_t, j_beta, residual, weights;
  std::vector<Index> row_index;

  Problem(Index n, Index d, Index k, Index r, Index q, std::uint64_t seed)
      : j_t(random_vector(r * q * d, seed)),
        j_beta(random_vector(r * q * k, seed + 1)),
        residual(random_vector(r * q, seed + 2)) {
    p.n = n;
    p.d = d;
    p.k = k;
    p.r = r;
    p.q = q;
  }
  void weigh(bool per_residual) {
    weights = random_vector(per_residual ? p.r * p.q : p.r, 77);
    for (double& w : weights) w = std::fabs(w);
    p.weights_per_residual = per_residual;
  }
  void scatter() {  // rows seen several times, in no order; some never
    for (Index b = 0; b < p.r; ++b) row_index.push_back(b * b % std::max<Index>(p.n - 1, 1));
  }
  JacobianParts parts() const {
    JacobianParts out = p;
    out.j_t = j_t.data();
    out.j_beta = j_beta.data();
    out.residual = residual.data();
    out.weights = weights.empty() ? nullptr : weights.data();
    out.row_index = row_index.empty() ? nullptr : row_index.data();
    return out;
  }
};

Equations empty_equations(const JacobianParts& p, double fill) {
  const auto make = [&](Index size) { return std::vector<double>(static_cast<std::size_t>(size), fill); };
  return {make(p.n * p.d * p.d), make(p.n * p.d * p.k), make(p.k * p.k), make(p.n * p.d), make(p.k)};
}

Equations solve(const JacobianParts& p) {
  Equations e = empty_equations(p, 1e300);  // must be overwritten
  normal_equations(p, e.h_tt.data(), e.h_tb.data(), e.h_bb.data(), e.g_t.data(), e.g_beta.data());
  return e;
}

// The formulas, residual by residual.
Equations reference(const JacobianParts& p) {
  Equations e = empty_equations(p, 0.0);
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  for (Index b = 0; b < p.r; ++b) {
    const Index i = p.row_index == nullptr ? b : p.row_index[b];
    for (Index s = 0; s < p.q; ++s) {
      const double w = p.weights == nullptr ? 1.0 : p.weights[p.weights_per_residual ? b * p.q + s : b];
      const double* t = p.j_t + (b * p.q + s) * p.d;
      const double* beta = p.j_beta + (b * p.q + s) * p.k;
      const double residual = w * p.residual[b * p.q + s];
      for (Index r = 0; r < p.d; ++r) {
        for (Index c = 0; c < p.d; ++c) e.h_tt[at((i * p.d + r) * p.d + c)] += w * t[r] * t[c];
        for (Index j = 0; j < p.k; ++j) e.h_tb[at((i * p.d + r) * p.k + j)] += w * t[r] * beta[j];
        e.g_t[at(i * p.d + r)] += t[r] * residual;
      }
      for (Index j = 0; j < p.k; ++j) {
        for (Index l = 0; l < p.k; ++l) e.h_bb[at(j * p.k + l)] += w * beta[j] * beta[l];
        e.g_beta[at(j)] += beta[j] * residual;
      }
    }
  }
  return e;
}

void compare(const Problem& problem) {
  const Equations got = solve(problem.parts()), expected = reference(problem.parts());
  CHECK_NEAR(got.h_tt, expected.h_tt, 1e-13);
  CHECK_NEAR(got.h_tb, expected.h_tb, 1e-13);
  CHECK_NEAR(got.h_bb, expected.h_bb, 1e-13);
  CHECK_NEAR(got.g_t, expected.g_t, 1e-13);
  CHECK_NEAR(got.g_beta, expected.g_beta, 1e-13);
  for (Index j = 0; j < problem.p.k; ++j) {
    for (Index l = 0; l < j; ++l) {
      CHECK(got.h_bb[static_cast<std::size_t>(j * problem.p.k + l)] ==
            got.h_bb[static_cast<std::size_t>(l * problem.p.k + j)]);
    }
  }
}

}  // namespace

TEST(OneResidualBlockPerRow) {
  for (const Index k : {1, 5, 30, 200}) {
    for (const Index d : {1, 2, 4}) compare(Problem(13, d, k, 13, 3, 1));
  }
}

TEST(RowsSeenBySeveralBlocks) {
  Problem problem(7, 3, 25, 40, 2, 2);
  problem.scatter();
  compare(problem);
}

TEST(WeightsPerBlockAndPerResidual) {
  for (const bool per_residual : {false, true}) {
    Problem problem(9, 2, 33, 31, 4, 3);
    problem.scatter();
    problem.weigh(per_residual);
    compare(problem);
  }
}

TEST(EmptyExtents) {
  compare(Problem(3, 2, 0, 3, 2, 4));
  compare(Problem(3, 0, 4, 3, 2, 4));
  compare(Problem(0, 2, 4, 0, 2, 4));
  compare(Problem(3, 2, 4, 3, 0, 4));
}

TEST(TheNumberOfThreadsChangesNoBit) {
  Problem problem(300, 2, 210, 1500, 2, 5);  // several super-chunks are not needed: tiles and groups are
  problem.scatter();
  problem.weigh(true);
  Equations one, four;
  {
    const linalg::ThreadScope threads(1);
    one = solve(problem.parts());
  }
  {
    const linalg::ThreadScope threads(4);
    four = solve(problem.parts());
  }
  CHECK(one == four);
  compare(problem);
}

TEST(BadInputsAreNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto broken = [](auto change) {
    Problem problem(4, 2, 3, 4, 2, 6);
    problem.weigh(false);
    problem.row_index = {0, 1, 2, 3};
    change(problem);
    return solve(problem.parts());
  };

  CHECK_THROWS_WITH(InvalidArgument, "j_t: got nan at [1, 0, 1]", broken([&](Problem& b) { b.j_t[5] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "j_beta: got nan at [3, 1, 2]", broken([&](Problem& b) { b.j_beta[23] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "residual: got nan at [2, 1]", broken([&](Problem& b) { b.residual[5] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "weights: got nan at [2]", broken([&](Problem& b) { b.weights[2] = nan; }));
  CHECK_THROWS_WITH(InvalidArgument, "weights: got -1 at index 2", broken([](Problem& b) { b.weights[2] = -1.0; }));
  CHECK_THROWS_WITH(InvalidArgument, "row_index: got 4 at index 1", broken([](Problem& b) { b.row_index[1] = 4; }));
  CHECK_THROWS_WITH(InvalidArgument, "row_index: got -1", broken([](Problem& b) { b.row_index[0] = -1; }));
  CHECK_THROWS_WITH(InvalidArgument, "row_index: got none", broken([](Problem& b) {
                      b.row_index.clear();
                      b.p.n = 5;
                    }));
  CHECK_THROWS_WITH(InvalidArgument, "q: got -1", broken([](Problem& b) { b.p.q = -1; }));
  JacobianParts null;
  null.n = null.r = null.q = null.d = null.k = 1;
  CHECK_THROWS_WITH(InvalidArgument, "j_t: got a null pointer",
                    normal_equations(null, nullptr, nullptr, nullptr, nullptr, nullptr));
  null.k = null.r = null.n = Index{1} << 40;
  CHECK_THROWS(MemoryBudgetExceeded, normal_equations(null, nullptr, nullptr, nullptr, nullptr, nullptr));
}

// ---- block-sparse Jacobians -----------------------------------------------------------------------------------------

namespace {

// Random residual blocks that touch `touched` of the border blocks each; `mixed`: out of order, one of them twice.
struct SparseProblem {
  Problem rows;
  std::vector<Index> indptr{0}, index, offsets{0};
  std::vector<double> values;

  SparseProblem(Index n, Index d, const std::vector<Index>& widths, Index r, Index q, Index touched, bool mixed)
      : rows(n, d, 0, r, q, 8) {
    for (const Index width : widths) offsets.push_back(offsets.back() + width);
    rows.p.k = offsets.back();
    rows.j_beta.assign(static_cast<std::size_t>(r * q * rows.p.k), 0.0);
    fixtures::SplitMix64 stream(9);
    const Index blocks = static_cast<Index>(widths.size());
    for (Index b = 0; b < r; ++b) {
      std::vector<Index> own;
      for (Index t = 0; t < touched; ++t) own.push_back((b * b + t * 3) % blocks);
      std::sort(own.begin(), own.end());
      own.erase(std::unique(own.begin(), own.end()), own.end());
      if (mixed && b % 2 == 0) own.insert(own.begin(), own.back());
      for (const Index block : own) {
        index.push_back(block);
        for (Index s = 0; s < q; ++s) {
          for (Index j = offsets[static_cast<std::size_t>(block)]; j < offsets[static_cast<std::size_t>(block) + 1];
               ++j) {
            values.push_back(stream.signed_unit());
            rows.j_beta[static_cast<std::size_t>((b * q + s) * rows.p.k + j)] += values.back();
          }
        }
      }
      indptr.push_back(static_cast<Index>(index.size()));
    }
  }
  BlockSparseCross j_beta() const { return {indptr.data(), index.data(), values.data(), offsets}; }
  SparseNormalEquations solve() const {
    JacobianParts p = rows.parts();
    p.j_beta = nullptr;
    return normal_equations(p, j_beta());
  }
};

void compare(const SparseProblem& problem) {
  const JacobianParts p = problem.rows.parts();
  const Equations expected = reference(p);
  const SparseNormalEquations got = problem.solve();
  const auto vector = [](const double* x, Index size) { return std::vector<double>(x, x + size); };
  CHECK_NEAR(vector(got.h_tt, p.n * p.d * p.d), expected.h_tt, 1e-13);
  CHECK_NEAR(vector(got.g_t, p.n * p.d), expected.g_t, 1e-13);
  CHECK_NEAR(vector(got.g_beta, p.k), expected.g_beta, 1e-13);
  std::vector<double> h_bb(expected.h_bb.size(), 0.0), h_tb(expected.h_tb.size(), 0.0);
  got.border.to_dense_add(h_bb);
  CHECK_NEAR(h_bb, expected.h_bb, 1e-13);
  const ArrowSystem system = ArrowSystem::make(got.parts());
  cross::materialize(system, 0, p.n, h_tb.data(), p.k);
  CHECK_NEAR(h_tb, expected.h_tb, 1e-13);
  for (Index i = 0; i < p.n; ++i) {
    for (Index e = got.cross.indptr[i] + 1; e < got.cross.indptr[i + 1]; ++e) {
      CHECK(got.cross.block_index[e - 1] < got.cross.block_index[e]);
    }
  }
}

}  // namespace

TEST(SparseJacobians) {
  for (const Index touched : {0, 1, 3}) {
    for (const bool mixed : {false, true}) {
      if (touched == 0 && mixed) continue;
      compare(SparseProblem(17, 3, {9, 9, 9, 9}, 17, 2, touched, mixed));
      compare(SparseProblem(11, 2, {1, 4, 2, 3, 1}, 11, 3, touched, mixed));
      for (const auto& [d, b] : {std::pair<Index, Index>{3, 9}, {3, 6}, {1, 1}, {2, 5}}) {
        SparseProblem problem(40, d, std::vector<Index>(4, b), 600, d == 1 ? 1 : 2, touched, mixed);
        problem.rows.scatter();
        problem.rows.weigh(mixed);
        compare(problem);
      }
    }
  }
  compare(SparseProblem(0, 3, {9, 9}, 0, 2, 1, false));
  compare(SparseProblem(4, 3, {}, 4, 2, 0, false));
}

TEST(TheBorderOfSparseJacobiansIsAsSparse) {
  const SparseNormalEquations diagonal = SparseProblem(40, 3, {9, 9, 9}, 40, 2, 1, false).solve();
  CHECK(std::holds_alternative<BlockDiagonalBorder>(diagonal.border.terms.front()));
  const SparseNormalEquations pairs = SparseProblem(40, 3, {9, 9, 9, 9, 9, 9, 9, 9}, 40, 2, 2, false).solve();
  const auto& blocks = std::get<SparseBlockKroneckerBorder>(pairs.border.terms.front());
  CHECK(blocks.mirror && blocks.p == 1);
  CHECK(blocks.blocks.size() < 36);
}

TEST(TheNumberOfThreadsChangesNoBitOfSparseEquations) {
  for (const Index touched : {1, 2}) {
    SparseProblem problem(2000, 3, std::vector<Index>(12, 9), 12000, 2, touched, false);
    problem.rows.scatter();
    const auto bits = [&](int count) {
      const linalg::ThreadScope threads(count);
      const SparseNormalEquations e = problem.solve();
      std::vector<double> all(e.h_tt, e.h_tt + e.n * 9);
      all.insert(all.end(), e.g_beta, e.g_beta + e.k);
      const auto* values = static_cast<const double*>(e.cross.values);
      all.insert(all.end(), values, values + e.cross.indptr[e.n] * 27);
      std::vector<double> border(static_cast<std::size_t>(e.k * e.k), 0.0);
      e.border.to_dense_add(border);
      all.insert(all.end(), border.begin(), border.end());
      return all;
    };
    CHECK(bits(1) == bits(4));
  }
}

// Other numbers on the pattern of the first call: the bits of a call of their own, and one set of index arrays.
TEST(APatternServesManyLinearizations) {
  for (const Index touched : {0, 1, 2}) {
    for (const bool mixed : {false, true}) {
      if (touched == 0 && mixed) continue;
      for (const Index b : {9, 5}) {
        SparseProblem problem(40, 3, std::vector<Index>(4, b), 600, 2, touched, mixed);
        problem.rows.scatter();
        const SparseNormalEquations first = problem.solve();
        CHECK_EQUAL(jacobian_values(*first.pattern), static_cast<Index>(problem.values.size()));

        problem.rows.j_t = random_vector(static_cast<Index>(problem.rows.j_t.size()), 31);
        problem.rows.residual = random_vector(static_cast<Index>(problem.rows.residual.size()), 32);
        problem.values = random_vector(static_cast<Index>(problem.values.size()), 33);
        problem.rows.weigh(mixed);
        const SparseNormalEquations anew = problem.solve();
        JacobianParts p = problem.rows.parts();
        p.j_beta = problem.values.data();
        p.row_index = nullptr;  // the pattern has it
        const SparseNormalEquations next = normal_equations(first.pattern, p);

        const auto same = [](const double* x, const double* y, Index size) { return std::equal(x, x + size, y); };
        CHECK(same(next.h_tt, anew.h_tt, p.n * 9) && same(next.g_t, anew.g_t, p.n * 3));
        CHECK(same(next.g_beta, anew.g_beta, p.k));
        CHECK_EQUAL(next.cross_values, anew.cross_values);
        CHECK(same(static_cast<const double*>(next.cross.values), static_cast<const double*>(anew.cross.values),
                   anew.cross_values));
        std::vector<double> h_bb(static_cast<std::size_t>(p.k * p.k), 0.0), expected = h_bb;
        next.border.to_dense_add(h_bb);
        anew.border.to_dense_add(expected);
        CHECK(h_bb == expected);
        CHECK(next.cross.indptr == first.cross.indptr && next.cross.block_index == first.cross.block_index);
        CHECK(next.pattern == first.pattern && next.cross.pattern == first.cross.pattern);

        const ArrowSystem system = ArrowSystem::make(next.parts()), fresh = ArrowSystem::make(anew.parts());
        CHECK(system.fingerprint() == fresh.fingerprint());
      }
    }
  }
}

// A cross block that carries a pattern of other index arrays is examined like any other.
TEST(APatternCountsForItsOwnIndicesOnly) {
  const SparseProblem problem(40, 3, std::vector<Index>(4, 9), 600, 2, 1, false);
  SparseProblem scattered = problem;
  scattered.rows.scatter();
  SystemParts parts = scattered.solve().parts();
  auto& cross = std::get<BlockSparseCross>(parts.cross);
  std::vector<Index> indptr(cross.indptr, cross.indptr + parts.n + 1);
  indptr[1] = -1;
  cross.indptr = indptr.data();
  CHECK_THROWS_WITH(InvalidArgument, "indptr: got -1 at index 1", ArrowSystem::make(parts));
}

TEST(SizesOtherThanThePatternsAreNamed) {
  const SparseProblem problem(4, 2, {3, 3}, 4, 2, 1, false);
  const SparseNormalEquations first = problem.solve();
  JacobianParts p = problem.rows.parts();
  p.j_beta = problem.values.data();
  p.q = 1;
  CHECK_THROWS_WITH(InvalidArgument, "q: got 1, expected 2, as in the pattern", normal_equations(first.pattern, p));
}

TEST(BadSparseJacobiansAreNamed) {
  const auto broken = [](auto change) {
    SparseProblem problem(4, 2, {3, 3}, 4, 2, 1, false);
    change(problem);
    return problem.solve();
  };
  CHECK_THROWS_WITH(InvalidArgument, "block_index: got 2 at index 1", broken([](SparseProblem& b) { b.index[1] = 2; }));
  CHECK_THROWS_WITH(InvalidArgument, "indptr: got 0 at index 2", broken([](SparseProblem& b) { b.indptr[2] = 0; }));
  CHECK_THROWS_WITH(InvalidArgument, "block_offsets: got 6 at index 2",
                    broken([](SparseProblem& b) { b.rows.p.k = 7; }));
  CHECK_THROWS_WITH(InvalidArgument, "j_beta: got nan at [7]",
                    broken([](SparseProblem& b) { b.values[7] = std::numeric_limits<double>::quiet_NaN(); }));
  const SparseProblem both(4, 2, {3, 3}, 4, 2, 1, false);
  CHECK_THROWS_WITH(InvalidArgument, "j_beta: got a dense", normal_equations(both.rows.parts(), both.j_beta()));
  JacobianParts p = both.rows.parts();
  p.j_beta = nullptr;
  BlockSparseCross no_values = both.j_beta();
  no_values.values = nullptr;
  CHECK_THROWS_WITH(InvalidArgument, "j_beta: got a null pointer", normal_equations(p, no_values));
}

CHECK_MAIN()
