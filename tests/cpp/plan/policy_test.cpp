#include "arrowschur/policy.hpp"

#include <cmath>
#include <limits>

#include "arrowschur/error.hpp"
#include "check.hpp"
#include "plan/json.hpp"

using namespace arrowschur;
using namespace arrowschur::policy;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr Size kHuge = Size{1} << 63;

// The predicates are constant expressions.
static_assert(DispatchPolicy{}.dense_hessian_work_target_is_gpu(48'829, 32));
static_assert(!DispatchPolicy{}.dense_hessian_work_target_is_gpu(48'828, 32));
static_assert(reduced_schur_matvec_should_offload(200, 32, 4, 184) &&
              !reduced_schur_matvec_should_offload(200, 32, 4, 183));
static_assert(border_plan(180, 15'360, 2, 30).recommended == BorderStrategy::reduced_iterative);
static_assert(admissible_under_any_policy({OperationKind::potrf, {64, 1}}));
static_assert(!admissible_under_any_policy({OperationKind::potrf, {63, 1}}));
static_assert(should_probe(1, 1'000'000'000) && !should_probe(20'000'000, 0));
static_assert(should_probe(0, ~Size{0}));

}  // namespace

TEST(CountsSaturateInsteadOfWrapping) {
  const Count huge{kHuge};

  CHECK(Count{3} * Count{5} == Count{15});
  CHECK(huge * Count{2} == (Count{1, 0}));
  CHECK(huge * huge == (Count{Size{1} << 62, 0}));
  CHECK(huge * huge * Count{4} == Count::largest());
  CHECK(huge * huge * huge == Count::largest());
  CHECK(Count::largest() + Count{1} == Count::largest());
  CHECK((Count{0, ~Size{0}} + Count{1}) == (Count{1, 0}));
  CHECK((Count{~Size{0}, ~Size{0}} + Count{~Size{0}, 1}) == Count::largest());
  CHECK(Count{1, 0} / 3 == Count{0x5555555555555555});
  CHECK((Count{1, 0}) > Count{~Size{0}});
  CHECK_EQUAL((Count{1, 5}).to_double(), 18446744073709551621.0);
  CHECK(flops({OperationKind::gemm, {kHuge, kHuge, kHuge}}) == Count::largest());
  CHECK(flops({OperationKind::joint_hessian_2x2, {1, kHuge, kHuge}}) == Count::largest());
}

TEST(GatesHaveNamesAndOperands) {
  for (const auto kind : {OperationKind::gemm, OperationKind::batched_gemm, OperationKind::gemv, OperationKind::potrf,
                          OperationKind::small_batched_potrf, OperationKind::trsm, OperationKind::xtwx,
                          OperationKind::xtwy, OperationKind::joint_hessian_2x2}) {
    CHECK(std::string(to_string(kind)) != "unknown");
    CHECK(operands(kind) >= 2 && operands(kind) <= 4);
    CHECK(!admits({}, {kind, {}}));
    CHECK(admits({}, {kind, {32, 100'000'000, 1000, 1000}}));
  }
  CHECK_EQUAL(std::string(to_string(BorderStrategy::reduced_iterative)), "reduced_iterative");
}

TEST(APolicySurvivesJson) {
  DispatchPolicy record;
  record.gemm_min_flops = ~Size{0} - 1;
  record.mixed_precision = MixedPrecision::never;
  record.route_rule = RouteRule::width_cut;

  CHECK(DispatchPolicy::from_json(record.to_json()) == record);
  CHECK(DispatchPolicy::from_json(DispatchPolicy{}.to_json()) == DispatchPolicy{});
  record.mixed_precision = MixedPrecision::off;
  CHECK(DispatchPolicy::from_json(record.to_json()).mixed_precision == MixedPrecision::off);

  CHECK_THROWS_WITH(InvalidArgument, "not JSON", DispatchPolicy::from_json("{"));
  CHECK_THROWS_WITH(InvalidArgument, "a JSON object", DispatchPolicy::from_json("[]"));
  CHECK_THROWS_WITH(InvalidArgument, "xtwx_flops_min", DispatchPolicy::from_json("{}"));
  const auto with = [](const std::string& from, const std::string& to) {
    std::string text = DispatchPolicy{}.to_json();
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  CHECK_THROWS_WITH(InvalidArgument, "potrf_min_p", DispatchPolicy::from_json(with("512", "-512")));
  CHECK_THROWS_WITH(InvalidArgument, "potrf_min_p", DispatchPolicy::from_json(with("512", "\"many\"")));
  CHECK_THROWS_WITH(InvalidArgument, "mixed_precision", DispatchPolicy::from_json(with("refinement", "maybe")));
  CHECK_THROWS_WITH(InvalidArgument, "route_rule", DispatchPolicy::from_json(with("\"cost\"", "1")));
}

TEST(JsonIsReadAndWritten) {
  const std::string text =
      R"({"a": [1, -2.5e3, true, false, null], "b": {"c\n\"\\\u0001": "d\t/"}, "e": {}, "f": 1e999})";

  const auto value = json::parse(text);
  REQUIRE(value.has_value());
  CHECK_EQUAL(*value->find("a")->array()->at(1).number(), -2500.0);
  CHECK_EQUAL(*value->find("f")->number(), kInf);
  CHECK(value->find("g") == nullptr);
  const auto again = json::parse(json::dump(*value));
  REQUIRE(again.has_value());
  CHECK_EQUAL(json::dump(*again), json::dump(*value));
  CHECK_EQUAL(json::dump(json::Value(0.1)), "0.1");
  CHECK_EQUAL(json::dump(json::Value(-kInf)), "-1e999");
  CHECK_EQUAL(json::dump(json::Value(kNan)), "null");
  for (const char* broken : {"", "{", "{\"a\"}", "{\"a\": 1,}", "[1", "[1 2]", "\"a", "\"\\x\"", "\"\\u00\"", "1x",
                             "tru", "{\"a\": 1} 2", "\"\\u2028\""}) {
    CHECK(!json::parse(broken));
  }
  CHECK(!json::parse(std::string(100, '[') + std::string(100, ']')));
}

TEST(RefinementIsAcceptedOnItsResidual) {
  const double diagonal[] = {1.0, 2.0, 3.0, 4.0};
  const std::vector<double> b(4, 1.0);
  std::vector<double> x(4);
  RefinementProblem problem;
  problem.b = b;
  problem.norm_a = std::sqrt(30.0);
  problem.multiply = [&](std::span<const double> v, std::span<double> y) {
    for (std::size_t i = 0; i < 4; ++i) y[i] = diagonal[i] * v[i];
  };
  const auto with = [&](double rho) {
    problem.correct = [&, rho](std::span<const double> r, std::span<double> e) {
      for (std::size_t i = 0; i < 4; ++i) e[i] = (1.0 - rho) * r[i] / diagonal[i];
    };
    return refine(problem, x);
  };

  CHECK(with(1e-8).accepted());
  for (std::size_t i = 0; i < 4; ++i) CHECK_NEAR(x[i], 1.0 / diagonal[i], 1e-14);
  const RefinementOutcome slow = with(0.5), worse = with(-2.0);
  CHECK(slow.end == RefinementEnd::steps_used_up && slow.steps == 3);
  CHECK(slow.message().find("residual 0.0625") != std::string::npos);
  CHECK(worse.end == RefinementEnd::not_reduced);
  CHECK(worse.message().find("did not decrease") != std::string::npos);
  CHECK(with(kNan).end == RefinementEnd::not_finite);
  CHECK(with(kNan).message().find("not finite") != std::string::npos);
  CHECK(with(1e-8).message().find("accepted after 1 correction;") != std::string::npos);

  const std::vector<double> zero(4, 0.0);
  problem.b = zero;
  CHECK(with(0.5).accepted());
  CHECK(refinement_can_succeed(1.6e4) && !refinement_can_succeed(1e5));
}

TEST(VerdictsAndDecisionsAreMadeFromMeasurements) {
  CHECK(ThroughputVerdict::from_measurement(100'000.0).meets_target());
  CHECK_EQUAL(ThroughputVerdict::from_measurement(50'000.0).fraction_of_target(), 0.5);
  for (const double rate : {0.0, -1.0, kNan, kInf}) {
    const auto verdict = ThroughputVerdict::from_measurement(rate, 2.0);
    CHECK(!verdict.meets_target() && verdict.fraction_of_target() == 0.0 && verdict.target_rows_per_sec() == 2.0);
    CHECK(std::isnan(rate) || verdict.measured_rows_per_sec() == rate);
    CHECK(EncodeDeploymentDecision::from_device_measurement(true, rate).reason() == BlockedReason::device_not_engaged);
    CHECK_THROWS_WITH(InvalidArgument, "target", ThroughputVerdict::from_measurement(1.0, rate));
  }
  const auto met = EncodeDeploymentDecision::from_device_measurement(true, 100'000.0);
  const auto unmet = EncodeDeploymentDecision::from_device_measurement(true, 1.0, 2.0);
  CHECK(met.surrogate_unneeded() && !met.surrogate_justified() && !met.is_undetermined() && !met.reason());
  CHECK(unmet.surrogate_justified() && unmet.measured_rows_per_sec() == 1.0 && unmet.target_rows_per_sec() == 2.0);
  CHECK(EncodeDeploymentDecision::from_device_measurement(false, 1e9).is_undetermined());
  for (const auto reason :
       {BlockedReason::no_device, BlockedReason::no_device_encode_kernel, BlockedReason::device_not_engaged}) {
    CHECK(EncodeDeploymentDecision::blocked(reason).is_undetermined());
    CHECK(std::string(to_string(reason)) != "unknown");
  }
  for (const auto state : {EncodeState::met, EncodeState::unmet, EncodeState::undetermined}) {
    CHECK(std::string(to_string(state)) != "unknown");
  }
}

TEST(AnEncodeIsComparedWithItsReference) {
  const unsigned char flags[] = {1, 1}, flipped[] = {1, 0};
  const double coordinates[] = {0.5, 2.0}, moved[] = {0.5, 2.1};
  const double output[] = {1.0, 2.0, 3.0, -4.0}, off[] = {1.0, 1.75, 3.0, -4.0}, flat[] = {1.0, 1.0, 1.0, 1.0};

  const auto same = encode_quality({2, flags, flags, coordinates, coordinates, output, output});
  CHECK(same.certified == 2 && same.fallback_rate == 0.0 && same.flag_agreement == 1.0);
  CHECK(same.coordinate_error == 0.0 && same.reconstruction_error == 0.0 && same.explained_variance == 1.0);
  const auto other = encode_quality({2, flipped, flags, moved, coordinates, off, output});
  CHECK(other.fallback_rate == 0.5 && other.flag_agreement == 0.5 && other.reconstruction_error == 0.25);
  CHECK_NEAR(other.coordinate_error, 0.1, 1e-15);
  CHECK(other.explained_variance < 1.0 && other.explained_variance > 0.0);
  CHECK_EQUAL(encode_quality({2, flags, flags, coordinates, coordinates, flat, flat}).explained_variance, 1.0);
  CHECK_EQUAL(encode_quality({2, flags, flags, coordinates, coordinates, output, flat}).explained_variance, 0.0);
  CHECK_EQUAL(encode_quality({}).flag_agreement, 0.0);
  CHECK_THROWS_WITH(InvalidArgument, "certified", encode_quality({1, flags, flags, {}, {}, {}, {}}));
  CHECK_EQUAL((FullEncodeThroughput{8000, 0.1, true}).rows_per_sec(), 80'000.0);
  CHECK_EQUAL((FullEncodeThroughput{8000, 0.0, true}).rows_per_sec(), 0.0);
}

TEST(LoopsNeedADeviceAFamilyAndWork) {
  InnerLoopAdmission inner{12, 2048, LoopFamily::poisson_log, LoopCurvature::fisher, true};

  CHECK(should_use_gpu_inner_loop(inner));
  CHECK(should_run_outer_on_device({12, 2048, 2, LoopFamily::poisson_log, LoopCurvature::fisher, true}));
  CHECK(!should_run_outer_on_device({12, 2048, 1, LoopFamily::poisson_log, LoopCurvature::fisher, true}));
  inner.family.reset();
  CHECK(!should_use_gpu_inner_loop(inner));
}

TEST(ModesAreParsed) {
  CHECK(parse_device("auto") == Device::automatic);
  CHECK(parse_device(" OFF\t") == Device::off);
  CHECK(parse_device("Required\n") == Device::required);
  CHECK(!parse_device("fast") && !parse_device("") && !parse_device("autos") && !parse_device("a uto"));
  CHECK(device_mode(Device::off) == Device::off);
}

TEST(TheDecisionAsksOnlyWhenItMust) {
  int asked = 0;
  const auto present = [&] { return ++asked, Probe{true, ""}; };
  const auto absent = [&] { return ++asked, Probe{false, "no driver"}; };
  const auto code = [](const Decision& d) { return std::string(d.reason); };

  CHECK_EQUAL(code(decide(Device::off, {}, present)), "policy_off");
  CHECK_EQUAL(code(decide(Device::automatic, {EligibilityKind::backend_not_compiled}, present)),
              "backend_not_compiled");
  CHECK_EQUAL(code(decide(Device::automatic, {EligibilityKind::capability_missing}, present)),
              "kernel_lacks_capability");
  CHECK_EQUAL(code(decide(Device::automatic, {EligibilityKind::below_threshold}, present)), "below_threshold");
  CHECK_EQUAL(code(decide(Device::automatic, {EligibilityKind::measured_slower}, present)), "device_measured_slower");
  CHECK_EQUAL(asked, 0);
  CHECK_EQUAL(code(decide(Device::automatic, {}, absent)), "runtime_unavailable");
  CHECK(decide(Device::automatic, {}, present).use_device);
  CHECK_EQUAL(code(decide(Device::required, {EligibilityKind::measured_slower}, present)), "required_supported");
  CHECK_EQUAL(code(decide(Device::required, {EligibilityKind::below_threshold}, present)), "required_supported");
  CHECK_THROWS_WITH(DeviceUnavailableError, "no driver", decide(Device::required, {}, absent));
  CHECK_THROWS_WITH(DeviceUnavailableError, "required_unsupported",
                    decide(Device::required, {EligibilityKind::backend_not_compiled}, present));
  CHECK_THROWS_WITH(DeviceUnavailableError, "required_capability_missing: blocks",
                    decide(Device::required, {EligibilityKind::capability_missing, "blocks"}, present));
}

CHECK_MAIN()
