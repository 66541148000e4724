// The exception hierarchy. Every class keeps the facts as fields and composes its own message from them.
//
// Inside the core, expected numerical outcomes (a non-positive pivot) are status values; exceptions are thrown at the
// public boundary only. "Cured by a ridge" says whether newton_step_escalated() retries after this error.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur {

class ArrowError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  // True when a larger ridge can cure the failure.
  virtual bool cured_by_ridge() const noexcept { return false; }
};

// An argument is not what it must be.
class InvalidArgument : public ArrowError {
 public:
  InvalidArgument(std::string argument, std::string got, std::string expected);
  // With a text of its own.
  InvalidArgument(const std::string& message, std::string argument, std::string got, std::string expected);
  std::string argument, got, expected;
};

// A legal request that this route or build cannot carry out. Structural: never retried by escalation.
class UnsupportedConfiguration : public ArrowError {
 public:
  UnsupportedConfiguration(std::string feature, std::string route, std::string hint);
  std::string feature, route, hint;
};

// Thrown before anything is allocated.
class MemoryBudgetExceeded : public ArrowError {
 public:
  MemoryBudgetExceeded(Index bytes_needed, Index budget, std::string what);
  Index bytes_needed, budget;  // bytes
  std::string what_for;
};

// A row block A_i = H_tt^(i) + ridge_t I is not positive definite and could not be lifted.
class RowFactorError : public ArrowError {
 public:
  struct Facts {
    Index row = -1;            // lowest failing row, whatever the thread schedule
    Index pivot_index = -1;    // position inside the row block
    double pivot = 0.0;        // the pivot that was not positive
    double base_ridge = 0.0;   // ridge_t that was asked for
    double last_ridge = 0.0;   // last row ridge tried
    double suggested_ridge = 0.0;  // advice for the next ridge_t; counts the coupling to the border
  };
  explicit RowFactorError(const Facts& facts);
  bool cured_by_ridge() const noexcept override { return true; }
  Facts facts;

 protected:
  RowFactorError(const std::string& message, const Facts& f) : ArrowError(message), facts(f) {}
};

// The row block has a factor, but its condition estimate misses the guard.
class RowIllConditioned : public RowFactorError {
 public:
  RowIllConditioned(const Facts& facts, double kappa_estimate, double min_pivot);
  double kappa_estimate, min_pivot;
};

enum class SchurFailure { non_pd, ill_conditioned, non_finite, capacitance };
const char* to_string(SchurFailure) noexcept;

// The Schur complement S has no trustworthy factor.
class SchurFactorError : public ArrowError {
 public:
  SchurFactorError(SchurFailure kind, Index pivot_index, double kappa_estimate, double suggested_ridge);
  bool cured_by_ridge() const noexcept override { return kind != SchurFailure::capacitance; }
  SchurFailure kind;
  Index pivot_index;       // -1 when the failure has none
  double kappa_estimate;   // NaN when unknown
  double suggested_ridge;  // advice for the next ridge_beta
};

enum class PcgFailure { jacobi_diagonal, stagnation, budget, not_pd };
const char* to_string(PcgFailure) noexcept;

// Conjugate gradients on the border ended without a step.
class PcgError : public ArrowError {
 public:
  struct Facts {
    PcgFailure kind = PcgFailure::stagnation;
    Index iterations = 0;
    double relative_residual = 1.0;
    Index index = -1;          // jacobi_diagonal: the column; -1: not told (a device)
    double value = 0.0;        // jacobi_diagonal: its entry
    std::string preconditioner;
    double suggested_ridge = 0.0;  // advice for the next ridge_beta; NaN: none
  };
  explicit PcgError(const Facts& facts);
  bool cured_by_ridge() const noexcept override { return true; }
  Facts facts;

 protected:
  PcgError(const std::string& message, const Facts& f) : ArrowError(message), facts(f) {}
};

// A direction p with p'Sp <= 0 was met and there is no trust region to end on.
class NegativeCurvature : public PcgError {
 public:
  NegativeCurvature(const Facts& facts, double curvature, double direction_norm_sq, std::vector<double> direction);
  double curvature, direction_norm_sq;  // p'Sp, p'p
  std::vector<double> direction;        // [k]
};

// A returned step would miss options.certificate_tolerance.
class CertificateError : public ArrowError {
 public:
  CertificateError(double backward_error, double tolerance);
  bool cured_by_ridge() const noexcept override { return true; }
  double backward_error, tolerance;
};

class DeviceError : public ArrowError {
 public:
  DeviceError(std::string stage, std::string code);
  std::string stage, code;

 protected:
  DeviceError(const std::string& message, std::string failed_stage, std::string error_code)
      : ArrowError(message), stage(std::move(failed_stage)), code(std::move(error_code)) {}
};

// device = "required" on a host, or in a build, that has none.
class DeviceUnavailableError : public DeviceError {
 public:
  explicit DeviceUnavailableError(std::string reason);
  DeviceUnavailableError(const std::string& message, std::string reason);
  std::string reason;
};

// The interrupt callback (threads.hpp) asked to stop. Objects stay valid; nothing half-done is returned.
class Interrupted : public ArrowError {
 public:
  Interrupted();
};

}  // namespace arrowschur
