// arrowschur_native._core: one register function per public header.
#include "common.hpp"

PYBIND11_MODULE(_core, m) {
  using namespace arrowschur::python;
  m.doc() = "Compiled core of arrowschur_native. Private: use the classes and functions of arrowschur_native.";
  register_errors(m);
  register_policy(m);  // before the options, which hold a policy
  register_options(m);
  register_results(m);
  register_system(m);
  register_newton(m);
  register_batch(m);
  register_factor(m);
  register_device_arrays(m);
  register_frame(m);
  register_telemetry(m);
  register_inner_loop(m);
  register_sweep(m);
  register_dictionary(m);
  register_fixtures(m);
  register_build(m);
}
