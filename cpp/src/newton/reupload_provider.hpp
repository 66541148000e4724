// The baseline of the resident loop: every attempt uploads the whole system, factors it, solves once and keeps nothing. The
// vectors of the loop are the host's.
#pragma once

#include <optional>
#include <string>

#include "arrowschur/options.hpp"
#include "backend/resident_device.hpp"
#include "newton/host_provider.hpp"

namespace arrowschur::newton {

class ReuploadProvider final : public HostProvider {
 public:
  ReuploadProvider(const ArrowSystem& system, const SolveOptions& options) : HostProvider(system), options_(options) {}

  Point start(std::span<const double> g_t, std::span<const double> g_beta, double objective_at_zero) override;
  double smallest_pivot() const override;
  double log_det() const override { return log_det_; }
  std::string last_failure() const override { return last_failure_; }
  FrameRoute route() const noexcept { return route_; }  // of the factor that was made last
  // What the device did since the last call; the builds are both factors and frames.
  Telemetry take_telemetry();

 protected:
  Attempt::Outcome factor(double ridge_t, double ridge_beta) override;
  Attempt::Outcome solve(const Vector& rhs, Vector& x) override;

 private:
  void drop();

  SolveOptions options_;
  FrameRoute route_ = FrameRoute::direct;
  std::optional<device::ResidentDevice> device_;  // of this attempt
  std::shared_ptr<device::DeviceFactor> factor_;
  double log_det_ = 0.0, smallest_pivot_ = 0.0;
  std::string last_failure_;
  Telemetry telemetry_;
};

}  // namespace arrowschur::newton
