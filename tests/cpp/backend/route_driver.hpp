// Drives the routing of a device table and holds it to plain loops: equal atoms, equal bits of the scores.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/stage_driver.hpp"

namespace route_driver {

using stage_driver::Stream;
using stage_driver::Vector;
using Floats = std::vector<float>;

// Rows, and atoms of norm 1 or 0.
struct Dictionary {
  std::int64_t atoms, width, rows;
  int wanted;
  Floats d, x;

  float* atom(std::int64_t a) { return d.data() + a * width; }
  float* row(std::int64_t i) { return x.data() + i * width; }
};

inline void normalize(float* d, std::int64_t width) {
  double square = 0.0;
  for (std::int64_t c = 0; c < width; ++c) square += static_cast<double>(d[c]) * static_cast<double>(d[c]);
  for (std::int64_t c = 0; c < width && square > 0.0; ++c)
    d[c] = static_cast<float>(static_cast<double>(d[c]) / std::sqrt(square));
}

inline Dictionary random_dictionary(std::int64_t rows, std::int64_t atoms, std::int64_t width, int wanted,
                                    unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  Dictionary made{atoms,
                  width,
                  rows,
                  wanted,
                  Floats(static_cast<std::size_t>(atoms * width)),
                  Floats(static_cast<std::size_t>(rows * width))};
  for (Floats* values : {&made.d, &made.x}) {
    for (float& v : *values) v = normal(engine);
  }
  for (std::int64_t a = 0; a < atoms; ++a) normalize(made.atom(a), width);
  return made;
}

// Eight sums, and their sum in the order that every place keeps to.
inline double s64(const float* a, const float* b, std::int64_t width) {
  double lane[8] = {};
  for (std::int64_t c = 0; c < width; ++c) lane[c % 8] += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

struct Routes {
  std::vector<std::uint32_t> index;
  Vector score;
  std::int64_t rescanned = 0;
  bool operator==(const Routes& other) const { return index == other.index && stage_driver::same(score, other.score); }
};

inline Routes reference(const Dictionary& given) {
  Routes out;
  std::vector<std::uint32_t> order(static_cast<std::size_t>(given.atoms));
  Vector score(order.size());
  for (std::int64_t i = 0; i < given.rows; ++i) {
    for (std::size_t a = 0; a < score.size(); ++a) {
      score[a] = s64(given.x.data() + i * given.width, given.d.data() + static_cast<std::int64_t>(a) * given.width,
                     given.width);
    }
    std::iota(order.begin(), order.end(), 0u);
    std::partial_sort(order.begin(), order.begin() + given.wanted, order.end(), [&](std::uint32_t a, std::uint32_t b) {
      const double x = std::fabs(score[a]), y = std::fabs(score[b]);
      return x > y || (x == y && a < b);
    });
    for (int j = 0; j < given.wanted; ++j) {
      const std::uint32_t a = order[static_cast<std::size_t>(j)];
      out.index.push_back(score[a] == 0.0 ? 0xffffffffu : a);
      out.score.push_back(score[a] == 0.0 ? 0.0 : score[a]);
    }
  }
  return out;
}

inline Routes route(const ArrowschurDeviceTable& table, const Dictionary& given) {
  Stream stream(table);
  const ArrowschurDeviceAtoms atoms{given.atoms, given.width, stream.upload(given.d)};
  std::size_t bytes = 0;
  stream.require(table.route_sizes(&atoms, given.rows, given.wanted, &bytes));
  double* const workspace = stream.allocate(static_cast<std::int64_t>((bytes + 7) / 8));
  const std::int64_t size = given.rows * given.wanted;
  auto* const index = stream.allocate<std::uint32_t>(size);
  double* const score = stream.allocate(size);
  std::int64_t* const rescanned = stream.upload(std::vector<std::int64_t>{0});
  stream.require(table.route(&atoms, given.rows, stream.upload(given.x), given.wanted, index, score, rescanned,
                             workspace, stream.handle()));
  return {stream.download(index, size), stream.download(score, size), stream.download(rescanned, 1)[0]};
}

// `rescanned`: how many rows must be scanned whole; -1: any number.
inline void check(const ArrowschurDeviceTable& table, const Dictionary& given, std::int64_t rescanned = -1) {
  const Routes found = route(table, given);
  if (!(found == reference(given))) {
    checks::fail("route_driver.hpp", 0,
                 "other routes: " + std::to_string(given.rows) + " rows, " + std::to_string(given.atoms) +
                     " atoms, width " + std::to_string(given.width) + ", " + std::to_string(given.wanted) + " wanted");
  }
  if (rescanned >= 0) CHECK_EQUAL(found.rescanned, rescanned);
}

// Few and many of everything; the last two take several tiles of atoms, and two of rows.
inline void check_random(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  for (const auto& [rows, atoms, width, wanted] : std::vector<std::array<int, 4>>{{1, 1, 1, 1},
                                                                                  {40, 300, 17, 5},
                                                                                  {9, 64, 3, 32},
                                                                                  {33, 1000, 32, 3},
                                                                                  {7, 700, 64, 128},
                                                                                  {5, 128, 16, 128},
                                                                                  {70, 17, 8, 9},
                                                                                  {4, 3000, 129, 20}}) {
    check(table, random_dictionary(rows, atoms, width, wanted, ++seed));
  }
  check(table, random_dictionary(4096, 1300, 12, 4, ++seed), 0);
  check(table, random_dictionary(4099, 600, 9, 16, ++seed), 0);
}

// Equal scores of different atoms, equal atoms, and more of them than a list holds: indices decide.
inline void check_ties(const ArrowschurDeviceTable& table) {
  Dictionary small{5, 5, 1, 3, Floats(25), {0.5f, -0.5f, 0.25f, 0.5f, 0.0f}};
  for (std::int64_t a = 0; a < 5; ++a) small.atom(a)[a] = 1.0f;
  check(table, small, 0);
  CHECK((route(table, small).index == std::vector<std::uint32_t>{0, 1, 3}));

  Dictionary line = random_dictionary(20, 500, 1, 4, 3);  // one column: every atom has the same score, but for its sign
  check(table, line, 20);
  for (const std::int64_t copies : {2, 64}) {
    Dictionary copied = random_dictionary(50, 1280, 24, 3, 5);
    for (std::int64_t a = 0; a < copied.atoms; ++a) {
      std::copy_n(copied.atom(a % (copied.atoms / copies)), copied.width, copied.atom(a));
      if (a % 3 == 0) std::transform(copied.atom(a), copied.atom(a) + copied.width, copied.atom(a), std::negate<>());
    }
    check(table, copied, copies == 2 ? 0 : 50);
  }
}

// Atoms of zeros, rows of zeros, rows that have fewer atoms than are wanted; rows at the ends of the range of floats.
inline void check_edges(const ArrowschurDeviceTable& table) {
  Dictionary dormant = random_dictionary(30, 900, 20, 6, 7);
  for (std::int64_t a = 0; a < dormant.atoms; ++a) {
    if (a % 5 != 0) std::fill_n(dormant.atom(a), dormant.width, 0.0f);
  }
  std::fill_n(dormant.row(3), dormant.width, 0.0f);
  check(table, dormant, 0);
  std::fill(dormant.d.begin() + 4 * dormant.width, dormant.d.end(), 0.0f);  // one atom is left
  check(table, dormant, 29);

  // One-hot rows and the unit vectors: whole tiles without a score, and a single atom with one.
  Dictionary hot{1100, 1100, 4096, 1, Floats(1100 * 1100), Floats(std::size_t{4096} * 1100)};
  if (table.backend == std::string("fake")) hot.rows = 60, hot.x.resize(60 * 1100);
  for (std::int64_t a = 0; a < hot.atoms; ++a) hot.atom(a)[a] = 1.0f;
  for (std::int64_t i = 0; i < hot.rows; ++i) hot.row(i)[(7 * i + 1050) % 1100] = -2.0f;
  check(table, hot, 0);
  hot.wanted = 2;
  check(table, hot, hot.rows);

  Dictionary range = random_dictionary(12, 400, 33, 5, 9);
  const float scales[] = {1e-45f, 1e-40f, 1e-30f, 1e20f, 1e30f, 1e37f};
  for (std::int64_t i = 0; i < range.rows; ++i) {
    for (std::int64_t c = 0; c < range.width; ++c) range.row(i)[c] *= scales[i % 6];
  }
  check(table, range);
}

inline void check_refusals(const ArrowschurDeviceTable& table) {
  std::size_t bytes = 0;
  const auto status = [&](std::int64_t atoms, std::int64_t width, std::int64_t rows, int wanted) {
    const ArrowschurDeviceAtoms given{atoms, width, nullptr};
    return table.route_sizes(&given, rows, wanted, &bytes);
  };
  CHECK_EQUAL(status(10, 4, 100, 10), 0);
  CHECK_EQUAL(status(1000, 4, 0, ARROWSCHUR_ROUTE_MAX), 0);
  for (const auto& [atoms, width, rows, wanted] :
       std::vector<std::array<std::int64_t, 4>>{{0, 4, 1, 1},
                                                {10, 0, 1, 1},
                                                {10, 4, -1, 1},
                                                {10, 4, 1, 0},
                                                {10, 4, 1, 11},
                                                {1000, 4, 1, ARROWSCHUR_ROUTE_MAX + 1},
                                                {std::int64_t{1} << 32, 4, 1, 1},
                                                {std::int64_t{1} << 30, std::int64_t{1} << 20, 1, 1}}) {
    CHECK_EQUAL(status(atoms, width, rows, static_cast<int>(wanted)), int{ARROWSCHUR_DEVICE_INVALID});
  }
}

}  // namespace route_driver
