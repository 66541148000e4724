// The CPU backend: the stages of eliminate/ and border/ on one system, in float64 or float32 arithmetic.
#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "border/schur.hpp"
#include "eliminate/partition.hpp"
#include "eliminate/row_factor.hpp"

namespace arrowschur::backend {

template <class T>
class CpuFrame final : public Frame {
 public:
  explicit CpuFrame(ArrowSystem system);

  RowReport factor_rows(const Ridges&, const RowPolicy&) override;
  void reduce() override;
  BorderReport factor_border(const Ridges&, Guards, bool evidence) override;
  std::unique_ptr<Frame> with_rows_of_this() const override;

  void own_reduction(double* wu) const override;
  void reduce_rhs(const double* w_t, double* wu) const override;
  void solve_border(double* x, Index m, BorderAccount* account) const override;
  void step_border(double* x, const TrustRegionOptions&, BorderAccount&) const override;
  bool exact_border() const noexcept override { return true; }
  Index root_rows() const override { return system_.k(); }
  bool root_is_lower() const noexcept override { return true; }
  void border_root(const double* x, double* z, Index m) const override;
  void border_root_transpose(const double* z, double* x, Index m) const override;
  bool latent_blocks(std::span<const Index>, double*) const override { return false; }
  bool latent_blocks_cheap() const noexcept override { return false; }
  void schur_apply(const double* x, double* y, Index m) const override;
  void expand(const double* g_t, const double* db, double* dt, ExpandOutputs* out) const override;
  void solve_rows(Part, Index row_begin, Index row_end, double* x, Index m) const override;
  void cross_apply(Index row_begin, Index row_end, const double* x, double* y, Index m) const override;
  void cross_transpose(const double* y, double* x, Index m) const override;
  void cross_block(Index row_begin, Index row_end, double* out) const override;

  double log_det_rows() const override;
  double log_det_border() const override;
  void row_pivots(double& smallest, double& largest) const override;
  void border_pivots(double& smallest, double& largest) const override;
  Index nbytes() const override;

 private:
  eliminate::Partition partition_;
  std::shared_ptr<eliminate::RowFactors<T>> rows_;  // shared by frames that differ in ridge_beta only
  border::SchurFactor<T> schur_;
  linalg::Buffer<double> own_reduction_;  // [k]
};

}  // namespace arrowschur::backend
