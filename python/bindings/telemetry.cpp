// Counters of the process and records of stages.
#include "arrowschur/telemetry.hpp"

#include "workspace.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

// A window that closes when it is told to, not when Python gets round to destroying it. What it has seen stays.
class Window {
 public:
  Window() { open_.emplace(); }

  py::list records() const {
    const std::vector<StageRecord> seen = open_ ? open_->records() : seen_;
    py::list list;
    for (const StageRecord& r : seen) {
      list.append(py::dict("name"_a = r.name, "n"_a = r.n, "d"_a = r.d, "k"_a = r.k, "flops"_a = r.flops,
                           "bytes"_a = r.bytes, "cpu_ms"_a = r.cpu_ms, "device_ms"_a = r.device_ms));
    }
    return list;
  }

  void close() {
    if (!open_) return;
    seen_ = open_->records();
    open_.reset();
  }

 private:
  std::optional<StageWindow> open_;
  std::vector<StageRecord> seen_;
};

}  // namespace

py::dict telemetry_fields(const Telemetry& t) {
  return py::dict("h2d_bytes"_a = t.h2d_bytes, "d2h_bytes"_a = t.d2h_bytes, "factorizations"_a = t.factorizations,
                  "frame_builds"_a = t.frame_builds, "handle_creations"_a = t.handle_creations,
                  "kernel_launches"_a = t.kernel_launches, "graph_replays"_a = t.graph_replays, "syncs"_a = t.syncs,
                  "allocations"_a = t.allocations, "capture_failures"_a = t.capture_failures,
                  "cpu_fallbacks"_a = t.cpu_fallbacks, "fallback_reasons"_a = py::tuple(py::cast(t.fallback_reasons)),
                  "device_ordinal"_a = t.device_ordinal);
}

void register_telemetry(py::module_& m) {
  m.def(
      "process_telemetry", [] { return telemetry_fields(process_telemetry()); },
      "Sum over the threads of this process.");
  py::class_<Window>(m, "StageWindow", "An open ring of stage records.")
      .def(py::init<>())
      .def("records", &Window::records)
      .def("close", &Window::close);
}

}  // namespace arrowschur::python
