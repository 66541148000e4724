#include "linalg/kernels.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/version.hpp"
#include "check.hpp"
#include "system/support.hpp"

using namespace arrowschur;
using namespace arrowschur::linalg;

namespace {

template <class T>
std::vector<T> cast(const std::vector<double>& x) {
  std::vector<T> out(x.size());
  std::transform(x.begin(), x.end(), out.begin(), [](double v) { return static_cast<T>(v); });
  return out;
}

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Positive definite blocks [count, d, d], J'J + 0.1 I.
std::vector<double> make_blocks(Index d, Index count, std::uint64_t seed) {
  std::vector<double> blocks;
  fixtures::SplitMix64 stream(seed);
  for (Index i = 0; i < count; ++i) {
    std::vector<double> j(at((d + 2) * d));
    for (double& v : j) v = stream.signed_unit();
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c < d; ++c) {
        double sum = r == c ? 0.1 : 0.0;
        for (Index q = 0; q < d + 2; ++q) sum += j[at(q * d + r)] * j[at(q * d + c)];
        blocks.push_back(sum);
      }
    }
  }
  return blocks;
}

template <class T>
struct Factored {
  std::vector<T> l, inv, kappa, pivot;
  std::vector<int> index;
  bool operator==(const Factored& o) const {
    return l == o.l && inv == o.inv && kappa == o.kappa && pivot == o.pivot && index == o.index;
  }
};

template <class T>
Factored<T> factor(Index d, Index count, const std::vector<T>& a, T ridge, RowGuard guard, bool dynamic) {
  const std::vector<T> shift(at(count * d), ridge);
  Factored<T> f{std::vector<T>(a.size()), std::vector<T>(at(count * d)), std::vector<T>(at(count)),
                std::vector<T>(at(count)), std::vector<int>(at(count))};
  FactorRowsArgs<T> args;
  args.d = d;
  args.count = count;
  args.a = a.data();
  args.shift = shift.data();
  args.l = f.l.data();
  args.inv = f.inv.data();
  args.guard = guard;
  args.kappa = f.kappa.data();
  args.pivot_index = f.index.data();
  args.pivot = f.pivot.data();
  kernels().table<T>().factor_rows(args, dynamic);
  // Only the lower triangle is the result.
  for (Index i = 0; i < count; ++i) {
    for (Index r = 0; r < d; ++r) {
      for (Index c = r + 1; c < d; ++c) f.l[at((i * d + r) * d + c)] = 0;
    }
  }
  return f;
}

template <class T>
struct Whitened {
  std::vector<T> packed, r;
  bool operator==(const Whitened&) const = default;
};

template <class T>
Whitened<T> whiten(Index d, Index count, Index k, const Factored<T>& f, const std::vector<T>& b,
                   const std::vector<T>& u, bool dynamic) {
  const Index panels = (k + kPanel<T> - 1) / kPanel<T>, rows = count * d;
  Whitened<T> w{std::vector<T>(at(panels * rows * kPanel<T>)), std::vector<T>(at(k))};
  std::vector<Index> first(at(count));
  for (Index i = 0; i < count; ++i) first[at(i)] = i * d;
  WhitenArgs<T> args;
  args.d = d;
  args.count = count;
  args.b = b.data();
  args.ldb = k;
  args.first = first.data();
  args.l = f.l.data();
  args.inv = f.inv.data();
  args.u = u.data();
  args.col_begin = 0;
  args.col_end = k;
  args.packed = w.packed.data();
  args.panel_stride = rows * kPanel<T>;
  args.r = w.r.data();
  kernels().table<T>().whiten(args, dynamic);
  return w;
}

// Every instruction set that this CPU can run.
template <class F>
void for_each_instruction_set(F&& f) {
  const std::string in_use = instruction_set();
  for (const std::string& name : compiled_instruction_sets()) {
    try {
      linalg::force_instruction_set(name);
    } catch (const InvalidArgument&) {
      continue;  // compiled in, but not for this CPU
    }
    CHECK_EQUAL(std::string(instruction_set()), name);
    const int before = checks::failures_of_case();
    f();
    if (checks::failures_of_case() > before) std::cout << "  with " << name << "\n";
  }
  linalg::force_instruction_set(in_use);
}

template <class T>
void check_bits(RowGuard guard) {
  for (Index d = 1; d <= kMaxFixed; ++d) {
    // Odd counts: kernels may take several rows at a time.
    for (const Index count : {1, 2, 7, 19}) {
      const std::vector<T> a = cast<T>(make_blocks(d, count, static_cast<std::uint64_t>(100 * d + count)));
      const Factored<T> special = factor<T>(d, count, a, T(0.125), guard, false);
      const Factored<T> general = factor<T>(d, count, a, T(0.125), guard, true);
      CHECK(special == general);
      CHECK(std::all_of(special.index.begin(), special.index.end(), [](int i) { return i == -1; }));
      const std::vector<T> u = cast<T>(support::random_vector(count * d, 5));
      for (const Index k : {1, 8, 23, 50, 100}) {
        const std::vector<T> b = cast<T>(support::random_vector(count * d * k, 6));
        CHECK(whiten<T>(d, count, k, special, b, u, false) == whiten<T>(d, count, k, general, b, u, true));
      }
    }
  }
}

}  // namespace

