// Option structs. The Python dataclasses hold names and documentation; the rules live in the core's check().
#include <array>

#include "arrowschur/policy.hpp"
#include "common.hpp"

namespace arrowschur::python {
namespace {

constexpr std::array kModes{Named<Mode>{"auto", Mode::automatic}, Named<Mode>{"direct", Mode::direct},
                            Named<Mode>{"sqrt_ba", Mode::sqrt_ba}, Named<Mode>{"low_rank", Mode::low_rank},
                            Named<Mode>{"inexact_pcg", Mode::inexact_pcg}};
constexpr std::array kDevices{Named<Device>{"auto", Device::automatic}, Named<Device>{"off", Device::off},
                              Named<Device>{"required", Device::required}};
constexpr std::array kPrecisions{Named<Precision>{"float64", Precision::float64},
                                 Named<Precision>{"mixed", Precision::mixed},
                                 Named<Precision>{"float32", Precision::float32}};
constexpr std::array kGuards{Named<Guards>{"relative", Guards::relative}, Named<Guards>{"absolute", Guards::absolute}};
constexpr std::array kRowLifts{Named<RowLift>{"indefinite", RowLift::indefinite},
                               Named<RowLift>{"guard", RowLift::guard}, Named<RowLift>{"never", RowLift::never}};

constexpr std::array kPreconditioners{PreconditionerKind::ladder,
                                      PreconditionerKind::none,
                                      PreconditionerKind::diagonal,
                                      PreconditionerKind::block,
                                      PreconditionerKind::cluster,
                                      PreconditionerKind::schwarz,
                                      PreconditionerKind::incomplete_cholesky,
                                      PreconditionerKind::power_series,
                                      PreconditionerKind::nystrom,
                                      PreconditionerKind::deflated};
constexpr std::array kCalibrations{Named<Calibrate>{"off", Calibrate::off}, Named<Calibrate>{"cache", Calibrate::cache},
                                   Named<Calibrate>{"measure", Calibrate::measure}};
constexpr std::array kStorages{Named<bool>{"float64", false}, Named<bool>{"float32", true}};

auto preconditioners() {
  std::array<Named<PreconditionerKind>, kPreconditioners.size()> table{};
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = {to_string(kPreconditioners[i]), kPreconditioners[i]};
  return table;
}

template <class Options>
Options checked(Options options) {
  if (auto complaint = check(options)) throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
  return options;
}

// The user's product with S. The options know no width; the call that uses them does (options_for).
struct SchurApply {
  Callback callback;
  Index k = 0;

