// The device of this process for those who work on it: its table, and what the status of a call becomes.
#pragma once

#include "arrowschur/error.hpp"
#include "backend/device_api.h"

namespace arrowschur::device {

using Table = ArrowschurDeviceTable;

// The table of the available device. DeviceUnavailableError with the reason where there is none, DeviceError where the
// probe has met a fault.
const Table& table();
// The same, null instead of an exception. Probes too.
const Table* table_if_available();

// A backend of tests: nothing that it computes may pass for the result of a device.
bool is_stand_in(const Table&) noexcept;
// What a result says about where it ran. A stand-in is a CPU; the path that it stands for goes to `unproven_path`.
struct Account {
  const char* execution_path = "cpu";
  const char* backend = "cpu";
  const char* unproven_path = "";
};
Account account_of(const Table&, const char* path) noexcept;

// Memory does not suffice: the device declines, and is none the worse for it.
class OutOfMemory : public DeviceUnavailableError {
 public:
  explicit OutOfMemory(const std::string& what) : DeviceUnavailableError("device memory: " + what) {}
};

// Ok, or the error of a stage: DeviceError with the backend's words, OutOfMemory.
void require(const Table&, int status, const char* stage);

// Whether handles of this process can still be given back: not in a forked child, and not once the process is ending,
// when the driver may be gone before the objects that hold them.
bool handles_are_valid() noexcept;
void watch_for_the_end();  // before the first handle is made
void require_handles();  // DeviceUnavailableError in a child of the process that has the device

}  // namespace arrowschur::device
