#include "arrowschur/system.hpp"

#include <cmath>
#include <memory>

#include "arrowschur/error.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::OwnedSystem;
using support::random_vector;

namespace {

// y = (H + ridges) x by the dense matrix.
std::vector<double> dense_apply(const ArrowSystem& system, const std::vector<double>& x, const Ridges& ridges) {
  const Index t = system.total_dim(), size = t + system.k();
  std::vector<double> h(static_cast<std::size_t>(size * size)), g(static_cast<std::size_t>(size));
  system.to_dense(h, g);
  for (Index i = 0; i < size; ++i) {
    const bool row = i < t;
    const auto damping = row ? ridges.damping_t : ridges.damping_beta;
    h[static_cast<std::size_t>(i * size + i)] +=
        (row ? ridges.t : ridges.beta) + (damping.empty() ? 0.0 : damping[static_cast<std::size_t>(row ? i : i - t)]);
  }
  return support::multiply(h, x, size);
}

std::vector<double> apply(const ArrowSystem& system, const std::vector<double>& x, const Ridges& ridges) {
  const std::size_t t = static_cast<std::size_t>(system.total_dim());
  std::vector<double> y(x.size(), 1e300);  // must be overwritten
  system.apply(std::span(x).first(t), std::span(x).subspan(t), std::span(y).first(t), std::span(y).subspan(t), ridges);
  return y;
}

// HAND of the solver's guide.
struct Hand {
  std::vector<double> h_tt{3, .5, .5, 2, 1.5, -.25, -.25, 4}, h_tb{1, -.5, 0, .25, 0, 1, 0, .5, -1, 1, .25, 0},
      h_bb{6, .5, 0, .5, 5, -.5, 0, -.5, 4}, g_t{.5, -1, -.25, .75}, g_beta{1, -.5, .25};
  ArrowSystem system() const {
    return ArrowSystem::uniform(2, 2, 3, h_tt.data(), h_tb.data(), h_bb.data(), g_t.data(), g_beta.data());
  }
};

}  // namespace

TEST(SizesOffsetsAndBuckets) {
  const OwnedSystem s({3, 0, 1, 3, 2, 1}, 2, 1);
  const ArrowSystem system = ArrowSystem::make(s.parts());

  CHECK_EQUAL(system.n(), 6);
  CHECK_EQUAL(system.total_dim(), 10);
  CHECK_EQUAL(system.max_dim(), 3);
  CHECK(!system.is_uniform());
  CHECK_EQUAL(system.row_offset(4), 7);
  CHECK_EQUAL(system.block_offset(4), 19);
  CHECK_EQUAL(system.nbytes(), 8 * (24 + 10 * 2 + 4 + 10 + 2));
  REQUIRE(system.buckets().size() == 3);
  CHECK_EQUAL(system.buckets()[0].d, 1);
  CHECK(system.buckets()[0].rows == (std::vector<Index>{2, 5}));
  CHECK(system.buckets()[1].rows == (std::vector<Index>{4}));
  CHECK(system.buckets()[2].rows == (std::vector<Index>{0, 3}));
  CHECK_EQUAL(system.buckets()[2].count, 2);
}

TEST(UniformSystemsHaveOneBucketOfAllRows) {
  const Hand hand;
  const ArrowSystem system = hand.system();
  const OwnedSystem equal({2, 2, 2}, 1, 1), empty({0, 0}, 1, 1);

  REQUIRE(system.buckets().size() == 1);
  CHECK(system.buckets()[0].rows.empty());
  CHECK_EQUAL(system.buckets()[0].count, 2);
  CHECK_EQUAL(system.row_offset(1), 2);
  CHECK_EQUAL(system.block_offset(1), 4);
  CHECK(ArrowSystem::make(equal.parts()).buckets()[0].rows.empty());
  CHECK(ArrowSystem::make(empty.parts()).buckets().empty());
}

TEST(HandProductIsExact) {
  const Hand hand;
  const ArrowSystem system = hand.system();
  const std::vector<double> x{1, 2, 3, 4, 5, 6, 7};

  // Worked out by hand; every number is exact in binary.
  CHECK(apply(system, x, {}) == (std::vector<double>{6, 12.75, -0.5, 21.75, 38.5, 31, 24}));
  CHECK(apply(system, x, {.t = 0.5, .beta = 0.25}) == (std::vector<double>{6.5, 13.75, 1, 23.75, 39.75, 32.5, 25.75}));
}

TEST(ApplyIsTheDenseProduct) {
  const std::vector<std::vector<Index>> shapes{{1, 1, 1}, {2, 2, 2, 2}, {0, 1, 2, 3, 5, 17, 1, 4}, {70, 3},
                                               {},        {0, 0},       std::vector<Index>(300, 3)};
  for (const auto& dims : shapes) {
    for (const Index k : {0, 1, 5, 31, 600}) {
      const OwnedSystem s(dims, k, 11);
      const ArrowSystem system = ArrowSystem::make(s.parts());
      const std::vector<double> x = random_vector(s.total + k, 5);
      std::vector<double> damping_t = random_vector(s.total, 6), damping_beta = random_vector(k, 7);
      for (double& v : damping_t) v = std::fabs(v);
      for (double& v : damping_beta) v = std::fabs(v);
      const Ridges all{.t = 0.5, .beta = 0.25, .damping_t = damping_t, .damping_beta = damping_beta};

      CHECK_NEAR(apply(system, x, {}), dense_apply(system, x, {}), 1e-13);
      CHECK_NEAR(apply(system, x, all), dense_apply(system, x, all), 1e-13);
    }
  }
}

