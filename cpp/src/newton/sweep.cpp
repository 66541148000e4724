#include "arrowschur/sweep.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "arrowschur/error.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/threads.hpp"
#include "linalg/blas.hpp"
#include "linalg/pool.hpp"
#include "newton/inner_loop.hpp"
#include "newton/workspace_device.hpp"
#include "plan/device_mode.hpp"
#include "plan/memory.hpp"

namespace arrowschur {
namespace {

using Workspaces = std::span<ResidentWorkspace* const>;

void check_sweep(Workspaces workspaces, const InnerOptions& options, const SweepOptions& sweep) {
  newton::check_inner_options(options);
  if (sweep.max_concurrent < 0) {
    throw InvalidArgument("max_concurrent", std::to_string(sweep.max_concurrent), "an integer >= 0 (0: no bound)");
  }
  std::set<const ResidentWorkspace*> seen;
  for (std::size_t i = 0; i < workspaces.size(); ++i) {
    const std::string name = "workspaces[" + std::to_string(i) + "]";
    if (workspaces[i] == nullptr) throw InvalidArgument(name, "none", "a workspace");
    if (!seen.insert(workspaces[i]).second) {
      throw InvalidArgument(name, "a workspace that is in the list already", "distinct workspaces");
    }
  }
}

// One thread per fit, in both arms: who else runs must not reach a result.
InnerOptions alone(InnerOptions options) {
  options.solve.num_threads = 1;
  return options;
}

InnerFit run_one(ResidentWorkspace& workspace, Runner runner, const InnerOptions& options) {
  switch (runner) {
    case Runner::device:
      return workspace.device_fit(options);
    case Runner::cpu_reference:
      return workspace.cpu_reference_fit(options);
    case Runner::fit:
      break;
  }
  return workspace.fit(options);
}

// A fit or its error. Interrupted is not the fit's: it ends the sweep. Factors are not left behind, so that a sweep holds
// those of the fits under way only.
FitResult captured(ResidentWorkspace& workspace, Runner runner, const InnerOptions& options) {
  const policy::OwnSizeScope alone_in_its_choice;
  FitResult result;
  try {
    result.fit = run_one(workspace, runner, options);
  } catch (const Interrupted&) {
    workspace.release_factors();
    throw;
  } catch (...) {
    result.error = std::current_exception();
  }
  workspace.release_factors();
  return result;
}

// Bytes that one fit holds at its peak; 0 when there is no plan, which the fit will say itself.
Index bytes_per_fit(const ResidentWorkspace& workspace, Runner runner, const InnerOptions& options) {
  const ArrowSystem& s = workspace.system();
  if (runner == Runner::device) return newton::device_bytes_of_a_fit(s, options.solve);
  if (runner == Runner::cpu_reference) {
    const double size = static_cast<double>(s.total_dim() + s.k());
    return static_cast<Index>(std::min(8.0 * size * size, 9e18));
  }
  try {
    SolveOptions host = options.solve;
    host.device = Device::off;
    return plan(s, host, PlanPurpose::factor).peak_bytes;
  } catch (const ArrowError&) {
    return 0;
  }
}

Index cores() { return static_cast<Index>(std::max(1u, std::thread::hardware_concurrency())); }

// Plans every fit, which also warms what the process does once (profile, BLAS) before a worker could.
Index worker_count(Workspaces workspaces, const InnerOptions& options, const SweepOptions& sweep) {
  linalg::blas();
  Index most = 0;
  for (const ResidentWorkspace* w : workspaces) most = std::max(most, bytes_per_fit(*w, sweep.runner, options));
  Index workers =
      std::min(static_cast<Index>(workspaces.size()), sweep.max_concurrent > 0 ? sweep.max_concurrent : cores());
  const Index budget = sweep.runner == Runner::device ? newton::device_budget(options.solve) : machine_budget();
  if (most > 0) workers = std::min(workers, budget / most);
  return std::max<Index>(workers, 1);
}

// What workers and the calling thread share. Each result is written by one worker and read after the join.
class Multiplexer {
 public:
  Multiplexer(Workspaces workspaces, const InnerOptions& options, const SweepOptions& sweep,
              std::vector<FitResult>& results)
      : workspaces_(workspaces), options_(options), sweep_(sweep), results_(results) {}

