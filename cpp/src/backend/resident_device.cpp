#include "backend/resident_device.hpp"

#include <cmath>
#include <cstring>

#include "backend/device_loader.hpp"
#include "plan/device_mode.hpp"

namespace arrowschur::device {
namespace {

void require_room(const Table& table, std::size_t blocks, Index size, const Binding& binding) {
  const std::size_t vector = aligned(static_cast<std::size_t>(size) * sizeof(double));
  const std::size_t needed = blocks + static_cast<std::size_t>(binding.vectors) * vector;
  const std::size_t budget = byte_budget(table, binding.memory_limit, 0);
  if (needed > budget) {
    throw OutOfMemory(std::to_string(needed) + " bytes needed for the blocks, " + std::to_string(budget) + " allowed");
  }
}

// Capability and memory before any work: nothing has been touched when these throw.
std::shared_ptr<LaneShare> lane_for(const ArrowSystem& s, const Binding& binding) {
  LaneLease lane = lease_lane();
  if (const auto no = unsupported(s)) no->raise();
  require_room(lane->table(), static_cast<std::size_t>(system_bytes(s)), s.total_dim() + s.k(), binding);
  return std::make_shared<LaneShare>(std::move(lane));
}
std::shared_ptr<LaneShare> lane_for(const DeviceParts& parts, const Binding& binding) {
  LaneLease lane = lease_lane();
  require_room(lane->table(), 0, parts.n * parts.d + parts.k, binding);
  return std::make_shared<LaneShare>(std::move(lane));
}

}  // namespace

ResidentDevice::ResidentDevice(const ArrowSystem& s, const Binding& binding)
    : share_(lane_for(s, binding)),
      lane_(&share_->lane()),
      system_(*lane_, s, binding.full_inverse),
      factors_(system_) {
  set_up(binding);
}

ResidentDevice::ResidentDevice(const DeviceParts& parts, const Binding& binding)
    : share_(lane_for(parts, binding)),
      lane_(&share_->lane()),
      system_(*lane_, parts, binding.full_inverse),
      factors_(system_) {
  set_up(binding);
}

void ResidentDevice::set_up(const Binding& binding) {
  const std::size_t bytes = static_cast<std::size_t>(size()) * sizeof(double);
  stride_ = aligned(bytes);
  record_ = stride_ * static_cast<std::size_t>(binding.vectors);
  vectors_ = Memory(*lane_, record_ + 2 * aligned(Lane::kRecord));
  lane_->reserve_vectors(bytes);
  factors_.configure(SolveOptions{}.frame_cache_entries, binding.memory_limit);
  pcg_options_ = binding.pcg;
  accept_truncated_ = binding.accept_truncated;
  choose_route(binding.route, binding.expected_solves, binding.memory_limit);
  if (plan_.route == FrameRoute::inexact_pcg) pcg_.emplace(system_);
  lane_->synchronize();  // the blocks are there: what is told of this binding is complete
}

void ResidentDevice::choose_route(FrameRoute wanted, Index expected_solves, std::optional<Index> memory_limit) {
  // What is free at the moment depends on who else runs; the route, and so the bits, must not.
  const DeviceFacts& facts = *runtime().info.facts;
  const auto half = static_cast<std::size_t>(facts.total_bytes / 2);
  const std::size_t budget = memory_limit ? static_cast<std::size_t>(*memory_limit) : half;
  plan_ = plan_route(system_, wanted, expected_solves, vectors_.bytes(), budget, policy::device_profile(facts));
  factors_.set_route(border_route(plan_.route), wanted == FrameRoute::automatic);
}

void ResidentDevice::queue_step(const DeviceFactor& factor, const double* g, double* x) {
  const auto* s = system_.view();
  void *const workspace = system_.workspace(), *const stream = lane_->stream();
  lane_->require(table().reduce_rhs(s, factor.view(), g, x, workspace, stream), "reduce_rhs");
  double* const middle = factor.route() == BorderRoute::dual ? x : border_part(x);  // C is of order T, S of order k
  lane_->require(table().border_solve(s, factor.view(), middle, workspace, stream), "border_solve");
  lane_->require(table().expand(s, factor.view(), x, workspace, stream), "expand");
}

void ResidentDevice::queue_product(const double* z, double* q) {
  lane_->require(table().apply_h(system_.view(), z, q, system_.workspace(), lane_->stream()), "apply_h");
}

void ResidentDevice::queue_sum(Index size, std::span<const double> coefficients, std::span<const double* const> inputs,
                               double* out) {
  if (size == 0) return;
  lane_->require(table().combine(size, static_cast<std::int32_t>(inputs.size()), coefficients.data(), inputs.data(),
                                 out, lane_->stream()),
                 "combine");
}

void ResidentDevice::queue_sum(std::span<const double> coefficients, std::span<const double* const> inputs,
                               double* out) {
  queue_sum(size(), coefficients, inputs, out);
}

std::optional<PcgDiagnostics> ResidentDevice::solve(DeviceFactor& factor, const Column& c) {
  const Index total = system_.total_dim(), k = system_.k();
  const std::size_t bytes = static_cast<std::size_t>(size()) * sizeof(double);
  double* const in = lane_->vector_in();
  double *const g = vector(kG), *const x = vector(kX);
  for (Index i = 0; i < total; ++i) in[i] = c.sign * c.w_t[i * c.stride];
  for (Index j = 0; j < k; ++j) in[total + j] = c.sign * c.w_beta[j * c.stride];
  const auto up = [&] { lane_->require(table().copy_to_device(g, in, bytes, lane_->stream()), "copy_to_device"); };
  const auto down = [&] {
    lane_->require(table().copy_to_host(lane_->vector_out(), x, bytes, lane_->stream()), "copy_to_host");
  };
  std::optional<PcgDiagnostics> account;
  if (factor.route() != BorderRoute::iterative) {
    factor.step_graph().run(*lane_, factor.graph_key(), [&] {
      if (bytes == 0) return;
      up();
      queue_step(factor, g, x);
      down();
    });
  } else if (bytes > 0) {
    up();
    account = queue_iterations(factor);
    down();
  }
  lane_->synchronize();
  const double* const out = lane_->vector_out();
  for (Index i = 0; i < total; ++i) c.x_t[i * c.stride] = out[i];
  for (Index j = 0; j < k; ++j) c.x_beta[j * c.stride] = out[total + j];
  return account;
}

// kG to kX by conjugate gradients, which are waited for; the expansion is queued.
std::optional<PcgDiagnostics> ResidentDevice::queue_iterations(DeviceFactor& factor) {
  const auto* s = system_.view();
  double *const g = vector(kG), *const x = vector(kX);
  lane_->require(table().reduce_rhs(s, factor.view(), g, x, system_.workspace(), lane_->stream()), "reduce_rhs");
  const PcgDiagnostics account = pcg_->solve(system_, factor, pcg_options_, accept_truncated_, border_part(x));
  lane_->require(table().expand(s, factor.view(), x, system_.workspace(), lane_->stream()), "expand");
  return account;
}

std::optional<PcgDiagnostics> ResidentDevice::solve(DeviceFactor& factor, const DeviceVector& w, double sign,
                                                    const char* name, double* x_t, double* x_beta) {
  const Index total = system_.total_dim(), k = system_.k();
  double *const g = vector(kG), *const x = vector(kX), *const sizes = norms() + 1;
  void *const workspace = system_.workspace(), *const stream = lane_->stream();
  wait_for(*lane_, w.streams);
  const double* const rows[] = {w.t};
  const double* const border[] = {w.beta};
  queue_sum(total, {&sign, 1}, rows, g);
  queue_sum(k, {&sign, 1}, border, border_part(g));
  double host[2] = {};
  const auto look = [&] {
    lane_->synchronize();
    std::memcpy(host, lane_->record(), sizeof host);
    for (int part = 0; part < 2; ++part) {
      if (std::isfinite(host[part])) continue;
      throw InvalidArgument(std::string(name) + (part == 0 ? "_t" : "_beta"), "entries that are not finite",
                            "finite entries");
    }
  };
  lane_->require(table().norm_inf(total, g, sizes, workspace, stream), "norm_inf");
  lane_->require(table().norm_inf(k, border_part(g), sizes + 1, workspace, stream), "norm_inf");
  lane_->require(table().copy_to_host(lane_->record(), sizes, sizeof host, stream), "copy_to_host");
  const bool iterates = factor.route() == BorderRoute::iterative;
  std::optional<PcgDiagnostics> account;
  if (iterates) {
    look();  // the iterations send records of their own to the same place
    if (size() > 0) account = queue_iterations(factor);
  } else if (size() > 0) {
    factor.resident_graph().run(*lane_, factor.graph_key(), [&] { queue_step(factor, g, x); });
  }
  const auto copy = [&](double* to, const double* from, Index entries) {
    if (entries == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(entries) * sizeof(double);
    lane_->require(table().copy_on_device(to, from, bytes, stream), "copy_on_device");
  };
  copy(x_t, x, total);
  copy(x_beta, border_part(x), k);
  iterates ? lane_->synchronize() : look();
  return account;
}

double ResidentDevice::certificate(const DeviceFactor& factor) {
  double* const x = vector(kX);
  double* const g = vector(kG);
  double* const q = vector(kQ);
  double* const norms = this->norms();  // of H, x, g and the residual
  void *const workspace = system_.workspace(), *const stream = lane_->stream();
  if (factor.ridge_t() != norm_ridge_t_ || factor.ridge_beta() != norm_ridge_beta_) {
    lane_->require(table().norm_h(system_.view(), factor.ridge_t(), factor.ridge_beta(), norms, workspace, stream),
                   "norm_h");
  }
  lane_->require(table().norm_inf(size(), x, norms + 1, workspace, stream), "norm_inf");
  lane_->require(table().norm_inf(size(), g, norms + 2, workspace, stream), "norm_inf");
  queue_product(x, q);
  const Index total = system_.total_dim(), k = system_.k();
  const double row_coefficients[] = {1.0, factor.ridge_t(), 1.0};
  const double border_coefficients[] = {1.0, factor.ridge_beta(), 1.0};
  const double* const row_inputs[] = {q, x, g};
  const double* const border_inputs[] = {border_part(q), border_part(x), border_part(g)};
  queue_sum(total, row_coefficients, row_inputs, q);
  queue_sum(k, border_coefficients, border_inputs, border_part(q));
  lane_->require(table().norm_inf(size(), q, norms + 3, workspace, stream), "norm_inf");
  double host[4];
  lane_->require(table().copy_to_host(lane_->record(), norms, sizeof host, stream), "copy_to_host");
  lane_->synchronize();
  std::memcpy(host, lane_->record(), sizeof host);
  norm_ridge_t_ = factor.ridge_t();
  norm_ridge_beta_ = factor.ridge_beta();
  const double scale = host[0] * host[1] + host[2];
  return scale == 0.0 ? host[3] : host[3] / scale;
}

}  // namespace arrowschur::device
