#include "arrowschur/error.hpp"

#include <limits>

#include "check.hpp"

using namespace arrowschur;

TEST(InvalidArgumentSaysWhatItWasAndMustBe) {
  const InvalidArgument error("ridge_t", "-1", "a finite number >= 0");

  CHECK_EQUAL(std::string(error.what()), "ridge_t: got -1, expected a finite number >= 0.");
  CHECK_EQUAL(error.argument, "ridge_t");
  CHECK_EQUAL(error.got, "-1");
  CHECK_EQUAL(error.expected, "a finite number >= 0");
  CHECK(!error.cured_by_ridge());
}

TEST(FactorErrorsKeepTheirFacts) {
  const RowFactorError row({.row = 3, .pivot_index = 1, .pivot = -0.5, .base_ridge = 0.25, .suggested_ridge = 2.0});
  const RowIllConditioned condition({.row = 7}, 1e12, 1e-13);
  const SchurFactorError schur(SchurFailure::non_pd, 5, std::numeric_limits<double>::quiet_NaN(), 0.125);

  CHECK_EQUAL(row.facts.row, 3);
  CHECK_EQUAL(row.facts.pivot_index, 1);
  CHECK(std::string(row.what()).find("row block 3") != std::string::npos);
  CHECK(std::string(row.what()).find("pivot 1 is -0.5") != std::string::npos);
  CHECK(std::string(row.what()).find("ridge_t = 2 ") != std::string::npos);
  CHECK_EQUAL(condition.facts.row, 7);
  CHECK_EQUAL(condition.kappa_estimate, 1e12);
  CHECK(std::string(condition.what()).find("1e+12") != std::string::npos);
  CHECK(std::string(schur.what()).find("pivot 5") != std::string::npos);
  CHECK(std::string(schur.what()).find("ridge_beta = 0.125") != std::string::npos);
}

TEST(ARidgeCuresFactorizationsOnly) {
  CHECK(RowFactorError(RowFactorError::Facts{}).cured_by_ridge());
  CHECK(SchurFactorError(SchurFailure::non_pd, 0, 1.0, 1.0).cured_by_ridge());
  CHECK(SchurFactorError(SchurFailure::ill_conditioned, -1, 1e20, 1.0).cured_by_ridge());
  CHECK(!SchurFactorError(SchurFailure::capacitance, -1, 1.0, 1.0).cured_by_ridge());
  CHECK(CertificateError(1e-3, 1e-12).cured_by_ridge());
  CHECK(!UnsupportedConfiguration("a", "b", "c").cured_by_ridge());
  CHECK(!MemoryBudgetExceeded(2, 1, "x").cured_by_ridge());
  CHECK(!Interrupted().cured_by_ridge());
}

TEST(EverySchurFailureHasAMessageAndAName) {
  CHECK_EQUAL(std::string(to_string(SchurFailure::non_pd)), "non_pd");
  CHECK_EQUAL(std::string(to_string(SchurFailure::ill_conditioned)), "ill_conditioned");
  CHECK_EQUAL(std::string(to_string(SchurFailure::non_finite)), "non_finite");
  CHECK_EQUAL(std::string(to_string(SchurFailure::capacitance)), "capacitance");
  const double unknown = std::numeric_limits<double>::quiet_NaN();
  const auto message = [&](SchurFailure kind) { return std::string(SchurFactorError(kind, 4, 1e19, unknown).what()); };
  CHECK(message(SchurFailure::ill_conditioned).find("1e+19") != std::string::npos);
  CHECK(message(SchurFailure::non_finite).find("not finite") != std::string::npos);
  CHECK(message(SchurFailure::capacitance).find("capacitance") != std::string::npos);
  CHECK(message(SchurFailure::non_pd).find("nan") == std::string::npos);  // an unknown ridge is not recommended
}

TEST(MemoryAndDeviceErrorsSpeakPlainly) {
  const MemoryBudgetExceeded memory(2'000'000'000, 1000, "the direct route");
  const MemoryBudgetExceeded overflow(std::numeric_limits<Index>::max(), std::numeric_limits<Index>::max(), "T x k");
  const DeviceUnavailableError device("this build has no CUDA backend");
  const DeviceError failed("reduce", "out of memory");

  CHECK_EQUAL(std::string(memory.what()),
              "the direct route needs 2000000000 bytes (2 GB), but the budget is 1000 bytes.");
  CHECK_EQUAL(memory.what_for, "the direct route");
  CHECK(std::string(overflow.what()).find("more than 9.2e18 bytes") != std::string::npos);
  CHECK_EQUAL(device.reason, "this build has no CUDA backend");
  CHECK(std::string(device.what()).find("device='required'") != std::string::npos);
  CHECK_EQUAL(failed.stage, "reduce");
  CHECK_EQUAL(failed.code, "out of memory");
  CHECK(std::string(CertificateError(1e-3, 1e-12).what()).find("0.001") != std::string::npos);
  CHECK(std::string(UnsupportedConfiguration("mode='x'", "x", "use y").what()) ==
        "mode='x' is not supported by the route 'x': use y.");
}

CHECK_MAIN()
