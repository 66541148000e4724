#include "backend/device_batch.hpp"

#include <algorithm>
#include <cstring>

#include "backend/device_border.hpp"
#include "backend/device_factors.hpp"
#include "backend/device_stage.hpp"
#include "backend/device_system.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::device {
namespace {

// Numbers of one array of one system on their way to the device.
struct Segment {
  std::size_t at = 0;  // in the piece of memory, in numbers
  std::size_t count = 0;
  const void* from = nullptr;
  DType dtype = DType::float64;
};

// What is sent: arrays of many systems, one behind the other, converted where they are float32.
class Parcel {
 public:
  // Returns where the array begins, in numbers.
  std::size_t add(const void* from, Index count, DType dtype) {
    const std::size_t at = size_;
    if (count > 0) segments_.push_back({at, static_cast<std::size_t>(count), from, dtype});
    size_ += static_cast<std::size_t>(count);
    return at;
  }
  std::size_t size() const noexcept { return size_; }

  void send(Lane& lane, double* to) const {
    lane.upload_made(to, size_ * sizeof(double), [&](std::byte* place, std::size_t begin, std::size_t bytes) {
      auto* const out = reinterpret_cast<double*>(place);
      const std::size_t first = begin / sizeof(double), last = first + bytes / sizeof(double);
      auto segment = std::upper_bound(segments_.begin(), segments_.end(), first,
                                      [](std::size_t at, const Segment& s) { return at < s.at + s.count; });
      for (; segment != segments_.end() && segment->at < last; ++segment) {
        const std::size_t from = std::max(segment->at, first), to_end = std::min(segment->at + segment->count, last);
        copy(*segment, from - segment->at, to_end - from, out + (from - first));
      }
    });
  }

 private:
  static void copy(const Segment& s, std::size_t begin, std::size_t count, double* out) {
    if (s.dtype == DType::float64) {
      std::memcpy(out, static_cast<const double*>(s.from) + begin, count * sizeof(double));
    } else {
      const auto* in = static_cast<const float*>(s.from) + begin;
      std::copy(in, in + count, out);
    }
  }

  std::vector<Segment> segments_;  // ascending, without holes
  std::size_t size_ = 0;
};

constexpr BorderForm dense_form(Index k) { return {ARROWSCHUR_BORDER_DENSE, 0, k * k}; }

// Borders are dense in a batch: they are small.
std::vector<double> made_borders(std::span<const ArrowSystem* const> systems) {
  std::size_t size = 0;
  for (const ArrowSystem* s : systems) size += static_cast<std::size_t>(s->k() * s->k());
  std::vector<double> values(size);
  std::size_t at = 0;
  for (const ArrowSystem* s : systems) {
    make_border(s->border(), dense_form(s->k()), values.data() + at);
    at += static_cast<std::size_t>(s->k() * s->k());
  }
  return values;
}

}  // namespace

const char* batch_obstacle(const ArrowSystem& s) {
  if (const auto no = unsupported(s)) return no->what;
  if (s.k() > ARROWSCHUR_BATCH_MAX_BORDER) return "a border of more than 32 unknowns";
  if (s.n() == 0 || s.max_dim() == 0) return "no rows";
  return s.total_dim() == s.n() * s.max_dim() ? nullptr : "rows of different sizes";
}

BatchCost batch_cost(const ArrowSystem& s) {
  const auto n = static_cast<double>(s.n()), d = static_cast<double>(s.max_dim()), k = static_cast<double>(s.k());
  return {n * (d * d + d * k) + k * k, n * d + k,
          n * (d * d * d / 3.0 + d * d * k + d * k * (k + 1.0)) + k * k * k / 3.0};
}

