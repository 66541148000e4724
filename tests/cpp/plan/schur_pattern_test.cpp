#include "check.hpp"

#include <numeric>
#include <set>

#include "border/block_sparse.hpp"
#include "plan/schur_pattern.hpp"

namespace {

using namespace support;
using arrowschur::BlockPattern;
using arrowschur::factor_pattern;
using arrowschur::FactorPattern;
using arrowschur::schur_blocks;
using arrowschur::schur_pattern;

// Entries of the lower triangle of the Cholesky factor of a pattern, by elimination of blocks one after another.
double fill_of(const BlockPattern& s, const std::vector<Index>& order) {
  std::vector<std::set<Index>> graph(at(s.blocks()));
  for (Index j = 0; j < s.blocks(); ++j) {
    for (const Index i : s.column(j)) {
      graph[at(i)].insert(j);
      graph[at(j)].insert(i);
    }
  }
  double entries = 0.0;
  for (const Index j : order) {
    double below = 0.0;
    for (const Index i : graph[at(j)]) below += static_cast<double>(s.width(i));
    const double w = static_cast<double>(s.width(j));
    entries += w * (w + 1.0) / 2.0 + w * below;
    for (const Index a : graph[at(j)]) {
      graph[at(a)].erase(j);
      for (const Index b : graph[at(j)]) {
        if (a != b) graph[at(a)].insert(b);
      }
    }
  }
  return entries;
}

BlockPattern pattern_of(const BlockSparseProblem& p) {
  return *schur_blocks(p.offsets, p.indptr, p.block_index, p.system().border());
}

TEST(blocks_of_w_and_of_the_border) {
  const BlockSparseProblem p(chain(6, 5, 2, 2), BorderForm::banded, 3);
  const BlockPattern s = pattern_of(p);
  for (Index j = 0; j < 5; ++j) {
    const std::vector<Index> below(s.column(j).begin(), s.column(j).end());
    CHECK(below == (j < 4 ? std::vector<Index>{j + 1} : std::vector<Index>{}));
  }
  CHECK_EQUAL(s.entries(), 5.0 * 4.0 + 2.0 * 4.0 * 4.0);
}

TEST(counts_are_those_of_elimination) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const BlockSparseProblem p(
        scattered(120, {3, 1, 2, 6, 2, 1, 4, 5, 3, 2, 1, 1, 7, 2, 3, 3, 2, 2, 2, 5, 1, 1, 1, 4}, 2, 4, {1}, seed),
        BorderForm::diagonal, seed);
    const BlockPattern s = pattern_of(p);
    const FactorPattern f = *factor_pattern(s);
    CHECK_EQUAL(f.entries, fill_of(s, f.order));
    std::vector<Index> sorted = f.order;
    std::ranges::sort(sorted);
    for (Index b = 0; b < s.blocks(); ++b) {
      CHECK_EQUAL(sorted[at(b)], b);
      CHECK_EQUAL(f.order[at(f.place[at(b)])], b);
    }
    CHECK_EQUAL(f.panel_ptr.back(), s.blocks());
    CHECK(static_cast<double>(f.value_ptr.back()) >= f.entries);
    CHECK(static_cast<double>(f.value_ptr.back()) < 2.5 * f.entries);
    CHECK(!factor_pattern(s, f.entries / 4.0));
  }
}

TEST(minimum_degree_beats_the_natural_order_on_an_arrow) {
  // Block 0 meets everybody: eliminated first it fills all of S.
  Shape arrow;
  arrow.block_sizes.assign(40, 1);
  for (Index i = 1; i < 40; ++i) {
    arrow.dims.push_back(1);
    arrow.blocks.push_back({0, i});
  }
  const BlockSparseProblem p(arrow, BorderForm::diagonal, 4);
  const FactorPattern f = *factor_pattern(pattern_of(p));
  CHECK_EQUAL(f.entries, 79.0);
}

TEST(a_banded_matrix_keeps_its_order) {
  const BlockSparseProblem p(chain(500, 400, 1, 4), BorderForm::diagonal, 5);
  const FactorPattern f = *factor_pattern(pattern_of(p));
  std::vector<Index> natural(400);
  std::iota(natural.begin(), natural.end(), Index{0});
  CHECK(f.order == natural);
  CHECK_EQUAL(f.entries, 400.0 * 4.0 - 6.0);
}

TEST(wide_supernodes_are_cut) {
  const BlockSparseProblem p(scattered(300, std::vector<Index>(60, 6), 10, 60, {1}, 6), BorderForm::diagonal, 6);
  const FactorPattern f = *factor_pattern(pattern_of(p));
  CHECK(f.panels() >= 3);
  for (Index q = 0; q < f.panels(); ++q) {
    CHECK(f.offsets[at(f.panel_ptr[at(q) + 1])] - f.offsets[at(f.panel_ptr[at(q)])] <= 128);
  }
}

TEST(the_plan_sees_what_is_sparse) {
  const BlockSparseProblem sparse(chain(700, 600, 1, 4), BorderForm::banded, 7);
  const auto yes = schur_pattern(sparse.system());
  CHECK(yes.sparse);
  CHECK_EQUAL(yes.s_entries, 600.0 * 7.0 - 12.0);
  CHECK_EQUAL(yes.l_entries, 600.0 * 4.0 - 6.0);
  CHECK(yes.flops > 0.0);
  CHECK(yes.peak_bytes > static_cast<Index>(8.0 * yes.l_entries));

  const BlockSparseProblem full(scattered(4000, std::vector<Index>(150, 4), 8, 150, {1}, 8), BorderForm::diagonal, 8);
  CHECK(!schur_pattern(full.system()).sparse);
  const BlockSparseProblem blocks(scattered(100, std::vector<Index>(20, 30), 8, 20, {1}, 8), BorderForm::diagonal, 8);
  CHECK(!schur_pattern(blocks.system()).sparse);
  const BlockSparseProblem border(chain(10, 600, 1, 2), BorderForm::dense, 8);
  CHECK(!schur_pattern(border.system()).sparse);
  const BlockSparseProblem thin(chain(500, 400, 1, 4), BorderForm::banded, 7);
  CHECK(!schur_pattern(thin.system()).sparse);
  const Problem dense({2, 2}, 3, 4);
  CHECK(!schur_pattern(dense.system()).sparse);
}

}  // namespace

CHECK_MAIN()
