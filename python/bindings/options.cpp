// Option structs. The Python dataclasses hold names and documentation; the rules live in the core's check().
#include <array>
#include <string_view>

#include "common.hpp"

namespace arrowschur::python {
namespace {

template <class E>
struct Named {
  const char* name;
  E value;
};

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

template <class Table>
auto parse(const Table& table, const py::handle& value, const char* field) {
  if (py::isinstance<py::str>(value)) {
    const auto text = value.cast<std::string>();
    for (const auto& entry : table) {
      if (text == entry.name) return entry.value;
    }
  }
  std::string expected = "one of ";
  for (const auto& entry : table) {
    if (&entry != &table.front()) expected += ", ";
    expected += '\'' + std::string(entry.name) + '\'';
  }
  throw InvalidArgument(field, py::repr(value).cast<std::string>(), expected);
}

template <class Table, class E>
const char* name_of(const Table& table, E value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return "unknown";
}

template <class Options>
Options checked(Options options) {
  if (auto complaint = check(options)) throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
  return options;
}

}  // namespace

void register_options(py::module_& m) {
  using namespace py::literals;

  py::class_<SolveOptions>(m, "SolveOptions", "Validated options of the core.")
      .def(py::init([](const py::object& mode, const py::object& device, const py::object& precision, bool certificate,
                       std::optional<double> certificate_tolerance, const py::object& guards,
                       const py::object& row_lift, bool tolerate_ill_conditioning, std::optional<Index> memory_limit,
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
             o.memory_limit = memory_limit;
             o.num_threads = num_threads;
             return checked(o);
           }),
           py::kw_only(), "mode"_a = "auto", "device"_a = "auto", "precision"_a = "float64", "certificate"_a = true,
           "certificate_tolerance"_a = py::none(), "guards"_a = "relative", "row_lift"_a = "indefinite",
           "tolerate_ill_conditioning"_a = false, "memory_limit"_a = py::none(), "num_threads"_a = py::none())
      .def_static(
          "defaults",
          [] {
            const SolveOptions o;
            return py::dict("mode"_a = name_of(kModes, o.mode), "device"_a = name_of(kDevices, o.device),
                            "precision"_a = name_of(kPrecisions, o.precision), "certificate"_a = o.certificate,
                            "certificate_tolerance"_a = o.certificate_tolerance,
                            "guards"_a = name_of(kGuards, o.guards), "row_lift"_a = name_of(kRowLifts, o.row_lift),
                            "tolerate_ill_conditioning"_a = o.tolerate_ill_conditioning,
                            "memory_limit"_a = o.memory_limit, "num_threads"_a = o.num_threads);
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