BatchSolution solve_batch(Lane& lane, std::span<const ArrowSystem* const> systems, double ridge_t, double ridge_beta,
                          std::optional<Index> memory_limit) {
  const Table& table = lane.table();
  const std::size_t count = systems.size();
  const std::vector<double> borders = made_borders(systems);
  std::vector<ArrowschurBatchEntry> entries(count);
  Parcel parcel;
  BatchSolution out;
  const auto in_numbers = [](std::size_t at) { return static_cast<Index>(at); };
  Index a = 0, b = 0, m = 0, x = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const ArrowSystem& s = *systems[i];
    entries[i] = {s.n(), static_cast<std::int32_t>(s.max_dim()), static_cast<std::int32_t>(s.k()), a, b, m, x};
    out.first.push_back(x);
    a += s.total_dim() * s.max_dim();
    b += s.total_dim() * s.k();
    m += s.k() * s.k();
    x += s.total_dim() + s.k();
  }
  // Each kind of array of all systems is one piece, its beginning aligned as the table asks.
  Layout layout;
  const std::size_t a_at = layout.add_array<double>(a), b_at = layout.add_array<double>(b),
                    m_at = layout.add_array<double>(m), g_at = layout.add_array<double>(x);
  const std::size_t entries_at = layout.add(count * sizeof(ArrowschurBatchEntry));
  const std::size_t sent = layout.bytes();
  const std::size_t x_at = layout.add_array<double>(x);
  const std::size_t records_at = layout.add(count * sizeof(ArrowschurBuildRecord));
  ArrowschurDeviceBatch batch{};
  batch.count = in_numbers(count);
  batch.host_entries = entries.data();
  std::size_t workspace = 0;
  lane.require(table.batch_sizes(&batch, &workspace), "batch_sizes");
  const std::size_t workspace_at = layout.add(workspace);
  const std::size_t budget = byte_budget(table, memory_limit, 0);
  if (layout.bytes() > budget) {
    throw OutOfMemory(std::to_string(layout.bytes()) + " bytes needed for the batch, " + std::to_string(budget) +
                      " allowed");
  }
  const Memory memory(lane, layout.bytes());
  static_assert(sizeof(ArrowschurBatchEntry) % sizeof(double) == 0);
  const std::vector<double> gap(kAlignment / sizeof(double));
  const auto pad_to = [&](std::size_t bytes) {
    parcel.add(gap.data(), in_numbers(bytes / sizeof(double) - parcel.size()), DType::float64);
  };
  for (const ArrowSystem* s : systems) parcel.add(s->h_tt(), s->total_dim() * s->max_dim(), s->dtype());
  pad_to(b_at);
  for (const ArrowSystem* s : systems) parcel.add(s->h_tb(), s->total_dim() * s->k(), s->dtype());
  pad_to(m_at);
  parcel.add(borders.data(), m, DType::float64);
  pad_to(g_at);
  for (const ArrowSystem* s : systems) {
    parcel.add(s->g_t(), s->total_dim(), s->dtype());
    parcel.add(s->g_beta(), s->k(), s->dtype());
  }
  pad_to(entries_at);
  parcel.add(entries.data(), in_numbers(count * sizeof(ArrowschurBatchEntry) / sizeof(double)), DType::float64);
  pad_to(sent);

  double cost = 0.0;
  for (const ArrowSystem* s : systems) cost += batch_cost(*s).flops;
  DeviceStage stage(lane, {"batch", batch.count, 0, 0, cost, static_cast<double>(sent)});
  linalg::poll_interrupt();
  parcel.send(lane, memory.at<double>(a_at));
  batch.a = memory.at<double>(a_at);
  batch.b = memory.at<double>(b_at);
  batch.m = memory.at<double>(m_at);
  batch.g = memory.at<double>(g_at);
  batch.entries = memory.at<ArrowschurBatchEntry>(entries_at);
  lane.require(
      table.batch_solve(&batch, ridge_t, ridge_beta, memory.at<double>(x_at),
                        memory.at<ArrowschurBuildRecord>(records_at), memory.at<void>(workspace_at), lane.stream()),
      "batch_solve");
  stage.end();
  out.records.resize(count);
  out.x.resize(static_cast<std::size_t>(x));
  lane.download(out.records.data(), memory.at<void>(records_at), count * sizeof(ArrowschurBuildRecord));
  lane.download(out.x.data(), memory.at<void>(x_at), out.x.size() * sizeof(double));
  return out;
}

}  // namespace arrowschur::device
