// Version, build facts, threads, scratch memory.
#include "common.hpp"

namespace arrowschur::python {

void register_build(py::module_& m) {
  using namespace py::literals;
  m.attr("__version__") = version();
  m.def("build_info", [] {
    py::dict facts;
    for (const auto& [name, value] : build_info()) facts[py::str(name)] = value;
    return facts;
  });
  m.def("force_instruction_set", &force_instruction_set, "name"_a);

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
