#include <algorithm>

#include "arrowschur/error.hpp"
#include "arrowschur/profile.hpp"

namespace arrowschur::policy {

Size crossover(std::span<const Timing> timings, Size fallback) {
  constexpr double kWin = 0.95;
  if (timings.empty()) return fallback;
  std::size_t first = timings.size();
  while (first > 0 && timings[first - 1].gpu_seconds <= kWin * timings[first - 1].cpu_seconds) --first;
  if (first < timings.size()) return timings[first].size;
  const Size largest = timings.back().size;
  return std::max(fallback, largest > ~Size{0} / 2 ? ~Size{0} : 2 * largest);
}

DispatchPolicy calibrated(const DispatchPolicy& base, std::span<const Measurement> measurements) {
  const struct {
    const char* operation;
    Size DispatchPolicy::* field;
    Size floor;
  } rules[] = {{"gemm", &DispatchPolicy::gemm_min_flops, kMinCalibratableGemmFlops},
               {"xtwx", &DispatchPolicy::xtwx_flops_min, kMinCalibratableGemmFlops},
               {"potrf", &DispatchPolicy::potrf_min_p, kMinCalibratablePotrfP}};
  DispatchPolicy result = base;
  for (const auto& rule : rules) {
    std::vector<Timing> timings;
    for (const Measurement& m : measurements) {
      if (m.operation != rule.operation) continue;
      const std::size_t wanted = m.operation == "gemm" ? 3 : m.operation == "xtwx" ? 2 : 1;
      if (m.sizes.size() != wanted) {
        throw InvalidArgument("sizes", std::to_string(m.sizes.size()) + " sizes of " + m.operation,
                              std::to_string(wanted) + " sizes");
      }
      Size size = m.sizes[0];
      if (wanted == 3) size = flops({OperationKind::gemm, {m.sizes[0], m.sizes[1], m.sizes[2]}}).low;
      if (wanted == 2) size = xtwx_flops(m.sizes[0], m.sizes[1]).low;
      timings.push_back({size, m.cpu_seconds, m.gpu_seconds});
    }
    std::stable_sort(timings.begin(), timings.end(), [](const Timing& a, const Timing& b) { return a.size < b.size; });
    if (!timings.empty()) result.*rule.field = std::max(rule.floor, crossover(timings, base.*rule.field));
  }
  return result;
}

}  // namespace arrowschur::policy