// T04: a bucket of d = 1..16 runs a kernel made for its size; it must not show.
TEST(SpecialisedAndDynamicKernelsGiveTheSameBits) {
  for_each_instruction_set([] {
    for (const RowGuard guard : {RowGuard::none, RowGuard::relative, RowGuard::proxy}) {
      check_bits<double>(guard);
      check_bits<float>(guard);
    }
  });
}

TEST(FactorsReproduceTheirBlocks) {
  for_each_instruction_set([] {
    for (Index d = 1; d <= kMaxSmall; ++d) {
      const Index count = 5;
      const std::vector<double> a = make_blocks(d, count, static_cast<std::uint64_t>(d));
      const Factored<double> f = factor<double>(d, count, a, 0.125, RowGuard::none, false);
      std::vector<double> product(a.size()), expected = a;
      for (Index i = 0; i < count; ++i) {
        for (Index r = 0; r < d; ++r) {
          expected[at((i * d + r) * d + r)] += 0.125;
          CHECK_NEAR(f.inv[at(i * d + r)] * f.l[at((i * d + r) * d + r)], 1.0, 1e-15);
          for (Index c = 0; c < d; ++c) {
            for (Index q = 0; q <= std::min(r, c); ++q) {
              product[at((i * d + r) * d + c)] += f.l[at((i * d + r) * d + q)] * f.l[at((i * d + c) * d + q)];
            }
          }
        }
      }
      CHECK_NEAR(product, expected, 1e-14);
    }
  });
}

TEST(WhiteningIsForwardSubstitution) {
  for_each_instruction_set([] {
    for (const Index d : {1, 2, 3, 8, 16, 17, 32}) {
      const Index count = 3, k = 37, rows = count * d;
      const std::vector<double> a = make_blocks(d, count, 9), b = support::random_vector(rows * k, 3),
                                u = support::random_vector(rows, 4);
      const Factored<double> f = factor<double>(d, count, a, 0.125, RowGuard::none, false);
      const Whitened<double> w = whiten<double>(d, count, k, f, b, u, false);
      std::vector<double> got(at(rows * k)), expected = b, r(at(k));
      for (Index i = 0; i < count; ++i) {
        for (Index q = 0; q < d; ++q) {
          for (Index j = 0; j < k; ++j) {
            double& x = expected[at((i * d + q) * k + j)];
            for (Index p = 0; p < q; ++p) x -= f.l[at((i * d + q) * d + p)] * expected[at((i * d + p) * k + j)];
            x /= f.l[at((i * d + q) * d + q)];
            r[at(j)] += x * u[at(i * d + q)];
            got[at((i * d + q) * k + j)] = w.packed[at(j / kPanel<double> * rows * kPanel<double> +
                                                       (i * d + q) * kPanel<double> + j % kPanel<double>)];
          }
        }
      }
      CHECK_NEAR(got, expected, 1e-13);
      CHECK_NEAR(w.r, r, 1e-13);
    }
  });
}

TEST(RowSolvesInvertTheFactor) {
  for_each_instruction_set([] {
    for (Index d = 1; d <= kMaxSmall; ++d) {
      for (const Index m : {1, 2, 5, 33}) {
        const Index count = 3;
        const std::vector<double> a = make_blocks(d, count, 9);
        const Factored<double> f = factor<double>(d, count, a, 0.125, RowGuard::none, false);
        const std::vector<double> x = support::random_vector(count * d * m, 8);
        std::vector<double> y(x.size());  // A x
        for (Index i = 0; i < count; ++i) {
          for (Index r = 0; r < d; ++r) {
            for (Index c = 0; c < d; ++c) {
              const double entry = a[at((i * d + r) * d + c)] + (r == c ? 0.125 : 0.0);
              for (Index q = 0; q < m; ++q) y[at((i * d + r) * m + q)] += entry * x[at((i * d + c) * m + q)];
            }
          }
        }
        kernels().f64.solve_lower(d, count, f.l.data(), f.inv.data(), y.data(), m);
        kernels().f64.solve_upper(d, count, f.l.data(), f.inv.data(), y.data(), m);
        CHECK_NEAR(y, x, 1e-11);
      }
    }
  });
}

TEST(TheFirstBadPivotIsReported) {
  for_each_instruction_set([] {
    for (const Index d : {1, 3, 16, 20}) {
      for (Index bad = 0; bad < d; ++bad) {
        const Index count = 3;
        std::vector<double> a(at(count * d * d));
        for (Index i = 0; i < count; ++i) {
          for (Index r = 0; r < d; ++r) a[at((i * d + r) * d + r)] = 2.0;
        }
        a[at((d + bad) * d + bad)] = -3.0;  // block 1
        const Factored<double> f = factor<double>(d, count, a, 0.0, RowGuard::relative, false);
        CHECK_EQUAL(f.index[0], -1);
        CHECK_EQUAL(f.index[1], static_cast<int>(bad));
        CHECK_EQUAL(f.pivot[1], -3.0);
        CHECK_EQUAL(f.index[2], -1);
      }
    }
  });
}

