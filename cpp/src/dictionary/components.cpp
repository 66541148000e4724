#include "dictionary/components.hpp"

#include <algorithm>
#include <numeric>

#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

Index count_entries(const NormalMatrix& a) {
  const Index k = a.k();
  constexpr Index kRows = 64;
  std::vector<Index> counts(size((k + kRows - 1) / kRows));
  linalg::parallel_for_if(k >= 512, static_cast<Index>(counts.size()), [&](Index task) {
    Index count = 0;
    for (Index r = task * kRows; r < std::min(k, (task + 1) * kRows); ++r) {
      if (a.dense()) {
        const double* row = a.row(r);
        for (Index l = 0; l < r; ++l) count += row[l] != 0.0 ? 1 : 0;
      } else {
        a.each(r, [&](Index, double) { ++count; });
      }
    }
    counts[size(task)] = count;
  });
  return std::accumulate(counts.begin(), counts.end(), Index{0});
}

}  // namespace

Components find_components(const NormalMatrix& a, const std::vector<char>& live) {
  const Index k = a.k();
  std::vector<Index> parent(size(k));
  std::iota(parent.begin(), parent.end(), Index{0});
  const auto root = [&](Index i) {
    while (parent[size(i)] != i) {
      parent[size(i)] = parent[size(parent[size(i)])];
      i = parent[size(i)];
    }
    return i;
  };
  Index left = 0;
  for (const char l : live) left += l;
  // From the end: the last rows are the longest, and one is often enough to join everything.
  for (Index r = k; r-- > 0 && left > 1;) {
    if (live[size(r)] == 0) continue;
    Index mine = root(r);
    a.each(r, [&](Index l, double) {
      if (live[size(l)] == 0) return;
      const Index other = root(l);
      if (other == mine) return;
      const Index low = std::min(other, mine), high = std::max(other, mine);
      parent[size(high)] = low;
      mine = low;
      --left;
    });
  }
  Components c;
  std::vector<Index> label(size(k), -1);
  for (Index i = 0; i < k; ++i) {
    if (live[size(i)] == 0) continue;
    const Index r = root(i);
    if (label[size(r)] < 0) {
      label[size(r)] = static_cast<Index>(c.members.size());
      c.members.emplace_back();
    }
    c.members[size(label[size(r)])].push_back(i);
  }
  c.nnz = 2 * count_entries(a);
  return c;
}

}  // namespace arrowschur::dictionary
