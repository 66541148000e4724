#include "dictionary/conjugate_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

constexpr double kTolerance = 1e-10;  // |r| <= kTolerance |b|, per column

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// One tile of columns: everything [n, w].
class Tile {
 public:
  Tile(const SparseSymmetric& a, Index first, Index w, Index p, double* b, const float* const* x0)
      : a_(a), n_(a.n), w_(w), p_(p), b_(b + first), x_(n_ * w), r_(n_ * w), q_(n_ * w), s_(n_ * w) {
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w; ++c) x_[i * w + c] = static_cast<double>(x0[i][first + c]);
    }
  }

  void run(Index cap) {
    std::vector<double> rho(size(w_)), target(size(w_)), top(size(w_)), bottom(size(w_)), norm(size(w_));
    done.assign(size(w_), 0);
    squares(b_, p_, target);
    sizes = target;
    residuals(target);  // r = b - A x, |r|^2 in `residual`
    for (Index c = 0; c < w_; ++c) {
      target[size(c)] = kTolerance * kTolerance * sizes[size(c)];
      done[size(c)] = residual[size(c)] <= target[size(c)] ? 1 : 0;
    }
    precondition(rho);
    std::copy_n(q_.data(), q_.size(), s_.data());
    for (; iterations < cap && !all_done(); ++iterations) {
      apply(s_.data(), q_.data());
      dots(s_, q_, top);
      for (Index c = 0; c < w_; ++c) {
        const bool go = done[size(c)] == 0 && top[size(c)] > 0.0;
        bottom[size(c)] = go ? rho[size(c)] / top[size(c)] : 0.0;
      }
      for (Index i = 0; i < n_; ++i) {
        for (Index c = 0; c < w_; ++c) {
          x_[i * w_ + c] += bottom[size(c)] * s_[i * w_ + c];
          r_[i * w_ + c] -= bottom[size(c)] * q_[i * w_ + c];
        }
      }
      squares(r_.data(), w_, norm);
      for (Index c = 0; c < w_; ++c) {
        if (norm[size(c)] <= target[size(c)]) done[size(c)] = 1;
      }
      top = rho;
      precondition(rho);
      for (Index c = 0; c < w_; ++c) bottom[size(c)] = top[size(c)] > 0.0 ? rho[size(c)] / top[size(c)] : 0.0;
      for (Index i = 0; i < n_; ++i) {
        for (Index c = 0; c < w_; ++c) s_[i * w_ + c] = q_[i * w_ + c] + bottom[size(c)] * s_[i * w_ + c];
      }
    }
    residuals(top);
  }

  // The columns that are solved, into b.
  void store() {
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w_; ++c) {
        if (done[size(c)] != 0) b_[i * p_ + c] = x_[i * w_ + c];
      }
    }
  }

  Index iterations = 0;
  std::vector<char> done;
  std::vector<double> sizes, residual;  // squared norms of b and of b - A x

 private:
  bool all_done() const {
    return std::all_of(done.begin(), done.end(), [](char d) { return d != 0; });
  }
  void dots(const linalg::Buffer<double>& a, const linalg::Buffer<double>& b, std::vector<double>& out) const {
    std::fill(out.begin(), out.end(), 0.0);
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w_; ++c) out[size(c)] += a[i * w_ + c] * b[i * w_ + c];
    }
  }
  void squares(const double* a, Index ld, std::vector<double>& out) const {
    std::fill(out.begin(), out.end(), 0.0);
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w_; ++c) out[size(c)] += a[i * ld + c] * a[i * ld + c];
    }
  }
  // q = r / diagonal, rho = r'q
  void precondition(std::vector<double>& rho) {
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w_; ++c) q_[i * w_ + c] = r_[i * w_ + c] / a_.diagonal[size(i)];
    }
    dots(r_, q_, rho);
  }
  void apply(const double* x, double* y) const {
    for (Index i = 0; i < n_; ++i) {
      double* yi = y + i * w_;
      for (Index c = 0; c < w_; ++c) yi[c] = a_.diagonal[size(i)] * x[i * w_ + c];
      for (Index e = a_.ptr[size(i)]; e < a_.ptr[size(i) + 1]; ++e) {
        const double v = a_.values[size(e)];
        const double* xj = x + static_cast<Index>(a_.columns[size(e)]) * w_;
        for (Index c = 0; c < w_; ++c) yi[c] += v * xj[c];
      }
    }
  }
  void residuals(std::vector<double>& scratch) {
    apply(x_.data(), q_.data());
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < w_; ++c) r_[i * w_ + c] = b_[i * p_ + c] - q_[i * w_ + c];
    }
    squares(r_.data(), w_, scratch);
    residual = scratch;
  }

  const SparseSymmetric& a_;
  Index n_, w_, p_;
  double* b_;
  linalg::Buffer<double> x_, r_, q_, s_;
};

}  // namespace

Index iteration_cap(const SparseSymmetric& a, double ridge) {
  double low = std::numeric_limits<double>::infinity(), high = 0.0, largest = 0.0;
  for (Index i = 0; i < a.n; ++i) {
    double radius = 0.0;
    for (Index e = a.ptr[size(i)]; e < a.ptr[size(i) + 1]; ++e) {
      radius += std::abs(a.values[size(e)]) / std::sqrt(a.diagonal[size(i)] * a.diagonal[a.columns[size(e)]]);
    }
    low = std::min(low, 1.0 - radius);
    high = std::max(high, 1.0 + radius);
    largest = std::max(largest, a.diagonal[size(i)]);
  }
  low = std::max(low, ridge / largest);
  if (!(low > 0.0)) return a.n;
  const double root = std::sqrt(high / low);
  return static_cast<Index>(
      std::min(static_cast<double>(a.n), std::ceil(0.5 * root * std::log(2.0 * root / kTolerance))));
}

ColumnsReport solve_columns(const SparseSymmetric& a, Index cap, Index p, double* b, const float* const* x0,
                            Index width) {
  ColumnsReport report;
  const Index tiles = (p + width - 1) / width;
  struct Out {
    Index iterations = 0;
    double residual = 0.0, size = 0.0;
    std::vector<Index> failed;
  };
  std::vector<Out> outs(size(tiles));
  linalg::parallel_for(tiles, [&](Index t) {
    const Index first = t * width, w = std::min(width, p - first);
    Tile tile(a, first, w, p, b, x0);
    tile.run(cap);
    Out& out = outs[size(t)];
    out.iterations = tile.iterations;
    for (Index c = 0; c < w; ++c) {
      out.size += tile.sizes[size(c)];
      if (tile.done[size(c)] == 0) {
        out.failed.push_back(first + c);
      } else {
        out.residual += tile.residual[size(c)];
      }
    }
    tile.store();
  });
  for (Out& out : outs) {
    report.iterations = std::max(report.iterations, out.iterations);
    report.residual += out.residual;
    report.size += out.size;
    report.failed.insert(report.failed.end(), out.failed.begin(), out.failed.end());
  }
  return report;
}

}  // namespace arrowschur::dictionary
