#include "backend/device_status.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "backend/device_loader.hpp"

namespace arrowschur::device {
namespace {

std::atomic<bool> ending{false};
std::atomic<pid_t> owner{0};

}  // namespace

const Table* table_if_available() {
  const Runtime& found = runtime();
  return found.info.outcome == DeviceOutcome::available ? found.table : nullptr;
}

const Table& table() {
  if (const Table* found = table_if_available()) return *found;
  const DeviceInfo& info = runtime().info;
  if (info.outcome == DeviceOutcome::fault) throw DeviceError("probe", info.message);
  throw DeviceUnavailableError("runtime_unavailable: " + info.why());
}

bool is_stand_in(const Table& table) noexcept { return std::strcmp(table.backend, "cuda") != 0; }

Account account_of(const Table& table, const char* path) noexcept {
  if (is_stand_in(table)) return {"cpu", table.backend, path};
  return {path, table.backend, ""};
}

void require(const Table& table, int status, const char* stage) {
  if (status == ARROWSCHUR_DEVICE_OK) return;
  const std::string words = table.last_error();
  if (status == ARROWSCHUR_DEVICE_OUT_OF_MEMORY) throw OutOfMemory(std::string(stage) + ": " + words);
  throw DeviceError(stage, words);
}

bool handles_are_valid() noexcept {
  return !ending.load(std::memory_order_relaxed) && owner.load(std::memory_order_relaxed) == ::getpid();
}

void require_handles() {
  if (handles_are_valid()) return;
  throw DeviceUnavailableError("runtime_unavailable: driver_unavailable: forked: the parent process has the device");
}

void watch_for_the_end() {
  pid_t nobody = 0;
  if (!owner.compare_exchange_strong(nobody, ::getpid())) return;
  std::atexit([] { ending.store(true, std::memory_order_relaxed); });
}

}  // namespace arrowschur::device
