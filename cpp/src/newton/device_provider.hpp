// The step provider whose vectors live on the device: z, r, delta, q and the base gradient. Of an attempt the host gets one
// record of 64 bytes and sends nothing; the point comes back once, at the end.
#pragma once

#include <string>

#include "arrowschur/inner_loop.hpp"
#include "backend/resident_device.hpp"
#include "newton/step_provider.hpp"

namespace arrowschur::newton {

// The route of a device that a mode stands for.
FrameRoute route_of(Mode) noexcept;

class DeviceProvider final : public StepProvider {
 public:
  // Binds: uploads the blocks, and allocates all vectors of the loop. Throws as ResidentDevice.
  DeviceProvider(const ArrowSystem&, const SolveOptions&);

  // The next fit is that of the gradient that was uploaded last, which is not sent again.
  void keep_gradient() noexcept { gradient_kept_ = gradient_there_; }
  void forget_gradient() noexcept { gradient_there_ = false; }

  Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) override;
  Attempt attempt(double ridge_t, double ridge_beta) override;
  Attempt refine() override;
  void accept() override;
  Point recompute_residual() override;
  void read(std::span<double> t, std::span<double> beta) const override;
  double smallest_pivot() const override;
  double log_det() const override { return log_det_; }
  std::string last_failure() const override { return last_failure_; }

  device::ResidentDevice& resident() noexcept { return device_; }
  const device::ResidentDevice& resident() const noexcept { return device_; }
  // Builds since the last call.
  std::int64_t take_builds() noexcept { return std::exchange(builds_, 0); }
  // Of the factor that was solved with last.
  FrameRoute route() const noexcept { return route_; }
  // As FactorCache::get, counted.
  device::FactorAnswer factor(double ridge_t, double ridge_beta);

 private:
  enum Vector {
    kGradient = device::ResidentDevice::kSolveVectors,
    kPoint,
    kResidual,
    kStep,
    kProduct,
    kError,
    kVectors
  };

  double* at(Vector v) const { return device_.vector(v); }
  void queue_measure(const ArrowschurDeviceFactor*);
  ArrowschurLoopRecord read_record();
  Attempt judged(const ArrowschurLoopRecord&);

  mutable device::ResidentDevice device_;
  std::shared_ptr<device::DeviceFactor> factor_;
  FrameRoute route_ = FrameRoute::direct;
  bool gradient_there_ = false, gradient_kept_ = false;
  double objective_at_zero_ = 0.0, log_det_ = 0.0;
  std::int64_t builds_ = 0;
  std::string last_failure_;
};

}  // namespace arrowschur::newton
