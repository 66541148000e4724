// Version, build facts, the device, threads, scratch memory.
#include "arrowschur/device.hpp"
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

py::dict to_dict(const DeviceFacts& f) {
  return py::dict("ordinal"_a = f.ordinal, "name"_a = f.name,
                  "compute_capability"_a = py::make_tuple(f.compute_major, f.compute_minor),
                  "multiprocessors"_a = f.multiprocessors,
                  "threads_per_multiprocessor"_a = f.threads_per_multiprocessor, "copy_engines"_a = f.copy_engines,
                  "ecc"_a = f.ecc, "integrated"_a = f.integrated, "mig"_a = f.mig, "memory_pools"_a = f.memory_pools,
                  "shared_bytes_per_block"_a = f.shared_bytes_per_block,
                  "shared_bytes_per_block_optin"_a = f.shared_bytes_per_block_optin, "l2_bytes"_a = f.l2_bytes,
                  "total_bytes"_a = f.total_bytes, "free_bytes"_a = f.free_bytes, "driver_version"_a = f.driver_version,
                  "runtime_version"_a = f.runtime_version);
}

py::dict device_facts() {
  const DeviceInfo* info = nullptr;
  {
    py::gil_scoped_release release;  // a driver takes its time to wake
    info = &device_info();
  }
  py::list devices;
  if (info->facts) devices.append(to_dict(*info->facts));
  return py::dict("available"_a = info->outcome == DeviceOutcome::available, "outcome"_a = to_string(info->outcome),
                  "absence"_a = to_string(info->absence), "reason"_a = info->why(), "backend"_a = info->backend,
                  "library"_a = info->library, "has_solver_stages"_a = info->has_solver_stages, "devices"_a = devices);
}

}  // namespace

void register_build(py::module_& m) {
  m.attr("__version__") = version();
  m.def("build_info", [] {
    py::dict facts;
    for (const auto& [name, value] : build_info()) facts[py::str(name)] = value;
    return facts;
  });
  m.def("force_instruction_set", &force_instruction_set, "name"_a);

  m.def("device_info", &device_facts);
  m.def("add_device_package_root", &add_device_package_root, "folder"_a);

  m.def("get_num_threads", &get_num_threads);
  m.def("set_num_threads", &set_num_threads, "n"_a);
  m.def("clear_workspaces", &clear_workspaces);
  m.def("workspace_cache_bytes", &workspace_cache_bytes);
  m.def("set_workspace_cache_bytes", &set_workspace_cache_bytes, "bytes"_a);

  // The thread that imports the module is the main one as a rule; the package corrects it, also after a fork.
  m.def("set_main_thread", &set_main_thread, "The calling thread is the one that receives signals.");
  set_main_thread();
}

}  // namespace arrowschur::python
