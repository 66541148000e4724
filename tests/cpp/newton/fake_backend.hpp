// The fake device as the backend of a test program: named in the environment before anything can ask for a device.
#pragma once

#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "arrowschur/device.hpp"
#include "arrowschur/inner_loop.hpp"
#include "arrowschur/sweep.hpp"
#include "arrowschur/system.hpp"
#include "backend/device_api.h"
#include "backend/fake_device.hpp"
#include "check.hpp"

namespace fake {

inline const bool is_the_backend = [] {
  ::setenv("ARROWSCHUR_CUDA_BACKEND", ARROWSCHUR_TEST_FAKE_DEVICE, 1);
  ::setenv("ARROWSCHUR_FAKE_DEVICE", "available", 1);
  ::unsetenv("ARROWSCHUR_FAKE_FAIL");
  ::unsetenv("ARROWSCHUR_DEVICE");
  return true;
}();

template <class Function>
Function* symbol(const char* name) {
  static void* const library = ::dlopen(ARROWSCHUR_TEST_FAKE_DEVICE, RTLD_NOW);
  return reinterpret_cast<Function*>(::dlsym(library, name));
}
inline const FakeDeviceCounts& counts() {
  return *symbol<decltype(arrowschur_fake_counts)>("arrowschur_fake_counts")();
}
inline int calls(const char* function) {
  return symbol<decltype(arrowschur_fake_calls)>("arrowschur_fake_calls")(function);
}

// A script that ends with its scope.
class Failing {
 public:
  Failing(const char* function, int first, int count, int status) {
    symbol<decltype(arrowschur_fake_fail)>("arrowschur_fake_fail")(function, first, count, status);
  }
  ~Failing() { symbol<decltype(arrowschur_fake_fail)>("arrowschur_fake_fail")(nullptr, 0, 0, 0); }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
};

// Everything that a scope has allocated on the device, and every graph, is given back at its end.
class Leaks {
 public:
  ~Leaks() {
    CHECK_EQUAL(counts().allocations.load(), allocations_);
    CHECK_EQUAL(counts().graphs.load(), graphs_);
    CHECK_EQUAL(counts().events.load(), events_);
    CHECK_EQUAL(counts().bytes.load(), bytes_);
  }

 private:
  int allocations_ = counts().allocations, graphs_ = counts().graphs, events_ = counts().events;
  std::size_t bytes_ = counts().bytes;
};

// ---- metrics of the parity tests --------------------------------------------------------------------------------------
inline double metric_a(const std::vector<double>& x, const std::vector<double>& reference) {
  double gap = 0.0, size = 1.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    gap = std::fmax(gap, std::fabs(x[i] - reference[i]));
    size = std::fmax(size, std::fabs(reference[i]));
  }
  return x.size() == reference.size() ? gap / size : 1.0;
}
inline double metric_n(const std::vector<double>& x, const std::vector<double>& reference) {
  double gap = 0.0, size = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    gap += (x[i] - reference[i]) * (x[i] - reference[i]);
    size += reference[i] * reference[i];
  }
  return x.size() == reference.size() ? std::sqrt(gap / size) : 1.0;
}

}  // namespace fake
