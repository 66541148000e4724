// What frames and one-shot steps have in common: a system on the device, its gradient, and what its calls have done; and the
// arrays that they leave there.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arrowschur/error.hpp"
#include "arrowschur/frame.hpp"
#include "backend/resident_device.hpp"
#include "newton/solver.hpp"
#include "plan/device_mode.hpp"
#include "telemetry.hpp"

namespace arrowschur {

struct DeviceArrays::Held {
  Held(std::shared_ptr<device::LaneShare> with, Index rows, Index border)
      : share(std::move(with)), total_dim(rows), k(border) {
    device::Layout layout;
    t_at = layout.add_array<double>(total_dim);
    beta_at = layout.add_array<double>(k);
    memory = device::Memory(share->lane(), layout.bytes());
  }
  ~Held() { share->bury(std::move(memory)); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  double* t() const noexcept { return memory.at<double>(t_at); }
  double* beta() const noexcept { return memory.at<double>(beta_at); }

  std::shared_ptr<device::LaneShare> share;
  device::Memory memory;
  Index total_dim, k;
  std::size_t t_at = 0, beta_at = 0;
};

namespace newton {

device::Binding binding_of(const FrameOptions&, Index total_dim, Index k);

// A system on the device, its gradient, and what its calls have done.
class FrameState {
 public:
  FrameState(const ArrowSystem& s, const FrameOptions& options)
      : device_(s, binding_of(options, s.total_dim(), s.k())), gradient_(gradient_of(s)), n_(s.n()) {
    set_up(options);
  }
  FrameState(const DeviceParts& parts, const FrameOptions& options)
      : device_(parts, binding_of(options, parts.n * parts.d, parts.k)),
        there_(gradient_of(parts)),
        owner_(parts.owner),
        n_(parts.n) {
    set_up(options);
  }

  std::mutex& mutex() noexcept { return device_.share()->mutex(); }
  Gradient gradient() {
    const std::lock_guard lock(mutex());
    return gradient_;
  }
  // The frame's own gradient where that is on the device; null: it is the host's.
  const DeviceVector* resident_gradient() const noexcept { return there_ ? &*there_ : nullptr; }
  std::int64_t generation() const noexcept { return generation_; }
  Index n() const noexcept { return n_; }
  Index k() noexcept { return device_.system().k(); }
  Index total_dim() noexcept { return device_.system().total_dim(); }
  Index bytes() noexcept { return static_cast<Index>(device_.bytes()); }
  const FramePlan& plan() const noexcept { return device_.plan(); }
  const Telemetry& telemetry() const noexcept { return total_; }

  void check_gradient(std::span<const double> g_t, std::span<const double> g_beta) {
    check_vector("g_t", g_t, total_dim());
    check_vector("g_beta", g_beta, k());
  }

  // Factors whose last holder has gone, in whatever thread that was. Their memory goes back in the order of the frame's
  // work: at its next call, or with it. Waits for no call, which may be waiting for what that thread holds.
  void bury(std::shared_ptr<device::DeviceFactor> factor) {
    const std::lock_guard lock(graveyard_mutex_);
    graveyard_.push_back(std::move(factor));
  }
  // At the beginning of a call: the process must be the one that has the device.
  void begin() {
    device::require_handles();
    device_.share()->give_back();
    const std::lock_guard lock(graveyard_mutex_);
    graveyard_.clear();
  }

  std::shared_ptr<device::DeviceFactor> factor(double ridge_t, double ridge_beta) {
    device::FactorAnswer answer = device_.factors().get(ridge_t, ridge_beta);
    builds_ += answer.made ? 1 : 0;
    if (answer.failure) {
      settle();
      answer.failure->raise();
    }
    return std::move(answer.factor);
  }

  // Iterations that have failed, and gradients that were refused, are work, too.
  template <class... Arguments>
  std::optional<PcgDiagnostics> solved(device::DeviceFactor& factor, Arguments&&... arguments) {
    try {
      return device_.solve(factor, std::forward<Arguments>(arguments)...);
    } catch (const PcgError&) {
      settle();
      throw;
    } catch (const InvalidArgument&) {
      settle();
      throw;
    }
  }

