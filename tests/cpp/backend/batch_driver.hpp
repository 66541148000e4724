// Claims on batches of small systems on a device table.
#pragma once

#include "backend/stage_driver.hpp"

namespace stage_driver {

struct Batch {
  std::vector<Problem> problems;  // of one depth each, borders dense
  std::vector<Vector> x;
  std::vector<ArrowschurBuildRecord> records;

  void solve(const ArrowschurDeviceTable& table, double ridge_t, double ridge_beta) {
    std::vector<ArrowschurBatchEntry> entries;
    Vector a, b, m, g;
    for (const Problem& p : problems) {
      const auto at = [](const Vector& v) { return static_cast<std::int64_t>(v.size()); };
      entries.push_back({.n = static_cast<std::int64_t>(p.dims.size()),
                         .d = p.dims.empty() ? 1 : p.dims[0],
                         .k = static_cast<std::int32_t>(p.k),
                         .a = at(a),
                         .b = at(b),
                         .m = at(m),
                         .x = at(g)});
      a.insert(a.end(), p.a.begin(), p.a.end()), b.insert(b.end(), p.b.begin(), p.b.end());
      m.insert(m.end(), p.border.begin(), p.border.end()), g.insert(g.end(), p.g.begin(), p.g.end());
    }
    Stream stream(table);
    ArrowschurDeviceBatch batch{.count = static_cast<std::int64_t>(entries.size()),
                                .host_entries = entries.data(),
                                .entries = stream.upload(entries),
                                .a = stream.upload(a),
                                .b = stream.upload(b),
                                .m = stream.upload(m),
                                .g = stream.upload(g)};
    size_t bytes = 0;
    stream.require(table.batch_sizes(&batch, &bytes));
    double* const out = stream.allocate(static_cast<std::int64_t>(g.size()));
    auto* const made = stream.allocate<ArrowschurBuildRecord>(batch.count);
    stream.require(table.batch_solve(&batch, ridge_t, ridge_beta, out, made,
                                     stream.allocate(static_cast<std::int64_t>(bytes / 8)), stream.handle()));
    const Vector all = stream.download(out, static_cast<std::int64_t>(g.size()));
    records = stream.download(made, batch.count);
    for (size_t i = 0; i < problems.size(); ++i) {
      const auto begin = all.begin() + entries[i].x;
      x.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(problems[i].size()));
    }
  }
};

// The systems of the batch fixture: every number by a formula.
inline Problem batch_fixture(int n, int d, std::int64_t k, double s, double border) {
  Problem p = random_problem(repeated(d, n), k, ARROWSCHUR_BORDER_DENSE, 0, 1);
  for (int i = 0; i < n; ++i) {
    for (int r = 0; r < d; ++r) {
      const std::int64_t line = i * d + r;
      p.g[static_cast<size_t>(line)] = 0.1 * (i + 1) + s;
      for (int c = 0; c < d; ++c) p.a[static_cast<size_t>(line * d + c)] = r == c ? 2.0 + s : 0.0;
      for (std::int64_t c = 0; c < k; ++c) {
        p.b[static_cast<size_t>(line * k + c)] = 0.05 * static_cast<double>(r + c + i + 1);
      }
    }
  }
  for (std::int64_t r = 0; r < k; ++r) {
    p.g[static_cast<size_t>(p.total + r)] = 0.2 * static_cast<double>(r + 1) + s;
    for (std::int64_t c = 0; c < k; ++c) p.border[static_cast<size_t>(r * k + c)] = r == c ? border : 0.0;
  }
  return p;
}

inline void check_batch_fixture(const ArrowschurDeviceTable& table) {
  Batch one{{batch_fixture(5, 2, 3, 0.0, 2.0)}, {}, {}};
  one.solve(table, 1e-6, 1e-6);
  CHECK_EQUAL(one.records[0].failed, 0u);
  const double beta[] = {0.0476419006, -0.0171112619, -0.0818644244};
  for (size_t c = 0; c < 3; ++c) CHECK(std::fabs(one.x[0][10 + c] - beta[c]) < 1e-10);
  CHECK(std::fabs(one.records[0].log_det - 8.4420285342) < 1e-10);

  Batch three{
      {batch_fixture(4, 2, 2, 0.0, 2.0), batch_fixture(6, 2, 3, 0.5, 2.5), batch_fixture(3, 1, 2, 1.0, 3.0)}, {}, {}};
  three.solve(table, 1e-6, 1e-6);
  for (size_t i = 0; i < 3; ++i) {
    Batch single{{three.problems[i]}, {}, {}};
    single.solve(table, 1e-6, 1e-6);
    CHECK(same(single.x[0], three.x[i]));
    Stream stream(table);
    Frame frame(stream, three.problems[i]);
    frame.build(1e-6, 1e-6);
    CHECK_NEAR(std::span<const double>(three.x[i]), std::span<const double>(frame.step(three.problems[i].g)), 1e-12);
    CHECK_NEAR(three.records[i].log_det, frame.record().log_det, 1e-12);
  }

  Batch half{{batch_fixture(4, 2, 2, 0.0, 2.0), batch_fixture(4, 2, 2, 0.0, -2.0)}, {}, {}};
  half.solve(table, 1e-6, 1e-6);
  CHECK_EQUAL(half.records[0].failed, 0u);
  CHECK(same(half.x[0], three.x[0]));
  CHECK_EQUAL(half.records[1].failed, unsigned{ARROWSCHUR_BORDER_FAILED});
  CHECK_EQUAL(half.records[1].border_pivot, 0);
  for (const double value : half.x[1]) CHECK(std::isnan(value));

  Batch none{};
  none.solve(table, 0.0, 0.0);
  CHECK(none.x.empty() && none.records.empty());
}

