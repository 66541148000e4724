// Factor once, solve many.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur {

// Which of the two coherent operators a primitive speaks about: H with the factor's ridges (row lifts included), or H
// with ridges 0 under the rules of evidence mode, built on first use. The two are the same object when the ridges are 0
// and no row was lifted. No primitive mixes them.
enum class FactorSet { step, evidence };

struct LogDetParts {
  double rows = 0.0, border = 0.0;
};
struct PivotRange {
  double rows, border, both;  // NaN where a part is empty
};
struct ConditionEstimate {
  double rows, border;  // as the guards use them
};

// Gradients of a scalar function of x = H^-1 w (vjp) or of log det H (log_det_vjp), part by part.
struct SystemGradient {
  std::vector<double> h_tt;    // as h_tt: [n, d, d] or flat blocks, symmetric
  std::vector<double> h_tb;    // [T, k]; for a block-sparse cross block: its values, in the system's pattern
  std::vector<double> h_bb;    // [k, k] symmetric; see border_gradient for structured borders
  std::vector<double> w_t, w_beta;
  double ridge_t = 0.0, ridge_beta = 0.0;
};

// Owns the row factors, the border factor (and S itself, in the other triangle of the same buffer) and a reference to
// the system. Thread safety: immutable; every method may be called from several threads at once (the evidence set is
// built once under a lock; scratch is per thread).
//
// Right-hand sides: w_t is [T, m] and w_beta [k, m], row-major, m >= 1.
class ArrowFactor {
 public:
  struct Impl;
  explicit ArrowFactor(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  const ArrowSystem& system() const noexcept;
  Ridges ridges() const noexcept;  // spans into the factor
  const SolveDiagnostics& diagnostics() const noexcept;
  Route route() const noexcept;
  Index nbytes() const noexcept;
  std::uint64_t fingerprint() const;                  // of the system that was factored
  bool matches(const ArrowSystem& other) const;       // same content hash

  // x = H^-1 w. No allocation after the first call of a thread for a given m. x may be w.
  void solve(std::span<const double> w_t, std::span<const double> w_beta, std::span<double> x_t,
             std::span<double> x_beta, Index m = 1, FactorSet set = FactorSet::step) const;
  // -H^-1 g with certificate; the system's own gradient by default. Equals newton_step() bit for bit.
  NewtonStep step() const;
  NewtonStep step(std::span<const double> g_t, std::span<const double> g_beta) const;

  double log_det(FactorSet = FactorSet::step) const;
  LogDetParts log_det_parts(FactorSet = FactorSet::step) const;

  void schur_apply(std::span<const double> v, std::span<double> out, Index m = 1,
                   FactorSet = FactorSet::step) const;                                    // out = S v
  void border_inverse_apply(std::span<const double> v, std::span<double> out, Index m = 1,
                            FactorSet = FactorSet::step) const;                           // out = S^-1 v
  // Principal sub-block [cols, cols] of (H^-1)_bb = S^-1, exactly symmetric. Empty cols: all of it.
  void border_inverse_block(std::span<const Index> cols, std::span<double> out, FactorSet = FactorSet::step) const;
  void border_inverse_diagonal(std::span<double> out, FactorSet = FactorSet::step) const;  // [k]

  void latent_inverse_diagonal(std::span<double> out, FactorSet = FactorSet::step) const;  // [T]
  // Blocks (i, i) of (H^-1)_tt for the given rows, one after another, d_i x d_i each. Empty rows: all.
  void latent_inverse_blocks(std::span<const Index> rows, std::span<double> out, FactorSet = FactorSet::step) const;
  // Block (i, beta) of H^-1, [d_i, k].
  void cross_inverse_block(Index i, std::span<double> out, FactorSet = FactorSet::step) const;

  // Implicit-function prediction delta_t = -A^-1 (B delta_beta + delta_g_t), evidence set. delta_g_t may be empty.
  void predict(std::span<const double> delta_beta, std::span<const double> delta_g_t, std::span<double> delta_t) const;
  // m draws from N(0, H^-1): x_t [T, m], x_beta [k, m]. Counter-based: same seed, same bits, any thread count.
  void sample(Index m, std::uint64_t seed, std::span<double> x_t, std::span<double> x_beta,
              FactorSet = FactorSet::step) const;

  SystemGradient vjp(std::span<const double> x_t, std::span<const double> x_beta, std::span<const double> c_t,
                     std::span<const double> c_beta, Index m = 1, FactorSet = FactorSet::step) const;
  SystemGradient log_det_vjp(FactorSet = FactorSet::step) const;

  PivotRange min_pivot(FactorSet = FactorSet::step) const;  // smallest squared factor diagonal
  PivotRange max_pivot(FactorSet = FactorSet::step) const;
  ConditionEstimate condition_estimate(FactorSet = FactorSet::step) const;

  // Row factors and W'W are reused when only ridge_beta changes; everything when neither does.
  ArrowFactor update_ridges(const Ridges&) const;

 private:
  std::shared_ptr<const Impl> impl_;
};

// Throws as newton_step().
ArrowFactor factorize(const ArrowSystem&, const Ridges& = {}, const SolveOptions& = {});

}  // namespace arrowschur
