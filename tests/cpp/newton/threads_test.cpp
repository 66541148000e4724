// Thread counts, nesting, concurrent callers and interrupts, on the whole step.
#include <atomic>
#include <thread>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "arrowschur/newton.hpp"
#include "arrowschur/threads.hpp"
#include "backend/backend.hpp"
#include "check.hpp"
#include "linalg/pool.hpp"
#include "newton/support.hpp"

using namespace arrowschur;

namespace {

struct Result {
  std::vector<double> delta_t, delta_beta, schur, h_t, h_beta, predicted, solved_t, solved_beta, reduced;
  double log_det = 0.0, backward_error = 0.0;
  bool operator==(const Result&) const = default;
};

// Bits of every stage: step and certificate, W'u, S x, H x, the expansion at a given border step, a solve.
Result everything(const ArrowSystem& system, std::optional<int> threads = {}) {
  SolveOptions options;
  options.num_threads = threads;
  const auto x_t = support::random_vector(system.total_dim(), 1), x_beta = support::random_vector(system.k(), 2);
  Result r;
  const NewtonStep step = newton_step(system, {0.25, 0.5}, options);
  r.delta_t = step.delta_t;
  r.delta_beta = step.delta_beta;
  r.backward_error = step.diagnostics.backward_error;
  const linalg::ThreadScope scope(threads);
  const ArrowFactor factor = factorize(system, {0.25, 0.5}, options);
  r.log_det = factor.log_det();
  r.schur.resize(x_beta.size());
  factor.schur_apply(x_beta, r.schur);
  r.h_t.resize(x_t.size());
  r.h_beta.resize(x_beta.size());
  system.apply(x_t, x_beta, r.h_t, r.h_beta);
  r.predicted.resize(x_t.size());
  factor.predict(x_beta, x_t, r.predicted);
  r.solved_t.resize(x_t.size());
  r.solved_beta.resize(x_beta.size());
  factor.solve(x_t, x_beta, r.solved_t, r.solved_beta);
  const auto frame = backend::choose_backend(Device::automatic).make_frame(system, options, plan(system, options));
  REQUIRE(frame->factor_rows({0.25, 0.5}, {}).ok);
  frame->reduce();
  r.reduced.resize(x_beta.size());
  frame->own_reduction(r.reduced.data());
  return r;
}

std::vector<support::OwnedSystem> systems() {
  std::vector<support::OwnedSystem> all;
  all.push_back(support::definite(std::vector<Index>(320, 6), 96, 1));   // below the size that goes parallel
  all.push_back(support::definite(std::vector<Index>(600, 6), 96, 2));   // thin border
  all.push_back(support::definite(std::vector<Index>(200, 3), 700, 3));  // wide border
  all.push_back(support::definite(support::mixed_dims(2000), 64, 4));    // ragged
  return all;
}

}  // namespace

// T28
TEST(BitsDoNotDependOnTheNumberOfThreads) {
  for (const auto& data : systems()) {
    const auto system = ArrowSystem::make(data.parts());
    const Result one = everything(system, 1);
    for (const int threads : {2, 3, 4}) CHECK(everything(system, threads) == one);
  }
}

// T28
TEST(BitsDoNotDependOnAnEnclosingParallelRegion) {
  for (const auto& data : systems()) {
    const auto system = ArrowSystem::make(data.parts());
    const Result alone = everything(system, 2);
    std::vector<Result> nested(4);
    const linalg::ThreadScope scope(3);
    linalg::parallel_for(4, [&](Index task) { nested[static_cast<std::size_t>(task)] = everything(system, 2); });
    for (const Result& r : nested) CHECK(r == alone);
  }
}

TEST(BitsDoNotDependOnConcurrentCallers) {
  for (const auto& data : systems()) {
    const auto system = ArrowSystem::make(data.parts());
    const Result alone = everything(system);
    std::vector<Result> results(4);
    std::vector<std::thread> callers;
    for (Result& r : results) callers.emplace_back([&] { r = everything(system); });
    for (std::thread& caller : callers) caller.join();
    for (const Result& r : results) CHECK(r == alone);
  }
}

TEST(OneFactorServesManyThreads) {
  const auto data = support::definite(std::vector<Index>(300, 4), 64, 5);
  const auto system = ArrowSystem::make(data.parts());
  const ArrowFactor factor = factorize(system, {0.5, 0.25});
  const double expected = factorize(system, {0.5, 0.25}).log_det(FactorSet::evidence);
  std::vector<double> first(static_cast<std::size_t>(system.total_dim())), beta(64);
  factorize(system, {0.5, 0.25}).solve(data.g_t, data.g_beta, first, beta);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      std::vector<double> x_t(first.size()), x_beta(64);
      for (int repeat = 0; repeat < 10; ++repeat) {
        // The evidence set is built by whoever comes first; the fingerprint too.
        if (factor.log_det(FactorSet::evidence) != expected || !factor.matches(system)) ++wrong;
        factor.solve(data.g_t, data.g_beta, x_t, x_beta);
        if (x_t != first || x_beta != beta) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQUAL(wrong.load(), 0);
}

// T09
TEST(TheLowestFailingRowIsReportedByAnyNumberOfThreads) {
  auto data = support::definite(std::vector<Index>(3000, 2), 64, 6);
  for (const Index row : {1777, 2950}) data.h_tt[static_cast<std::size_t>(row * 4)] = -1.0;
  const auto system = ArrowSystem::make(data.parts());
  for (int threads = 1; threads <= 8; ++threads) {
    SolveOptions options;
    options.num_threads = threads;
    options.tolerate_ill_conditioning = true;
    bool thrown = false;
    try {
      factorize(system, {}, options);
    } catch (const RowFactorError& error) {
      thrown = true;
      CHECK_EQUAL(error.facts.row, Index{1777});
      CHECK_EQUAL(error.facts.pivot_index, Index{0});
      CHECK_EQUAL(error.facts.pivot, -1.0);
    }
    CHECK(thrown);
  }
}

TEST(AnInterruptedCallLeavesTheObjectsValid) {
  const auto data = support::definite(std::vector<Index>(2000, 4), 900, 7);
  const auto system = ArrowSystem::make(data.parts());
  for (const int threads : {1, 2}) {
    SolveOptions options;
    options.num_threads = threads;
    const NewtonStep expected = newton_step(system, {}, options);
    // Stop at the first, second, ... question, until a call is too short to be asked that often.
    int interrupted = 0;
    for (int patience = 0; patience < 3; ++patience) {
      int left = patience;
      const InterruptScope scope([](void* context) { return (*static_cast<int*>(context))-- <= 0; }, &left);
      try {
        newton_step(system, {}, options);
      } catch (const Interrupted&) {
        ++interrupted;
      }
    }
    CHECK(interrupted >= 1);
    const NewtonStep again = newton_step(system, {}, options);
    CHECK(again.delta_t == expected.delta_t);
    CHECK(again.delta_beta == expected.delta_beta);
  }
}

CHECK_MAIN()