// Every depth, every width of the border, few lines and many; rows that fail among them.
inline void check_batch(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  Batch batch;
  unsigned salt = seed;
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    for (const int n : {1, 13}) {
      batch.problems.push_back(random_problem(repeated(d, n), (7 * d + n) % 33, ARROWSCHUR_BORDER_DENSE, 0, ++salt));
    }
  }
  for (const int k : {0, 1, 31, 32}) {
    batch.problems.push_back(random_problem(repeated(2, 100), k, ARROWSCHUR_BORDER_DENSE, 0, ++salt));
  }
  batch.problems.push_back(random_problem({}, 5, ARROWSCHUR_BORDER_DENSE, 0, ++salt));
  const size_t good = batch.problems.size();
  for (const int d : {2, 11}) {
    Problem p = random_problem(repeated(d, 30), 6, ARROWSCHUR_BORDER_DENSE, 0, ++salt);
    for (const size_t row : {7u, 23u}) p.a[static_cast<size_t>(p.entry[row] + d * d - 1)] = -9.0;
    batch.problems.push_back(std::move(p));
  }
  const double ridge_t = 0.25, ridge_beta = 0.5;
  batch.solve(table, ridge_t, ridge_beta);
  for (size_t i = 0; i < good; ++i) {
    const Problem& p = batch.problems[i];
    Vector l = dense(p, ridge_t, ridge_beta);
    factor_dense(l, p.size());
    Vector reference = solve_dense(l, p.g);
    for (double& x : reference) x = -x;
    CHECK_EQUAL(batch.records[i].failed, 0u);
    CHECK_NEAR(std::span<const double>(batch.x[i]), std::span<const double>(reference), 1e-12);
    CHECK_NEAR(batch.records[i].log_det + 1.0, log_det_of(l, p.size()) + 1.0, 1e-12);
    CHECK_NEAR(batch.records[i].smallest_pivot, smallest_pivot_of(dense(p, ridge_t, ridge_beta), p.size(), 0), 1e-11);
  }
  for (size_t i = good; i < batch.problems.size(); ++i) {
    const ArrowschurBuildRecord& record = batch.records[i];
    const Problem& p = batch.problems[i];
    CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_ROWS_FAILED});
    CHECK_EQUAL(record.failing_rows, std::int64_t{2});
    CHECK_EQUAL(record.first_failure, std::uint64_t{7} << 8 | static_cast<unsigned>(p.dims[0] - 1));
    double needed = 0.0;
    for (const size_t row : {7u, 23u}) {
      double off = 0.0;
      for (int c = 0; c < p.dims[0] - 1; ++c) off += std::fabs(p.a_at(row, p.dims[0] - 1, c));
      needed = std::max(needed, 9.0 - ridge_t + off);
    }
    CHECK_NEAR(record.bump, needed, 1e-12);
    for (const double value : batch.x[i]) CHECK(std::isnan(value));
  }
}

// More lines than one block takes: against the general route.
inline void check_large_batch(const ArrowschurDeviceTable& table) {
  Batch batch;
  batch.problems.push_back(random_problem(repeated(2, 5000), 5, ARROWSCHUR_BORDER_DENSE, 0, 3));
  batch.problems.push_back(random_problem(repeated(2, 10), 5, ARROWSCHUR_BORDER_DENSE, 0, 4));
  batch.problems.push_back(random_problem(repeated(20, 300), 32, ARROWSCHUR_BORDER_DENSE, 0, 5));
  batch.problems.push_back(random_problem(repeated(1, 4097), 0, ARROWSCHUR_BORDER_DENSE, 0, 6));
  Problem failing = random_problem(repeated(2, 3000), 4, ARROWSCHUR_BORDER_DENSE, 0, 7);
  failing.a[static_cast<size_t>(failing.entry[2999])] = -9.0;
  batch.problems.push_back(failing);
  batch.solve(table, 0.25, 0.5);
  for (size_t i = 0; i < 4; ++i) {
    Stream stream(table);
    Frame frame(stream, batch.problems[i]);
    frame.build(0.25, 0.5);
    CHECK_NEAR(std::span<const double>(batch.x[i]), std::span<const double>(frame.step(batch.problems[i].g)), 1e-12);
    CHECK_NEAR(batch.records[i].log_det, frame.record().log_det, 1e-12);
    CHECK_NEAR(batch.records[i].smallest_pivot, frame.record().smallest_pivot, 1e-12);
  }
  CHECK_EQUAL(batch.records[4].failed, unsigned{ARROWSCHUR_ROWS_FAILED});
  CHECK_EQUAL(batch.records[4].first_failure, std::uint64_t{2999} << 8);
  for (const double value : batch.x[4]) CHECK(std::isnan(value));
}

}  // namespace stage_driver
