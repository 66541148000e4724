// What an ArrowFactor holds. newton/ builds it; evidence/ reads it.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "arrowschur/factor.hpp"
#include "backend/backend.hpp"

namespace arrowschur {

struct ArrowFactor::Impl {
  Impl(ArrowSystem s, const Ridges& r, const SolveOptions& o);

  ArrowSystem system;
  SolveOptions options;
  double ridge_t = 0.0, ridge_beta = 0.0;
  std::vector<double> damping_t, damping_beta;  // copies; empty when absent
  std::unique_ptr<backend::Frame> step_frame;
  SolveDiagnostics diagnostics;

  Ridges ridges() const { return {ridge_t, ridge_beta, damping_t, damping_beta}; }
  bool evidence_is_step() const;  // ridges and dampings 0, no row lifted
  // The frame of a set. The evidence frame is built on first use (7.4: no ridges, no guards, no lifts); its failures
  // are RowFactorError and SchurFactorError.
  const backend::Frame& frame(FactorSet) const;
  // The same, for primitives that need a factor of S: UnsupportedConfiguration on an iterative border.
  const backend::Frame& exact_frame(FactorSet, const char* feature) const;

 private:
  mutable std::mutex evidence_mutex_;
  mutable std::unique_ptr<backend::Frame> evidence_frame_;
};

}  // namespace arrowschur
