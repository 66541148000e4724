#include <set>
#include <thread>

#include "arrowschur/system.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using support::OwnedSystem;

namespace {

std::uint64_t fingerprint(const SystemParts& parts) {
  return ArrowSystem::make(parts, {.symmetry = Symmetry::lower}).fingerprint();
}

}  // namespace

TEST(EqualContentGivesEqualFingerprints) {
  const OwnedSystem s({2, 0, 3, 1}, 5, 1);
  const OwnedSystem copy = s;

  CHECK(copy.h_tt.data() != s.h_tt.data());
  CHECK_EQUAL(fingerprint(s.parts()), fingerprint(copy.parts()));
}

TEST(EveryEntryOfAMatrixCounts) {
  OwnedSystem s({2, 3}, 4, 2);
  std::set<std::uint64_t> seen{fingerprint(s.parts())};
  std::size_t changes = 1;
  for (std::vector<double>* part : {&s.h_tt, &s.h_tb, &s.h_bb}) {
    for (double& x : *part) {
      const double before = x;
      x += 1e-12;
      seen.insert(fingerprint(s.parts()));
      ++changes;
      x = before;
    }
  }
  CHECK_EQUAL(seen.size(), changes);
}

TEST(GradientsDoNotCount) {
  OwnedSystem s({2, 3}, 4, 3);
  const ArrowSystem system = ArrowSystem::make(s.parts());
  const std::uint64_t before = fingerprint(s.parts());
  s.g_t[0] = 17.0;
  s.g_beta[3] = 4.0;

  CHECK_EQUAL(fingerprint(s.parts()), before);
  CHECK_EQUAL(system.with_gradient(s.g_t.data(), s.g_beta.data()).fingerprint(), before);
}

TEST(ShapesAndKindsCount) {
  const std::vector<double> zeros(64, 0.0);
  const auto make = [&](std::vector<Index> dims, Index k, BorderTerm term) {
    SystemParts p;
    p.n = static_cast<Index>(dims.size());
    p.k = k;
    p.row_dims = std::move(dims);
    p.h_tt = p.h_tb = p.g_t = p.g_beta = zeros.data();
    p.border = {k, DType::float64, {std::move(term)}, {}};
    return fingerprint(p);
  };
  const void* z = zeros.data();
  const std::set<std::uint64_t> seen{make({2, 1}, 4, DenseBorder{z}),
                                     make({1, 2}, 4, DenseBorder{z}),
                                     make({2, 1, 0}, 4, DenseBorder{z}),
                                     make({2, 1}, 3, DenseBorder{z}),
                                     make({2, 1}, 4, DiagonalBorder{z}),
                                     make({2, 1}, 4, BandedBorder{z, 0}),
                                     make({2, 1}, 4, BandedBorder{z, 1}),
                                     make({2, 1}, 4, BlockDiagonalBorder{z, {4}}),
                                     make({2, 1}, 4, BlockDiagonalBorder{z, {2, 2}})};
  CHECK_EQUAL(seen.size(), 9u);
}

TEST(RowsOfOneSizeHashAlikeHoweverThatWasSaid) {
  const OwnedSystem s({2, 2, 2}, 3, 4);
  SystemParts uniform = s.parts();
  uniform.row_dims.clear();
  uniform.d = 2;

  CHECK_EQUAL(fingerprint(uniform), fingerprint(s.parts()));
}

TEST(WhatLiesBehindABandDoesNotCount) {
  OwnedSystem s({1}, 4, 5);
  std::vector<double> bands = support::random_vector(8, 6);
  SystemParts p = s.parts();
  p.border.terms = {BandedBorder{bands.data(), 1}};
  const std::uint64_t before = fingerprint(p);

  bands[7] = 1e30;
  CHECK_EQUAL(fingerprint(p), before);
  bands[6] += 1.0;
  CHECK(fingerprint(p) != before);
}

TEST(LargePartsDoNotDependOnThreads) {
  // Several chunks of a MiB with a rest; the last entry of the last chunk counts.
  OwnedSystem s(std::vector<Index>(501, 1), 1003, 7);
  std::uint64_t one = 0, four = 0;
  {
    const linalg::ThreadScope threads(1);
    one = fingerprint(s.parts());
  }
  {
    const linalg::ThreadScope threads(4);
    four = fingerprint(s.parts());
  }
  CHECK_EQUAL(one, four);
  s.h_tb.back() += 1e-9;
  CHECK(fingerprint(s.parts()) != one);
}

TEST(ItIsComputedOnceAndForAllCopies) {
  OwnedSystem s({2, 2}, 3, 8);
  const ArrowSystem system = ArrowSystem::make(s.parts());
  const ArrowSystem copy = system;
  std::uint64_t from_threads[4] = {};
  std::vector<std::thread> threads;
  for (std::uint64_t& f : from_threads) threads.emplace_back([&] { f = system.fingerprint(); });
  for (std::thread& t : threads) t.join();
  const std::uint64_t first = system.fingerprint();
  s.h_tb[0] += 1.0;  // a broken promise of the caller shows that nothing is read again

  for (const std::uint64_t f : from_threads) CHECK_EQUAL(f, first);
  CHECK_EQUAL(copy.fingerprint(), first);
}

CHECK_MAIN()
