// Factors of one operator, kept by their pair of ridges, and the step provider that solves with them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrowschur/telemetry.hpp"
#include "backend/backend.hpp"
#include "newton/host_provider.hpp"

namespace arrowschur::newton {

// A frame at one pair of ridges, rows never lifted.
struct KeptFactor {
  double ridge_t = 0.0, ridge_beta = 0.0;
  std::unique_ptr<backend::Frame> frame;
  double log_det = 0.0, smallest_pivot = 0.0;  // NaN on an iterative border
  double kappa_schur = 0.0;
};

// What a request for a factor has led to. The factor stays valid until the next request.
struct FactorResult {
  const KeptFactor* factor = nullptr;  // null: the failure
  bool rows_failed = false;
  backend::RowReport rows;
  backend::BorderReport border;
  [[noreturn]] void raise() const;  // the failure as the exception of the public boundary
  std::string message() const;      // its text
};

// Up to SolveOptions::frame_cache_entries factors, the one that was used longest ago going first, within
// SolveOptions::memory_limit. A factor at a pair whose ridge_t is there already shares its rows and S_0, and costs one
// factorization of the border.
class FactorCache {
 public:
  explicit FactorCache(ArrowSystem system) : system_(std::move(system)) {}

  // Plans for these options; factors that other options have made are dropped. Throws as plan().
  void configure(const SolveOptions&);
  FactorResult get(double ridge_t, double ridge_beta);
  void clear() noexcept { factors_.clear(); }

  const SolvePlan& plan() const noexcept { return plan_; }
  const SolveOptions& options() const noexcept { return options_; }
  // Work since the counters were last taken; also counted for the process.
  Telemetry take_telemetry() { return std::exchange(telemetry_, {}); }
  void count(const Telemetry& work);

 private:
  using Factors = std::vector<KeptFactor>;  // most recently used first

  const KeptFactor* find(double ridge_t, double ridge_beta);
  std::unique_ptr<backend::Frame> frame_sharing_rows(double ridge_t) const;
  std::unique_ptr<backend::Frame> eliminate(double ridge_t, FactorResult&) const;
  void make_room();

  ArrowSystem system_;
  SolveOptions options_;
  SolvePlan plan_;
  bool configured_ = false;
  Factors factors_;
  Telemetry telemetry_;
};

// The production provider on the CPU.
class KeptFactorProvider final : public HostProvider {
 public:
  explicit KeptFactorProvider(const ArrowSystem& system) : HostProvider(system), cache_(system) {}

  FactorCache& cache() noexcept { return cache_; }
  double smallest_pivot() const override;
  double log_det() const override { return log_det_; }
  std::string last_failure() const override { return last_failure_; }
  Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) override;

 protected:
  Attempt::Outcome factor(double ridge_t, double ridge_beta) override;
  Attempt::Outcome solve(const Vector& rhs, Vector& x) override;

 private:
  FactorCache cache_;
  const KeptFactor* factor_ = nullptr;
  std::unique_ptr<backend::Frame> iterative_;  // in place of the factor's frame where the border is iterated on
  double log_det_ = 0.0;
  std::string last_failure_;
};

}  // namespace arrowschur::newton
