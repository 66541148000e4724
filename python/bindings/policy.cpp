// The dispatch policy. asn.policy holds the names and the documentation; every number comes from the core.
#include <array>
#include <cmath>

#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;
using policy::Size;

py::int_ to_python(const policy::Count& count) {
  const py::int_ high(count.high), low(count.low), shift(64);
  return py::int_((high << shift) | low);
}

template <class E, std::size_t kCount>
E parse(const E (&values)[kCount], const std::string& text, const char* argument) {
  std::string expected = "one of";
  for (const E value : values) {
    if (text == to_string(value)) return value;
    expected += std::string(value == values[0] ? " '" : ", '") + to_string(value) + '\'';
  }
  throw InvalidArgument(argument, '\'' + text + '\'', expected);
}

constexpr policy::OperationKind kOperations[] = {policy::OperationKind::gemm,
                                                 policy::OperationKind::batched_gemm,
                                                 policy::OperationKind::gemv,
                                                 policy::OperationKind::potrf,
                                                 policy::OperationKind::small_batched_potrf,
                                                 policy::OperationKind::trsm,
                                                 policy::OperationKind::xtwx,
                                                 policy::OperationKind::xtwy,
                                                 policy::OperationKind::joint_hessian_2x2};
constexpr policy::BlockedReason kBlocked[] = {policy::BlockedReason::no_device,
                                              policy::BlockedReason::no_device_encode_kernel,
                                              policy::BlockedReason::device_not_engaged};

policy::Operation operation(const std::string& name, const std::vector<Size>& sizes) {
  policy::Operation op;
  op.kind = parse(kOperations, name, "operation");
  if (static_cast<int>(sizes.size()) != operands(op.kind)) {
    throw InvalidArgument("sizes", std::to_string(sizes.size()) + " sizes",
                          std::to_string(operands(op.kind)) + " sizes for " + name);
  }
  std::copy(sizes.begin(), sizes.end(), op.sizes.begin());
  return op;
}

// The names of the tables of dispatch policies and loops, in the order of their enumerators.
constexpr std::array kEligibilities{"backend_not_compiled", "capability_missing", "below_threshold", "measured_slower",
                                    "eligible"};
constexpr std::array kFamilies{"bernoulli_logit", "bernoulli_probit",  "bernoulli_cloglog",
                               "poisson_log",     "gaussian_identity", "gamma_log"};
constexpr std::array kCurvatures{"fisher", "observed"};
constexpr std::array kBorderForms{"dense", "diagonal", "tridiagonal"};

template <class E, std::size_t kCount>
E parse(const std::array<const char*, kCount>& names, const std::string& text, const char* argument) {
  std::string expected = "one of";
  for (std::size_t i = 0; i < kCount; ++i) {
    if (text == names[i]) return static_cast<E>(i);
    expected += std::string(i == 0 ? " '" : ", '") + names[i] + '\'';
  }
  throw InvalidArgument(argument, '\'' + text + '\'', expected);
}

policy::InnerLoopAdmission admission(Size n, Size p, const std::optional<std::string>& family,
                                     const std::string& curvature, bool gpu_available) {
  policy::InnerLoopAdmission a{n, p, std::nullopt, parse<policy::LoopCurvature>(kCurvatures, curvature, "curvature"),
                               gpu_available};
  if (family) a.family = parse<policy::LoopFamily>(kFamilies, *family, "family");
  return a;
}

// What a caller's probe returned: a truth value, or the reason of an absence. What it raises passes through.
policy::Probe answer_of(const py::object& value) {
  if (py::isinstance<py::str>(value)) return {false, value.cast<std::string>()};
  if (py::isinstance<py::bool_>(value)) {
    const bool available = value.cast<bool>();
    return {available, available ? "" : "no device"};
  }
  throw InvalidArgument("runtime_available", py::repr(value).cast<std::string>(),
                        "True, False, or the reason why there is no device");
}

Device mode_of(const py::object& mode) {
  if (py::isinstance<py::str>(mode)) {
    if (const auto parsed = policy::parse_device(mode.cast<std::string>())) return *parsed;
  }
  throw InvalidArgument("mode", py::repr(mode).cast<std::string>(), "'auto', 'off' or 'required'");
}
const char* name_of(Device mode) {
  return mode == Device::off ? "off" : mode == Device::required ? "required" : "auto";
}

