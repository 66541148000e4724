#include "dictionary/row_code.hpp"

#include <vector>

#include "../check.hpp"
#include "dictionary/kernels.hpp"

namespace {

using namespace arrowschur;

std::vector<double> solve(const std::vector<std::vector<float>>& atoms, const std::vector<float>& x, double ridge) {
  const Index m = static_cast<Index>(atoms.size()), p = static_cast<Index>(x.size());
  dictionary::RowCode code(m, ridge);
  std::vector<const float*> rows;
  for (const auto& d : atoms) {
    std::vector<double> g;
    for (const float* r : rows) g.push_back(dictionary::kernels().s64(d.data(), r, p));
    g.push_back(dictionary::kernels().s64(d.data(), d.data(), p));
    code.append(dictionary::kernels().s64(x.data(), d.data(), p), g.data());
    rows.push_back(d.data());
  }
  code.solve(x.data(), rows.data(), p);
  return {code.codes(), code.codes() + m};
}

}  // namespace

TEST(RidgeOfSixFiguresAndOfATenth) {
  const std::vector<std::vector<float>> atoms{{.6f, .8f, 0}, {.8f, .6f, 0}, {0, 0, 1}};
  const auto small = solve(atoms, {1, 2, .5f}, 1e-6), large = solve(atoms, {1, 2, .5f}, 0.1);
  const double want_small[] = {3.5713656, -1.4285097, 0.4999995}, want_large[] = {1.7337031, 0.3051318, 0.4545455};
  for (std::size_t j = 0; j < 3; ++j) {
    CHECK(std::abs(small[j] - want_small[j]) <= 1e-6);
    CHECK(std::abs(large[j] - want_large[j]) <= 1e-6);
  }
}

TEST(EqualAtomsShareTheWeight) {
  const auto c = solve({{.6f, .8f}, {.6f, .8f}}, {.6f, .8f}, 0.0);
  CHECK_NEAR(c[0], 0.5, 1e-6);
  CHECK_NEAR(c[1], 0.5, 1e-6);
}

// The second component of the second atom is lost in its norm, and in a Cholesky factor; not in the stacked problem:
// minimise (a + b)^2 + (1e-10 b - 1)^2 + 1e-20 (a^2 + b^2), where b = 1e10 / 3.
TEST(SmallDirectionsSurvive) {
  const auto c = solve({{1, 0}, {1, 1e-10f}}, {0, 1}, 1e-20);
  CHECK_NEAR(c[1] * 1e-10, 1.0 / 3.0, 1e-6);
  CHECK_NEAR(c[0], -c[1], 1e-6);
}

TEST(EnergyIsThatOfTheRoundedCodes) {
  const std::vector<float> x{1, 2, .5f}, d{.6f, .8f, 0};
  dictionary::RowCode code(2, 0.1);
  const double g = dictionary::kernels().s64(d.data(), d.data(), 3),
               b = dictionary::kernels().s64(x.data(), d.data(), 3);
  code.append(b, &g);
  const float* rows[] = {d.data()};
  code.solve(x.data(), rows, 3);
  float c = 0.0f;
  const double energy = code.finish(5.25, &c);
  double want = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double r = static_cast<double>(x[i]) - static_cast<double>(c) * static_cast<double>(d[i]);
    want += r * r;
  }
  CHECK_NEAR(energy, want, 1e-14);
}

CHECK_MAIN()
