#include "arrowschur/error.hpp"

#include <cmath>
#include <utility>

#include "system/format.hpp"

namespace arrowschur {
namespace {

// The end of a message about a ridge that is too small.
std::string next_ridge(const char* name, double suggested) {
  if (!std::isfinite(suggested)) return ".";
  return std::string("; ") + name + " = " + format_number(suggested) + " is the next one to try.";
}

std::string row_message(const RowFactorError::Facts& f) {
  return "row block " + std::to_string(f.row) + " is not positive definite: pivot " + std::to_string(f.pivot_index) +
         " is " + format_number(f.pivot) + " at ridge_t = " + format_number(f.base_ridge) +
         " (last row ridge tried: " + format_number(f.last_ridge) + ")" + next_ridge("ridge_t", f.suggested_ridge);
}

std::string row_condition_message(const RowFactorError::Facts& f, double kappa, double min_pivot) {
  return "row block " + std::to_string(f.row) + " is too ill-conditioned for its guard: condition estimate " +
         format_number(kappa) + ", smallest pivot " + format_number(min_pivot) +
         " at ridge_t = " + format_number(f.base_ridge) + next_ridge("ridge_t", f.suggested_ridge);
}

std::string schur_message(SchurFailure kind, Index pivot_index, double kappa, double suggested) {
  const std::string cure = next_ridge("ridge_beta", suggested);
  switch (kind) {
    case SchurFailure::non_pd:
      return "the Schur complement of the border is not positive definite: pivot " + std::to_string(pivot_index) +
             " is not positive" + cure;
    case SchurFailure::ill_conditioned:
      return "the Schur complement of the border is too ill-conditioned to be trusted: condition estimate " +
             format_number(kappa) + cure;
    case SchurFailure::non_finite:
      return "the Schur complement of the border has entries that are not finite" + cure;
    case SchurFailure::capacitance:
      return "the capacitance matrix of the low-rank route has no trustworthy factor.";
  }
  return "the Schur complement of the border has no trustworthy factor" + cure;
}

}  // namespace

InvalidArgument::InvalidArgument(std::string name, std::string value, std::string rule)
    : ArrowError(name + ": got " + value + ", expected " + rule + "."),
      argument(std::move(name)),
      got(std::move(value)),
      expected(std::move(rule)) {}

InvalidArgument::InvalidArgument(const std::string& message, std::string name, std::string value, std::string rule)
    : ArrowError(message), argument(std::move(name)), got(std::move(value)), expected(std::move(rule)) {}

UnsupportedConfiguration::UnsupportedConfiguration(std::string what_feature, std::string which_route, std::string cure)
    : ArrowError(what_feature + " is not supported" +
                 (which_route.empty() ? std::string() : " by the route '" + which_route + "'") + ": " + cure + "."),
      feature(std::move(what_feature)),
      route(std::move(which_route)),
      hint(std::move(cure)) {}

MemoryBudgetExceeded::MemoryBudgetExceeded(Index needed, Index allowed, std::string what)
    : ArrowError(
          what + " needs " + format_bytes(needed) + ", but the budget is " +
          (allowed == std::numeric_limits<Index>::max() ? "what a 64-bit size can address" : format_bytes(allowed)) +
          "."),
      bytes_needed(needed),
      budget(allowed),
      what_for(std::move(what)) {}

RowFactorError::RowFactorError(const Facts& f) : ArrowError(row_message(f)), facts(f) {}

RowIllConditioned::RowIllConditioned(const Facts& f, double kappa, double pivot)
    : RowFactorError(row_condition_message(f, kappa, pivot), f), kappa_estimate(kappa), min_pivot(pivot) {}

const char* to_string(SchurFailure kind) noexcept {
  switch (kind) {
    case SchurFailure::non_pd:
      return "non_pd";
    case SchurFailure::ill_conditioned:
      return "ill_conditioned";
    case SchurFailure::non_finite:
      return "non_finite";
    case SchurFailure::capacitance:
      return "capacitance";
  }
  return "unknown";
}

SchurFactorError::SchurFactorError(SchurFailure failure, Index pivot, double kappa, double suggested)
    : ArrowError(schur_message(failure, pivot, kappa, suggested)),
      kind(failure),
      pivot_index(pivot),
      kappa_estimate(kappa),
      suggested_ridge(suggested) {}

const char* to_string(PcgFailure kind) noexcept {
  switch (kind) {
    case PcgFailure::jacobi_diagonal:
      return "jacobi_diagonal";
    case PcgFailure::stagnation:
      return "stagnation";
    case PcgFailure::budget:
      return "budget";
    case PcgFailure::not_pd:
      return "not_pd";
  }
  return "unknown";
}

namespace {

std::string pcg_message(const PcgError::Facts& f) {
  if (f.kind == PcgFailure::jacobi_diagonal) {
    const std::string where = f.index < 0 ? "" : " in column " + std::to_string(f.index);
    return "the Schur complement S has " + format_number(f.value) + " on its diagonal" + where +
           ": no Jacobi preconditioner, and S is not positive definite; raise ridge_beta.";
  }
  std::string text = "conjugate gradients on the border (preconditioner " +
                     (f.preconditioner.empty() ? std::string("none") : f.preconditioner) + ") ";
  if (f.kind == PcgFailure::budget) {
    text += "used up their iterations";
  } else if (f.kind == PcgFailure::not_pd) {
    text += "met a direction of negative curvature: S is not positive definite";
  } else {
    text += "stagnated";
  }
  return text + " after " + std::to_string(f.iterations) + " iterations, relative residual " +
         format_number(f.relative_residual) + ".";
}

}  // namespace

PcgError::PcgError(const Facts& f) : ArrowError(pcg_message(f)), facts(f) {}

NegativeCurvature::NegativeCurvature(const Facts& f, double c, double norm_sq, std::vector<double> p)
    : PcgError(pcg_message(f), f), curvature(c), direction_norm_sq(norm_sq), direction(std::move(p)) {}

CertificateError::CertificateError(double measured, double allowed)
    : ArrowError("the step has a backward error of " + format_number(measured) + ", expected at most " +
                 format_number(allowed) + " (certificate_tolerance)."),
      backward_error(measured),
      tolerance(allowed) {}

DeviceError::DeviceError(std::string failed_stage, std::string error_code)
    : ArrowError("the device failed in " + failed_stage + ": " + error_code + "."),
      stage(std::move(failed_stage)),
      code(std::move(error_code)) {}

DeviceUnavailableError::DeviceUnavailableError(std::string why)
    : DeviceError("device='required', but " + why + ".", "probe", "unavailable"), reason(std::move(why)) {}

DeviceUnavailableError::DeviceUnavailableError(const std::string& message, std::string why)
    : DeviceError(message, "probe", "unavailable"), reason(std::move(why)) {}

Interrupted::Interrupted() : ArrowError("the call was interrupted; nothing was changed.") {}

}  // namespace arrowschur
