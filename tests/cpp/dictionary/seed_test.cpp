#include "dictionary/seed.hpp"

#include "../check.hpp"
#include "dictionary/fixture.hpp"
#include "dictionary/kernels.hpp"

namespace {

using namespace arrowschur;

// One pass over all rows per pick.
std::vector<Index> serial(const std::vector<float>& x, Index p, Index k, bool lines) {
  const Index n = static_cast<Index>(x.size()) / p;
  const auto s64 = dictionary::kernels().s64;
  std::vector<double> norm, m;
  for (Index i = 0; i < n; ++i) norm.push_back(s64(x.data() + i * p, x.data() + i * p, p));
  m = norm;
  std::vector<Index> picks;
  while (static_cast<Index>(picks.size()) < k) {
    const Index top = std::max_element(m.begin(), m.end()) - m.begin();
    if (m[static_cast<std::size_t>(top)] == 0.0) break;
    const float* xp = x.data() + top * p;
    const double np = norm[static_cast<std::size_t>(top)];
    for (Index i = 0; i < n; ++i) {
      const float* xi = x.data() + i * p;
      const double ni = norm[static_cast<std::size_t>(i)], w = s64(xi, xp, p);
      double v = lines ? ni - w * w / np : ni + np - 2.0 * w;
      if (v < 1e-6 * ni) {
        v = 0.0;
        for (Index c = 0; c < p; ++c) {
          const double r = static_cast<double>(xi[c]) - (lines ? w / np : 1.0) * static_cast<double>(xp[c]);
          v += r * r;
        }
      }
      if (v <= 1e-24 * ni) v = 0.0;
      double& mi = m[static_cast<std::size_t>(i)];
      if (mi > 0.0) mi = picks.empty() ? v : std::min(mi, v);
    }
    m[static_cast<std::size_t>(top)] = 0.0;
    picks.push_back(top);
  }
  return picks;
}

void check_pools(const std::vector<float>& x, Index p, Index k) {
  const dictionary::Rows rows = dictionary::Rows::of(x.data(), static_cast<Index>(x.size()) / p, p);
  dictionary::Packer pack(rows, 0, nullptr, 512);
  for (const bool lines : {true, false}) {
    const auto want = serial(x, p, k, lines);
    for (const Index pool : {8, 64, 512}) CHECK(dictionary::seed_rows(pack, p, k, lines, pool) == want);
  }
}

}  // namespace

TEST(PoolsPickTheSerialSequence) { check_pools(fixture::g1(), 32, 64); }

TEST(AlsoWherePoolsAreUsedUpAndRowsRepeat) {
  auto x = fixture::planted_rows(700, 20, 40, 2, 0.0, 5);
  x.insert(x.end(), x.begin(), x.begin() + 200 * 20);
  for (std::size_t i = 0; i < 100 * 20; ++i) x.push_back(-3.0f * x[i]);
  for (std::size_t i = 0; i < 50 * 20; ++i) x.push_back(0.0f);
  check_pools(x, 20, 300);
}

TEST(PickingEndsWithTheLines) {
  std::vector<float> x;
  for (int i = 0; i < 30; ++i) {
    for (int c = 0; c < 4; ++c) x.push_back(c == i % 3 ? static_cast<float>(1 + i) : 0.0f);
  }
  const dictionary::Rows rows = dictionary::Rows::of(x.data(), 30, 4);
  dictionary::Packer pack(rows, 0, nullptr, 512);
  CHECK(dictionary::seed_rows(pack, 4, 10, true, 8) == (std::vector<Index>{29, 28, 27}));
}

CHECK_MAIN()
