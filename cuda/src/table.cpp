// The one symbol of this library.
#include "memory.hpp"
#include "primitives.hpp"
#include "probe.hpp"
#include "stages.hpp"
#include "status.hpp"

extern "C" const ArrowschurDeviceTable* arrowschur_device_table(const ArrowschurHostTable* host,
                                                                uint32_t* own_version) {
  namespace cuda = arrowschur::cuda;
  static constexpr ArrowschurDeviceTable table = {
      .version = ARROWSCHUR_DEVICE_API_VERSION,
      .backend = "cuda",
      .last_error = cuda::last_error,
      .probe = cuda::probe,
      .free_memory = cuda::free_memory,
      .stream_create = cuda::stream_create,
      .stream_destroy = cuda::stream_destroy,
      .stream_synchronize = cuda::stream_synchronize,
      .counters = cuda::counters,
      .stream_wait_external = cuda::stream_wait_external,
      .external_wait_stream = cuda::external_wait_stream,
      .memory_ordinal = cuda::memory_ordinal,
      .allocate = cuda::allocate,
      .release = cuda::release,
      .host_allocate = cuda::host_allocate,
      .host_release = cuda::host_release,
      .fill = cuda::fill,
      .copy_to_device = cuda::copy_to_device,
      .copy_to_host = cuda::copy_to_host,
      .copy_on_device = cuda::copy_on_device,
      .event_create = cuda::event_create,
      .event_destroy = cuda::event_destroy,
      .event_record = cuda::event_record,
      .event_elapsed = cuda::event_elapsed,
      .capture_begin = cuda::capture_begin,
      .capture_end = cuda::capture_end,
      .graph_launch = cuda::graph_launch,
      .graph_destroy = cuda::graph_destroy,
      .sizes = cuda::sizes,
      .factor_and_whiten = cuda::factor_and_whiten,
      .reduce = cuda::reduce,
      .dual_reduce = cuda::dual_reduce,
      .factor_border = cuda::factor_border,
      .log_det = cuda::log_det,
      .prepare_border_solve = cuda::prepare_border_solve,
      .suggest_bump = cuda::suggest_bump,
      .reduce_rhs = cuda::reduce_rhs,
      .border_solve = cuda::border_solve,
      .expand = cuda::expand,
      .schur_apply = cuda::schur_apply,
      .pcg_begin = cuda::pcg_begin,
      .pcg_iterate = cuda::pcg_iterate,
      .batch_sizes = cuda::batch_sizes,
      .batch_solve = cuda::batch_solve,
      .route_sizes = cuda::route_sizes,
      .route = cuda::route,
      .apply_h = cuda::apply_h,
      .norm_h = cuda::norm_h,
      .norm_inf = cuda::norm_inf,
      .combine = cuda::combine,
      .measure = cuda::measure,
  };
  *own_version = ARROWSCHUR_DEVICE_API_VERSION;
  if (host->version != ARROWSCHUR_DEVICE_API_VERSION) return nullptr;
  std::vector<std::string> roots;
  for (const char* const* root = host->package_roots; *root != nullptr; ++root) roots.emplace_back(*root);
  cuda::set_package_roots(std::move(roots));
  return &table;
}
