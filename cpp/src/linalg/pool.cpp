#include "linalg/pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"

namespace arrowschur {
namespace linalg {
namespace {

constexpr int kMaxThreads = 256;

inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

int available_cpus() noexcept {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_threads() noexcept {
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);  // a list "4,2" names the outer level first
    if (end != text && (*end == '\0' || *end == ',') && value >= 1) {
      return static_cast<int>(std::min<long>(value, kMaxThreads));
    }
  }
  return std::min(available_cpus(), kMaxThreads);
}

std::atomic<int> g_threads{0};                 // 0: not set, use the default
thread_local int t_threads = 0;                // ThreadScope; 0: none
thread_local bool t_inside = false;            // this thread is running a task
thread_local InterruptScope::Callback t_interrupt = nullptr;
thread_local void* t_interrupt_context = nullptr;
thread_local std::chrono::steady_clock::time_point t_last_poll;

// One job at a time. `state_` holds the number of threads inside the job; kClosed keeps late wakers out.
class Pool {
 public:
  bool try_run(Index tasks, detail::TaskFunction function, void* context, int threads) {
    std::unique_lock<std::mutex> owner(busy_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    start_helpers(threads - 1);

    function_ = function;
    context_ = context;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    seats_.store(threads - 1, std::memory_order_relaxed);
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    state_.fetch_and(~kClosed, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    // seq_cst on both sides: either a helper sees the new epoch before it sleeps, or we see it among the sleepers.
    if (sleepers_.load(std::memory_order_seq_cst) > 0) epoch_.notify_all();

    work(/*poll=*/true);
    state_.fetch_or(kClosed, std::memory_order_acq_rel);
    for (int spin = 0; (state_.load(std::memory_order_acquire) & ~kClosed) != 0; ++spin) {
      if (spin < 4096) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  static constexpr int kClosed = 1 << 30;

  void start_helpers(int wanted) {
    while (static_cast<int>(helpers_.size()) < wanted) {
      helpers_.emplace_back([this] { helper(); });
      helpers_.back().detach();  // lives as long as the process; a pool is never destroyed
    }
  }

  void helper() {
    std::uint64_t seen = 0;
    for (;;) {
      std::uint64_t now = epoch_.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < kSpins; ++spin) {
        pause();
        now = epoch_.load(std::memory_order_acquire);
      }
      if (now == seen) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        epoch_.wait(seen, std::memory_order_seq_cst);
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        continue;
      }
      seen = now;
      const int before = state_.fetch_add(1, std::memory_order_acq_rel);
      if ((before & kClosed) == 0 && seats_.fetch_sub(1, std::memory_order_relaxed) > 0) work(/*poll=*/false);
      state_.fetch_sub(1, std::memory_order_release);
    }
  }

  void work(bool poll) {
    t_inside = true;
    try {
      for (Index task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
        function_(context_, task);
        if (poll) poll_interrupt();
      }
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
    t_inside = false;
  }

  // Polling between jobs, long enough for the serial parts between the stages of one solve: to be woken by a futex takes
  // longer than many of these stages.
  static constexpr int kSpins = 10000;

  std::mutex busy_;
  std::vector<std::thread> helpers_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<int> state_{kClosed};
  std::atomic<int> seats_{0};
  std::atomic<Index> next_{0};
  Index tasks_ = 0;
  detail::TaskFunction function_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    static std::once_flag registered;
    std::call_once(registered, [] {
      // The child of a fork has none of the helpers: forget the pool, leak its memory, start anew on the next call.
      pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr, std::memory_order_release); });
    });
    auto* fresh = new Pool;
    if (g_pool.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) {
      current = fresh;
    } else {
      delete fresh;
    }
  }
  return *current;
}

}  // namespace

int current_threads() noexcept {
  if (t_inside) return 1;
  return t_threads > 0 ? t_threads : get_num_threads();
}

ThreadScope::ThreadScope(std::optional<int> threads) noexcept : outer_(t_threads) {
  if (threads) t_threads = std::min(*threads, kMaxThreads);
}
ThreadScope::~ThreadScope() { t_threads = outer_; }

void poll_interrupt() {
  if (t_interrupt == nullptr) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - t_last_poll < std::chrono::milliseconds(20)) return;
  t_last_poll = now;
  if (t_interrupt(t_interrupt_context)) throw Interrupted();
}

InterruptShield::InterruptShield() noexcept : outer_(std::exchange(t_interrupt, nullptr)) {}
InterruptShield::~InterruptShield() { t_interrupt = outer_; }

void detail::run_tasks(Index tasks, TaskFunction function, void* context) {
  const int threads = static_cast<int>(std::min<Index>(current_threads(), tasks));
  if (threads > 1 && pool().try_run(tasks, function, context, threads)) return;
  for (Index task = 0; task < tasks; ++task) {
    function(context, task);
    poll_interrupt();
  }
}

}  // namespace linalg

int get_num_threads() noexcept {
  const int set = linalg::g_threads.load(std::memory_order_relaxed);
  if (set > 0) return set;
  const int chosen = linalg::default_threads();
  linalg::g_threads.store(chosen, std::memory_order_relaxed);
  return chosen;
}

void set_num_threads(int n) {
  if (n < 1 || n > linalg::kMaxThreads) {
    throw InvalidArgument("n", std::to_string(n), "a thread count from 1 to " + std::to_string(linalg::kMaxThreads));
  }
  linalg::g_threads.store(n, std::memory_order_relaxed);
}

InterruptScope::InterruptScope(Callback callback, void* context) noexcept
    : outer_(linalg::t_interrupt), outer_context_(linalg::t_interrupt_context) {
  linalg::t_interrupt = callback;
  linalg::t_interrupt_context = context;
  linalg::t_last_poll = std::chrono::steady_clock::now();
}
InterruptScope::~InterruptScope() {
  linalg::t_interrupt = outer_;
  linalg::t_interrupt_context = outer_context_;
}

}  // namespace arrowschur

// For threadpoolctl and other C callers: the one knob, with C linkage.
extern "C" {
int arrowschur_get_num_threads(void) { return arrowschur::get_num_threads(); }
void arrowschur_set_num_threads(int n) {
  if (n >= 1) arrowschur::set_num_threads(n < 256 ? n : 256);
}
}
