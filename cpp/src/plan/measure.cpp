#include "plan/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "arrowschur/threads.hpp"
#include "linalg/buffer.hpp"
#include "linalg/cholesky.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/rank_update.hpp"

namespace arrowschur::policy {
namespace {

using linalg::Buffer;

// Median of `runs` runs after one warm-up. `prepare` is not timed.
template <class Prepare, class F>
double median_seconds(int runs, Prepare&& prepare, F&& run) {
  std::vector<double> seconds;
  for (int i = 0; i <= runs; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    run();
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i > 0) seconds.push_back(std::max(elapsed, 1e-9));
  }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<std::size_t>(runs / 2)];
}

void fill(Buffer<double>& x) {
  for (Index i = 0; i < x.size(); ++i) x[i] = 1e-3 * static_cast<double>(i % 97);
}

// One pass y = B x over more data than a cache holds.
double memory_bandwidth() {
  constexpr Index kRows = 8192, kCols = 1024, kChunk = 256;  // 64 MiB
  Buffer<double> b(kRows * kCols), x(kCols), y(kRows);
  fill(b);
  fill(x);
  const auto& kernel = linalg::kernels().data<double>();
  const double seconds = median_seconds(
      3, [] {},
      [&] {
        linalg::parallel_for(kRows / kChunk, [&](Index c) {
          kernel.rows_dot(kChunk, kCols, b.data() + c * kChunk * kCols, kCols, x.data(), y.data() + c * kChunk,
                          nullptr);
        });
      });
  return static_cast<double>(b.nbytes()) / seconds;
}

// C -= W'W for a panel-packed W of k columns, one C per thread: the symmetric update that a border reduction is made of.
double update_rate(Index k) {
  constexpr Index kRows = 384;
  const Index ld = linalg::padded_ld<double>(k), stride = kRows * linalg::kPanel<double>;
  const Index threads = linalg::current_threads(), size = linalg::padded_size<double>(k);
  Buffer<double> packed(ld / linalg::kPanel<double> * stride), c(threads * size);
  fill(packed);
  std::fill(c.begin(), c.end(), 0.0);
  const auto& kernel = linalg::kernels().f64;
  const Index repeats = std::max(Index{1}, (Index{1} << 24) / (kRows * k * k / 2));
  const double seconds = median_seconds(
      3, [] {},
      [&] {
        linalg::parallel_for(threads, [&](Index thread) {
          for (Index i = 0; i < repeats; ++i) {
            linalg::rank_update_tile(kernel, linalg::PackedPanels<double>{packed.data(), stride}, 0, kRows, 0,
                                     linalg::round_up(k, linalg::kStrip), 0, k, -1.0, c.data() + thread * size, ld,
                                     false);
          }
        });
      });
  return static_cast<double>(threads * repeats * kRows * k * (k + 1)) / seconds;
}

double cholesky_rate(Index k) {
  const Index ld = linalg::padded_ld<double>(k);
  Buffer<double> s(linalg::padded_size<double>(k));
  const auto prepare = [&] {
    std::fill(s.begin(), s.end(), 0.5);
    for (Index i = 0; i < k; ++i) s[i * ld + i] = static_cast<double>(k);
  };
  const double cubed = static_cast<double>(k) * static_cast<double>(k) * static_cast<double>(k);
  const double seconds = median_seconds(3, prepare, [&] {
    if (linalg::cholesky(k, s.data())) s[0] = std::numeric_limits<double>::quiet_NaN();  // not this matrix
  });
  return cubed / 3.0 / seconds;
}

// Rows of size 4 whitened into panels, from and to the cache.
double row_rate() {
  constexpr Index kDim = 4, kRows = 64, kCols = 192, kTasks = 256;
  constexpr Index kStride = kRows * kDim * linalg::kPanel<double>;
  Buffer<double> a(kRows * kDim * kDim), shift(kRows * kDim), l(kRows * kDim * kDim), inv(kRows * kDim);
  Buffer<double> kappa(kRows), pivot(kRows), b(kRows * kDim * kCols), u(kRows * kDim);
  std::vector<int> pivot_index(static_cast<std::size_t>(kRows));
  std::vector<Index> first(static_cast<std::size_t>(kRows));
  fill(b);
  fill(u);
  std::fill(shift.begin(), shift.end(), 0.0);
  for (Index i = 0; i < kRows; ++i) {
    first[static_cast<std::size_t>(i)] = i * kDim;
    for (Index j = 0; j < kDim * kDim; ++j) a[i * kDim * kDim + j] = j % (kDim + 1) == 0 ? 2.0 : 0.25;
  }
  const auto& kernel = linalg::kernels().f64;
  linalg::FactorRowsArgs<double> factor;
  factor.d = kDim, factor.count = kRows, factor.a = a.data(), factor.shift = shift.data();
  factor.l = l.data(), factor.inv = inv.data(), factor.kappa = kappa.data();
  factor.pivot_index = pivot_index.data(), factor.pivot = pivot.data();
  kernel.factor_rows(factor, false);

  const Index threads = linalg::current_threads();
  Buffer<double> packed(threads * kCols / linalg::kPanel<double> * kStride), r(threads * kCols);
  std::fill(r.begin(), r.end(), 0.0);
  const double seconds = median_seconds(
      5, [] {},
      [&] {
        linalg::parallel_for(threads, [&](Index thread) {
          linalg::WhitenArgs<double> args;
          args.d = kDim, args.count = kRows, args.b = b.data(), args.ldb = kCols, args.first = first.data();
          args.l = l.data(), args.inv = inv.data(), args.u = u.data(), args.col_begin = 0, args.col_end = kCols;
          args.packed = packed.data() + thread * (kCols / linalg::kPanel<double>)*kStride, args.panel_stride = kStride;
          args.r = r.data() + thread * kCols;
          for (Index i = 0; i < kTasks; ++i) kernel.whiten(args, false);
        });
      });
  // d^2 flops per column of a row block, as the time model counts.
  return static_cast<double>(threads * kTasks * kRows * kDim * kDim * kCols) / seconds;
}

}  // namespace

MachineProfile measure_cpu() {
  const linalg::ThreadScope threads(get_num_threads());
  MachineProfile profile = built_in_cpu_profile();
  profile.name = "measured, " + std::string(linalg::instruction_set()) + ", " + std::to_string(get_num_threads()) +
                 (get_num_threads() == 1 ? " thread" : " threads");
  profile.mem_bw = memory_bandwidth();
  profile.rate_vec = row_rate();
  // rate(k) = rate_mat k / (k + half): two widths give both constants. A second width that is not faster per column has
  // no half to speak of.
  constexpr Index kNarrow = 48, kWide = 384;
  const double narrow = update_rate(kNarrow), wide = update_rate(kWide);
  const double slope = (1.0 / narrow - 1.0 / wide) / (1.0 / kNarrow - 1.0 / kWide);
  const double at_infinity = 1.0 / wide - slope / kWide;
  const bool sensible = slope > 0.0 && at_infinity > 0.0;
  profile.rate_mat = sensible ? 1.0 / at_infinity : std::max(narrow, wide);
  profile.half_reduce = sensible ? slope / at_infinity : 0.0;
  constexpr Index kFactor = 768;
  profile.half_factor = std::max(0.0, static_cast<double>(kFactor) * (profile.rate_mat / cholesky_rate(kFactor) - 1.0));
  return profile;
}

}  // namespace arrowschur::policy
