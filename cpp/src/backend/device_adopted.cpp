// Blocks that are on the device already.
#include <cstdint>

#include "backend/device_loader.hpp"
#include "backend/device_system.hpp"
#include "system/format.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace device {
namespace {

BorderForm form_of(const DeviceParts& parts) {
  if (!parts.bandwidth)
    return {ARROWSCHUR_BORDER_DENSE, 0, checked_product(parts.k, parts.k, "the border h_bb (k x k)")};
  const Index width = *parts.bandwidth;
  return {ARROWSCHUR_BORDER_BANDED, width, checked_product(width + 1, parts.k, "the banded border h_bb")};
}

struct PartSizes {
  explicit PartSizes(const DeviceParts& p)
      : total(checked_product(p.n, p.d, "g_t")),
        a(checked_product(total, p.d, "h_tt")),
        b(checked_product(total, p.k, "h_tb")),
        m(form_of(p).entries) {}
  Index total, a, b, m;
};

bool is_aligned(const double* memory) { return reinterpret_cast<std::uintptr_t>(memory) % kAlignment == 0; }

}  // namespace

void require_on_device(const Table& table, const char* name, const void* memory, Index entries) {
  if (entries == 0) return;
  const int own = runtime().info.facts->ordinal;
  const std::string expected = "memory of device " + std::to_string(own);
  if (memory == nullptr) throw InvalidArgument(name, "a null pointer", expected);
  if (reinterpret_cast<std::uintptr_t>(memory) % alignof(double) != 0) {
    throw InvalidArgument(name, "an address that is not a multiple of 8", expected + ", aligned to its entries");
  }
  std::int32_t ordinal = -1;
  require(table, table.memory_ordinal(memory, &ordinal), "memory_ordinal");
  if (ordinal == own) return;
  throw InvalidArgument(name, ordinal < 0 ? "memory of the host" : "memory of device " + std::to_string(ordinal),
                        expected);
}

void wait_for(Lane& lane, const std::vector<std::uint64_t>& streams) {
  for (const std::uint64_t stream : streams) {
    lane.require(lane.table().stream_wait_external(lane.stream(), stream), "stream_wait_external");
  }
}

DeviceSystem::DeviceSystem(Lane& lane, const DeviceParts& parts, FullInverse full_inverse)
    : lane_(lane), full_inverse_(full_inverse), adopts_(true) {
  describe(parts);
  find_sizes();
  memory_ = Memory(lane_, std::max(aligned(sizes_.workspace), kAlignment));
  adopt(parts);
}

// What a call that ended early has queued may still read the caller's blocks, which the owner then gives back.
DeviceSystem::~DeviceSystem() {
  if (adopts_ && handles_are_valid()) lane_.table().stream_synchronize(lane_.stream());
}

void DeviceSystem::describe(const DeviceParts& parts) {
  const PartSizes sizes(parts);
  n_ = parts.n;
  view_.total = sizes.total;
  view_.k = parts.k;
  border_ = form_of(parts);
  view_.border_form = border_.form;
  view_.border_width = border_.width;
  if (sizes.total > 0) {
    rows_.push_back({static_cast<std::int32_t>(parts.d), parts.n, nullptr, nullptr, nullptr});
    view_.n = parts.n;
  }
  row_entries_ = sizes.a;
  view_.groups = static_cast<std::int32_t>(rows_.size());
  view_.rows = rows_.data();
}

void DeviceSystem::adopt(const DeviceParts& parts) {
  struct Part {
    const double* memory;
    Index entries;
    const double** view;
  };
  const Part all[] = {{parts.h_tt, row_entries_, &view_.a},
                      {parts.h_tb, total_dim() * k(), &view_.b},
                      {parts.h_bb, border_.entries, &view_.border}};
  wait_for(lane_, parts.streams);
  Layout layout;
  std::size_t at[3] = {};
  for (int i = 0; i < 3; ++i) at[i] = is_aligned(all[i].memory) ? 0 : layout.add_array<double>(all[i].entries);
  if (layout.bytes() > copies_.bytes()) copies_ = Memory(lane_, layout.bytes());
  for (int i = 0; i < 3; ++i) {
    *all[i].view = all[i].memory;
    if (is_aligned(all[i].memory) || all[i].entries == 0) continue;
    auto* const copy = copies_.at<double>(at[i]);
    const std::size_t bytes = static_cast<std::size_t>(all[i].entries) * sizeof(double);
    lane_.require(lane_.table().copy_on_device(copy, all[i].memory, bytes, lane_.stream()), "copy_on_device");
    *all[i].view = copy;
  }
  owner_ = parts.owner;
}

void DeviceSystem::require_same(const DeviceParts& parts) const {
  if (!adopts_)
    throw InvalidArgument("system", "arrays of the device", "arrays of the host, as the frame was built from");
  const BorderForm form = form_of(parts);
  const auto same = [](const char* what, Index got, Index expected) {
    if (got == expected) return;
    throw InvalidArgument("system", std::string(what) + " = " + std::to_string(got),
                          std::to_string(expected) + ", the shape of the frame");
  };
  same("n", parts.n, n());
  same("k", parts.k, k());
  same("d", parts.d, n() == 0 ? parts.d : total_dim() / n());
  same("the form of h_bb", form.form, border_.form);
  same("the width of h_bb", form.width, border_.width);
}

void DeviceSystem::overwrite(const DeviceParts& parts) {
  whole_ = false;
  lane_.synchronize();  // nothing reads the old blocks any more
  adopt(parts);
  lane_.synchronize();
  whole_ = true;
}

}  // namespace device

void check(const DeviceParts& p) {
  const std::pair<const char*, Index> sizes[] = {{"n", p.n}, {"d", p.d}, {"k", p.k}};
  for (const auto& [name, value] : sizes) {
    if (value < 0) throw InvalidArgument(name, std::to_string(value), "an integer >= 0");
  }
  if (p.d > ARROWSCHUR_DEVICE_MAX_DEPTH) {
    throw UnsupportedConfiguration("row blocks of more than 32 unknowns", "device", "solve it on the CPU");
  }
  if (p.bandwidth && (*p.bandwidth < 0 || (p.k > 0 && *p.bandwidth >= p.k))) {
    throw InvalidArgument("bandwidth", std::to_string(*p.bandwidth), "an integer from 0 to k - 1");
  }
  const device::PartSizes entries(p);
  const device::Table& table = device::table();
  device::require_on_device(table, "h_tt", p.h_tt, entries.a);
  device::require_on_device(table, "h_tb", p.h_tb, entries.b);
  device::require_on_device(table, "h_bb", p.h_bb, entries.m);
  device::require_on_device(table, "g_t", p.g_t, entries.total);
  device::require_on_device(table, "g_beta", p.g_beta, p.k);
}

}  // namespace arrowschur
