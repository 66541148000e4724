#include "border/pcg.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::border {
namespace {

constexpr double kEps = 0x1p-52;
constexpr double kTrueResidualBelow = 1e-8;  // relative tolerances whose recursive residual is not trusted at exit
constexpr Index kChunk = 2048;               // entries: three vectors of them stay in the first cache
constexpr Index kParallelEntries = Index{1} << 17;
constexpr Index kSums = 2;                   // dot products that share a pass
constexpr Index kGiveUpFrom = 32;            // iterations before convergence is judged

// Vector operations in chunks of fixed size, whose sums are added in chunk order.
class Vectors {
 public:
  Vectors(Index k, double* partial)
      : k_(k), chunks_((k + kChunk - 1) / kChunk), partial_(partial), data_(linalg::kernels().data<double>()) {}

  static Index scratch(Index k) { return kSums * ((k + kChunk - 1) / kChunk); }

  double dot(const double* a, const double* b) const {
    return pass([&](Index begin, Index size, double* sums) { sums[0] = part(begin, size, a, b); }).first;
  }
  // a'b and c'd
  std::pair<double, double> dots(const double* a, const double* b, const double* c, const double* d) const {
    return pass([&](Index begin, Index size, double* sums) {
      sums[0] = part(begin, size, a, b);
      sums[1] = part(begin, size, c, d);
    });
  }
  // x += a p, r -= a q; x'x and r'r afterwards
  std::pair<double, double> advance(double a, const double* p, const double* q, double* x, double* r) const {
    return pass([&](Index begin, Index size, double* sums) {
      const double up = a, down = -a;
      data_.rows_axpy(1, size, p + begin, size, &up, x + begin, nullptr);
      data_.rows_axpy(1, size, q + begin, size, &down, r + begin, nullptr);
      sums[0] = part(begin, size, x, x);
      sums[1] = part(begin, size, r, r);
    });
  }
  // p = z + b p; p'p afterwards
  double turn(double b, const double* z, double* p) const {
    return pass([&](Index begin, Index size, double* sums) {
             for (Index j = begin; j < begin + size; ++j) p[j] = z[j] + b * p[j];
             sums[0] = part(begin, size, p, p);
           })
        .first;
  }
  // out = a - b (b may be out)
  void subtract(const double* a, const double* b, double* out) const {
    pass([&](Index begin, Index size, double*) {
      for (Index j = begin; j < begin + size; ++j) out[j] = a[j] - b[j];
    });
  }
  void scaled(double a, const double* x, double* out) const {
    pass([&](Index begin, Index size, double*) {
      for (Index j = begin; j < begin + size; ++j) out[j] = a * x[j];
    });
  }

 private:
  double part(Index begin, Index size, const double* a, const double* b) const {
    double sum = 0.0;
    data_.rows_dot(1, size, a + begin, size, b + begin, &sum, nullptr);
    return sum;
  }
  template <class F>
  std::pair<double, double> pass(F&& f) const {
    linalg::parallel_for_if(k_ >= kParallelEntries, chunks_, [&](Index c) {
      double* sums = partial_ + c * kSums;
      std::fill(sums, sums + kSums, 0.0);
      f(c * kChunk, std::min(kChunk, k_ - c * kChunk), sums);
    });
    std::pair<double, double> total{0.0, 0.0};
    for (Index c = 0; c < chunks_; ++c) {
      total.first += partial_[c * kSums];
      total.second += partial_[c * kSums + 1];
    }
    return total;
  }

  Index k_, chunks_;
  double* partial_;
  const linalg::DataKernelTable<double>& data_;
};

class Loop {
 public:
  Loop(const PcgProblem& problem, double* x, PcgWorkspace& ws)
      : in_(problem), x_(x), ws_(ws), v_(problem.k, ws.partial) {}

  PcgOutcome run() {
    rhs_norm_ = std::sqrt(v_.dot(in_.rhs, in_.rhs));
    if (rhs_norm_ == 0.0) {
      std::fill(x_, x_ + in_.k, 0.0);
      return out_;
    }
    iterate();
    if (in_.radius > 0.0 && in_.precondition && !reaches_cauchy()) {
      out_.cauchy_restart = true;
      out_.hopeless = false;
      out_.recorded = 0;
      directions_seen_ = 0;
      preconditioned_ = false;
      warm_ = false;
      iterate();
    }
    if (in_.relative_tolerance < kTrueResidualBelow || out_.stop == PcgStop::attainable_floor) {
      product(x_, ws_.q);
      v_.subtract(in_.rhs, ws_.q, ws_.q);
      out_.relative_residual = std::sqrt(v_.dot(ws_.q, ws_.q)) / rhs_norm_;
    } else {
      out_.relative_residual = std::sqrt(v_.dot(ws_.r, ws_.r)) / rhs_norm_;
    }
    out_.residual_gap = gap_ / rhs_norm_;
    return out_;
  }

