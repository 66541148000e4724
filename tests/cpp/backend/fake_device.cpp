// A device backend for tests: the table over host memory, loaded by the loader of the real one. It calls itself "fake",
// so that nothing made with it can pass for a device.
//
// ARROWSCHUR_FAKE_DEVICE, read by each probe, says how it ends: available (the default), driver_unavailable,
// runtime_library_unavailable, no_device or fault; `version` makes the table one of another version.
// ARROWSCHUR_FAKE_FAIL scripts calls that fail (fake_device.hpp), ARROWSCHUR_FAKE_MEMORY is the size of its memory.
#include "fake_device.hpp"

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

#include "backend/device_api.h"
#include "fake_heap.hpp"
#include "fake_stages.hpp"
#include "fake_stream.hpp"

namespace {

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string script() {
  const std::string value = environment("ARROWSCHUR_FAKE_DEVICE");
  return value.empty() ? "available" : value;
}

int probe(ArrowschurDeviceFacts* facts) {
  ++fake::counts().probes;
  const std::string outcome = script();
  const std::string words = "scripted " + outcome;
  if (outcome == "driver_unavailable") return fake::fail(ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE, words);
  if (outcome == "runtime_library_unavailable") {
    return fake::fail(ARROWSCHUR_PROBE_RUNTIME_LIBRARY_UNAVAILABLE, words);
  }
  if (outcome == "no_device") return fake::fail(ARROWSCHUR_PROBE_NO_DEVICE, words);
  if (outcome != "available") return fake::fail(ARROWSCHUR_PROBE_FAULT, words);
  *facts = ArrowschurDeviceFacts{};
  facts->compute_major = 9;
  facts->multiprocessors = 132, facts->threads_per_multiprocessor = 2048;
  facts->copy_engines = 3;
  facts->ecc = 1, facts->mig = -1, facts->memory_pools = 1;
  facts->shared_bytes_per_block = 49152, facts->shared_bytes_per_block_optin = 232448;
  facts->l2_bytes = 52428800;
  facts->total_bytes = fake::total_bytes(), facts->free_bytes = fake::free_bytes();
  facts->driver_version = facts->runtime_version = 13000;
  std::strcpy(facts->name, "fake device");
  return ARROWSCHUR_PROBE_AVAILABLE;
}

// name:first:count:status, ...
void read_scripts() {
  std::istringstream all(environment("ARROWSCHUR_FAKE_FAIL"));
  for (std::string one; std::getline(all, one, ',');) {
    std::istringstream parts(one);
    std::string name, number;
    std::getline(parts, name, ':');
    int values[3] = {1, 1, ARROWSCHUR_DEVICE_FAILED};
    for (int& value : values) {
      if (std::getline(parts, number, ':')) value = std::atoi(number.c_str());
    }
    if (!name.empty()) arrowschur_fake_fail(name.c_str(), values[0], values[1], values[2]);
  }
}

constexpr ArrowschurDeviceTable kTable = {
    .version = ARROWSCHUR_DEVICE_API_VERSION,
    .backend = "fake",
    .last_error = fake::last_error,
    .probe = probe,
    .free_memory = fake::free_memory,
    .stream_create = fake::stream_create,
    .stream_destroy = fake::stream_destroy,
    .stream_synchronize = fake::stream_synchronize,
    .counters = fake::counters,
    .stream_wait_external = fake::stream_wait_external,
    .external_wait_stream = fake::external_wait_stream,
    .memory_ordinal = fake::memory_ordinal,
    .allocate = fake::allocate,
    .release = fake::release,
    .host_allocate = fake::host_allocate,
    .host_release = fake::host_release,
    .fill = fake::fill,
    .copy_to_device = fake::copy_to_device,
    .copy_to_host = fake::copy_to_host,
    .copy_on_device = fake::copy_on_device,
    .event_create = fake::event_create,
    .event_destroy = fake::event_destroy,
    .event_record = fake::event_record,
    .event_elapsed = fake::event_elapsed,
    .capture_begin = fake::capture_begin,
    .capture_end = fake::capture_end,
    .graph_launch = fake::graph_launch,
    .graph_destroy = fake::graph_destroy,
    .sizes = fake::sizes,
    .factor_and_whiten = fake::factor_and_whiten,
    .reduce = fake::reduce,
    .dual_reduce = fake::dual_reduce,
    .factor_border = fake::factor_border,
    .log_det = fake::log_det,
    .prepare_border_solve = fake::prepare_border_solve,
    .suggest_bump = fake::suggest_bump,
    .reduce_rhs = fake::reduce_rhs,
    .border_solve = fake::border_solve,
    .expand = fake::expand,
    .schur_apply = fake::schur_apply,
    .pcg_begin = fake::pcg_begin,
    .pcg_iterate = fake::pcg_iterate,
    .batch_sizes = fake::batch_sizes,
    .batch_solve = fake::batch_solve,
    .route_sizes = fake::route_sizes,
    .route = fake::route,
    .apply_h = fake::apply_h,
    .norm_h = fake::norm_h,
    .norm_inf = fake::norm_inf,
    .combine = fake::combine,
    .measure = fake::measure,
};

}  // namespace

extern "C" const ArrowschurDeviceTable* arrowschur_device_table(const ArrowschurHostTable* host,
                                                                std::uint32_t* own_version) {
  for (const char* const* root = host->package_roots; *root != nullptr; ++root) ++fake::counts().package_roots;
  *own_version = ARROWSCHUR_DEVICE_API_VERSION;
  if (script() == "version") {
    *own_version = ARROWSCHUR_DEVICE_API_VERSION + 1;
    return nullptr;
  }
  read_scripts();
  return &kTable;
}
