#include "backend/device_system.hpp"

#include <algorithm>
#include <variant>

#include "linalg/buffer.hpp"
#include "system/storage.hpp"

namespace arrowschur::device {
namespace {

// Rows that have unknowns, in the order of the buckets.
std::vector<const RowBucket*> groups_of(const ArrowSystem& s) {
  std::vector<const RowBucket*> groups;
  for (const RowBucket& bucket : s.buckets()) {
    if (bucket.d > 0 && bucket.count > 0) groups.push_back(&bucket);
  }
  return groups;
}

// float64 bytes of an array of either type, converted on the way.
void upload(Lane& lane, void* to, const void* from, Index entries, DType dtype) {
  const auto bytes = static_cast<std::size_t>(entries) * sizeof(double);
  if (dtype == DType::float64) return lane.upload(to, from, bytes);
  const auto* source = static_cast<const float*>(from);
  lane.upload_made(to, bytes, [source](std::byte* place, std::size_t begin, std::size_t size) {
    auto* out = reinterpret_cast<double*>(place);
    const float* in = source + begin / sizeof(double);
    std::copy(in, in + size / sizeof(double), out);
  });
}

}  // namespace

void Unsupported::raise() const {
  const std::string flags = needs_dense_system ? std::string(" (needs_dense_system: border operator ") +
                                                     (had_border_operator ? "yes" : "no") + ", cross operator " +
                                                     (had_cross_operator ? "yes" : "no") + ")"
                                               : "";
  throw UnsupportedConfiguration(what + flags, "device", "use device='off', or hand over dense blocks");
}

std::optional<Unsupported> unsupported(const ArrowSystem& s) {
  Unsupported no;
  const auto& terms = s.border().terms;
  no.had_border_operator = std::any_of(terms.begin(), terms.end(),
                                       [](const BorderTerm& t) { return std::holds_alternative<OperatorBorder>(t); });
  no.had_cross_operator = std::holds_alternative<OperatorCross>(s.cross());
  no.needs_dense_system = true;
  if (no.had_border_operator || no.had_cross_operator) {
    no.what = "callbacks run on the host";
  } else if (terms.empty() && s.k() > 0) {
    no.what = "the border h_bb is absent";
  } else if (s.h_tb() == nullptr && s.total_dim() > 0 && s.k() > 0) {
    no.what = "the cross block h_tb is not dense";
  } else if (s.max_dim() > ARROWSCHUR_DEVICE_MAX_DEPTH) {
    no.needs_dense_system = false;
    no.what = "row blocks of more than 32 unknowns";
  } else {
    return std::nullopt;
  }
  return no;
}

const char* dual_obstacle(const BorderForm& border, Index total_dim, Index k) noexcept {
  if (border.form != ARROWSCHUR_BORDER_BANDED) return "the border is neither diagonal nor banded";
  if (border.width > ARROWSCHUR_DUAL_MAX_WIDTH) return "the band of the border is wider than 64";
  if (total_dim == 0) return "there are no rows";
  return total_dim < k ? nullptr : "T >= k: the capacitance form is not smaller than S";
}

DeviceSystem::DeviceSystem(Lane& lane, const ArrowSystem& s, FullInverse full_inverse)
    : lane_(lane), full_inverse_(full_inverse) {
  describe(s);
  find_sizes();
  place();
  copy(s);
}

void DeviceSystem::find_sizes() {
  sizes_ = sizes_of(false);
  if (dual_obstacle() != nullptr) return;
  const ArrowschurDeviceSizes dual = sizes_of(true);
  sizes_.workspace = std::max(sizes_.workspace, dual.workspace);
  dual_inverse_ = dual.inverse;
}

const char* DeviceSystem::dual_obstacle() const noexcept { return device::dual_obstacle(border_, total_dim(), k()); }

ArrowschurDeviceSizes DeviceSystem::sizes_of(bool dual) const {
  ArrowschurDeviceSizes sizes{};
  const int status = lane_.table().sizes(&view_, dual ? 1 : 0, full_inverse(dual) ? 1 : 0, &sizes);
  if (status == ARROWSCHUR_DEVICE_INVALID) {
    throw InvalidArgument("system",
                          "n = " + std::to_string(n()) + ", T = " + std::to_string(total_dim()) +
                              ", k = " + std::to_string(k()) + ": " + lane_.table().last_error(),
                          "a shape that the device has");
  }
  lane_.require(status, "sizes");
  return sizes;
}

void DeviceSystem::describe(const ArrowSystem& s) {
  n_ = s.n();
  view_.total = s.total_dim();
  view_.k = s.k();
  border_ = border_form(s.border());
  view_.border_form = border_.form;
  view_.border_width = border_.width;
  for (Index i = 0; i < s.n() && !s.is_uniform(); ++i) row_dims_.push_back(s.row_dim(i));
  const auto groups = groups_of(s);
  for (const RowBucket* bucket : groups) {
    rows_.push_back({static_cast<std::int32_t>(bucket->d), bucket->count, nullptr, nullptr, nullptr});
    view_.n += bucket->count;
    row_entries_ += bucket->count * bucket->d * bucket->d;
  }
  view_.groups = static_cast<std::int32_t>(rows_.size());
  view_.rows = rows_.data();
  if (s.is_uniform()) return;
  for (const RowBucket* bucket : groups) {
    const auto append = [&](auto&& value) {
      std::vector<Index>& values = index_.emplace_back();
      for (Index j = 0; j < bucket->count; ++j) {
        values.push_back(value(bucket->rows.empty() ? j : bucket->rows[static_cast<std::size_t>(j)]));
      }
    };
    append([&](Index i) { return s.row_offset(i); });
    append([&](Index i) { return s.block_offset(i); });
    append([](Index i) { return i; });
  }
}

// One piece of memory for everything that lives as long as the system.
void DeviceSystem::place() {
  Layout layout;
  a_ = layout.add_array<double>(row_entries_);
  b_ = layout.add_array<double>(total_dim() * k());
  m_ = layout.add_array<double>(border_.entries);
  for (const auto& values : index_) index_at_.push_back(layout.add_array<Index>(static_cast<Index>(values.size())));
  workspace_ = layout.add(sizes_.workspace);
  memory_ = Memory(lane_, std::max(layout.bytes(), kAlignment));
  view_.a = memory_.at<double>(a_);
  view_.b = memory_.at<double>(b_);
  view_.border = memory_.at<double>(m_);
  for (std::size_t i = 0; i < index_.size(); ++i) {
    Index* const at = memory_.at<Index>(index_at_[i]);
    lane_.upload(at, index_[i].data(), index_[i].size() * sizeof(Index));
    ArrowschurDeviceRows& group = rows_[i / 3];
    (i % 3 == 0 ? group.line : i % 3 == 1 ? group.entry : group.row) = at;
  }
}

void DeviceSystem::copy(const ArrowSystem& s) {
  upload(lane_, memory_.at<double>(a_), s.h_tt(), row_entries_, s.dtype());
  upload(lane_, memory_.at<double>(b_), s.h_tb(), total_dim() * k(), s.dtype());
  if (const double* border = border_in_place(s.border(), border_)) {
    upload(lane_, memory_.at<double>(m_), border, border_.entries, DType::float64);
  } else {
    linalg::Buffer<double> made(border_.entries);
    make_border(s.border(), border_, made.data());
    upload(lane_, memory_.at<double>(m_), made.data(), border_.entries, DType::float64);
  }
}

Index DeviceSystem::max_dim() const noexcept {
  Index d = 0;
  for (const ArrowschurDeviceRows& group : rows_) d = std::max<Index>(d, group.d);
  return d;
}

namespace {

void same(const char* what, Index got, Index expected) {
  if (got == expected) return;
  throw InvalidArgument("system", std::string(what) + " = " + std::to_string(got),
                        std::to_string(expected) + ", the shape of the frame");
}

}  // namespace

void DeviceSystem::require_same(const ArrowSystem& s) const {
  if (adopts_)
    throw InvalidArgument("system", "arrays of the host", "arrays of the device, which the frame reads in place");
  if (const auto no = unsupported(s)) no->raise();
  same("n", s.n(), n());
  same("k", s.k(), k());
  same("T", s.total_dim(), total_dim());
  for (Index i = 0; i < s.n(); ++i) {
    const bool uniform = row_dims_.empty();
    same("the size of a row", s.row_dim(i),
         uniform ? total_dim() / std::max<Index>(n(), 1) : row_dims_[static_cast<std::size_t>(i)]);
  }
  const BorderForm form = border_form(s.border());
  same("the form of h_bb", form.form, border_.form);
  same("the width of h_bb", form.width, border_.width);
}

void DeviceSystem::overwrite(const ArrowSystem& s) {
  whole_ = false;
  copy(s);
  lane_.synchronize();
  whole_ = true;
}

Index system_bytes(const ArrowSystem& s) {
  Index entries = 0;
  for (const RowBucket& bucket : s.buckets()) entries += bucket.count * bucket.d * bucket.d;
  return static_cast<Index>(sizeof(double)) * (entries + s.total_dim() * s.k() + border_form(s.border()).entries);
}

}  // namespace arrowschur::device
