#include "arrowschur/plan.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"
#include "linalg/kernels.hpp"
#include "plan/memory.hpp"
#include "system/format.hpp"
#include "system/storage.hpp"
#include "system/validate.hpp"

namespace arrowschur {
namespace {

constexpr Index kThinBorder = 512;  // below: fused chunks of rows; above: one symmetric update on the packed W

// Nominal rates of one thread, for orientation: what dense float64 kernels reach at about 3.5 GHz.
double flops_per_second(std::string_view instruction_set) {
  if (instruction_set == "avx512") return 70e9;
  if (instruction_set == "avx2") return 40e9;
  return 10e9;
}
constexpr double kBytesPerSecond = 15e9;  // memory bandwidth of one thread
constexpr int kBandwidthThreads = 4;      // threads that saturate it
constexpr double kCallSeconds = 5e-6;

struct Cost {
  double flops, seconds;
};

// T k^2 + k^3/3 + sum d^3/3, and two passes over h_tb.
Cost direct_cost(const ProblemShape& shape, double sum_of_cubes, const SolveOptions& options) {
  const double t = static_cast<double>(shape.total_dim), k = static_cast<double>(shape.k);
  const double flops = t * k * k + k * k * k / 3.0 + sum_of_cubes / 3.0;
  const double threads = static_cast<double>(options.num_threads.value_or(get_num_threads()));
  const double item = options.precision == Precision::float32 ? 4.0 : 8.0;
  const double rate = flops_per_second(linalg::instruction_set()) * threads * (8.0 / item);
  const double bandwidth = kBytesPerSecond * std::min(threads, static_cast<double>(kBandwidthThreads));
  return {flops, kCallSeconds + flops / rate + 2.0 * item * t * k / bandwidth};
}

void require_shape(const ProblemShape& s) {
  const std::pair<Index, const char*> sizes[] = {
      {s.n, "n"}, {s.k, "k"}, {s.total_dim, "total_dim"}, {s.max_dim, "max_dim"}};
  for (const auto& [value, name] : sizes) {
    if (value < 0) throw InvalidArgument(name, std::to_string(value), "an integer >= 0");
  }
  checked_product(s.total_dim, s.k, "the cross block h_tb (T x k)");
  checked_product(s.k, s.k, "the Schur complement (k x k)");
}

// What later versions may offer, and this one does not.
void require_supported(const SolveOptions& options) {
  if (options.mode == Mode::low_rank || options.mode == Mode::inexact_pcg) {
    const std::string name = to_string(options.mode);
    throw UnsupportedConfiguration("mode='" + name + "'", name,
                                   "this version has the dense routes only; use mode='auto', 'direct' or 'sqrt_ba'");
  }
  if (options.precision == Precision::mixed) {
    const Route route = options.mode == Mode::sqrt_ba ? Route::sqrt_ba : Route::direct;
    throw UnsupportedConfiguration("precision='mixed'", to_string(route), "use precision='float64' or 'float32'");
  }
  if (options.device == Device::required) throw DeviceUnavailableError("this build has no CUDA backend");
}

std::string dimensions(const ProblemShape& s) {
  return "T = " + std::to_string(s.total_dim) + ", k = " + std::to_string(s.k);
}

}  // namespace

const char* to_string(Route route) noexcept {
  switch (route) {
    case Route::direct:
      return "direct";
    case Route::sqrt_ba:
      return "sqrt_ba";
  }
  return "unknown";
}

namespace {

SolvePlan make_plan(const ProblemShape& shape, double sum_of_cubes, const SolveOptions& options) {
  validate::require(check(options));
  require_shape(shape);
  require_supported(options);

  SolvePlan p;
  p.route = options.mode == Mode::sqrt_ba ? Route::sqrt_ba : Route::direct;
  p.thin_border = shape.k <= kThinBorder;
  p.low_rank = shape.total_dim < shape.k;
  p.peak_bytes = direct_peak_bytes(shape, options);
  const Cost cost = direct_cost(shape, sum_of_cubes, options);
  p.candidates.push_back({p.route, cost.flops, cost.seconds, p.peak_bytes});

  if (options.mode == Mode::automatic) {
    p.reasons.push_back("the dense direct route is the only one of this version");
  } else if (options.mode == Mode::sqrt_ba) {
    p.reasons.push_back("sqrt_ba was asked for; it is the arithmetic of the direct route under its own name");
  } else {
    p.reasons.push_back("the direct route was asked for");
  }
  if (shape.k == 0) {
    p.reasons.push_back("no border: the rows are solved one by one");
  } else if (shape.total_dim == 0) {
    p.reasons.push_back("no rows: the border is solved alone");
  } else if (p.thin_border) {
    p.reasons.push_back("thin border (k <= " + std::to_string(kThinBorder) +
                        "): rows are whitened and reduced in chunks that stay in the cache");
  } else {
    p.reasons.push_back("wide border: one symmetric rank-T update on the stacked whitened rows");
  }
  if (p.low_rank) {
    p.reasons.push_back("T < k (" + dimensions(shape) +
                        "): a capacitance form would be smaller than the Schur complement");
  }
  if (options.device == Device::automatic)
    p.reasons.push_back("no CUDA backend in this build: everything runs on the CPU");

  if (options.memory_limit && p.peak_bytes > *options.memory_limit) {
    throw MemoryBudgetExceeded(p.peak_bytes, *options.memory_limit,
                               "the " + std::string(to_string(p.route)) + " route (" + dimensions(shape) + ")");
  }
  return p;
}

}  // namespace

SolvePlan plan(const ProblemShape& shape, const SolveOptions& options) {
  const double d = static_cast<double>(shape.max_dim);
  return make_plan(shape, static_cast<double>(shape.total_dim) * d * d, options);  // exact for rows of one size
}

SolvePlan plan(const ArrowSystem& system, const SolveOptions& options) {
  double cubes = 0.0;
  for (const RowBucket& bucket : system.buckets()) {
    const double d = static_cast<double>(bucket.d);
    cubes += static_cast<double>(bucket.count) * d * d * d;
  }
  return make_plan({system.n(), system.k(), system.total_dim(), system.max_dim()}, cubes, options);
}

}  // namespace arrowschur