TEST(NotFinitePivotsAreBad) {
  for (const double bad : {std::nan(""), HUGE_VAL, 0.0, -0.0}) {
    const Factored<double> f = factor<double>(1, 1, {bad}, 0.0, RowGuard::none, false);
    CHECK_EQUAL(f.index[0], 0);
  }
}

TEST(ConditionEstimatesOfKnownBlocks) {
  for_each_instruction_set([] {
    const std::vector<double> badly_scaled = {1.0, 1000.0, 1000.0, 1000001.0};
    CHECK_NEAR(factor<double>(2, 1, badly_scaled, 0.0, RowGuard::relative, false).kappa[0], 4.0e6, 1e-3);
    CHECK_NEAR(factor<double>(2, 1, badly_scaled, 0.0, RowGuard::proxy, false).kappa[0], 1.0, 1e-9);
    CHECK_NEAR(factor<double>(2, 1, {4.0, 0.0, 0.0, 1.0}, 0.0, RowGuard::proxy, false).kappa[0], 4.0, 1e-15);
    CHECK_NEAR(factor<double>(2, 1, {4.0, 0.0, 0.0, 1.0}, 0.0, RowGuard::relative, false).kappa[0], 1.0, 1e-15);
    CHECK_NEAR(factor<double>(1, 1, {1e-20}, 0.0, RowGuard::relative, false).kappa[0], 1.0, 1e-15);
  });
}

TEST(RankUpdatesAddAndSubtract) {
  for_each_instruction_set([] {
    const Index rows = 37, ldc = kPanel<double> + 3;
    const std::vector<double> a = support::random_vector(rows * kPanel<double>, 1),
                              b = support::random_vector(rows * kPanel<double>, 2);
    for (const double alpha : {1.0, -1.0}) {
      std::vector<double> c = support::random_vector(kStrip * ldc, 3), expected = c;
      for (Index i = 0; i < kStrip; ++i) {
        for (Index j = 0; j < kPanel<double>; ++j) {
          for (Index r = 0; r < rows; ++r) {
            expected[at(i * ldc + j)] += alpha * b[at(r * kPanel<double> + i)] * a[at(r * kPanel<double> + j)];
          }
        }
      }
      kernels().f64.rank_update(rows, a.data(), b.data(), alpha, c.data(), ldc);
      CHECK_NEAR(c, expected, 1e-14);
    }
  });
}

TEST(DataKernelsReadBothTypes) {
  for_each_instruction_set([] {
    const Index rows = 9, k = 83;
    const std::vector<double> b = support::random_vector(rows * k, 1), x = support::random_vector(k, 2),
                              v = support::random_vector(rows, 3);
    const std::vector<float> b32 = support::to_float(b);
    std::vector<double> wide(b.size());
    std::transform(b32.begin(), b32.end(), wide.begin(), [](float f) { return static_cast<double>(f); });
    const auto check = [&](const auto& kernel, const auto* data, const std::vector<double>& values) {
      std::vector<double> z(at(rows)), row_abs(at(rows)), acc(at(k), 1.0), col_abs(at(k), 2.0);
      std::vector<double> z0(at(rows)), row_abs0(at(rows)), acc0(at(k), 1.0), col_abs0(at(k), 2.0);
      for (Index r = 0; r < rows; ++r) {
        for (Index j = 0; j < k; ++j) {
          const double entry = values[at(r * k + j)];
          z0[at(r)] += entry * x[at(j)];
          row_abs0[at(r)] += std::abs(entry);
          acc0[at(j)] += v[at(r)] * entry;
          col_abs0[at(j)] += std::abs(entry);
        }
      }
      kernel.rows_dot(rows, k, data, k, x.data(), z.data(), row_abs.data());
      CHECK_NEAR(z, z0, 1e-13);
      CHECK_NEAR(row_abs, row_abs0, 1e-14);
      kernel.rows_dot(rows, k, data, k, x.data(), z.data(), nullptr);
      CHECK_NEAR(z, z0, 1e-13);
      kernel.rows_axpy(rows, k, data, k, v.data(), acc.data(), col_abs.data());
      CHECK_NEAR(acc, acc0, 1e-14);
      CHECK_NEAR(col_abs, col_abs0, 1e-14);
    };
    check(kernels().data64, b.data(), b);
    check(kernels().data32, b32.data(), wide);
  });
}

TEST(AnUnknownInstructionSetIsRefused) {
  CHECK_THROWS(InvalidArgument, linalg::force_instruction_set("pdp11"));
  CHECK_THROWS(InvalidArgument, arrowschur::force_instruction_set(""));
}

CHECK_MAIN()