py::dict border_plan_fields(const policy::BorderSolvePlan& p) {
  return py::dict("n"_a = p.n, "k"_a = p.k, "d"_a = p.d, "cg_iters"_a = p.cg_iters, "data_fit_rank"_a = p.data_fit_rank,
                  "dense_border_rank_deficient"_a = p.dense_border_rank_deficient,
                  "assembly_flops"_a = to_python(p.assembly_flops),
                  "border_cholesky_flops"_a = to_python(p.border_cholesky_flops),
                  "dense_direct_flops"_a = to_python(p.dense_direct_flops),
                  "reduced_iterative_flops"_a = to_python(p.reduced_iterative_flops),
                  "recommended"_a = to_string(p.recommended), "device_favorable"_a = p.device_favorable);
}

py::tuple refinement(const py::array& a, const py::array& b, const py::function& correct, int max_steps) {
  const Index p = b.size();
  const auto matrix = input(a, p * p, "a");
  policy::RefinementProblem problem;
  problem.b = input(b, p, "b");
  problem.max_steps = max_steps;
  double sum = 0.0;
  for (const double v : matrix) sum += v * v;
  problem.norm_a = std::sqrt(sum);
  problem.multiply = [&](std::span<const double> x, std::span<double> y) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      double dot = 0.0;
      for (std::size_t j = 0; j < x.size(); ++j) dot += matrix[i * x.size() + j] * x[j];
      y[i] = dot;
    }
  };
  const Callback solve(correct, "correct");
  problem.correct = [&](std::span<const double> r, std::span<double> e) { solve(r, e); };
  std::vector<double> x(static_cast<std::size_t>(p));
  const policy::RefinementOutcome outcome = policy::refine(problem, x);
  return py::make_tuple(adopt(std::move(x), {p}), outcome.accepted(), outcome.steps, outcome.residual,
                        outcome.tolerance, outcome.message());
}

void register_record(py::module_& m) {
  py::class_<DispatchPolicy, std::shared_ptr<DispatchPolicy>>(m, "DispatchPolicy", "The policy record of the core.")
      .def(py::init([](const std::string& text) { return DispatchPolicy::from_json(text); }), "json"_a)
      .def_static("defaults", [] { return DispatchPolicy{}.to_json(); })
      .def_static("in_force", [] { return policy::in_force().to_json(); })
      .def("to_json", &DispatchPolicy::to_json)
      .def("dense_reduction_flops_min", &DispatchPolicy::dense_reduction_flops_min)
      .def("dense_gemv_target_is_gpu", &DispatchPolicy::dense_gemv_target_is_gpu)
      .def("xtwx_target_is_gpu", &DispatchPolicy::xtwx_target_is_gpu)
      .def("xtwy_target_is_gpu", &DispatchPolicy::xtwy_target_is_gpu)
      .def("potrf_target_is_gpu", &DispatchPolicy::potrf_target_is_gpu)
      .def("dense_hessian_work_target_is_gpu", &DispatchPolicy::dense_hessian_work_target_is_gpu)
      .def("iterative_refinement_should_attempt", &DispatchPolicy::iterative_refinement_should_attempt)
      .def("border_plan",
           [](const DispatchPolicy& record, Size n, Size k, Size d, Size cg_iters) {
             return border_plan_fields(policy::border_plan(n, k, d, cg_iters, record));
           })
      .def("admits", [](const DispatchPolicy& record, const std::string& name,
                        const std::vector<Size>& sizes) { return policy::admits(record, operation(name, sizes)); })
      .def("should_use_gpu_inner_loop",
           [](const DispatchPolicy& record, Size n, Size p, const std::optional<std::string>& family,
              const std::string& curvature, bool gpu_available) {
             return policy::should_use_gpu_inner_loop(admission(n, p, family, curvature, gpu_available), record);
           })
      .def("should_run_outer_on_device",
           [](const DispatchPolicy& record, Size n, Size p, Size num_rho, const std::optional<std::string>& family,
              const std::string& curvature, bool gpu_available) {
             const auto a = admission(n, p, family, curvature, gpu_available);
             return policy::should_run_outer_on_device({n, p, num_rho, a.family, a.curvature, gpu_available}, record);
           });

  m.def("policy_constants", [] {
    return py::dict("REFINEMENT_MIN_P"_a = policy::kRefinementMinP,
                    "REFINEMENT_MAX_STEPS"_a = policy::kRefinementMaxSteps,
                    "REFINEMENT_TOL"_a = policy::kRefinementTolerance, "DEVICE_LOOP_MIN_P"_a = policy::kDeviceLoopMinP,
                    "MATVEC_OFFLOAD_FLOPS_MIN"_a = policy::kMatvecOffloadFlopsMin,
                    "THIN_CURVE_MATVEC_OFFLOAD_FLOPS_MIN"_a = policy::kThinCurveMatvecOffloadFlopsMin,
                    "MATVEC_OFFLOAD_MIN_CG_ITERS"_a = policy::kMatvecOffloadMinCgIters,
                    "THROUGHPUT_TARGET_ROWS_PER_SEC"_a = policy::kThroughputTargetRowsPerSec,
                    "MIN_CALIBRATABLE_GEMM_FLOPS"_a = policy::kMinCalibratableGemmFlops,
                    "MIN_CALIBRATABLE_POTRF_P"_a = policy::kMinCalibratablePotrfP,
                    "MIN_CALIBRATABLE_ROW_KERNEL_N"_a = policy::kMinCalibratableRowKernelN,
                    "MIN_CALIBRATABLE_FUSED_KERNEL_N"_a = policy::kMinCalibratableFusedKernelN,
                    "MULTI_DEVICE_BATCH_FLOOR"_a = policy::kMultiDeviceBatchFloor);
  });
}

