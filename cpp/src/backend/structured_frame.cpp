#include "backend/structured_frame.hpp"

#include <algorithm>

#include "backend/counters.hpp"
#include "eliminate/expand.hpp"
#include "eliminate/row_access.hpp"
#include "linalg/ordered.hpp"
#include "system/cross.hpp"

namespace arrowschur::backend {
namespace {

using linalg::Buffer;

std::unique_ptr<border::Solver> make_solver(const border::SolverInputs& inputs) {
  switch (inputs.plan.route) {
    case Route::low_rank:
      return border::make_low_rank(inputs);
    case Route::inexact_pcg:
      return border::make_pcg(inputs);
    case Route::direct:
    case Route::sqrt_ba:
      break;
  }
  return inputs.plan.sparse_schur ? border::make_sparse(inputs) : border::make_dense(inputs);
}

bool float32_storage(const SolveOptions& options, const SolvePlan& plan) {
  return plan.route == Route::inexact_pcg && (options.pcg.float32_storage || options.precision == Precision::float32);
}

}  // namespace

StructuredFrame::StructuredFrame(ArrowSystem system, const SolveOptions& options, const SolvePlan& plan)
    : Frame(std::move(system)),
      options_(options),
      plan_(plan),
      partition_(eliminate::Partition::make(system_)),
      shared_system_(std::make_shared<const ArrowSystem>(system_)),
      rows_(std::make_shared<eliminate::RowFactors<double>>()) {}

RowReport StructuredFrame::factor_rows(const Ridges& ridges, const RowPolicy& policy) {
  return eliminate::factor_rows(system_, partition_, ridges, policy, *rows_);
}

void StructuredFrame::reduce() {
  const auto storage =
      float32_storage(options_, plan_) ? eliminate::WhitenedStorage::float32 : eliminate::WhitenedStorage::float64;
  // W'u = B' A^-1 g, as reduce_rhs() makes it.
  own_reduction_ = Buffer<double>(system_.k());
  Buffer<double> y(system_.total_dim());
  eliminate::with_storage(system_.dtype(), system_.g_t(), [&](const auto* g) { std::copy(g, g + y.size(), y.data()); });
  solve_rows(Part::full, 0, system_.n(), y.data(), 1);
  eliminate::TransposeAlong along{y.data(), own_reduction_.data()};
  w_ = eliminate::whiten(*shared_system_, *rows_, storage, &along);
  if (!along.done) cross_transpose(y.data(), own_reduction_.data(), 1);
  border::SolverInputs inputs;
  inputs.system = shared_system_.get();
  inputs.w = w_;
  inputs.options = options_;
  inputs.plan = plan_;
  inputs.chosen_by_plan = options_.mode == Mode::automatic;
  solver_ = make_solver(inputs);
}

BorderReport StructuredFrame::factor_border(const Ridges& ridges, Guards guards, bool evidence) {
  Buffer<double> shift(system_.k());
  std::fill(shift.begin(), shift.end(), ridges.beta);
  for (std::size_t j = 0; j < ridges.damping_beta.size(); ++j) shift[static_cast<Index>(j)] += ridges.damping_beta[j];
  const BorderReport report = solver_->factor(shift.data(), ridges.beta, guards, evidence);
  count_route(plan_.route, plan_.sparse_schur);
  return report;
}

std::unique_ptr<Frame> StructuredFrame::with_rows_of_this() const {
  auto copy = std::make_unique<StructuredFrame>(system_, options_, plan_);
  copy->shared_system_ = shared_system_;
  copy->rows_ = rows_;
  copy->w_ = w_;
  copy->solver_ = solver_->unfactored_copy();
  copy->own_reduction_ = Buffer<double>(system_.k());
  std::copy(own_reduction_.data(), own_reduction_.data() + system_.k(), copy->own_reduction_.data());
  return copy;
}

void StructuredFrame::own_reduction(double* wu) const {
  std::copy(own_reduction_.data(), own_reduction_.data() + system_.k(), wu);
}

// B' A^-1 w_t from the cross block itself, so that a W stored in float32 does not enter the right-hand side.
void StructuredFrame::reduce_rhs(const double* w_t, double* wu) const {
  Buffer<double> y(system_.total_dim());
  std::copy(w_t, w_t + system_.total_dim(), y.data());
  solve_rows(Part::full, 0, system_.n(), y.data(), 1);
  cross_transpose(y.data(), wu, 1);
}

void StructuredFrame::solve_border(double* x, Index m, BorderAccount* account) const {
  if (system_.k() > 0 && m > 0) solver_->solve(x, m, account);
}

void StructuredFrame::step_border(double* x, const TrustRegionOptions& trust, BorderAccount& account) const {
  if (system_.k() > 0) solver_->step(x, trust, account);
}

bool StructuredFrame::latent_blocks(std::span<const Index> rows, double* out) const {
  return solver_->latent_blocks(*rows_, rows, out);
}

void StructuredFrame::schur_apply(const double* x, double* y, Index m) const { solver_->apply(x, y, m); }

void StructuredFrame::expand(const double* g_t, const double* db, double* dt, ExpandOutputs* out) const {
  const Index t = system_.total_dim();
  if (std::holds_alternative<BlockSparseCross>(system_.cross()) && system_.is_uniform() && t > 0) {
    return eliminate::expand(system_, partition_, *rows_, g_t, db, dt, out);
  }
  const bool norms = out != nullptr && out->norms;
  Buffer<double> z(t), row_abs(norms ? t : 0);
  cross_apply(0, system_.n(), db, z.data(), 1);
  if (norms) out->norm_is_bound = cross::abs_sums(system_, row_abs.data(), out->col_abs);
  const eliminate::CrossProducts products{z.data(), norms ? row_abs.data() : nullptr};
  eliminate::expand(system_, partition_, *rows_, g_t, db, dt, out, &products);
  if (out != nullptr) cross_transpose(dt, out->cross_t, 1);
}

void StructuredFrame::solve_rows(Part part, Index row_begin, Index row_end, double* x, Index m) const {
  eliminate::solve_rows(system_, partition_, *rows_, part, row_begin, row_end, x, m);
}

void StructuredFrame::cross_apply(Index row_begin, Index row_end, const double* x, double* y, Index m) const {
  if (row_end > row_begin && m > 0) cross::apply(system_, row_begin, row_end, x, y, m);
}

void StructuredFrame::cross_transpose(const double* y, double* x, Index m) const {
  if (system_.total_dim() == 0) return std::fill(x, x + system_.k() * m, 0.0);
  cross::transpose(system_, y, x, m);
}

void StructuredFrame::cross_block(Index row_begin, Index row_end, double* out) const {
  if (row_end > row_begin) cross::materialize(system_, row_begin, row_end, out, system_.k());
}

Index StructuredFrame::nbytes() const {
  return rows_->nbytes() + (w_ ? w_->nbytes() : 0) + (solver_ ? solver_->nbytes() : 0) + own_reduction_.nbytes();
}

}  // namespace arrowschur::backend