TEST(Float32DataIsMultipliedInFloat64) {
  const OwnedSystem s({2, 1, 3, 2}, 37, 12);
  const std::vector<float> h_tt = support::to_float(s.h_tt), h_tb = support::to_float(s.h_tb),
                           h_bb = support::to_float(s.h_bb), g_t = support::to_float(s.g_t),
                           g_beta = support::to_float(s.g_beta);
  SystemParts p = s.parts();
  p.dtype = p.border.dtype = DType::float32;
  p.h_tt = h_tt.data();
  p.h_tb = h_tb.data();
  p.border.terms = {DenseBorder{h_bb.data()}};
  p.g_t = g_t.data();
  p.g_beta = g_beta.data();
  const ArrowSystem system = ArrowSystem::make(std::move(p));
  const std::vector<double> x = random_vector(45, 13);

  CHECK_NEAR(apply(system, x, {.t = 1e-9}), dense_apply(system, x, {.t = 1e-9}), 1e-14);
  CHECK_EQUAL(system.nbytes(), 4 * (18 + 8 * 37 + 37 * 37 + 8 + 37));
}

TEST(TheNumberOfThreadsChangesNoBit) {
  // Large enough for several groups, a width that leaves rests, ragged rows.
  std::vector<Index> dims(900, 2);
  dims[5] = 7;
  dims[700] = 0;
  const OwnedSystem s(dims, 601, 14);
  const ArrowSystem system = ArrowSystem::make(s.parts());
  const std::vector<double> x = random_vector(s.total + 601, 15);
  std::vector<double> results[3];
  for (const int threads : {1, 2, 7}) {
    const linalg::ThreadScope scope(threads);
    results[threads / 3] = apply(system, x, {.t = 0.1});
  }
  CHECK(results[0] == results[2]);
  {
    const linalg::ThreadScope scope(2);
    CHECK(results[0] == apply(system, x, {.t = 0.1}));
  }
  linalg::parallel_for(1, [&](Index) { results[1] = apply(system, x, {.t = 0.1}); });
  CHECK(results[0] == results[1]);
}

TEST(OnlyLowerTrianglesAreRead) {
  const OwnedSystem symmetric({2, 3, 80}, 70, 16);
  OwnedSystem lower = symmetric;
  std::size_t at = 0;
  for (const Index d : lower.dims) {
    for (Index r = 0; r < d; ++r) {
      for (Index c = r + 1; c < d; ++c) lower.h_tt[at + static_cast<std::size_t>(r * d + c)] = 1e9;
    }
    at += static_cast<std::size_t>(d * d);
  }
  for (std::size_t r = 0; r < 70; ++r) {
    for (std::size_t c = r + 1; c < 70; ++c) lower.h_bb[r * 70 + c] = -1e9;
  }
  const std::vector<double> x = random_vector(85 + 70, 17);
  const ArrowSystem a = ArrowSystem::make(symmetric.parts());
  const ArrowSystem b = ArrowSystem::make(lower.parts(), {.symmetry = Symmetry::lower});

  CHECK(apply(a, x, {}) == apply(b, x, {}));
  CHECK(dense_apply(a, x, {}) == dense_apply(b, x, {}));
}

TEST(GradientNormAndProduct) {
  const Hand hand;
  const ArrowSystem system = hand.system();

  CHECK_NEAR(system.gradient_norm(), std::sqrt(3.1875), 1e-15);  // 1.875 on the rows, 1.3125 on the border
  CHECK_EQUAL(system.gradient_dot(hand.g_t, hand.g_beta), 3.1875);
}

TEST(NewGradientsShareTheBlocks) {
  const Hand hand;
  const ArrowSystem system = hand.system();
  auto owner = std::make_shared<std::vector<double>>(std::vector<double>{1, 2, 3, 4, 5, 6, 7});
  const ArrowSystem other = system.with_gradient(owner->data(), owner->data() + 4, owner);

  CHECK(other.h_tt() == system.h_tt() && other.h_tb() == system.h_tb());
  CHECK_EQUAL(owner.use_count(), 2);
  CHECK_NEAR(other.gradient_norm(), std::sqrt(140.0), 1e-15);
  CHECK_NEAR(system.gradient_norm(), std::sqrt(3.1875), 1e-15);
}

TEST(TheOwnerLivesAsLongAsTheSystem) {
  const Hand hand;
  auto owner = std::make_shared<int>(0);
  {
    SystemParts p;
    p.g_beta = hand.g_beta.data();
    p.k = 3;
    p.owner = owner;
    const ArrowSystem copy = ArrowSystem::make(std::move(p));
    CHECK_EQUAL(owner.use_count(), 2);
    CHECK(copy.border().terms.empty());  // the zero matrix
    CHECK_EQUAL(copy.border().k, 3);
  }
  CHECK_EQUAL(owner.use_count(), 1);
}

TEST(WrongLengthsAreErrors) {
  const Hand hand;
  const ArrowSystem system = hand.system();
  std::vector<double> three(3), four(4), h(49), g(7);

  CHECK_THROWS_WITH(InvalidArgument, "x_t", system.apply(three, three, four, three));
  CHECK_THROWS_WITH(InvalidArgument, "x_beta", system.apply(four, four, four, three));
  CHECK_THROWS_WITH(InvalidArgument, "y_t", system.apply(four, three, three, three));
  CHECK_THROWS_WITH(InvalidArgument, "y_beta", system.apply(four, three, four, four));
  CHECK_THROWS_WITH(InvalidArgument, "h: got 4 entries", system.to_dense(four, g));
  CHECK_THROWS_WITH(InvalidArgument, "g: got 3 entries", system.to_dense(h, three));
  CHECK_THROWS_WITH(InvalidArgument, "delta_t", system.gradient_dot(three, three));
  CHECK_THROWS_WITH(InvalidArgument, "delta_beta", system.gradient_dot(four, four));
}

CHECK_MAIN()
