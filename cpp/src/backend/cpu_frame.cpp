#include "backend/cpu_frame.hpp"

#include <algorithm>

#include "backend/counters.hpp"
#include "border/trust_region.hpp"
#include "eliminate/expand.hpp"
#include "eliminate/reduce.hpp"
#include "eliminate/row_access.hpp"
#include "system/cross.hpp"

namespace arrowschur::backend {
namespace {

using eliminate::with_storage;
using linalg::Buffer;

}  // namespace

template <class T>
CpuFrame<T>::CpuFrame(ArrowSystem system)
    : Frame(std::move(system)),
      partition_(eliminate::Partition::make(system_)),
      rows_(std::make_shared<eliminate::RowFactors<T>>()) {}

template <class T>
RowReport CpuFrame<T>::factor_rows(const Ridges& ridges, const RowPolicy& policy) {
  return eliminate::factor_rows(system_, partition_, ridges, policy, *rows_);
}

template <class T>
void CpuFrame<T>::reduce() {
  schur_ = border::SchurFactor<T>(system_.k());
  own_reduction_ = Buffer<double>(system_.k());
  Buffer<double> g(system_.total_dim());
  with_storage(system_.dtype(), system_.g_t(), [&](const auto* data) { std::copy(data, data + g.size(), g.data()); });
  eliminate::reduce(system_, partition_, *rows_, g.data(), schur_.matrix(), own_reduction_.data());
  schur_.keep_schur();
}

template <class T>
BorderReport CpuFrame<T>::factor_border(const Ridges& ridges, Guards guards, bool evidence) {
  const Index k = system_.k();
  Buffer<double> shift(k), diagonal(k);
  std::fill(shift.begin(), shift.end(), ridges.beta);
  for (std::size_t j = 0; j < ridges.damping_beta.size(); ++j) shift[static_cast<Index>(j)] += ridges.damping_beta[j];
  std::fill(diagonal.begin(), diagonal.end(), 0.0);
  system_.border().diagonal_add({diagonal.data(), static_cast<std::size_t>(k)});
  count_route(Route::direct, false);
  return schur_.factor(shift.data(), diagonal.data(), guards, evidence, ridges.beta);
}

template <class T>
std::unique_ptr<Frame> CpuFrame<T>::with_rows_of_this() const {
  auto copy = std::make_unique<CpuFrame<T>>(system_);
  copy->rows_ = rows_;
  copy->schur_ = schur_.unfactored_copy();
  copy->own_reduction_ = Buffer<double>(system_.k());
  std::copy(own_reduction_.data(), own_reduction_.data() + system_.k(), copy->own_reduction_.data());
  return copy;
}

template <class T>
void CpuFrame<T>::own_reduction(double* wu) const {
  std::copy(own_reduction_.data(), own_reduction_.data() + system_.k(), wu);
}

template <class T>
void CpuFrame<T>::reduce_rhs(const double* w_t, double* wu) const {
  eliminate::reduce_rhs(system_, partition_, *rows_, w_t, wu);
}

template <class T>
void CpuFrame<T>::solve_border(double* x, Index m, BorderAccount*) const {
  schur_.solve(Part::full, x, m);
}

template <class T>
void CpuFrame<T>::step_border(double* x, const TrustRegionOptions& trust, BorderAccount& account) const {
  border::step_within(
      system_.k(), x, trust, account, [&](double* y) { schur_.solve(Part::full, y, 1); },
      [&](const double* v, double* y) { schur_.apply(v, y, 1); });
}

template <class T>
void CpuFrame<T>::border_root(const double* x, double* z, Index m) const {
  if (z != x) std::copy(x, x + system_.k() * m, z);
  schur_.solve(Part::lower, z, m);
}

template <class T>
void CpuFrame<T>::border_root_transpose(const double* z, double* x, Index m) const {
  if (x != z) std::copy(z, z + system_.k() * m, x);
  schur_.solve(Part::upper, x, m);
}

template <class T>
void CpuFrame<T>::schur_apply(const double* x, double* y, Index m) const {
  schur_.apply(x, y, m);
}

template <class T>
void CpuFrame<T>::expand(const double* g_t, const double* db, double* dt, ExpandOutputs* out) const {
  eliminate::expand(system_, partition_, *rows_, g_t, db, dt, out);
}

template <class T>
void CpuFrame<T>::solve_rows(Part part, Index row_begin, Index row_end, double* x, Index m) const {
  eliminate::solve_rows(system_, partition_, *rows_, part, row_begin, row_end, x, m);
}

template <class T>
void CpuFrame<T>::cross_apply(Index row_begin, Index row_end, const double* x, double* y, Index m) const {
  if (row_end > row_begin && m > 0) cross::apply(system_, row_begin, row_end, x, y, m);
}

template <class T>
void CpuFrame<T>::cross_transpose(const double* y, double* x, Index m) const {
  if (system_.total_dim() == 0) return std::fill(x, x + system_.k() * m, 0.0);
  cross::transpose(system_, y, x, m);
}

template <class T>
void CpuFrame<T>::cross_block(Index row_begin, Index row_end, double* out) const {
  if (row_end > row_begin) cross::materialize(system_, row_begin, row_end, out, system_.k());
}

template <class T>
double CpuFrame<T>::log_det_rows() const {
  return rows_->log_det();
}

template <class T>
double CpuFrame<T>::log_det_border() const {
  return schur_.log_det();
}

template <class T>
void CpuFrame<T>::row_pivots(double& smallest, double& largest) const {
  rows_->pivots(smallest, largest);
}

template <class T>
void CpuFrame<T>::border_pivots(double& smallest, double& largest) const {
  schur_.pivots(smallest, largest);
}

template <class T>
Index CpuFrame<T>::nbytes() const {
  return rows_->nbytes() + schur_.nbytes() + own_reduction_.nbytes();
}

template class CpuFrame<double>;
template class CpuFrame<float>;

}  // namespace arrowschur::backend
