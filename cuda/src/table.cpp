// The one symbol of this library.
#include "primitives.hpp"
#include "probe.hpp"
#include "status.hpp"

extern "C" const ArrowschurDeviceTable* arrowschur_device_table(const ArrowschurHostTable* host,
                                                                uint32_t* own_version) {
  namespace cuda = arrowschur::cuda;
  static constexpr ArrowschurDeviceTable table = {
      .version = ARROWSCHUR_DEVICE_API_VERSION,
      .backend = "cuda",
      .last_error = cuda::last_error,
      .probe = cuda::probe,
      .stream_create = cuda::stream_create,
      .stream_destroy = cuda::stream_destroy,
      .stream_synchronize = cuda::stream_synchronize,
      .allocate = cuda::allocate,
      .release = cuda::release,
      .fill = cuda::fill,
      .copy_to_device = cuda::copy_to_device,
      .copy_to_host = cuda::copy_to_host,
      .event_create = cuda::event_create,
      .event_destroy = cuda::event_destroy,
      .event_record = cuda::event_record,
      .event_elapsed = cuda::event_elapsed,
  };
  *own_version = ARROWSCHUR_DEVICE_API_VERSION;
  if (host->version != ARROWSCHUR_DEVICE_API_VERSION) return nullptr;
  std::vector<std::string> roots;
  for (const char* const* root = host->package_roots; *root != nullptr; ++root) roots.emplace_back(*root);
  cuda::set_package_roots(std::move(roots));
  return &table;
}
