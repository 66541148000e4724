#include "dictionary/pass.hpp"

#include <algorithm>
#include <chrono>

#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

// Rows at a time where nothing is packed: the rows of B are read and written once per step, so that few steps are better;
// 8192 rows of 16 codes are 1 MiB of posting lists.
constexpr Index kInPlaceRows = 8192;

}  // namespace

void run_pass(Packer& pack, Index begin, Index end, Index first_row, const RowRouter& router, Index s,
              const PassTarget& target, PassSums& sums, RouteCounters& counters, RouteReport& report,
              StepSeconds& seconds) {
  using Clock = std::chrono::steady_clock;
  const Index n = end - begin;
  if (n == 0) return;
  const Index steps = (n + pack.step(kInPlaceRows) - 1) / pack.step(kInPlaceRows);
  const Index step = pack.in_place() ? std::min(n, (n + steps - 1) / steps) : pack.step(kInPlaceRows);
  linalg::Buffer<double> own_energies(target.energies == nullptr ? step : 0), squares(step);
  linalg::Buffer<std::uint32_t> own_indices(target.indices == nullptr ? step * s : 0);
  linalg::Buffer<float> own_codes(target.codes == nullptr ? step * s : 0);
  const Index route_before = counters.route_nanoseconds, codes_before = counters.code_nanoseconds;
  double routed = 0.0;
  for (Index first = 0; first < n; first += step) {
    const Index count = std::min(step, n - first);
    const RowBlock x = pack(begin + first, count);
    std::uint32_t* indices = target.indices == nullptr ? own_indices.data() : target.indices + first * s;
    float* codes = target.codes == nullptr ? own_codes.data() : target.codes + first * s;
    double* energies = target.energies == nullptr ? own_energies.data() : target.energies + first;
    const auto t0 = Clock::now();
    router.route(x, {indices, codes, energies, squares.data()}, counters);
    const auto t1 = Clock::now();
    routed += std::chrono::duration<double>(t1 - t0).count();
    {
      const linalg::InterruptShield whole;  // what was added is whole minibatches
      if (target.statistics != nullptr) target.statistics->add(x, indices, codes, s);
      for (Index i = 0; i < count; ++i) {
        sums.rss += energies[i];
        sums.energy += squares[i];
      }
      sums.rows += count;
      if (target.reservoir != nullptr) {
        target.reservoir->add(x, first_row + first, energies, indices, codes);
      }
      if (target.moments != nullptr) target.moments->add(x.data, x.stride, x.count);
    }
    seconds.accumulate += std::chrono::duration<double>(Clock::now() - t1).count();
    ++report.minibatches;
    ++(router.on_device() ? report.device_minibatches : report.cpu_minibatches);
    linalg::poll_interrupt();
  }
  // Wall-clock time of the fused step, divided as the threads spent theirs.
  const auto route = static_cast<double>(counters.route_nanoseconds - route_before);
  const auto codes = static_cast<double>(counters.code_nanoseconds - codes_before);
  if (route + codes > 0.0) {
    seconds.route += routed * route / (route + codes);
    seconds.codes += routed * codes / (route + codes);
  }
}

}  // namespace arrowschur::dictionary
