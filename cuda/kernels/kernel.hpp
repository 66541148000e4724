// What a kernel is here, and the few operations that a host does differently.
//
// A kernel is a list of phases with a barrier between two of them:
//
//     struct Kernel {
//       static constexpr int kThreads = 128;                    // of a block
//       static constexpr int kResident = 4;                     // optional: blocks that a multiprocessor is to hold
//       struct Args { ... };                                    // by value, pointers to device memory
//       static Launch launch(const Args&);                      // pure: blocks, shared memory, phases
//       ARROWSCHUR_HD static bool idle(std::int64_t block, const Args&);  // optional: a block with nothing to do
//       ARROWSCHUR_HD static void run(int phase, std::int64_t block, int thread, double* shared, const Args&);
//     };
//
// What a thread keeps from one phase to the next lies in shared memory; or in registers, if the kernel has a type State of
// plain numbers, by indices that the compiler knows: `run` is then handed the thread's own before `args`. So the same code runs on a device, with its
// threads side by side, and on a host, one thread after another in any order (tests/cpp/backend/host_executor.hpp);
// results that do not depend on that order show that no phase lacks a barrier.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "linalg/host_device.hpp"

namespace arrowschur::kernels {

struct Launch {
  std::int64_t blocks;  // 0: nothing to do
  std::size_t shared_doubles;
  int phases;
};

template <class Kernel>
concept HasState = requires { typename Kernel::State; };

// Asked once, before the first phase.
template <class Kernel, class Args>
ARROWSCHUR_HD inline bool idle(std::int64_t block, const Args& args) {
  if constexpr (requires { Kernel::idle(block, args); }) return Kernel::idle(block, args);
  return false;
}

ARROWSCHUR_HD constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
ARROWSCHUR_HD constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) { return b < a ? b : a; }
ARROWSCHUR_HD constexpr std::int64_t larger(std::int64_t a, std::int64_t b) { return b > a ? b : a; }

// NaN when either is: a maximum that certifies something must not overlook it.
ARROWSCHUR_HD inline double worse(double a, double b) { return b > a || b != b ? b : a; }

ARROWSCHUR_HD inline double quiet_nan() {
  const std::uint64_t bits = 0x7ff8000000000000u;
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- two neighbouring columns -----------------------------------------------------------------------------------------
// A matrix with an even number of columns has all its pairs of columns on 16 bytes, and each is one access. Where the
// number is odd, the last pair has one column (`both` is false), and pairs are read in two halves. Kernels decide between
// the two once, outside of their loops: branches among loads would let only one be under way.
struct alignas(16) Pair {
  double x, y;
};

template <bool kEven>
ARROWSCHUR_HD inline Pair load_pair(const double* p, bool both = true) {
#ifdef __CUDA_ARCH__
  if constexpr (kEven) {
    const double2 value = *reinterpret_cast<const double2*>(p);
    return {value.x, value.y};
  }
#endif
  return {p[0], kEven || both ? p[1] : 0.0};
}

template <bool kEven>
ARROWSCHUR_HD inline void store_pair(double* p, Pair value, bool both = true) {
#ifdef __CUDA_ARCH__
  if constexpr (kEven) {
    // Not an assignment: the compiler shares its halves with those of the odd case, and splits the access.
    __stwb(reinterpret_cast<double2*>(p), make_double2(value.x, value.y));
    return;
  }
#endif
  p[0] = value.x;
  if (kEven || both) p[1] = value.y;
}

// ---- copies to shared memory that go on behind the thread's back ----------------------------------------------------------
// They are ordered in groups: what a thread has asked for up to a commit. After wait_for_copies<n> all its groups but the
// last n are there, for the thread itself; for others after a barrier. `to` is on 16 bytes.
template <bool kEven>
ARROWSCHUR_HD inline void copy_pair(double* to, const double* from, bool both = true) {
#ifdef __CUDA_ARCH__
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kEven) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
    return;
  }
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(from) : "memory");
  if (both) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared + 8), "l"(from + 1) : "memory");
  } else {
    to[1] = 0.0;
  }
#else
  to[0] = from[0];
  to[1] = kEven || both ? from[1] : 0.0;
#endif
}

ARROWSCHUR_HD inline void commit_copies() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kPending>
ARROWSCHUR_HD inline void wait_for_copies() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// ---- integers that several blocks combine: whatever the order, the same result ----------------------------------------
ARROWSCHUR_HD inline void atomic_or(std::uint32_t* to, std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  atomicOr(to, bits);
#else
  *to |= bits;
#endif
}

ARROWSCHUR_HD inline void atomic_add(std::int64_t* to, std::uint32_t count) {
#ifdef __CUDA_ARCH__
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(count));
#else
  *to += count;
#endif
}

ARROWSCHUR_HD inline void atomic_min(std::uint64_t* to, std::uint64_t value) {
#ifdef __CUDA_ARCH__
  atomicMin(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
#else
  if (value < *to) *to = value;
#endif
}

// Of doubles that are not negative: their bit patterns are ordered as they are. Anything else is passed over, and what is
// not finite, so that one such row does not hide the others.
ARROWSCHUR_HD inline void atomic_max(double* to, double value) {
  if (!(value > 0.0 && value < HUGE_VAL)) return;
#ifdef __CUDA_ARCH__
  unsigned long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  atomicMax(reinterpret_cast<unsigned long long*>(to), bits);
#else
  if (value > *to) *to = value;
#endif
}

// ---- sums in a fixed order ------------------------------------------------------------------------------------------
// One step of a tree over `values` sums at once: from[v] has `width` x `results` terms, to[v] gets `results` of them,
// result i adding the terms i, i + results, i + 2 results ... in this order. Threads share the work; `from` and `to` lie
// apart.
ARROWSCHUR_HD inline void fold(const double* from, double* to, int values, int width, int results, int thread,
                               int threads) {
  for (int e = thread; e < values * results; e += threads) {
    const double* term = from + e / results * (width * results) + e % results;
    double sum = term[0];
    for (int s = 1; s < width; ++s) sum += term[s * results];
    to[e] = sum;
  }
}

}  // namespace arrowschur::kernels