 private:
  void product(const double* x, double* y) {
    linalg::poll_interrupt();
    in_.apply(x, y);
    ++out_.matvecs;
  }
  // z = P^-1 r; r'z
  double precondition() {
    if (preconditioned_) {
      in_.precondition(ws_.r, ws_.z);
    } else {
      std::copy(ws_.r, ws_.r + in_.k, ws_.z);
    }
    ++out_.preconditioner_applies;
    return v_.dot(ws_.r, ws_.z);
  }
  static bool good(double value) { return std::isfinite(value) && value > 0.0; }

  void stop(PcgStop reason) { out_.stop = reason; }
  void stop_on_curvature(double curvature, const double* direction, double norm_sq) {
    out_.stop = PcgStop::indefinite;
    out_.negative_curvature = true;
    out_.curvature = curvature;
    out_.direction_norm_sq = norm_sq;
    out_.direction.assign(direction, direction + in_.k);
  }

  // x += tau p with |x + tau p| = radius, r -= tau q: the positive root of tau^2 p'p + 2 tau x'p = radius^2 - x'x in
  // the form that does not cancel.
  void to_boundary(const double* p, const double* q, double pp) {
    if (!(pp > 0.0)) return;
    const auto [xp, xx] = v_.dots(x_, p, x_, x_);
    const double room = std::max(0.0, in_.radius * in_.radius - xx);
    const double root = std::sqrt(std::max(0.0, xp * xp + pp * room));
    const double tau = xp > 0.0 ? room / (xp + root) : (root - xp) / pp;
    v_.advance(tau, p, q, x_, ws_.r);
  }

  // The model at x against its value at the Cauchy point. One product.
  bool reaches_cauchy() {
    product(in_.rhs, ws_.q);
    const double bb = rhs_norm_ * rhs_norm_, curvature = v_.dot(in_.rhs, ws_.q);
    const double edge = in_.radius / rhs_norm_;
    const double tau = curvature > 0.0 ? std::min(edge, bb / curvature) : edge;
    const double cauchy = -tau * bb + 0.5 * tau * tau * curvature;
    // m(x) = -x'(rhs + r)/2, r = rhs - S x
    const auto [xb, xr] = v_.dots(x_, in_.rhs, x_, ws_.r);
    const double model = -0.5 * (xb + xr);
    return model <= cauchy * (1.0 - 64.0 * kEps);
  }

  void record(const double* p, const double* q, double pq) {
    const PcgWindow& w = in_.window;
    if (w.capacity == 0) return;
    const Index slot = directions_seen_++ % w.capacity;
    const double scale = 1.0 / std::sqrt(pq);
    v_.scaled(scale, p, w.directions + slot * in_.k);
    v_.scaled(scale, q, w.images + slot * in_.k);
    out_.recorded = std::min(directions_seen_, w.capacity);
  }

  bool converges_too_slowly(Index iteration, double start, double lowest, double tolerance) const {
    const Index budget = in_.max_iterations;
    const bool quarter = iteration == std::max(kGiveUpFrom, budget / 4),
               half = iteration == std::max(kGiveUpFrom, budget / 2);
    if (!in_.may_give_up || iteration >= budget || !(quarter || half)) return false;
    const double missing = std::log(start / tolerance), gained = std::log(start / lowest);
    return gained < (half ? 0.25 : 0.1) * missing;
  }

