#include "border/sparse_factor.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/spin.hpp"

namespace arrowschur::border {
namespace {

using backend::Part;
using linalg::Buffer;

constexpr double kParallelFlops = 4e6;

const linalg::BlasTable<double>& blas() { return linalg::blas_table<double>(); }

}  // namespace

SparseFactor::SparseFactor(std::shared_ptr<const FactorPattern> pattern) : pattern_(std::move(pattern)) {
  const FactorPattern& f = *pattern_;
  panel_of_.resize(f.order.size());
  row_at_.resize(f.rows.size());
  std::vector<Index> count(at(panels()) + 1, 0);
  const auto each_update = [&](auto&& visit) {
    for (Index p = 0; p < panels(); ++p) {
      for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1];) {
        const Index target = panel_of_[at(f.rows[at(e)])];
        Index end = e;
        while (end < f.row_ptr[at(p) + 1] && panel_of_[at(f.rows[at(end)])] == target) ++end;
        visit(p, target, e, end);
        e = end;
      }
    }
  };
  for (Index p = 0; p < panels(); ++p) {
    for (Index b = f.panel_ptr[at(p)]; b < f.panel_ptr[at(p) + 1]; ++b) panel_of_[at(b)] = p;
    Index row = width(p);
    bool contiguous = true;
    for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1]; ++e) {
      row_at_[at(e)] = row;
      row += block_width(f.rows[at(e)]);
      contiguous = contiguous && (e == f.row_ptr[at(p)] || f.rows[at(e)] == f.rows[at(e - 1)] + 1);
    }
    height_.push_back(row);
    contiguous_.push_back(contiguous);
    most_below_ = std::max(most_below_, row - width(p));
    widest_ = std::max(widest_, width(p));
  }
  each_update([&](Index, Index target, Index, Index) { ++count[at(target) + 1]; });
  for (Index p = 0; p < panels(); ++p) count[at(p) + 1] += count[at(p)];
  update_ptr_ = count;
  updates_.resize(at(count.back()));
  each_update(
      [&](Index p, Index target, Index begin, Index end) { updates_[at(count[at(target)]++)] = {p, begin, end}; });
}

// panel p -= L_from[rows from row_begin on] L_from[rows in p]'
void SparseFactor::update(Index p, Index from, Index row_begin, Index row_end, const Index* position) {
  const FactorPattern& f = *pattern_;
  const Index all_end = f.row_ptr[at(from) + 1];
  const Index top = row_at_[at(row_begin)], ld = width(from);
  const Index rows = height(from) - top, cols = (row_end < all_end ? row_at_[at(row_end)] : height(from)) - top;
  const double* l = panel(from) + top * ld;
  if (rows == height(p)) {  // the same rows: a piece of one supernode, or its only child
    return blas().gemm('T', 'N', cols, rows, ld, -1.0, l, ld, l, ld, 1.0, panel(p), width(p));
  }
  Buffer<double> product(rows * cols);
  blas().gemm('T', 'N', cols, rows, ld, 1.0, l, ld, l, ld, 0.0, product.data(), cols);
  for (Index e = row_begin; e < all_end; ++e) {
    double* to = panel(p) + position[f.rows[at(e)]] * width(p);
    const double* source = product.data() + (row_at_[at(e)] - top) * cols;
    const Index height_of_block = block_width(f.rows[at(e)]);
    for (Index c = row_begin; c < row_end; ++c) {
      const Index column = f.offsets[at(f.rows[at(c)])] - first(p), own = row_at_[at(c)] - top;
      const Index columns = block_width(f.rows[at(c)]);
      for (Index r = 0; r < height_of_block; ++r) {
        for (Index j = 0; j < columns; ++j) to[r * width(p) + column + j] -= source[r * cols + own + j];
      }
    }
  }
}

