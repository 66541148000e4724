// What ran where: counters of work issued, per fit and per process, and optional records of stages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur {

// Counted where the work is issued, never estimated; nothing here influences a result.
struct Telemetry {
  std::int64_t h2d_bytes = 0, d2h_bytes = 0;  // over the link
  std::int64_t factorizations = 0;  // factors made and kept, on the CPU as on a device; the reference's too
  std::int64_t frame_builds = 0;  // device frames only
  std::int64_t handle_creations = 0, kernel_launches = 0, graph_replays = 0, syncs = 0, allocations = 0;  // of a device
  std::int64_t capture_failures = 0;  // sequences of device work that were queued call by call instead of replayed
  std::int64_t cpu_fallbacks = 0;  // a device was asked for, the CPU did the work
  std::vector<std::string> fallback_reasons;  // distinct, in order of first appearance
  std::optional<int> device_ordinal;  // none: no device was used

  Telemetry& operator+=(const Telemetry&);
};

// Sum over the threads of this process since it started.
Telemetry process_telemetry();

// One stage of a fit.
struct StageRecord {
  std::string name;
  Index n = 0, d = 0, k = 0;
  double flops = 0.0, bytes = 0.0;
  double cpu_ms = 0.0, device_ms = 0.0;  // device_ms by events; 0 on the CPU
};

// Opens the ring of the last 1024 stage records of this process for as long as it lives; closed, a stage costs one
// relaxed load. Windows may nest and belong to several threads; the ring is emptied when the first one opens.
class StageWindow {
 public:
  StageWindow();
  ~StageWindow();
  StageWindow(const StageWindow&) = delete;
  StageWindow& operator=(const StageWindow&) = delete;
  std::vector<StageRecord> records() const;  // oldest first
};

}  // namespace arrowschur
