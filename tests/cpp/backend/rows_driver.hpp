// Claims on the row part of a device table, number by number.
#pragma once

#include "backend/stage_driver.hpp"

namespace stage_driver {

// Cholesky by the definition, with fused products in the order of the sums; -1 or the first bad pivot.
inline int plain_cholesky(const double* a, int d, double ridge, Vector& l, Vector& inverse) {
  const auto at = [d](int r, int c) { return static_cast<size_t>(r * d + c); };
  l.assign(at(d, 0), 0.0), inverse.assign(static_cast<size_t>(d), 0.0);
  for (int j = 0; j < d; ++j) {
    for (int r = j; r < d; ++r) {
      double sum = a[at(r, j)] + (r == j ? ridge : 0.0);
      for (int q = 0; q < j; ++q) sum = std::fma(-l[at(r, q)], l[at(j, q)], sum);
      if (r == j) {
        if (!(sum > 0.0 && std::isfinite(sum))) return j;
        l[at(j, j)] = std::sqrt(sum);
        inverse[static_cast<size_t>(j)] = 1.0 / l[at(j, j)];
      } else {
        l[at(r, j)] = sum * inverse[static_cast<size_t>(j)];
      }
    }
  }
  return -1;
}

// 1000 blocks of every depth: factors, reciprocals and whitened blocks have the bits of the plain loops. The fused product
// of a host without the instruction is the same number.
inline void check_row_bits(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  constexpr double kRidge = 0.375;
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    const Problem p =
        random_problem(repeated(d, 1000), 3, ARROWSCHUR_BORDER_BANDED, 0, seed + static_cast<unsigned>(d));
    Stream stream(table);
    Frame frame(stream, p);
    stream.require(table.factor_and_whiten(&frame.system, kRidge, &frame.factor, frame.workspace, stream.handle()));
    const Vector l = stream.download(frame.factor.l, p.entries), w = stream.download(frame.factor.w, p.total * p.k),
                 inverse = stream.download(frame.factor.inverse_diagonal, p.total);
    CHECK_EQUAL(frame.record().failed, 0u);
    int wrong = 0;
    Vector plain, reciprocal;
    for (size_t i = 0; i < p.dims.size(); ++i) {
      CHECK_EQUAL(plain_cholesky(p.a.data() + p.entry[i], d, kRidge, plain, reciprocal), -1);
      for (int r = 0; r < d; ++r) {
        wrong += inverse[static_cast<size_t>(p.line[i] + r)] != reciprocal[static_cast<size_t>(r)];
        for (int c = 0; c <= r; ++c) {
          wrong += l[static_cast<size_t>(p.entry[i] + r * d + c)] != plain[static_cast<size_t>(r * d + c)];
        }
      }
      for (std::int64_t c = 0; c < p.k; ++c) {
        const auto at = [&](int r) { return static_cast<size_t>((p.line[i] + r) * p.k + c); };
        Vector x(static_cast<size_t>(d));
        for (int r = 0; r < d; ++r) {
          double sum = p.b[at(r)];
          for (int q = 0; q < r; ++q) {
            sum = std::fma(-plain[static_cast<size_t>(r * d + q)], x[static_cast<size_t>(q)], sum);
          }
          x[static_cast<size_t>(r)] = sum * reciprocal[static_cast<size_t>(r)];
          wrong += w[at(r)] != x[static_cast<size_t>(r)];
        }
      }
    }
    CHECK_EQUAL(wrong, 0);
  }
}

// Blocks that are indefinite, singular, not finite or denormal: whether they have a factor, and which pivot says so.
inline void check_row_status(const ArrowschurDeviceTable& table) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  struct Case {
    double diagonal;  // of the last line, which is zero else
    bool fails;
  };
  const Case cases[] = {{-1.0, true}, {0.0, true}, {nan, true}, {inf, true}, {-inf, true}, {0x1p-1060, false}};
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    Problem p = random_problem(repeated(d, 8), 2, ARROWSCHUR_BORDER_BANDED, 0, 5);
    const auto status = [&](std::int64_t failing, int pivot) {
      Stream stream(table);
      Frame frame(stream, p);
      stream.require(table.factor_and_whiten(&frame.system, 0.0, &frame.factor, frame.workspace, stream.handle()));
      const ArrowschurBuildRecord record = frame.record();
      CHECK_EQUAL(record.failed, failing > 0 ? unsigned{ARROWSCHUR_ROWS_FAILED} : 0u);
      CHECK_EQUAL(record.failing_rows, failing);
      CHECK_EQUAL(record.first_failure,
                  failing > 0 ? std::uint64_t{3} << 8 | static_cast<unsigned>(pivot) : ~std::uint64_t{0});
    };
    double* const block = p.a.data() + p.entry[3];
    for (const Case& c : cases) {
      for (int q = 0; q < d; ++q) block[(d - 1) * d + q] = q == d - 1 ? c.diagonal : 0.0;
      status(c.fails ? 1 : 0, d - 1);
    }
    if (d == 1) continue;
    for (int r = 0; r < d; ++r) {  // of rank one: exactly singular at the second pivot
      for (int c = 0; c <= r; ++c) block[r * d + c] = 4.0;
    }
    status(1, 1);
  }
}

}  // namespace stage_driver
