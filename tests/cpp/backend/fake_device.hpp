// What tests ask of the fake device, beside its table. The functions are exports of its library.
#pragma once

#include <atomic>
#include <cstddef>

struct FakeDeviceCounts {
  std::atomic<int> probes{0};
  std::atomic<int> package_roots{0};
  std::atomic<int> allocations{0}, streams{0}, events{0}, graphs{0}, host_allocations{0};  // alive
  std::atomic<int> syncs{0};
  std::atomic<std::size_t> h2d_bytes{0}, d2h_bytes{0};
  std::atomic<std::size_t> bytes{0}, most_bytes{0};  // allocated now, at most so far
};

// A status of a script: the call itself succeeds, and the record of the build says that a pivot was not positive. For
// factor_and_whiten (row 0), dual_reduce and factor_border (pivot 0).
inline constexpr int kFakeNumericalFailure = 100;

extern "C" {
const FakeDeviceCounts* arrowschur_fake_counts();

// From now on the first-th call (from 1 on) of the table's function of this name, and the count - 1 calls after it,
// return `status`; count < 0: all calls after it too. A later script of the same name takes its place; a null name
// removes all of them. The same as ARROWSCHUR_FAKE_FAIL="name:first:count:status,..." in the environment, which is read
// when the table is asked for.
void arrowschur_fake_fail(const char* function, int first, int count, int status);

// Calls of the function since the library was loaded.
int arrowschur_fake_calls(const char* function);
}