void register_counts(py::module_& m) {
  m.def("policy_operations", [] {
    py::dict names;
    for (const auto kind : kOperations) names[to_string(kind)] = operands(kind);
    return names;
  });
  m.def("policy_flops", [](const std::string& name, const std::vector<Size>& sizes) {
    return to_python(policy::flops(operation(name, sizes)));
  });
  m.def("policy_admissible_under_any_policy", [](const std::string& name, const std::vector<Size>& sizes) {
    return policy::admissible_under_any_policy(operation(name, sizes));
  });
  m.def("policy_admission_work_lower_bound",
        [](Size n, Size k, Size d) { return to_python(policy::admission_work_lower_bound(n, k, d)); });
  m.def("policy_reduced_schur_apply_flops",
        [](Size n, Size k, Size d) { return to_python(policy::reduced_schur_apply_flops(n, k, d)); });
  m.def("policy_reduced_schur_matvec_should_offload", &policy::reduced_schur_matvec_should_offload);
  m.def("policy_refine", &refinement);
  m.def("policy_refinement_can_succeed", &policy::refinement_can_succeed);
}

void register_claims(py::module_& m) {
  m.def("policy_verdict", [](double rate, double target) {
    const auto verdict = policy::ThroughputVerdict::from_measurement(rate, target);
    return py::make_tuple(verdict.fraction_of_target(), verdict.meets_target());
  });
  const auto decision_fields = [](const policy::EncodeDeploymentDecision& d) {
    const bool measured = !d.is_undetermined();
    return py::make_tuple(to_string(d.state()),
                          measured ? py::object(py::float_(d.measured_rows_per_sec())) : py::none(),
                          measured ? py::object(py::float_(d.target_rows_per_sec())) : py::none(),
                          d.reason() ? py::object(py::str(to_string(*d.reason()))) : py::none());
  };
  m.def("policy_decision_from_device_measurement", [=](bool engaged, double rate, double target) {
    return decision_fields(policy::EncodeDeploymentDecision::from_device_measurement(engaged, rate, target));
  });
  m.def("policy_decision_blocked", [=](const std::string& reason) {
    return decision_fields(policy::EncodeDeploymentDecision::blocked(parse(kBlocked, reason, "reason")));
  });
  m.def("policy_full_encode_rate", [](Size n_rows, double seconds, bool engaged) {
    return policy::FullEncodeThroughput{n_rows, seconds, engaged}.rows_per_sec();
  });
  m.def("policy_encode_quality", [](const py::array_t<bool>& certified, const py::array_t<bool>& reference_certified,
                                    const py::array& coordinates, const py::array& reference_coordinates,
                                    const py::array& reconstruction, const py::array& reference_reconstruction) {
    const auto flags = [](const py::array_t<bool>& a) {
      return std::span(reinterpret_cast<const unsigned char*>(a.data()), static_cast<std::size_t>(a.size()));
    };
    const auto q =
        policy::encode_quality({static_cast<Size>(certified.size()), flags(certified), flags(reference_certified),
                                input(coordinates, coordinates.size(), "coordinates"),
                                input(reference_coordinates, coordinates.size(), "reference_coordinates"),
                                input(reconstruction, reconstruction.size(), "reconstruction"),
                                input(reference_reconstruction, reconstruction.size(), "reference_reconstruction")});
    return py::dict("certified"_a = q.certified, "fallback_rate"_a = q.fallback_rate,
                    "flag_agreement"_a = q.flag_agreement, "coordinate_error"_a = q.coordinate_error,
                    "reconstruction_error"_a = q.reconstruction_error, "explained_variance"_a = q.explained_variance);
  });
}

