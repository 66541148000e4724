// The CPU frame of every route and cross-block form that CpuFrame does not carry: row factors in float64, the whitened
// cross block in its own form, and a border solver (dense, sparse, low-rank or iterative).
#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "border/solver.hpp"
#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"
#include "eliminate/whitened.hpp"

namespace arrowschur::backend {

class StructuredFrame final : public Frame {
 public:
  StructuredFrame(ArrowSystem system, const SolveOptions& options, const SolvePlan& plan);

  RowReport factor_rows(const Ridges&, const RowPolicy&) override;
  void reduce() override;
  BorderReport factor_border(const Ridges&, Guards, bool evidence) override;
  std::unique_ptr<Frame> with_rows_of_this() const override;

  void own_reduction(double* wu) const override;
  void reduce_rhs(const double* w_t, double* wu) const override;
  void solve_border(double* x, Index m, BorderAccount* account) const override;
  void step_border(double* x, const TrustRegionOptions&, BorderAccount&) const override;
  bool exact_border() const noexcept override { return solver_->exact(); }
  Index root_rows() const override { return solver_->root_rows(); }
  bool root_is_lower() const noexcept override { return solver_->root_is_lower(); }
  void border_root(const double* x, double* z, Index m) const override { solver_->root(x, z, m); }
  void border_root_transpose(const double* z, double* x, Index m) const override { solver_->root_transpose(z, x, m); }
  bool latent_blocks(std::span<const Index> rows, double* out) const override;
  bool latent_blocks_cheap() const noexcept override { return solver_->latent_blocks_cheap(); }
  void schur_apply(const double* x, double* y, Index m) const override;
  void expand(const double* g_t, const double* db, double* dt, ExpandOutputs* out) const override;
  void solve_rows(Part, Index row_begin, Index row_end, double* x, Index m) const override;
  void cross_apply(Index row_begin, Index row_end, const double* x, double* y, Index m) const override;
  void cross_transpose(const double* y, double* x, Index m) const override;
  void cross_block(Index row_begin, Index row_end, double* out) const override;

  double log_det_rows() const override { return rows_->log_det(); }
  double log_det_border() const override { return solver_->log_det(); }
  void row_pivots(double& smallest, double& largest) const override { rows_->pivots(smallest, largest); }
  void border_pivots(double& smallest, double& largest) const override { solver_->pivots(smallest, largest); }
  Index nbytes() const override;

 private:
  SolveOptions options_;
  SolvePlan plan_;
  eliminate::Partition partition_;
  // Shared by frames that differ in ridge_beta only: w_ and the solvers keep references to the first two.
  std::shared_ptr<const ArrowSystem> shared_system_;
  std::shared_ptr<eliminate::RowFactors<double>> rows_;
  std::shared_ptr<const eliminate::Whitened> w_;
  std::unique_ptr<border::Solver> solver_;
  linalg::Buffer<double> own_reduction_;  // [k]
};

}  // namespace arrowschur::backend