  FrameStep step(device::DeviceFactor& factor, std::span<const double> g_t, std::span<const double> g_beta,
                 bool certificate, const char* path) {
    FrameStep step;
    step.delta_t.resize(g_t.size());
    step.delta_beta.resize(g_beta.size());
    step.pcg = solved(
        factor, device::ResidentDevice::Column{g_t.data(), g_beta.data(), step.delta_t.data(), step.delta_beta.data()});
    account(step, factor, certificate, path);
    return step;
  }
  FrameStep step(device::DeviceFactor& factor, const DeviceVector& g, bool certificate, const char* path) {
    FrameStep step;
    step.on_device = solve(factor, g, 1.0, "g", &step.pcg);
    account(step, factor, certificate, path);
    return step;
  }
  DeviceArrays solve(device::DeviceFactor& factor, const DeviceVector& w, double sign, const char* name,
                     std::optional<PcgDiagnostics>* pcg) {
    check_there((std::string(name) + "_t").c_str(), w.t, total_dim());
    check_there((std::string(name) + "_beta").c_str(), w.beta, k());
    auto held = std::make_shared<DeviceArrays::Held>(device_.share(), total_dim(), k());
    std::optional<PcgDiagnostics> account = solved(factor, w, sign, name, held->t(), held->beta());
    if (pcg != nullptr) *pcg = std::move(account);
    return DeviceArrays(std::move(held));
  }

  void refresh(const ArrowSystem& s) {
    device_.system().require_same(s);
    Gradient gradient = gradient_of(s);
    ++generation_;
    device_.refresh(s);
    gradient_ = std::move(gradient);
    settle();
  }
  void refresh(const DeviceParts& parts) {
    device_.system().require_same(parts);
    ++generation_;
    device_.refresh(parts);
    there_ = gradient_of(parts);
    owner_ = parts.owner;
    settle();
  }

  // The work since the last call, counted for the process and for the frame.
  Telemetry settle() {
    Telemetry work = device_.lane().take_telemetry();
    work.factorizations = work.frame_builds = std::exchange(builds_, 0);
    Telemetry call;
    telemetry::count(call, work);
    total_ += call;
    return call;
  }

 private:
  void set_up(const FrameOptions& options) {
    device_.factors().configure(options.cache_entries, options.device_memory_limit);
    policy::note_decision("frame", {true, "required_supported"}, n_, total_dim(), k());
  }
  // Complete: binding the system has waited for the caller's streams, which may be gone by the time of a step.
  static DeviceVector gradient_of(const DeviceParts& parts) { return {parts.g_t, parts.g_beta, {}}; }
  static Gradient gradient_of(const ArrowSystem& s) { return newton::gradient_of(s); }
  void check_there(const char* name, const double* memory, Index entries) {
    device::require_on_device(device_.table(), name, memory, entries);
  }
  void account(FrameStep& step, const device::DeviceFactor& factor, bool certificate, const char* path) {
    if (certificate) step.certificate = device_.certificate(factor);
    step.log_det_hessian = factor.log_det();
    step.ridge_t = factor.ridge_t();
    step.ridge_beta = factor.ridge_beta();
    step.route = device::frame_route(factor.route());
    const device::Account told = device::account_of(device_.table(), path);
    step.execution_path = told.execution_path;
    step.backend = told.backend;
    step.unproven_path = told.unproven_path;
    step.telemetry = settle();
  }

  device::ResidentDevice device_;
  Gradient gradient_;
  std::optional<DeviceVector> there_;
  std::shared_ptr<const void> owner_;  // of what is there
  Index n_;
  std::int64_t generation_ = 0;  // counts refreshes
  std::int64_t builds_ = 0;
  Telemetry total_;
  std::mutex graveyard_mutex_;
  std::vector<std::shared_ptr<device::DeviceFactor>> graveyard_;  // destroyed before the device that they live on
};

}  // namespace newton
}  // namespace arrowschur
