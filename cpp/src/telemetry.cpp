#include "telemetry.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

namespace arrowschur {
namespace {

// One lock for all counters: they move once per factor or per fit, not per stage.
struct Process {
  std::mutex mutex;
  Telemetry total;
};
Process& process() {
  static Process counters;
  return counters;
}

// Fixed storage of plain data: recording never allocates, so it cannot fail inside a destructor.
struct Ring {
  struct Entry {
    telemetry::StageCost cost;
    double cpu_ms = 0.0, device_ms = 0.0;
  };
  static constexpr std::size_t kEntries = 1024;
  std::mutex mutex;
  std::array<Entry, kEntries> entries;
  std::size_t written = 0;  // since the ring was emptied
};
std::atomic<int> g_windows{0};  // open ones; outside the ring, so that asking costs one load
Ring& ring() {
  static Ring records;
  return records;
}

}  // namespace

Telemetry& Telemetry::operator+=(const Telemetry& other) {
  h2d_bytes += other.h2d_bytes;
  d2h_bytes += other.d2h_bytes;
  factorizations += other.factorizations;
  frame_builds += other.frame_builds;
  handle_creations += other.handle_creations;
  kernel_launches += other.kernel_launches;
  graph_replays += other.graph_replays;
  syncs += other.syncs;
  allocations += other.allocations;
  capture_failures += other.capture_failures;
  cpu_fallbacks += other.cpu_fallbacks;
  for (const std::string& reason : other.fallback_reasons) {
    if (std::find(fallback_reasons.begin(), fallback_reasons.end(), reason) == fallback_reasons.end()) {
      fallback_reasons.push_back(reason);
    }
  }
  if (other.device_ordinal) device_ordinal = other.device_ordinal;
  return *this;
}

Telemetry process_telemetry() {
  Process& p = process();
  const std::lock_guard lock(p.mutex);
  return p.total;
}

StageWindow::StageWindow() {
  Ring& r = ring();
  const std::lock_guard lock(r.mutex);
  if (g_windows.load(std::memory_order_relaxed) == 0) r.written = 0;
  g_windows.fetch_add(1, std::memory_order_relaxed);
}

StageWindow::~StageWindow() {
  Ring& r = ring();
  const std::lock_guard lock(r.mutex);
  g_windows.fetch_sub(1, std::memory_order_relaxed);
}

std::vector<StageRecord> StageWindow::records() const {
  Ring& r = ring();
  const std::lock_guard lock(r.mutex);
  const std::size_t count = std::min(r.written, Ring::kEntries);
  std::vector<StageRecord> out;
  out.reserve(count);
  for (std::size_t i = r.written - count; i < r.written; ++i) {
    const auto& [cost, cpu_ms, device_ms] = r.entries[i % Ring::kEntries];
    out.push_back({cost.name, cost.n, cost.d, cost.k, cost.flops, cost.bytes, cpu_ms, device_ms});
  }
  return out;
}

namespace telemetry {

void count(Telemetry& fit, const Telemetry& work) {
  fit += work;
  Process& p = process();
  const std::lock_guard lock(p.mutex);
  p.total += work;
}

bool window_open() noexcept { return g_windows.load(std::memory_order_relaxed) > 0; }

void record_stage(const StageCost& cost, double cpu_ms, double device_ms) noexcept {
  Ring& r = ring();
  const std::lock_guard lock(r.mutex);
  r.entries[r.written++ % Ring::kEntries] = {cost, cpu_ms, device_ms};
}

void StageClock::record() noexcept {
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start_;
  record_stage(cost_, elapsed.count(), 0.0);
}

}  // namespace telemetry
}  // namespace arrowschur