bool SparseFactor::factor_panel(Index p, const std::function<void(const Panel&)>& fill, Index& bad) {
  const FactorPattern& f = *pattern_;
  const Index w = width(p), below = height(p) - w;
  Buffer<Index> position(static_cast<Index>(f.order.size()));
  for (Index b = f.panel_ptr[at(p)]; b < f.panel_ptr[at(p) + 1]; ++b) position[b] = f.offsets[at(b)] - first(p);
  for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1]; ++e) position[f.rows[at(e)]] = row_at_[at(e)];
  double* values = panel(p);
  std::fill(values, values + height(p) * w, 0.0);
  fill({p, w, values, position.data()});
  for (Index u = update_ptr_[at(p)]; u < update_ptr_[at(p) + 1]; ++u) {
    const Update& one = updates_[at(u)];
    update(p, one.from, one.row_begin, one.row_end, position.data());
  }
  const Index info = w == 0 ? 0 : blas().potrf('U', w, values, w);  // row-major lower is column-major upper
  bool good = info == 0;
  for (Index c = 0; c < w && good; ++c) good = std::isfinite(values[c * w + c]);
  if (!good) {
    bad = first(p) + (info > 0 ? info - 1 : 0);
    return false;
  }
  if (w > 0 && below > 0) blas().trsm('L', 'U', 'T', w, below, 1.0, values, w, values + w * w, w);
  return true;
}

std::optional<Index> SparseFactor::factor(const std::function<void(const Panel&)>& fill) {
  enum State : int { waiting, done, failed };
  inverse_ = {};
  if (values_.size() == 0) values_ = Buffer<double>(pattern_->value_ptr.back());
  Buffer<std::atomic<int>> state(panels());
  for (Index p = 0; p < panels(); ++p) new (&state[p]) std::atomic<int>(waiting);
  std::vector<Index> bad(at(panels()), -1);
  const std::atomic<int> never{0};
  // A failure stops what depends on it and nothing else, so that the lowest bad pivot does not depend on the schedule.
  linalg::parallel_for_if(pattern_->flops >= kParallelFlops, panels(), [&](Index p) {
    bool ready = true;
    for (Index u = update_ptr_[at(p)]; u < update_ptr_[at(p) + 1]; ++u) {
      const std::atomic<int>& from = state[updates_[at(u)].from];
      linalg::wait_for(from, done, never);
      ready = ready && from.load(std::memory_order_acquire) == done;
    }
    ready = ready && factor_panel(p, fill, bad[at(p)]);
    state[p].store(ready ? done : failed, std::memory_order_release);
  });
  const auto found = std::ranges::find_if(bad, [](Index column) { return column >= 0; });
  if (found != bad.end()) return *found;
  return std::nullopt;
}

void SparseFactor::scale_rows(const double* scale) {
  const FactorPattern& f = *pattern_;
  for (Index p = 0; p < panels(); ++p) {
    double* row = panel(p);
    const auto scale_block = [&](Index b) {
      for (Index c = f.offsets[at(b)]; c < f.offsets[at(b) + 1]; ++c, row += width(p)) {
        for (Index j = 0; j < width(p); ++j) row[j] *= scale[c];
      }
    };
    for (Index b = f.panel_ptr[at(p)]; b < f.panel_ptr[at(p) + 1]; ++b) scale_block(b);
    for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1]; ++e) scale_block(f.rows[at(e)]);
  }
}

