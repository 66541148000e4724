#include "eliminate/partition.hpp"

#include "linalg/pool.hpp"

namespace arrowschur::eliminate {
namespace {

constexpr Index kThinBorder = 512;     // measured: fused chunks win below, one big update above
constexpr Index kThinGroups = 16;      // private k x k partials at most
constexpr Index kWideRows = 128;       // flat rows per group on wide borders
constexpr double kSerialFlops = 1 << 25;  // T k^2 below which waking helpers costs more than it saves

}  // namespace

Partition Partition::make(const ArrowSystem& system) {
  Partition p;
  // Other forms than a dense cross block have no columns to share: their rows are grouped as on a wide border.
  const bool dense = system.h_tb() != nullptr;
  const Index t = system.total_dim(), k = dense ? system.k() : system.max_dim();
  const double flops = static_cast<double>(t) * static_cast<double>(k) * static_cast<double>(k);
  const bool small = t * std::max<Index>(k, 1) < linalg::kParallelWork / (dense ? 1 : 8) && flops < kSerialFlops;
  p.parallel = !small;
  // The partials (16 k^2) may cost at most half of what the cross block holds (T k).
  p.thin = dense && k <= kThinBorder && (small || t >= 2 * kThinGroups * k);

  Index flat_row = 0;
  Index target = dense ? kWideRows : 4 * kWideRows;
  if (p.thin) target = small ? std::max<Index>(t, 1) : (t + kThinGroups - 1) / kThinGroups;
  for (std::size_t b = 0; b < system.buckets().size(); ++b) {
    const RowBucket& bucket = system.buckets()[b];
    if (bucket.d == 0 || bucket.count == 0) continue;
    const Index rows = bucket.count * bucket.d;
    const Index parts = std::min(bucket.count, std::max<Index>(1, (rows + target / 2) / target));
    for (Index i = 0; i < parts; ++i) {
      const Index begin = bucket.count * i / parts, end = bucket.count * (i + 1) / parts;
      p.groups.push_back({static_cast<Index>(b), begin, end - begin, flat_row});
      flat_row += (end - begin) * bucket.d;
      p.largest_rows = std::max(p.largest_rows, (end - begin) * bucket.d);
    }
  }
  return p;
}

}  // namespace arrowschur::eliminate
