// s64 and its companions: the same bits from every instruction set, and the stated order of summation.
#include "dictionary/kernels.hpp"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "../check.hpp"
#include "arrowschur/error.hpp"
#include "dictionary/fixture.hpp"
#include "linalg/kernels.hpp"

namespace {

using namespace arrowschur;
using dictionary::Kernels;

std::vector<float> numbers(Index n, std::uint64_t seed) {
  fixture::SplitMix64 random(seed);
  std::vector<float> v;
  for (Index i = 0; i < n; ++i) v.push_back(static_cast<float>(random.normal() * std::exp2(8.0 * random.unit())));
  return v;
}

double by_definition(const float* a, const float* b, Index n) {
  double l[8] = {};
  for (Index i = 0; i < n; ++i) l[i % 8] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

// f(kernels) for every set this CPU has.
template <class F>
void each_set(F&& f) {
  const std::string before = linalg::instruction_set();
  for (const std::string& name : linalg::compiled_instruction_sets()) {
    try {
      linalg::force_instruction_set(name);
    } catch (const InvalidArgument&) {
      std::cout << "SKIPPED " << name << ": not on this CPU\n";
      continue;
    }
    CHECK(dictionary::kernels().name == name);
    f(dictionary::kernels());
  }
  linalg::force_instruction_set(before);
}

constexpr Index kSizes[] = {1, 3, 7, 8, 9, 16, 31, 64, 100};

}  // namespace

TEST(DotsAreTheDefinitionToTheBit) {
  each_set([](const Kernels& k) {
    for (const Index n : kSizes) {
      const auto a = numbers(n, 1), b = numbers(7 * n, 2);
      std::vector<double> wide(static_cast<std::size_t>(dictionary::padded(n)), 1.0), out(7);
      std::vector<double> all(static_cast<std::size_t>(7 * dictionary::padded(n)), 1.0);
      k.widen(a.data(), n, wide.data());
      for (Index j = 0; j < 7; ++j) k.widen(b.data() + j * n, n, all.data() + j * dictionary::padded(n));
      const std::uint32_t order[] = {6, 0, 3, 3, 1};

      for (Index j = 0; j < 7; ++j)
        CHECK_EQUAL(k.s64(a.data(), b.data() + j * n, n), by_definition(a.data(), b.data() + j * n, n));
      k.dots(wide.data(), b.data(), n, nullptr, 7, out.data());
      for (Index j = 0; j < 7; ++j)
        CHECK_EQUAL(out[static_cast<std::size_t>(j)], by_definition(a.data(), b.data() + j * n, n));
      k.dots(wide.data(), b.data(), n, order, 5, out.data());
      for (std::size_t j = 0; j < 5; ++j) CHECK_EQUAL(out[j], by_definition(a.data(), b.data() + order[j] * n, n));
      k.dots_wide(wide.data(), all.data(), n, 7, out.data());
      for (Index j = 0; j < 7; ++j)
        CHECK_EQUAL(out[static_cast<std::size_t>(j)], by_definition(a.data(), b.data() + j * n, n));
    }
  });
}

TEST(RowsAreAddedInOrder) {
  each_set([](const Kernels& k) {
    for (const Index n : kSizes) {
      const auto x = numbers(3 * n, 3);
      const double c[] = {0.5, static_cast<double>(1.1f), static_cast<double>(-3.3f)};
      const float* rows[] = {x.data(), x.data() + n, x.data() + 2 * n};
      std::vector<double> b(static_cast<std::size_t>(n), 1.0), want(b);
      for (int j = 0; j < 3; ++j) {
        for (Index i = 0; i < n; ++i) want[static_cast<std::size_t>(i)] += c[j] * static_cast<double>(rows[j][i]);
      }
      k.add_rows(b.data(), n, rows, c, 3);
      CHECK(b == want);
    }
  });
}

TEST(ScansFindEveryEntryAtTheThreshold) {
  each_set([](const Kernels& k) {
    for (const Index n : kSizes) {
      auto s = numbers(n, 4);
      const float threshold = std::abs(s[0]);  // found: the comparison is >=
      std::vector<std::uint32_t> index(static_cast<std::size_t>(n) + 16), want;
      std::vector<float> value(static_cast<std::size_t>(n) + 16);
      for (Index i = 0; i < n; ++i) {
        if (std::abs(s[static_cast<std::size_t>(i)]) >= threshold) want.push_back(static_cast<std::uint32_t>(100 + i));
      }
      const Index found = k.at_least(s.data(), n, threshold, 100, index.data(), value.data());
      REQUIRE(found == static_cast<Index>(want.size()));
      for (std::size_t j = 0; j < want.size(); ++j) {
        CHECK_EQUAL(index[j], want[j]);
        CHECK_EQUAL(value[j], std::abs(s[want[j] - 100]));
      }
      for (const Index vectors : {1, 2, 4, 8}) {
        std::vector<float> lanes(static_cast<std::size_t>(16 * vectors));
        for (Index i = 0; i < n; ++i) {
          float& l = lanes[static_cast<std::size_t>(i % (16 * vectors))];
          l = std::max(l, std::abs(s[static_cast<std::size_t>(i)]));
        }
        std::sort(lanes.begin(), lanes.end(), std::greater<>());
        lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
        for (const std::size_t rank : {1, 3, 8}) {
          const float nth = rank <= lanes.size() ? lanes[rank - 1] : 0.0f;
          CHECK_EQUAL(k.nth_magnitude(s.data(), n, vectors, static_cast<Index>(rank)), nth);
        }
      }
    }
  });
}

CHECK_MAIN()