// Row-major X [k, m] is column-major X' [m, k], and a panel the transpose of itself.
void SparseFactor::forward(double* x, Index m, double* scratch) const {
  const FactorPattern& f = *pattern_;
  const auto& data = linalg::kernels().data64;
  for (Index p = 0; p < panels(); ++p) {
    const Index w = width(p), below = height(p) - w;
    const double* l = panel(p);
    double* own = x + first(p) * m;
    if (m == 1) {
      for (Index i = 0; i < w; ++i) {
        double sum = own[i];
        for (Index j = 0; j < i; ++j) sum -= l[i * w + j] * own[j];
        own[i] = sum / l[i * w + i];
      }
      if (below > 0) data.rows_dot(below, w, l + w * w, w, own, scratch, nullptr);
    } else {
      if (w > 0) blas().trsm('R', 'U', 'N', m, w, 1.0, l, w, own, m);
      if (below > 0 && contiguous_[at(p)]) {
        double* to = x + f.offsets[at(f.rows[at(f.row_ptr[at(p)])])] * m;
        blas().gemm('N', 'N', m, below, w, -1.0, own, m, l + w * w, w, 1.0, to, m);
        continue;
      }
      if (below > 0) blas().gemm('N', 'N', m, below, w, 1.0, own, m, l + w * w, w, 0.0, scratch, m);
    }
    for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1]; ++e) {
      double* to = x + f.offsets[at(f.rows[at(e)])] * m;
      const double* from = scratch + (row_at_[at(e)] - w) * m;
      for (Index c = 0; c < block_width(f.rows[at(e)]) * m; ++c) to[c] -= from[c];
    }
  }
}

void SparseFactor::backward(double* x, Index m, double* scratch) const {
  const FactorPattern& f = *pattern_;
  const auto& data = linalg::kernels().data64;
  Buffer<double> sums(m == 1 ? widest_ : 0);
  for (Index p = panels() - 1; p >= 0; --p) {
    const Index w = width(p), below = height(p) - w;
    const double* l = panel(p);
    double* own = x + first(p) * m;
    const double* rest = scratch;
    if (below > 0 && contiguous_[at(p)]) {
      rest = x + f.offsets[at(f.rows[at(f.row_ptr[at(p)])])] * m;
    } else {
      for (Index e = f.row_ptr[at(p)]; e < f.row_ptr[at(p) + 1]; ++e) {
        const double* from = x + f.offsets[at(f.rows[at(e)])] * m;
        std::copy(from, from + block_width(f.rows[at(e)]) * m, scratch + (row_at_[at(e)] - w) * m);
      }
    }
    if (m == 1) {
      if (below > 0) {
        std::fill(sums.data(), sums.data() + w, 0.0);
        data.rows_axpy(below, w, l + w * w, w, rest, sums.data(), nullptr);
        for (Index i = 0; i < w; ++i) own[i] -= sums[i];
      }
      for (Index i = w - 1; i >= 0; --i) {
        own[i] /= l[i * w + i];
        for (Index j = 0; j < i; ++j) own[j] -= l[i * w + j] * own[i];
      }
    } else {
      if (below > 0) blas().gemm('N', 'T', m, w, below, -1.0, rest, m, l + w * w, w, 1.0, own, m);
      if (w > 0) blas().trsm('R', 'U', 'T', m, w, 1.0, l, w, own, m);
    }
  }
}

void SparseFactor::solve(Part part, double* x, Index m) const {
  Buffer<double> scratch(std::max<Index>(1, most_below_ * m));
  if (part != Part::upper) forward(x, m, scratch.data());
  if (part != Part::lower) backward(x, m, scratch.data());
}

double SparseFactor::log_det() const {
  double sum = 0.0;
  for (Index p = 0; p < panels(); ++p) {
    for (Index c = 0; c < width(p); ++c) sum += std::log(panel(p)[c * width(p) + c]);
  }
  return 2.0 * sum;
}

void SparseFactor::pivots(double& smallest, double& largest) const {
  smallest = largest = std::numeric_limits<double>::quiet_NaN();
  for (Index p = 0; p < panels(); ++p) {
    for (Index c = 0; c < width(p); ++c) {
      const double l = panel(p)[c * width(p) + c], square = l * l;
      if (std::isnan(smallest) || square < smallest) smallest = square;
      if (std::isnan(largest) || square > largest) largest = square;
    }
  }
}

Index SparseFactor::nbytes() const noexcept {
  return values_.nbytes() + inverse_.nbytes() + static_cast<Index>(updates_.size() * sizeof(Update)) +
         static_cast<Index>((panel_of_.size() + row_at_.size() + height_.size()) * sizeof(Index));
}