  void operator()(const double* x, double* y) const {
    const auto size = static_cast<std::size_t>(k);
    callback({x, size}, {y, size});
  }
};

}  // namespace

SolveOptions options_for(const SolveOptions& options, Index k) {
  SolveOptions bound = options;
  if (auto* apply = bound.schur_apply.target<SchurApply>()) apply->k = k;
  return bound;
}

Device device_of(const py::handle& name) { return parse(kDevices, name, "device"); }

void register_options(py::module_& m) {
  using namespace py::literals;

  py::class_<PcgOptions>(m, "PcgOptions", "Validated options of the conjugate gradients.")
      .def(py::init([](Index max_iterations, std::optional<double> relative_tolerance, const py::object& storage) {
             return checked(PcgOptions{max_iterations, relative_tolerance, parse(kStorages, storage, "storage")});
           }),
           py::kw_only(), "max_iterations"_a, "relative_tolerance"_a, "storage"_a)
      .def_static(
          "defaults",
          [] {
            const PcgOptions o;
            return py::dict("max_iterations"_a = o.max_iterations, "relative_tolerance"_a = o.relative_tolerance,
                            "storage"_a = name_of(kStorages, o.float32_storage));
          },
          "The defaults of the C++ struct.");

  py::class_<TrustRegionOptions>(m, "TrustRegionOptions", "Validated trust region of the core.")
      .def(py::init([](std::optional<double> radius, double relative_tolerance, Index max_iterations) {
             return checked(TrustRegionOptions{radius, relative_tolerance, max_iterations});
           }),
           py::kw_only(), "radius"_a, "relative_tolerance"_a, "max_iterations"_a)
      .def_static(
          "defaults",
          [] {
            const TrustRegionOptions o;
            return py::dict("radius"_a = o.radius, "relative_tolerance"_a = o.relative_tolerance,
                            "max_iterations"_a = o.max_iterations);
          },
          "The defaults of the C++ struct.");

  py::class_<SolveOptions>(m, "SolveOptions", "Validated options of the core.")
      .def(py::init([](const py::object& mode, const py::object& device, const py::object& precision, bool certificate,
                       std::optional<double> certificate_tolerance, const py::object& guards,
                       const py::object& row_lift, bool tolerate_ill_conditioning, const PcgOptions& pcg,
                       const TrustRegionOptions& trust_region, const py::object& preconditioner, bool accept_truncated,
                       std::optional<double> schur_pd_floor, const py::object& schur_apply, const py::object& calibrate,
                       const py::object& policy, Index expected_solves, std::optional<Index> memory_limit,
                       std::optional<Index> device_memory_limit, Index frame_cache_entries,
                       std::optional<int> num_threads) {
             SolveOptions o;
             o.mode = parse(kModes, mode, "mode");
             o.device = parse(kDevices, device, "device");
             o.precision = parse(kPrecisions, precision, "precision");
             o.certificate = certificate;
             o.certificate_tolerance = certificate_tolerance;
             o.guards = parse(kGuards, guards, "guards");
             o.row_lift = parse(kRowLifts, row_lift, "row_lift");
             o.tolerate_ill_conditioning = tolerate_ill_conditioning;
             o.pcg = pcg;
             o.trust_region = trust_region;
             o.preconditioner = parse(preconditioners(), preconditioner, "preconditioner");
             o.accept_truncated = accept_truncated;
             o.schur_pd_floor = schur_pd_floor;
             if (!schur_apply.is_none()) o.schur_apply = SchurApply{Callback(schur_apply, "schur_apply")};
             o.calibrate = parse(kCalibrations, calibrate, "calibrate");
             if (!policy.is_none()) o.policy = policy.cast<std::shared_ptr<DispatchPolicy>>();
             o.expected_solves = expected_solves;
             o.memory_limit = memory_limit;
             o.device_memory_limit = device_memory_limit;
             o.frame_cache_entries = frame_cache_entries;
             o.num_threads = num_threads;
             return checked(std::move(o));
           }),
           py::kw_only(), "mode"_a, "device"_a, "precision"_a, "certificate"_a, "certificate_tolerance"_a, "guards"_a,
           "row_lift"_a, "tolerate_ill_conditioning"_a, "pcg"_a, "trust_region"_a, "preconditioner"_a,
           "accept_truncated"_a, "schur_pd_floor"_a, "schur_apply"_a, "calibrate"_a, "policy"_a, "expected_solves"_a,
           "memory_limit"_a, "device_memory_limit"_a, "frame_cache_entries"_a, "num_threads"_a)
      .def_static(
          "defaults",
          [] {
            const SolveOptions o;
            return py::dict("mode"_a = name_of(kModes, o.mode), "device"_a = name_of(kDevices, o.device),
                            "precision"_a = name_of(kPrecisions, o.precision), "certificate"_a = o.certificate,
                            "certificate_tolerance"_a = o.certificate_tolerance,
                            "guards"_a = name_of(kGuards, o.guards), "row_lift"_a = name_of(kRowLifts, o.row_lift),
                            "tolerate_ill_conditioning"_a = o.tolerate_ill_conditioning,
                            "preconditioner"_a = to_string(o.preconditioner), "accept_truncated"_a = o.accept_truncated,
                            "schur_pd_floor"_a = o.schur_pd_floor, "schur_apply"_a = py::none(),
                            "calibrate"_a = name_of(kCalibrations, o.calibrate), "policy"_a = py::none(),
                            "expected_solves"_a = o.expected_solves, "memory_limit"_a = o.memory_limit,
                            "device_memory_limit"_a = o.device_memory_limit,
                            "frame_cache_entries"_a = o.frame_cache_entries, "num_threads"_a = o.num_threads);
          },
          "The defaults of the C++ struct, for the test that compares them with the dataclass.");

  py::class_<EscalationOptions>(m, "EscalationOptions", "Validated escalation options of the core.")
      .def(py::init([](double initial_ridge, double ridge_growth, int max_escalations) {
             return checked(EscalationOptions{initial_ridge, ridge_growth, max_escalations});
           }),
           py::kw_only(), "initial_ridge"_a, "ridge_growth"_a, "max_escalations"_a)
      .def_static(
          "defaults",
          [] {
            const EscalationOptions o;
            return py::dict("initial_ridge"_a = o.initial_ridge, "ridge_growth"_a = o.ridge_growth,
                            "max_escalations"_a = o.max_escalations);
          },
          "The defaults of the C++ struct.");
}

}  // namespace arrowschur::python
