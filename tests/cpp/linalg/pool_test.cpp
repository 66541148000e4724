#include "linalg/pool.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"
#include "linalg/buffer.hpp"

using namespace arrowschur;
using namespace arrowschur::linalg;

TEST(EveryTaskRunsOnce) {
  for (const int threads : {1, 2, 4}) {
    const ThreadScope scope(threads);
    for (const Index tasks : {0, 1, 2, 3, 17, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      parallel_for(tasks, [&](Index task) { ++runs[static_cast<std::size_t>(task)]; });
      for (const auto& count : runs) CHECK_EQUAL(count.load(), 1);
    }
  }
}

TEST(ATaskMayWaitForALowerOne) {
  const ThreadScope scope(3);
  std::vector<std::atomic<bool>> done(200);
  parallel_for(200, [&](Index task) {
    while (task > 0 && !done[static_cast<std::size_t>(task - 1)].load()) std::this_thread::yield();
    done[static_cast<std::size_t>(task)] = true;
  });
  CHECK(done.back().load());
}

TEST(NestedCallsRunInTheirTask) {
  const ThreadScope scope(3);
  std::atomic<int> inner{0};
  std::atomic<bool> one_thread{true};
  parallel_for(6, [&](Index) {
    const auto outer = std::this_thread::get_id();
    if (current_threads() != 1) one_thread = false;
    parallel_for(5, [&](Index) {
      ++inner;
      if (std::this_thread::get_id() != outer) one_thread = false;
    });
  });
  CHECK_EQUAL(inner.load(), 30);
  CHECK(one_thread.load());
}

TEST(TheFirstExceptionReachesTheCaller) {
  for (const int threads : {1, 3}) {
    const ThreadScope scope(threads);
    CHECK_THROWS(std::domain_error, parallel_for(100, [](Index task) {
                   if (task == 7) throw std::domain_error("seven");
                 }));
    std::atomic<int> runs{0};
    parallel_for(10, [&](Index) { ++runs; });  // the pool is usable again
    CHECK_EQUAL(runs.load(), 10);
  }
}

TEST(ThreadScopesNestAndEnd) {
  const int before = current_threads();
  {
    const ThreadScope outer(3);
    CHECK_EQUAL(current_threads(), 3);
    {
      const ThreadScope inner(2);
      CHECK_EQUAL(current_threads(), 2);
      const ThreadScope none(std::nullopt);
      CHECK_EQUAL(current_threads(), 2);
    }
    CHECK_EQUAL(current_threads(), 3);
  }
  CHECK_EQUAL(current_threads(), before);
}

TEST(TheNumberOfThreadsIsChecked) {
  const int before = get_num_threads();
  for (const int bad : {0, -1}) CHECK_THROWS(InvalidArgument, set_num_threads(bad));
  set_num_threads(3);
  CHECK_EQUAL(get_num_threads(), 3);
  set_num_threads(before);
}

TEST(ManyCallersShareThePool) {
  std::vector<std::thread> callers;
  std::atomic<Index> total{0};
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) parallel_for(20, [&](Index task) { total += task; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQUAL(total.load(), Index{6 * 200 * 190});
}

TEST(AnInterruptEndsTheJob) {
  const ThreadScope scope(2);
  bool asked = false;
  {
    const InterruptScope interrupt([](void* context) { return *static_cast<bool*>(context) = true; }, &asked);
    CHECK_THROWS(Interrupted,
                 parallel_for(1000000, [](Index) { std::this_thread::sleep_for(std::chrono::microseconds(50)); }));
  }
  CHECK(asked);
  std::atomic<int> runs{0};
  parallel_for(10, [&](Index) { ++runs; });
  CHECK_EQUAL(runs.load(), 10);
}

TEST(InterruptScopesRestoreTheOuterOne) {
  int inner_calls = 0, outer_calls = 0;
  const auto count = [](void* context) {
    ++*static_cast<int*>(context);
    return false;
  };
  const auto wait_and_poll = [] {
    for (int i = 0; i < 3; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      poll_interrupt();
    }
  };
  const InterruptScope outer(count, &outer_calls);
  {
    const InterruptScope inner(count, &inner_calls);
    wait_and_poll();
    CHECK(inner_calls > 0);
    CHECK_EQUAL(outer_calls, 0);
  }
  wait_and_poll();
  CHECK(outer_calls > 0);
}

#if !defined(__SANITIZE_THREAD__)
TEST(AForkedChildHasAPoolOfItsOwn) {
  const ThreadScope scope(3);
  parallel_for(100, [](Index) { std::this_thread::yield(); });
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<Index> sum{0};
    parallel_for(100, [&](Index task) { sum += task; });
    _exit(sum.load() == 4950 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

TEST(FreedBuffersAreUsedAgain) {
  clear_workspaces();
  const void* first = nullptr;
  {
    const Buffer<double> a(1000);
    first = a.data();
    CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(first) % 64, std::uintptr_t{0});
  }
  const Buffer<double> b(900);
  CHECK(b.data() == first);
  CHECK_EQUAL(b.nbytes(), Index{7200});
}

TEST(TheCacheKeepsToItsLimit) {
  const Index before = workspace_cache_bytes();
  CHECK_THROWS(InvalidArgument, set_workspace_cache_bytes(-1));
  set_workspace_cache_bytes(0);
  CHECK_EQUAL(workspace_cache_bytes(), Index{0});
  reset_peak();
  const Index live = live_bytes();
  {
    const Buffer<double> a(1 << 20);
    CHECK(live_bytes() >= live + (Index{8} << 20));
  }
  CHECK_EQUAL(live_bytes(), live);
  CHECK(peak_bytes() >= live + (Index{8} << 20));
  set_workspace_cache_bytes(before);
  clear_workspaces();
}

TEST(BuffersMove) {
  Buffer<int> a(10);
  int* data = a.data();
  Buffer<int> b(std::move(a));
  CHECK(b.data() == data);
  Buffer<int> c(3);
  c = std::move(b);
  CHECK(c.data() == data);
  CHECK_EQUAL(c.size(), Index{10});
  CHECK(Buffer<int>().data() == nullptr);
}

CHECK_MAIN()