SparseFactor::Block SparseFactor::inverse_block(Index row, Index col) const {
  const FactorPattern& f = *pattern_;
  const Index p = panel_of_[at(col)];
  Index top = f.offsets[at(row)] - first(p);
  if (panel_of_[at(row)] != p) {
    const auto found = std::lower_bound(f.rows.begin() + f.row_ptr[at(p)], f.rows.begin() + f.row_ptr[at(p) + 1], row);
    top = row_at_[at(found - f.rows.begin())];
  }
  return {inverse_.data() + f.value_ptr[at(p)] + top * width(p) + f.offsets[at(col)] - first(p), width(p)};
}

void SparseFactor::invert() {
  inverse_ = Buffer<double>(pattern_->value_ptr.back());
  Buffer<double> corner(most_below_ * most_below_);
  for (Index p = panels() - 1; p >= 0; --p) invert_panel(p, corner.data());
}

// `corner` takes Z_rr, gathered from the panels of the rows below.
void SparseFactor::invert_panel(Index p, double* corner) {
  const FactorPattern& f = *pattern_;
  const Index w = width(p), below = height(p) - w;
  if (w == 0) return;
  double* z = inverse_.data() + f.value_ptr[at(p)];
  const double* l = panel(p);
  // Z_pp = L_pp^-T L_pp^-1, from the unit matrix.
  std::fill(z, z + w * w, 0.0);
  for (Index c = 0; c < w; ++c) z[c * w + c] = 1.0;
  blas().trsm('R', 'U', 'N', w, w, 1.0, l, w, z, w);
  blas().trsm('R', 'U', 'T', w, w, 1.0, l, w, z, w);
  if (below > 0) {
    linalg::poll_interrupt();
    Buffer<double> y(below * w);
    std::copy(l + w * w, l + height(p) * w, y.data());
    blas().trsm('L', 'U', 'N', w, below, 1.0, l, w, y.data(), w);
    const Index begin = f.row_ptr[at(p)], end = f.row_ptr[at(p) + 1];
    const bool parallel = below * below * w >= linalg::kParallelWork;
    // Column blocks of the lower triangle of Z_rr; row blocks are found by walking both lists.
    linalg::parallel_for_if(parallel, end - begin, [&](Index task) {
      const Index col = f.rows[at(begin + task)], q = panel_of_[at(col)], columns = block_width(col);
      const Index left = row_at_[at(begin + task)] - w;
      Index walk = f.row_ptr[at(q)];
      for (Index e = begin + task; e < end; ++e) {
        const Index row = f.rows[at(e)];
        Index top = f.offsets[at(row)] - first(q);
        if (panel_of_[at(row)] != q) {
          while (f.rows[at(walk)] != row) ++walk;
          top = row_at_[at(walk)];
        }
        const double* from = inverse_.data() + f.value_ptr[at(q)] + top * width(q) + f.offsets[at(col)] - first(q);
        const Index to = row_at_[at(e)] - w;
        for (Index r = 0; r < block_width(row); ++r) {
          for (Index c = 0; c < columns; ++c) {
            const double v = from[r * width(q) + c];
            corner[(to + r) * below + left + c] = v;
            corner[(left + c) * below + to + r] = v;
          }
        }
      }
    });
    constexpr Index kRows = 192;
    linalg::parallel_for_if(parallel, (below + kRows - 1) / kRows, [&](Index task) {
      const Index row = task * kRows, rows = std::min(kRows, below - row);
      blas().gemm('N', 'N', w, rows, below, -1.0, y.data(), w, corner + row * below, below, 0.0, z + (w + row) * w, w);
    });
    blas().gemm('N', 'T', w, w, below, -1.0, z + w * w, w, y.data(), w, 1.0, z, w);
  }
  for (Index r = 0; r < w; ++r) {
    for (Index c = 0; c < r; ++c) z[r * w + c] = z[c * w + r] = 0.5 * (z[r * w + c] + z[c * w + r]);
  }
}

}  // namespace arrowschur::border
