// Repeated solves on one factor allocate nothing, and a repeated newton_step touches no fresh large memory. This program
// replaces operator new and aligned_alloc, through which the library takes all its memory; what a BLAS does with malloc
// inside one of its calls (OpenBLAS allocates in small matrix products) is its own affair.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#include "arrowschur/factor.hpp"
#include "arrowschur/inner_loop.hpp"
#include "arrowschur/newton.hpp"
#include "arrowschur/threads.hpp"
#include "check.hpp"
#include "newton/support.hpp"

namespace {

std::atomic<long> g_count{0}, g_large{0};
constexpr std::size_t kLarge = std::size_t{1} << 20;

void note(std::size_t bytes) {
  g_count.fetch_add(1, std::memory_order_relaxed);
  if (bytes >= kLarge) g_large.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  note(bytes);
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new[](std::size_t bytes) { return ::operator new(bytes); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

// A sanitizer's own allocator must stay in charge.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SEES_BUFFERS 1
extern "C" {
void* __libc_memalign(std::size_t, std::size_t);
void* aligned_alloc(std::size_t align, std::size_t bytes) {
  note(bytes);
  return __libc_memalign(align, bytes);
}
}
#endif

using namespace arrowschur;

namespace {

struct Case {
  const char* name;
  support::OwnedSystem data;
};

// One row, thin, wide, ragged with rows that go through BLAS.
std::vector<Case> cases() {
  std::vector<Case> all;
  all.push_back({"hand", support::hand()});
  all.push_back({"thin", support::definite(std::vector<Index>(2000, 3), 96, 1)});
  all.push_back({"wide", support::definite(std::vector<Index>(100, 2), 700, 2)});
  all.push_back({"ragged", support::definite(support::mixed_dims(300), 40, 3)});
  return all;
}

}  // namespace

namespace {

template <class F>
long count(F&& f) {
  const long before = g_count.load();
  f();
  return g_count.load() - before;
}

// Right-hand sides and room for their solution.
struct Solve {
  const ArrowFactor& factor;
  Index m;
  std::vector<double> w_t, w_beta, x_t, x_beta;
  Solve(const ArrowFactor& f, Index columns)
      : factor(f),
        m(columns),
        w_t(support::random_vector(f.system().total_dim() * columns, 1)),
        w_beta(support::random_vector(f.system().k() * columns, 2)),
        x_t(w_t.size()),
        x_beta(w_beta.size()) {}
  void run() { factor.solve(w_t, w_beta, x_t, x_beta, m); }
};

}  // namespace

TEST(TheCounterCounts) {
  const long before = g_count.load();
  std::vector<double> v(100);
  v.front() = 1.0;
  CHECK(g_count.load() > before);
}

TEST(RepeatedSolvesOnOneFactorAllocateNothing) {
  SolveOptions options;
  options.num_threads = 1;
  for (const Case& c : cases()) {
    const auto system = ArrowSystem::make(c.data.parts());
    const ArrowFactor factor = factorize(system, {0.5, 0.25}, options);
    for (const Index m : {1, 2, 7, 64}) {
      Solve solve(factor, m);
      solve.run();
      const long made = count([&] {
        for (int repeat = 0; repeat < 5; ++repeat) solve.run();
      });
      CHECK_EQUAL(made, 0L);
      if (made != 0) std::cout << "  " << c.name << ", m = " << m << "\n";
    }
  }
}

// A helper thread takes its scratch memory when it gets its first task, which may be in any call: once, not per call.
TEST(HelperThreadsTakeTheirScratchMemoryOnce) {
  SolveOptions options;
  options.num_threads = 2;
  for (const Case& c : cases()) {
    const auto system = ArrowSystem::make(c.data.parts());
    const ArrowFactor factor = factorize(system, {0.5, 0.25}, options);
    for (const Index m : {1, 2, 7, 64}) {
      Solve solve(factor, m);
      clear_workspaces();
      const long cold = count([&] { solve.run(); });
      const long made = count([&] {
        for (int repeat = 0; repeat < 50; ++repeat) solve.run();
      });
      CHECK(made <= cold);
      if (made > cold) std::cout << "  " << c.name << ", m = " << m << ": " << cold << ", then " << made << "\n";
    }
  }
}

TEST(SolvesInPlaceAllocateNothing) {
  const Case c = {"thin", support::definite(std::vector<Index>(2000, 3), 96, 1)};
  const auto system = ArrowSystem::make(c.data.parts());
  const ArrowFactor factor = factorize(system);
  auto x_t = support::random_vector(system.total_dim(), 1), x_beta = support::random_vector(system.k(), 2);
  factor.solve(x_t, x_beta, x_t, x_beta);
  const long before = g_count.load();
  factor.solve(x_t, x_beta, x_t, x_beta);
  CHECK_EQUAL(g_count.load() - before, 0L);
}

TEST(RepeatedBorderProductsAllocateNothing) {
  for (const Case& c : cases()) {
    const auto system = ArrowSystem::make(c.data.parts());
    const ArrowFactor factor = factorize(system);
    const auto v = support::random_vector(system.k(), 2);
    std::vector<double> out(v.size());
    factor.schur_apply(v, out);
    factor.border_inverse_apply(v, out);
    const long before = g_count.load();
    factor.schur_apply(v, out);
    factor.border_inverse_apply(v, out);
    CHECK_EQUAL(g_count.load() - before, 0L);
  }
}

// Decision: page faults cost as much as the arithmetic, so a thread keeps its scratch memory. What is left are results.
TEST(ARepeatedStepTouchesNoFreshLargeMemory) {
  for (const Case& c : cases()) {
    const auto system = ArrowSystem::make(c.data.parts());
    SolveOptions options;
    options.num_threads = 1;
    newton_step(system, {0.5, 0.25}, options);
    const long before = g_large.load();
    newton_step(system, {0.5, 0.25}, options);
    CHECK_EQUAL(g_large.load() - before, 0L);
  }
}

// The factor is kept and the ridge stays: ten more iterations of a fit allocate nothing.
TEST(AnIterateOfTheInnerLoopAllocatesNothing) {
  const auto data = support::definite(std::vector<Index>(200, 3), 96, 1);
  ResidentWorkspace workspace = ResidentWorkspace::from_system(ArrowSystem::make(data.parts()));
  InnerOptions options;
  options.solve.num_threads = 1;
  options.solve.mode = Mode::direct;
  options.initial_ridge_t = options.initial_ridge_beta = 20.0;
  options.lm_shrink = 1.0;
  const auto made = [&](int iterations) {
    options.max_iterations = iterations;
    return count([&] { CHECK_EQUAL(workspace.fit(options).iterations, iterations); });
  };
  made(12);
  CHECK_EQUAL(made(12), made(2));
}

#ifdef SEES_BUFFERS
TEST(WithoutACacheScratchMemoryIsReturned) {
  const Index limit = workspace_cache_bytes();
  set_workspace_cache_bytes(0);
  clear_workspaces();
  const auto data = support::definite(std::vector<Index>(100, 2), 700, 2);
  const auto system = ArrowSystem::make(data.parts());
  newton_step(system);
  const long before = g_large.load();
  newton_step(system);
  CHECK(g_large.load() > before);
  set_workspace_cache_bytes(limit);
}
#endif

CHECK_MAIN()
