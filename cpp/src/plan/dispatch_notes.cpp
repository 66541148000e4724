#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "arrowschur/policy.hpp"
#include "plan/device_mode.hpp"

namespace arrowschur::policy {
namespace {

struct Notes {
  std::mutex mutex;
  std::set<std::pair<std::string, std::string>> told;
  std::vector<DispatchNote> waiting;
};
Notes& notes() {
  static Notes* const all = new Notes;  // leaked: calls may end after static objects do
  return *all;
}
std::atomic<bool> g_waiting{false};

}  // namespace

void note_once(const char* route, const char* event, bool warning, const std::function<std::string()>& text) {
  Notes& all = notes();
  const std::lock_guard lock(all.mutex);
  if (!all.told.emplace(route, event).second) return;
  all.waiting.push_back({warning, text()});
  g_waiting.store(true, std::memory_order_relaxed);
}

bool dispatch_notes_waiting() noexcept { return g_waiting.load(std::memory_order_relaxed); }

std::vector<DispatchNote> take_dispatch_notes() {
  Notes& all = notes();
  const std::lock_guard lock(all.mutex);
  g_waiting.store(false, std::memory_order_relaxed);
  return std::exchange(all.waiting, {});
}

void note_decision(const char* route, const Decision& decision, Index n, Index total_dim, Index k) {
  // Each thread asks the shared record once per route and event: repeated small calls pay for a compare only.
  thread_local std::array<std::pair<const char*, bool>, 16> seen{};
  thread_local std::size_t next = 0;
  const std::pair<const char*, bool> key{route, decision.use_device};
  if (std::find(seen.begin(), seen.end(), key) != seen.end()) return;
  seen[next++ % seen.size()] = key;
  note_once(route, decision.use_device ? "engaged" : "declined", false, [&] {
    return std::string(route) + (decision.use_device ? ": first run on the device (" : ": first run on the CPU (") +
           decision.reason + "), n = " + std::to_string(n) + ", T = " + std::to_string(total_dim) +
           ", k = " + std::to_string(k);
  });
}

}  // namespace arrowschur::policy