  void iterate() {
    const Index k = in_.k;
    const double tolerance = std::max(in_.relative_tolerance * rhs_norm_, in_.absolute_floor);
    const double half_eps = 0.5 * kEps, n = in_.norm_bound;
    const bool bounded = in_.radius > 0.0, floor = n > 0.0;
    double xx = 0.0, rr = rhs_norm_ * rhs_norm_;
    gap_ = 0.0;
    if (warm_) {
      product(x_, ws_.q);
      v_.subtract(in_.rhs, ws_.q, ws_.r);
      std::tie(xx, rr) = v_.dots(x_, x_, ws_.r, ws_.r);
      if (floor) gap_ = half_eps * (n * std::sqrt(xx) + rhs_norm_) + in_.apply_error * std::sqrt(xx);
    } else {
      std::fill(x_, x_ + k, 0.0);
      std::copy(in_.rhs, in_.rhs + k, ws_.r);
    }
    double rz = precondition();
    if (!good(rz)) {
      if (!bounded) {
        out_.refused_preconditioner = true;
        return stop_on_curvature(rz, ws_.r, rr);
      }
      stop(PcgStop::trust_region);
      product(ws_.r, ws_.q);
      std::copy(ws_.r, ws_.r + k, ws_.p);
      return to_boundary(ws_.p, ws_.q, rr);
    }
    const double start = std::sqrt(rr);
    double lowest = start;
    if (start + gap_ <= tolerance) return stop(PcgStop::converged);
    if (floor && start <= gap_) return stop(PcgStop::attainable_floor);
    std::copy(ws_.z, ws_.z + k, ws_.p);
    double pp = v_.dot(ws_.p, ws_.p);
    for (Index iteration = 1; iteration <= in_.max_iterations; ++iteration) {
      product(ws_.p, ws_.q);
      const auto [pq, xp] = v_.dots(ws_.p, ws_.q, x_, ws_.p);
      if (!good(pq)) {
        if (!bounded) return stop_on_curvature(pq, ws_.p, pp);
        stop(PcgStop::indefinite);
        return to_boundary(ws_.p, ws_.q, pp);
      }
      const double alpha = rz / pq;
      if (bounded && xx + alpha * (2.0 * xp + alpha * pp) >= in_.radius * in_.radius) {
        stop(PcgStop::trust_region);
        ++out_.iterations;
        return to_boundary(ws_.p, ws_.q, pp);
      }
      record(ws_.p, ws_.q, pq);
      const double qq = floor ? v_.dot(ws_.q, ws_.q) : 0.0;
      std::tie(xx, rr) = v_.advance(alpha, ws_.p, ws_.q, x_, ws_.r);
      ++out_.iterations;
      const double r = std::sqrt(rr), moved = alpha * std::sqrt(pp);
      if (floor) {
        gap_ += half_eps * (n * (std::sqrt(xx) + moved) + alpha * std::sqrt(qq) + r) + in_.apply_error * moved;
      }
      if (r + gap_ <= tolerance) return stop(PcgStop::converged);
      if (floor && r <= gap_) return stop(PcgStop::attainable_floor);
      lowest = std::min(lowest, r);
      if (iteration == in_.max_iterations) break;
      if (converges_too_slowly(iteration, start, lowest, tolerance)) {
        out_.hopeless = true;
        break;
      }
      const double next = precondition();
      if (!good(next)) return stop(PcgStop::stagnation);
      pp = v_.turn(next / rz, ws_.z, ws_.p);
      rz = next;
    }
    stop(PcgStop::max_iter);
  }

  const PcgProblem& in_;
  double* x_;
  PcgWorkspace& ws_;
  Vectors v_;
  PcgOutcome out_;
  double rhs_norm_ = 0.0, gap_ = 0.0;
  Index directions_seen_ = 0;
  bool preconditioned_ = static_cast<bool>(in_.precondition), warm_ = in_.warm_start;
};

}  // namespace

PcgWorkspace::PcgWorkspace(Index k) : memory_(4 * k + Vectors::scratch(k)) {
  r = memory_.data();
  z = r + k;
  p = z + k;
  q = p + k;
  partial = q + k;
}

PcgOutcome pcg(const PcgProblem& problem, double* x, PcgWorkspace& workspace) {
  return Loop(problem, x, workspace).run();
}

const char* to_string(PcgStop stop) noexcept {
  switch (stop) {
    case PcgStop::converged:
      return "converged";
    case PcgStop::max_iter:
      return "max_iter";
    case PcgStop::trust_region:
      return "trust_region";
    case PcgStop::indefinite:
      return "indefinite";
    case PcgStop::stagnation:
      return "stagnation";
    case PcgStop::attainable_floor:
      return "attainable_floor";
  }
  return "unknown";
}

PcgDiagnostics diagnostics_of(const PcgOutcome& outcome, const char* preconditioner) {
  PcgDiagnostics d;
  d.iterations = outcome.iterations;
  d.matvec_calls = outcome.matvecs;
  d.precond_apply_calls = outcome.preconditioner_applies;
  d.stopping_reason = to_string(outcome.stop);
  d.final_relative_residual = outcome.relative_residual;
  d.residual_gap = outcome.residual_gap;
  d.preconditioner = preconditioner;
  return d;
}

}  // namespace arrowschur::border
