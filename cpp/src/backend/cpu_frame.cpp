#include "backend/cpu_frame.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/counters.hpp"
#include "border/trust_region.hpp"
#include "eliminate/expand.hpp"
#include "eliminate/reduce.hpp"
#include "eliminate/row_access.hpp"
#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "linalg/products.hpp"

namespace arrowschur::backend {
namespace {

using eliminate::RowRun;
using eliminate::with_storage;
using linalg::Buffer;

constexpr Index kSlabRows = 256;   // rows of h_tb per BLAS call
constexpr Index kSlabCols = 192;   // columns of h_tb per task of the transposed product

bool large(Index entries) { return entries >= linalg::kParallelWork; }

// Rows [begin, end) and columns [col, col + width) of h_tb in float64: in place, or converted into `scratch`.
struct Slab {
  const double* data;
  Index ld;
};
Slab slab(const ArrowSystem& s, Index begin, Index end, Index col, Index width, Buffer<double>& scratch) {
  const Index k = s.k();
  if (s.dtype() == DType::float64) return {static_cast<const double*>(s.h_tb()) + begin * k + col, k};
  const float* from = static_cast<const float*>(s.h_tb()) + begin * k + col;
  if (scratch.size() < (end - begin) * width) scratch = Buffer<double>((end - begin) * width);
  for (Index r = 0; r < end - begin; ++r) {
    for (Index j = 0; j < width; ++j) scratch[r * width + j] = static_cast<double>(from[r * k + j]);
  }
  return {scratch.data(), width};
}

// x = B' y at memory speed: groups of whole rows, fixed by the shape, each with a partial of its own; few rows at a time,
// so that the hardware follows their streams.
void cross_transpose_vector(const ArrowSystem& s, const double* y, double* x) {
  constexpr Index kRowsAtOnce = 8;
  const Index k = s.k(), t = s.total_dim();
  const Index groups = std::clamp<Index>(t * k / linalg::kParallelWork, 1, std::min<Index>(32, t));
  Buffer<double> partial(groups * k);
  linalg::parallel_for_if(groups > 1, groups, [&](Index g) {
    double* own = partial.data() + g * k;
    std::fill(own, own + k, 0.0);
    with_storage(s.dtype(), s.h_tb(), [&](const auto* b) {
      using In = std::remove_cvref_t<decltype(*b)>;
      const auto& data = linalg::kernels().data<In>();
      const Index end = t * (g + 1) / groups;
      for (Index r = t * g / groups; r < end; r += kRowsAtOnce) {
        data.rows_axpy(std::min(kRowsAtOnce, end - r), k, b + r * k, k, y + r, own, nullptr);
      }
    });
  });
  linalg::sum_partials(k, groups, k, partial.data(), x);
}

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
  if (row_end <= row_begin || m == 0) return;
  const Index k = system_.k(), base = system_.row_offset(row_begin);
  const Index rows = system_.row_offset(row_end - 1) + system_.row_dim(row_end - 1) - base;
  if (k == 0) return std::fill(y, y + rows * m, 0.0);
  const bool many = m >= linalg::kManyColumns;
  const linalg::PackedColumns columns(many ? k : 0, many ? m : 0, x);
  linalg::parallel_for_if(large(rows * k * m), (rows + kSlabRows - 1) / kSlabRows, [&](Index b) {
    const Index begin = b * kSlabRows, end = std::min(rows, begin + kSlabRows);
    if (m == 1) {
      with_storage(system_.dtype(), system_.h_tb(), [&](const auto* data) {
        using In = std::remove_cvref_t<decltype(*data)>;
        linalg::kernels().data<In>().rows_dot(end - begin, k, data + (base + begin) * k, k, x, y + begin, nullptr);
      });
      return;
    }
    Buffer<double> scratch;
    const Slab part = slab(system_, base + begin, base + end, 0, k, scratch);
    if (many) return linalg::multiply_rows(end - begin, k, part.data, part.ld, columns, y + begin * m);
    // Row-major Y = B X is Y' = X' B' column-major.
    linalg::blas_table<double>().gemm('N', 'N', m, end - begin, k, 1.0, x, m, part.data, part.ld, 0.0, y + begin * m,
                                      m);
  });
}

template <class T>
void CpuFrame<T>::cross_transpose(const double* y, double* x, Index m) const {
  const Index k = system_.k(), t = system_.total_dim();
  std::fill(x, x + k * m, 0.0);
  if (m == 0 || t == 0) return;
  if (m == 1) return cross_transpose_vector(system_, y, x);
  // Tasks own columns of B and add all rows in order.
  const bool many = m >= linalg::kManyColumns;
  const linalg::PackedStrips strips(many ? t : 0, many ? m : 0, y);
  linalg::parallel_for_if(large(t * k * m), (k + kSlabCols - 1) / kSlabCols, [&](Index b) {
    const Index col = b * kSlabCols, width = std::min(kSlabCols, k - col);
    Buffer<double> scratch;
    const Index step = system_.dtype() == DType::float64 ? t : 4 * kSlabRows;
    for (Index begin = 0; begin < t; begin += step) {
      const Index end = std::min(t, begin + step);
      const Slab part = slab(system_, begin, end, col, width, scratch);
      if (many) {
        linalg::multiply_transposed(end - begin, width, part.data, part.ld, strips, begin, x + col * m);
        continue;
      }
      // X[cols] += B[:, cols]' Y is X' += Y' B column-major.
      linalg::blas_table<double>().gemm('N', 'T', m, width, end - begin, 1.0, y + begin * m, m, part.data, part.ld, 1.0,
                                        x + col * m, m);
    }
  });
}

template <class T>
void CpuFrame<T>::cross_block(Index row_begin, Index row_end, double* out) const {
  if (row_end <= row_begin) return;
  const Index k = system_.k(), base = system_.row_offset(row_begin);
  const Index rows = system_.row_offset(row_end - 1) + system_.row_dim(row_end - 1) - base;
  with_storage(system_.dtype(), system_.h_tb(),
               [&](const auto* data) { std::copy(data + base * k, data + (base + rows) * k, out); });
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
