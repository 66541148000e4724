#include "system/border_graph.hpp"

#include "border/street.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::border;
using street::Problem;

TEST(ComponentsByLowestBlock) {
  const Problem problem({{0, 3}, {3, 4}, {1}, {2, 5}}, 7, 2, 1.0, 1);
  const auto graph = BorderGraph::make(problem.system);
  REQUIRE(graph.has_value());
  CHECK_EQUAL(graph->blocks(), 7);
  const BlockGroups expected = {{0, 3, 4}, {1}, {2, 5}, {6}};
  CHECK(graph->components() == expected);
  CHECK(graph->partition(512) == expected);
  CHECK_EQUAL(graph->columns(expected[0]), 6);
}

TEST(PartitionTakesTheHeaviestNeighbour) {
  // 0-1 by one row, 0-2 by two, 2-3 by three; groups of at most two blocks of two columns.
  const Problem problem({{0, 1}, {0, 2}, {0, 2}, {2, 3}, {2, 3}, {2, 3}}, 4, 2, 1.0, 2);
  const auto graph = BorderGraph::make(problem.system);
  REQUIRE(graph.has_value());
  CHECK((graph->partition(4) == BlockGroups{{0, 2}, {1}, {3}}));
  CHECK((graph->partition(1) == BlockGroups{{0}, {1}, {2}, {3}}));
  const std::vector<Index> seed = {1};
  CHECK((graph->grown(seed, 1, 100) == std::vector<Index>{0, 1}));
  CHECK((graph->grown(seed, 2, 100) == std::vector<Index>{0, 1, 2}));
  CHECK((graph->grown(seed, 9, 100) == std::vector<Index>{0, 1, 2, 3}));
  CHECK((graph->grown(seed, 9, 5) == std::vector<Index>{0, 1}));
}

// T65: one giant component, a chain of 2000 columns.
TEST(ChainsAreCutIntoBoundedGroups) {
  const Problem problem(street::chain(500, 1), 500, 4, 1.0, 3);
  BlockGroups first;
  for (const int threads : {1, 4}) {
    const linalg::ThreadScope scope(threads);
    const auto graph = BorderGraph::make(problem.system);
    REQUIRE(graph.has_value());
    CHECK_EQUAL(graph->components().size(), 1u);
    const BlockGroups groups = graph->partition(512);
    for (const auto& group : groups) CHECK(graph->columns(group) <= 512);
    CHECK_EQUAL(groups.size(), 4u);
    if (first.empty()) first = groups;
    CHECK(groups == first);
  }
}

TEST(CouplingsThroughTheBorderCount) {
  // Nine columns, three rows that see single columns, a tridiagonal border: one component.
  Problem problem({{0}, {4}, {8}}, 9, 1, 1.0, 4);
  std::vector<double> bands(18, 2.0);
  for (std::size_t j = 9; j < 18; ++j) bands[j] = -0.5;
  bands[9 + 4] = 0.0;  // no coupling between columns 4 and 5
  SystemParts parts;
  parts.n = 3;
  parts.k = 9;
  parts.d = 1;
  parts.h_tt = problem.h_tt.data();
  parts.cross =
      BlockSparseCross{problem.indptr.data(), problem.block_index.data(), problem.values.data(), problem.offsets};
  parts.border = {9, DType::float64, {BandedBorder{bands.data(), 1}}, {}};
  parts.g_t = problem.g_t.data();
  parts.g_beta = problem.g_beta.data();
  const ArrowSystem system = ArrowSystem::make(parts);
  const auto graph = BorderGraph::make(system);
  REQUIRE(graph.has_value());
  CHECK((graph->components() == BlockGroups{{0, 1, 2, 3, 4}, {5, 6, 7, 8}}));
  CHECK((graph->partition(2) == BlockGroups{{0, 1}, {2, 3}, {4}, {5, 6}, {7, 8}}));
}

TEST(KroneckerRowsGiveIntervals) {
  const std::vector<Index> base = {0, 4, 4, 8}, ptr = {0, 2, 4};
  const std::vector<double> phi(4, 1.0), j(2 * 3, 0.25), h_tt(2, 4.0), diagonal(12, 5.0), g_t(2, 1.0), g_beta(12, 1.0);
  SystemParts parts;
  parts.n = 2;
  parts.k = 12;
  parts.d = 1;
  parts.h_tt = h_tt.data();
  parts.cross = KroneckerCross{j.data(), base.data(), phi.data(), ptr.data(), 3};
  parts.border = {12, DType::float64, {DiagonalBorder{diagonal.data()}}, {}};
  parts.g_t = g_t.data();
  parts.g_beta = g_beta.data();
  const ArrowSystem bare = ArrowSystem::make(parts);
  const auto graph = BorderGraph::make(bare);
  REQUIRE(graph.has_value());
  CHECK((std::vector<Index>(graph->offsets().begin(), graph->offsets().end()) ==
         std::vector<Index>{0, 3, 4, 7, 8, 11, 12}));
  CHECK((graph->components() == BlockGroups{{0, 2, 4}, {1}, {3}, {5}}));
  parts.border_blocks = {0, 4, 8, 12};
  const ArrowSystem blocked = ArrowSystem::make(parts);
  const auto coarse = BorderGraph::make(blocked);
  REQUIRE(coarse.has_value());
  CHECK((coarse->components() == BlockGroups{{0, 1, 2}}));
}

TEST(DenseRowsHaveNoGraph) {
  const support::OwnedSystem owned({1, 2}, 3, 5);
  const ArrowSystem system = ArrowSystem::make(owned.parts());
  CHECK(!BorderGraph::make(system).has_value());
}

// Rows over very many blocks join components without counting as weights.
TEST(LongRows) {
  std::vector<Index> everything(1100);
  for (std::size_t b = 0; b < everything.size(); ++b) everything[b] = static_cast<Index>(b);
  const Problem problem({everything, {0, 7}, {7, 9}}, 1100, 1, 1.0, 6);
  const auto graph = BorderGraph::make(problem.system);
  REQUIRE(graph.has_value());
  CHECK_EQUAL(graph->components().size(), 1u);
  CHECK_EQUAL(graph->partition(512).size(), 1098u);
}

CHECK_MAIN()
