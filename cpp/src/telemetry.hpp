// Where counters and stage records are written. telemetry.hpp of the public headers is where they are read.
#pragma once

#include <chrono>

#include "arrowschur/telemetry.hpp"

namespace arrowschur::telemetry {

// Adds work to the counters of a fit and to those of the process.
void count(Telemetry& fit, const Telemetry& work);

// What a stage is about; flops and bytes are 0 where its route has no count of its own.
struct StageCost {
  const char* name = "";
  Index n = 0, d = 0, k = 0;
  double flops = 0.0, bytes = 0.0;
};

bool window_open() noexcept;  // one relaxed load
void record_stage(const StageCost&, double cpu_ms, double device_ms) noexcept;

// Records the time until its end, when a window was open at its beginning.
class StageClock {
 public:
  explicit StageClock(const StageCost& cost) noexcept : cost_(cost), open_(window_open()) {
    if (open_) start_ = std::chrono::steady_clock::now();
  }
  ~StageClock() {
    if (open_) record();
  }
  StageClock(const StageClock&) = delete;
  StageClock& operator=(const StageClock&) = delete;

 private:
  void record() noexcept;

  StageCost cost_;
  bool open_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace arrowschur::telemetry