  void run(Index workers) {
    std::vector<std::thread> threads;
    try {
      for (Index i = 0; i < workers; ++i) threads.emplace_back([this] { work(); });
      watch();
    } catch (...) {
      stop_.store(true);
      for (std::thread& thread : threads) thread.join();
      throw;
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  void work() {
    const linalg::ThreadScope one(1);
    const InterruptScope stopping([](void* self) { return static_cast<Multiplexer*>(self)->stop_.load(); }, this);
    while (!stop_.load()) {
      const std::size_t i = next_.fetch_add(1);
      if (i >= workspaces_.size()) return;
      try {
        results_[i] = captured(*workspaces_[i], sweep_.runner, options_);
      } catch (const Interrupted&) {
        return;
      }
      const std::lock_guard lock(mutex_);
      ++finished_;
      changed_.notify_one();
    }
  }

  // On the calling thread: its interrupts, and progress after each fit.
  void watch() {
    const auto total = static_cast<Index>(workspaces_.size());
    for (Index told = 0; told < total;) {
      linalg::poll_interrupt();
      std::unique_lock lock(mutex_);
      if (!changed_.wait_for(lock, std::chrono::milliseconds(20), [&] { return finished_ > told; })) continue;
      lock.unlock();
      ++told;
      if (sweep_.progress && !sweep_.progress(told, total)) throw Interrupted();
    }
  }

  Workspaces workspaces_;
  const InnerOptions& options_;
  const SweepOptions& sweep_;
  std::vector<FitResult>& results_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  Index finished_ = 0;
};

// The sweep around its timed part.
template <class Run>
SweepResult timed(Workspaces workspaces, Run&& run) {
  SweepResult out;
  out.results.resize(workspaces.size());
  const auto start = std::chrono::steady_clock::now();
  run(out.results);
  out.throughput.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out.throughput.fits = static_cast<Index>(workspaces.size());
  out.throughput.succeeded = static_cast<Index>(
      std::count_if(out.results.begin(), out.results.end(), [](const FitResult& r) { return r.succeeded(); }));
  return out;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool same_bits(const InnerFit& a, const InnerFit& b) {
  return same_bits(a.t, b.t) && same_bits(a.beta, b.beta) &&
         std::memcmp(&a.objective, &b.objective, sizeof a.objective) == 0;
}

}  // namespace

double SweepThroughput::fits_per_second() const noexcept {
  return static_cast<double>(fits) / std::max(wall_seconds, 1e-9);
}

SweepResult run_fits_multiplexed(Workspaces workspaces, const InnerOptions& options, const SweepOptions& sweep) {
  check_sweep(workspaces, options, sweep);
  const InnerOptions one = alone(options);
  const Index workers = worker_count(workspaces, one, sweep);
  if (sweep.runner == Runner::device) newton::make_lanes(workers);  // not within the time of the first fits
  return timed(workspaces,
               [&](std::vector<FitResult>& results) { Multiplexer(workspaces, one, sweep, results).run(workers); });
}

SweepResult run_fits_sequential(Workspaces workspaces, const InnerOptions& options, const SweepOptions& sweep) {
  check_sweep(workspaces, options, sweep);
  const InnerOptions one = alone(options);
  const linalg::ThreadScope threads(1);
  if (sweep.runner == Runner::device) newton::make_lanes(1);
  return timed(workspaces, [&](std::vector<FitResult>& results) {
    for (std::size_t i = 0; i < workspaces.size(); ++i) {
      linalg::poll_interrupt();
      results[i] = captured(*workspaces[i], sweep.runner, one);
      const bool go_on =
          !sweep.progress || sweep.progress(static_cast<Index>(i) + 1, static_cast<Index>(workspaces.size()));
      if (!go_on) throw Interrupted();
    }
  });
}

std::optional<std::size_t> first_difference(std::span<const FitResult> a, std::span<const FitResult> b) {
  if (a.size() != b.size()) {
    throw InvalidArgument("results", std::to_string(a.size()) + " and " + std::to_string(b.size()) + " fits",
                          "as many in both");
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].succeeded() != b[i].succeeded()) return i;
    if (a[i].succeeded() && !same_bits(*a[i].fit, *b[i].fit)) return i;
  }
  return std::nullopt;
}

}  // namespace arrowschur