void register_modes(py::module_& m) {
  m.def("policy_decide", [](const py::object& mode, const std::string& eligibility, const std::string& what,
                            const py::object& runtime) {
    const policy::Eligibility e{parse<policy::EligibilityKind>(kEligibilities, eligibility, "eligibility"), what};
    const bool callable = PyCallable_Check(runtime.ptr()) != 0;
    const auto decision = policy::decide(mode_of(mode), e, [&] { return answer_of(callable ? runtime() : runtime); });
    return py::make_tuple(decision.use_device, decision.reason);
  });
  m.def("policy_device_mode", [](const py::object& mode) { return name_of(policy::device_mode(mode_of(mode))); });
  m.def("policy_should_probe", &policy::should_probe);
  m.def("policy_probe_counters", [] {
    const auto counters = policy::probe_counters();
    return py::make_tuple(counters.availability_requests, counters.process_ns);
  });
}

void register_profiles(py::module_& m) {
  m.def("policy_profile", [](const std::string& name) {
    if (name == "reference") return policy::reference_profile().to_json();
    if (name == "built-in") return policy::built_in_cpu_profile().to_json();
    if (name == "in_force") return policy::profile_in_force()->to_json();
    throw InvalidArgument("profile", '\'' + name + '\'', "'reference', 'built-in', or a MachineProfile");
  });
  m.def("policy_check_profile", [](const std::string& text) { return MachineProfile::from_json(text).to_json(); });
  m.def("policy_set_profile", [](const std::string& text) { policy::set_profile(MachineProfile::from_json(text)); });
  m.def("policy_calibrate", [] { return released([] { return policy::calibrate(); }).to_json(); });
  m.def("policy_route_table", [](Size n, Size d, Size k, const std::string& border, double solves, double cg_iters,
                                 const std::string& profile) {
    const policy::RouteQuery query{n,      d,       k, parse<policy::BorderForm>(kBorderForms, border, "border"),
                                   solves, cg_iters};
    py::list table;
    for (const PlanCandidate& c : policy::route_table(query, MachineProfile::from_json(profile))) {
      table.append(candidate_fields(c));
    }
    return table;
  });
  m.def("policy_choose", [](Size n, Size d, Size k, const std::string& border, double solves, double cg_iters,
                            const std::string& profile) {
    const policy::RouteQuery query{n,      d,       k, parse<policy::BorderForm>(kBorderForms, border, "border"),
                                   solves, cg_iters};
    return policy::choose(policy::route_table(query, MachineProfile::from_json(profile)));
  });
  m.def("policy_crossover", [](const std::vector<std::tuple<Size, double, double>>& points, Size fallback) {
    std::vector<policy::Timing> timings;
    for (const auto& [size, cpu, gpu] : points) timings.push_back({size, cpu, gpu});
    return policy::crossover(timings, fallback);
  });
  m.def("policy_calibrated", [](const std::string& base,
                                const std::vector<std::tuple<std::string, std::vector<Size>, double, double>>& points) {
    std::vector<policy::Measurement> measurements;
    for (const auto& [name, sizes, cpu, gpu] : points) measurements.push_back({name, sizes, cpu, gpu});
    return policy::calibrated(DispatchPolicy::from_json(base), measurements).to_json();
  });
  using Fields = std::vector<std::pair<std::string, std::string>>;
  m.def("policy_fingerprint", [] { return policy::machine_fingerprint().fields; });
  m.def("policy_record_path", [](const Fields& fields) { return policy::record_path({fields}); });
  m.def("policy_read_record", [](const std::string& text, const Fields& fields) -> std::optional<std::string> {
    const auto record = policy::read_record(text, {fields});
    if (!record) return std::nullopt;
    return policy::to_json(*record);
  });
}

}  // namespace

void register_policy(py::module_& m) {
  register_record(m);
  register_counts(m);
  register_claims(m);
  register_modes(m);
  register_profiles(m);
}

}  // namespace arrowschur::python
