// Golden values of the fixtures: relative 1e-11, or the digits that are published.
#include "arrowschur/fixtures.hpp"

#include <cmath>

#include "arrowschur/error.hpp"
#include "check.hpp"

using namespace arrowschur;
using namespace arrowschur::fixtures;

namespace {

double frobenius(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

}  // namespace

TEST(TheStreamIsExact) {
  SplitMix64 zero(0), one(1), qwen(0x10170003D3A15EEDu), color(0x1017C0102A125EEDu);

  CHECK_EQUAL(zero.next(), 0xe220a8397b1dcdafu);
  CHECK_EQUAL(zero.next(), 0x6e789e6aa1b965f4u);
  CHECK_EQUAL(one.signed_unit(), 0.1331231503445618);
  CHECK_EQUAL(one.signed_unit(), 0.49156351452540226);
  CHECK_EQUAL(qwen.next(), 0x2b004ea85dc22cd3u);
  CHECK_EQUAL(qwen.next(), 0x6074e57e0b376353u);
  CHECK_EQUAL(qwen.next(), 0xba80f91f89385cabu);
  CHECK_EQUAL(color.next(), 0x466875fd34ada1f8u);
  CHECK_EQUAL(SplitMix64(0x10170003D3A15EEDu).signed_unit(), -0.6640531232737732);
  CHECK_EQUAL(SplitMix64(0x1017C0102A125EEDu).signed_unit(), -0.44993710647999574);
}

TEST(Qwen) {
  const FixtureData f = qwen_fixture();
  double target_squared = 0.0;
  for (const double x : f.target) target_squared += x * x;

  CHECK_EQUAL(f.n, 2000);
  CHECK_EQUAL(f.k, 2048);
  CHECK_NEAR(f.target.front(), -0.0006640531232737732, 1e-11);
  CHECK_NEAR(f.target.back(), 0.018633414181764098, 1e-11);
  CHECK_NEAR(0.5 * target_squared, 552.0801116575556, 1e-11);
  CHECK_NEAR(f.h_tt[0], 3.0799908202960506, 1e-15);
  CHECK_NEAR(f.h_tt[1], 0.0041295470209078726, 1e-11);
  CHECK_NEAR(f.h_tt[f.h_tt.size() - 4], 3.0 + 0.01 * 1.8746780667665632, 1e-14);
  CHECK_NEAR(f.h_tb[0], 9.894913944770717e-5, 1e-11);
  CHECK_NEAR(f.h_tb[2048], 4.129547020907873e-5, 1e-11);
  CHECK_NEAR(frobenius(f.h_tb), 0.12021879900572492, 1e-11);
  CHECK_NEAR(f.g_beta[1], 1.699918117849873e-5, 1e-11);
  CHECK_EQUAL(f.h_bb[0], 4.0);
  CHECK_EQUAL(f.h_bb[1], 0.01);
  CHECK_EQUAL(f.h_bb[2], 0.0);
  CHECK_EQUAL(f.system().total_dim(), 4000);
  double s0 = 0.0;
  for (std::size_t a = 0; a < 8; ++a) s0 += f.basis[a] * f.gates[a];
  CHECK_NEAR(s0, 7.999082029605048, 1e-14);
}

TEST(ColorArm) {
  const FixtureData f = color_arm_fixture();
  double target_squared = 0.0;
  for (const double x : f.target) target_squared += x * x;

  CHECK_NEAR(f.target.front(), -0.00044993710647999574, 1e-11);
  CHECK_NEAR(f.target.back(), 0.017667707863831345, 1e-11);
  CHECK_NEAR(0.5 * target_squared, 122.04296710583543, 1e-11);
  CHECK_NEAR(f.h_tt[0], 3.089987175517479, 1e-15);
  CHECK_NEAR(f.h_tt[1], -0.00542944597999972, 1e-11);
  CHECK_NEAR(f.h_tb[0], 4.132866234331334e-5, 1e-11);
  CHECK_NEAR(f.h_tb[5120], -5.42944597999972e-5, 1e-11);
  CHECK_NEAR(frobenius(f.h_tb), 0.0663036763656245, 1e-11);
}

TEST(ShapesWithoutTargetAreOtherwiseTheSame) {
  const FixtureData with = shape_fixture(5, 7, 3, 2, 9), without = shape_fixture(5, 7, 3, 2, 9, false);

  CHECK(with.h_tt == without.h_tt && with.h_tb == without.h_tb && with.g_t == without.g_t);
  CHECK_EQUAL(with.target.size(), 35u);
  CHECK(without.target.empty() && without.basis.empty() && without.gates.empty());
  CHECK_THROWS_WITH(InvalidArgument, "d: got 0", shape_fixture(5, 7, 3, 0, 9));
  CHECK_THROWS_WITH(InvalidArgument, "n: got -1", shape_fixture(-1, 7, 3, 2, 9));
  CHECK_THROWS_WITH(InvalidArgument, "k: got -1", shape_fixture(1, -1, 3, 2, 9));
  CHECK_THROWS_WITH(InvalidArgument, "basis_cols: got -1", shape_fixture(1, 1, -1, 2, 9));
  CHECK_THROWS(MemoryBudgetExceeded, shape_fixture(Index{1} << 40, Index{1} << 40, 1, 1, 9));
}

// 0.5 |target|^2 is 0 here, so the objective at the solution is 0.5 g'z*; solved by dense elimination.
TEST(SmallFixtureReachesItsObjective) {
  const struct {
    std::uint64_t seed;
    double objective, log_det, norm_t, norm_beta;
  } golden[] = {{0xABCD0001u, -0.5579806235950775, 31.152806515729573, 0.42430416540129645, 0.21708794960739886},
                {0x5AE1017u, -0.5349983106002303, 31.196597373221934, 0.4379390831641221, 0.1879914304836487},
                {0x1017F17u, -0.5948562422235808, 31.01399862653501, 0.4464168192843344, 0.20966582489274865}};
  for (const auto& expected : golden) {
    const FixtureData f = small_fixture(expected.seed);
    constexpr Index size = 20;
    std::vector<double> h(size * size), g(size);
    f.system().to_dense(h, g);
    // Gauss elimination without pivoting: H is diagonally dominant.
    std::vector<double> z(g);
    double log_det = 0.0;
    for (std::size_t c = 0; c < size; ++c) {
      log_det += std::log(h[c * size + c]);
      for (std::size_t r = c + 1; r < size; ++r) {
        const double factor = h[r * size + c] / h[c * size + c];
        for (std::size_t j = c; j < size; ++j) h[r * size + j] -= factor * h[c * size + j];
        z[r] -= factor * z[c];
      }
    }
    double norm_t = 0.0, norm_beta = 0.0, objective = 0.0;
    for (std::size_t r = size; r-- > 0;) {
      for (std::size_t j = r + 1; j < size; ++j) z[r] -= h[r * size + j] * z[j];
      z[r] /= h[r * size + r];
      objective -= 0.5 * g[r] * z[r];
      (r < 16 ? norm_t : norm_beta) += z[r] * z[r];
    }
    CHECK_NEAR(objective, expected.objective, 1e-11);
    CHECK_NEAR(log_det, expected.log_det, 1e-11);
    CHECK_NEAR(std::sqrt(norm_t), expected.norm_t, 1e-11);
    CHECK_NEAR(std::sqrt(norm_beta), expected.norm_beta, 1e-11);
  }
}

TEST(CoupledSpots) {
  const FixtureData first = coupled_fixture(8, 2, 4, 1, 0.5, BorderKind::dense);
  const FixtureData last = coupled_fixture(180, 2, 5120, 3, 0.9, BorderKind::tridiagonal);

  CHECK_NEAR(first.h_tt[0], 3.066561575172281, 1e-15);
  CHECK_NEAR(first.h_tb[0], -0.05564078294422792, 1e-14);
  CHECK_NEAR(first.g_beta[0], 0.6956104141174644, 1e-15);
  CHECK_NEAR(last.h_tt[0], 2.6134503420571544, 1e-15);
  CHECK_NEAR(last.h_tb[0], -0.05095713296182407, 1e-14);
  CHECK_NEAR(last.g_beta[0], 0.9375139061009299, 1e-15);
  CHECK_EQUAL(last.h_bb.size(), 2u * 5120u);
}

TEST(CoupledBordersShareTheirDiagonal) {
  const FixtureData dense = coupled_fixture(3, 2, 5, 7, 0.9, BorderKind::dense),
                    tridiagonal = coupled_fixture(3, 2, 5, 7, 0.9, BorderKind::tridiagonal),
                    diagonal = coupled_fixture(3, 2, 5, 7, 0.9, BorderKind::diagonal);
  const auto entry = [](const FixtureData& f, Index r, Index c) {
    std::vector<double> h(11 * 11), g(11);
    f.system().to_dense(h, g);
    return h[static_cast<std::size_t>((6 + r) * 11 + 6 + c)];
  };

  for (Index j = 0; j < 5; ++j) {
    CHECK_EQUAL(entry(dense, j, j), diagonal.h_bb[static_cast<std::size_t>(j)]);
    CHECK_EQUAL(entry(tridiagonal, j, j), diagonal.h_bb[static_cast<std::size_t>(j)]);
  }
  CHECK_EQUAL(entry(tridiagonal, 3, 4), -0.5);
  CHECK_EQUAL(entry(tridiagonal, 2, 4), 0.0);
  CHECK_NEAR(entry(dense, 1, 4), 0.2 * std::cos(0.37 * 3) / 16.0, 1e-15);
  CHECK_THROWS_WITH(InvalidArgument, "coupling", coupled_fixture(1, 1, 1, 1, INFINITY, BorderKind::dense));
  CHECK_EQUAL(coupled_fixture(0, 1, 0, 1, 0.5, BorderKind::tridiagonal).system().k(), 0);
  CHECK_EQUAL(coupled_fixture(1, 1, 1, 1, 0.5, BorderKind::tridiagonal).system().k(), 1);
}

CHECK_MAIN()
