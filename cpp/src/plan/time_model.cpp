#include "plan/time_model.hpp"

#include <algorithm>
#include <cmath>

namespace arrowschur::policy {
namespace {

// Measured on two Zen 5 cores, for block-sparse rows: blocks added one by one run at half of what a row runs at, the
// pattern of S takes 2 ns per pair of blocks, and a sparse factor half a microsecond per column beside its flops.
constexpr double kScattered = 0.5, kPairSeconds = 2e-9, kColumnSeconds = 5e-7;

double efficiency(double size, double half) { return size / (size + half); }
double panels(double size, const MachineProfile& p) { return std::ceil(size / p.panel); }

double upload(const CostShape& s, const MachineProfile& p) {
  return 8.0 * (s.row_entries + s.entries + s.border_entries + s.total_dim + s.k) / p.link_bw;
}
double vectors_over_link(const CostShape& s, const MachineProfile& p) { return 16.0 * (s.total_dim + s.k) / p.link_bw; }
double whiten(const CostShape& s, const MachineProfile& p) {
  return std::max(s.whiten_flops / p.rate_vec, 16.0 * s.entries / p.mem_bw) + p.t_launch + s.build_bytes / p.mem_bw;
}
// A symmetric update of an m x m matrix; 0 / 0 for m = 0 must not come up.
double reduce(double flops, double m, double entries, bool scattered, const MachineProfile& p) {
  if (m == 0.0) return p.t_launch;
  const double rate = scattered ? kScattered * p.rate_vec : p.rate_mat * efficiency(m, p.half_reduce);
  return std::max(flops / rate, 8.0 * (entries + m * m) / p.mem_bw) + p.t_launch;
}
double factor(double m, const MachineProfile& p) {
  if (m == 0.0) return 0.0;
  return m * m * m / 3.0 / (p.rate_mat * efficiency(m, p.half_factor)) + panels(m, p) * p.t_panel;
}

}  // namespace

CostShape dense_shape(double n, double d, double k, double border_entries) {
  CostShape s;
  s.n = n;
  s.total_dim = n * d;
  s.k = k;
  s.row_entries = n * d * d;
  s.entries = s.apply_entries = s.total_dim * k;
  s.whiten_flops = n * d * d * k;
  s.gram_flops = s.total_dim * k * (k + 1.0);
  s.border_entries = border_entries;
  s.border_solve_flops = 2.0 * border_entries;
  return s;
}

RouteTime dense_factor_time(double m, const MachineProfile& p) { return {0.0, factor(m, p), 8.0 * m * m / p.mem_bw}; }

RouteTime direct_time(const CostShape& s, const MachineProfile& p) {
  RouteTime time;
  time.up = upload(s, p);
  time.build = whiten(s, p) + reduce(s.gram_flops, s.k, s.entries, s.scattered, p) + factor(s.k, p);
  time.solve = (16.0 * s.entries + 8.0 * s.k * s.k) / p.mem_bw + (4.0 + 2.0 * panels(s.k, p)) * p.t_launch + p.t_sync +
               vectors_over_link(s, p);
  return time;
}

double pattern_seconds(const CostShape& s) { return kPairSeconds * s.block_pairs; }

// The factor works on small dense blocks: at the rate of scattered work, and through memory for what it stores.
RouteTime sparse_direct_time(const CostShape& s, const SparseFactorCost& f, const MachineProfile& p) {
  RouteTime time;
  time.up = upload(s, p);
  const double rate = kScattered * p.rate_vec;
  time.build = whiten(s, p) + pattern_seconds(s) + kColumnSeconds * s.k +
               std::max(s.gram_flops / rate, 8.0 * (s.entries + f.s_entries) / p.mem_bw) +
               std::max(f.flops / rate, 16.0 * f.l_entries / p.mem_bw) + 2.0 * p.t_launch;
  time.solve =
      (16.0 * s.entries + 16.0 * f.l_entries) / p.mem_bw + 6.0 * p.t_launch + p.t_sync + vectors_over_link(s, p);
  return time;
}

// V = M^-1 W' is dense whatever the form of W.
RouteTime low_rank_time(const CostShape& s, const MachineProfile& p) {
  const double t = s.total_dim, slab = t * s.k;
  RouteTime time;
  time.up = upload(s, p);
  time.build = whiten(s, p) + std::max(16.0 * slab / p.mem_bw, t * s.border_solve_flops / p.rate_vec) + p.t_launch +
               reduce(s.k * t * (t + 1.0), t, slab, false, p) + factor(t, p);
  time.solve = (16.0 * slab + 8.0 * t * t) / p.mem_bw + (8.0 + 2.0 * panels(t, p)) * p.t_launch + p.t_sync +
               vectors_over_link(s, p);
  return time;
}

RouteTime inexact_pcg_time(const CostShape& s, const MachineProfile& p, double cg_iters) {
  RouteTime time;
  time.up = upload(s, p);
  time.build = whiten(s, p);
  const double bytes = 8.0 * s.apply_entries + 8.0 * s.border_entries + 80.0 * s.k;
  time.solve = cg_iters * (bytes / p.mem_bw + 4.0 * p.t_launch) + p.t_sync + vectors_over_link(s, p);
  return time;
}

int choose(std::span<const PlanCandidate> candidates) noexcept {
  double least = std::numeric_limits<double>::infinity();
  for (const PlanCandidate& c : candidates) {
    if (c.feasible()) least = std::min(least, c.seconds);
  }
  // Candidates are in the order of preference: exact before iterative, the plainer first.
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].feasible() && (candidates[i].seconds <= 1.1 * least)) return static_cast<int>(i);
  }
  return -1;
}

std::vector<PlanCandidate> route_table(const RouteQuery& q, const MachineProfile& profile) {
  const double n = static_cast<double>(q.n), d = static_cast<double>(q.d), k = static_cast<double>(q.k);
  const double stored = q.border == BorderForm::dense ? k * k : q.border == BorderForm::diagonal ? k : 2.0 * k;
  const CostShape s = dense_shape(n, d, k, stored);
  const double t = s.total_dim;
  const auto row = [&](Route route, const RouteTime& time, double flops, double entries) {
    PlanCandidate c;
    c.route = route;
    c.up_seconds = time.up;
    c.build_seconds = time.build;
    c.solve_seconds = time.solve;
    c.seconds = time.total(q.solves);
    c.flops = flops;
    const double bytes = 8.0 * entries;
    c.peak_bytes = bytes < 9e18 ? static_cast<Index>(bytes) : std::numeric_limits<Index>::max();
    return c;
  };
  std::vector<PlanCandidate> table;
  table.push_back(row(Route::direct, direct_time(s, profile), s.gram_flops + k * k * k / 3.0, t * k + k * k));
  table.push_back(row(Route::low_rank, low_rank_time(s, profile),
                      k * t * (t + 1.0) + t * t * t / 3.0 + t * s.border_solve_flops, 2.0 * t * k + t * t + stored));
  if (q.border == BorderForm::dense) {
    table.back().obstacle = Obstacle::border_not_cheap;
  } else if (!(t < k)) {
    table.back().obstacle = Obstacle::rows_not_fewer;
  }
  table.push_back(row(Route::inexact_pcg, inexact_pcg_time(s, profile, q.cg_iters), s.whiten_flops, t * k + stored));
  return table;
}

}  // namespace arrowschur::policy
