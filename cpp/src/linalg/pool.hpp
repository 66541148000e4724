// The library's own thread pool: parallel_for over independent tasks, claimed in ascending order.
//
// - The calling thread takes part; helpers that wake up late find the job closed and are not waited for.
// - Nested calls, and calls while another thread uses the pool, run in the calling thread. Tasks must therefore not
//   depend on how many threads there are, only on the order in which tasks are claimed (one may wait for a lower one).
// - The first exception stops the job and is rethrown in the caller. The caller polls for interrupts between its tasks.
// - No allocation after the pool has started. Survives fork(): the child starts a pool of its own.
#pragma once

#include <optional>
#include <type_traits>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

// Threads that parallel_for may use in this thread: the innermost ThreadScope, else get_num_threads(); 1 inside a task.
int current_threads() noexcept;

// Per-call thread count (SolveOptions::num_threads); none leaves the outer setting.
class ThreadScope {
 public:
  explicit ThreadScope(std::optional<int> threads) noexcept;
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int outer_;
};

// Throws Interrupted when the InterruptScope of this thread says so; looks at the clock first, so that it is cheap.
void poll_interrupt();

// No interrupt is seen by this thread while the object lives: for steps that must be whole.
class InterruptShield {
 public:
  InterruptShield() noexcept;
  ~InterruptShield();
  InterruptShield(const InterruptShield&) = delete;
  InterruptShield& operator=(const InterruptShield&) = delete;

 private:
  bool (*outer_)(void* context);
};

namespace detail {
using TaskFunction = void (*)(void* context, Index task);
void run_tasks(Index tasks, TaskFunction function, void* context);
}  // namespace detail

// f(0), ..., f(tasks - 1), each once.
template <class F>
void parallel_for(Index tasks, F&& f) {
  using Function = std::remove_reference_t<F>;
  detail::run_tasks(
      tasks, [](void* context, Index task) { (*static_cast<Function*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// The same, in the calling thread when the work is too small to share (decision: parallel by work, not by row count).
template <class F>
void parallel_for_if(bool parallel, Index tasks, F&& f) {
  if (parallel) {
    parallel_for(tasks, f);
  } else {
    for (Index task = 0; task < tasks; ++task) f(task);
  }
}

// Row stages go parallel from this many entries of h_tb on (T k >= 2^18; smaller stages cost less than a wake-up).
inline constexpr Index kParallelWork = Index{1} << 18;

}  // namespace arrowschur::linalg
