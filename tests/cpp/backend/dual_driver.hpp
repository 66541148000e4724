// Claims on the dual route of a device table.
#pragma once

#include "backend/stage_driver.hpp"

namespace stage_driver {

// The dual route: diagonals and bands, wide and narrow, with fewer lines than columns and with more.
inline void check_dual_shapes(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  struct Case {
    std::vector<int> dims;
    std::int64_t k;
  };
  const Case cases[] = {
      {repeated(1, 1), 1},   {repeated(1, 1), 300}, {repeated(3, 30), 1},   {repeated(2, 16), 32},
      {repeated(2, 20), 97}, {repeated(5, 40), 66}, {repeated(2, 65), 150}, {{2, 5, 1, 32, 1, 9, 5}, 257},
  };
  unsigned salt = 0;
  for (const std::int64_t width : {0, 1, 2, 7, 8, 9, 31, 32, 33, 64}) {
    for (const Case& c : cases) {
      const Problem p = random_problem(c.dims, c.k, ARROWSCHUR_BORDER_BANDED, width, seed + ++salt);
      check_system(table, p, salt % 2 == 0, salt % 3 == 0, true);
    }
  }
  check_system(table, random_problem(repeated(2, 3), 0, ARROWSCHUR_BORDER_BANDED, 1, seed), false, false, true);
  check_system(table, random_problem({}, 5, ARROWSCHUR_BORDER_BANDED, 1, seed), false, false, true);
}

// Where the dual route ends: M without a factor, and C without one. Each says which, and a new ridge starts anew.
inline void check_failing_dual(const ArrowschurDeviceTable& table) {
  for (const std::int64_t width : {0, 1, 12}) {
    Problem p = random_problem(repeated(2, 10), 200, ARROWSCHUR_BORDER_BANDED, width, 11);
    p.border[150] = -2.0;
    Stream stream(table);
    Frame frame(stream, p, false, false, true);
    frame.build(0.0, 0.0);
    ArrowschurBuildRecord record = frame.record();
    CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_BAND_FAILED});
    CHECK_EQUAL(record.border_pivot, 150);
    const Vector step = frame.step(p.g);
    CHECK(std::bit_cast<std::uint64_t>(step[0]) == kUnwritten);
    stream.require(table.dual_reduce(&frame.system, 6.0, &frame.factor, frame.workspace, stream.handle()));
    stream.require(table.factor_border(&frame.system, 6.0, &frame.factor, frame.workspace, stream.handle()));
    record = frame.record();
    CHECK_EQUAL(record.failed, 0u);
    CHECK_EQUAL(record.border_pivot, -1);

    p.border[150] = 3.0;
    for (std::int64_t c = 0; c < p.k; ++c) p.b[static_cast<size_t>(13 * p.k + c)] *= 40.0;  // line 13
    Frame indefinite(stream, p, false, false, true);
    indefinite.build(0.0, 0.0);
    record = indefinite.record();
    CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_BORDER_FAILED});
    CHECK_EQUAL(record.border_pivot, 13);

    p.a[static_cast<size_t>(p.entry[4])] = -1.0;
    p.border[150] = -2.0;
    Frame rows(stream, p, false, false, true);
    rows.build(0.0, 0.0);
    record = rows.record();
    CHECK(record.failed & ARROWSCHUR_ROWS_FAILED && record.failed & ARROWSCHUR_BAND_FAILED);
    CHECK_EQUAL(record.border_pivot, -1);
    CHECK_EQUAL(record.first_failure, std::uint64_t{4} << 8);
  }
}

}  // namespace stage_driver
