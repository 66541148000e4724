#include "arrowschur/options.hpp"

#include <limits>

#include "arrowschur/result.hpp"
#include "check.hpp"

using namespace arrowschur;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <class Options>
std::string broken_field(const Options& options) {
  const auto complaint = check(options);
  return complaint ? complaint->field : "";
}
template <class Change>
std::string solve_complaint(Change change) {
  SolveOptions options;
  change(options);
  return broken_field(options);
}
std::string escalation_complaint(EscalationOptions options) { return broken_field(options); }

}  // namespace

TEST(DefaultsKeepTheirRules) {
  CHECK(!check(SolveOptions{}));
  CHECK(!check(EscalationOptions{}));
}

TEST(CertificateToleranceIsPositive) {
  for (const double bad : {0.0, -1.0, kNaN}) {
    CHECK_EQUAL(solve_complaint([&](SolveOptions& o) { o.certificate_tolerance = bad; }), "certificate_tolerance");
  }
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.certificate_tolerance = 1e-9; }), "");
}

TEST(LimitsAreCounts) {
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.memory_limit = -1; }), "memory_limit");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.memory_limit = 0; }), "");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.num_threads = 0; }), "num_threads");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.num_threads = 1; }), "");
}

TEST(CastIntegersAreNotEnumerators) {
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.mode = static_cast<Mode>(17); }), "mode");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.device = static_cast<Device>(-1); }), "device");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.precision = static_cast<Precision>(3); }), "precision");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.guards = static_cast<Guards>(2); }), "guards");
  CHECK_EQUAL(solve_complaint([](SolveOptions& o) { o.row_lift = static_cast<RowLift>(3); }), "row_lift");
}

TEST(EscalationRules) {
  for (const double bad : {0.0, -1e-8, kNaN, kInf}) {
    CHECK_EQUAL(escalation_complaint({.initial_ridge = bad}), "initial_ridge");
  }
  for (const double bad : {1.0, 0.5, kNaN, kInf})
    CHECK_EQUAL(escalation_complaint({.ridge_growth = bad}), "ridge_growth");
  CHECK_EQUAL(escalation_complaint({.max_escalations = -1}), "max_escalations");
  CHECK_EQUAL(escalation_complaint({.max_escalations = 0}), "");
}

TEST(AComplaintShowsTheValueAndTheRule) {
  const auto complaint = check(EscalationOptions{.ridge_growth = 0.5});

  REQUIRE(complaint.has_value());
  CHECK_EQUAL(complaint->value, "0.5");
  CHECK_EQUAL(complaint->rule, "a finite number > 1");
}

TEST(NamesAreThoseOfThePythonApi) {
  CHECK_EQUAL(std::string(to_string(Mode::automatic)), "auto");
  CHECK_EQUAL(std::string(to_string(Mode::direct)), "direct");
  CHECK_EQUAL(std::string(to_string(Mode::sqrt_ba)), "sqrt_ba");
  CHECK_EQUAL(std::string(to_string(Mode::low_rank)), "low_rank");
  CHECK_EQUAL(std::string(to_string(Mode::inexact_pcg)), "inexact_pcg");
  CHECK_EQUAL(std::string(to_string(Precision::float64)), "float64");
  CHECK_EQUAL(std::string(to_string(Precision::mixed)), "mixed");
  CHECK_EQUAL(std::string(to_string(Precision::float32)), "float32");
  const char* const stages[] = {"factor_rows", "reduce", "factor_border", "solve_border", "expand", "certificate"};
  for (int i = 0; i < kStages; ++i) CHECK_EQUAL(std::string(to_string(static_cast<Stage>(i))), stages[i]);
}

CHECK_MAIN()
