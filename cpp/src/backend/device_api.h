// The C interface between the core and a device backend, a shared library that the core opens at run time.
//
// The backend exports one function, arrowschur_device_table. Everything else goes through the table that it returns, so
// that the core links no device library and a test can put another implementation in its place. Both sides state the
// version that they were compiled with; tables of different versions are never mixed, and a change of anything below is
// a new version. Plain C types only: the two libraries may come from different compilers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ARROWSCHUR_DEVICE_API_VERSION 1u
#define ARROWSCHUR_DEVICE_TABLE_SYMBOL "arrowschur_device_table"

#ifdef __cplusplus
extern "C" {
#endif

// Status of a call. ArrowschurDeviceTable::last_error has the words.
enum {
  ARROWSCHUR_DEVICE_OK = 0,
  ARROWSCHUR_DEVICE_FAILED = 1,  // a call of the driver, of the runtime or of a library failed
  ARROWSCHUR_DEVICE_OUT_OF_MEMORY = 2,
  ARROWSCHUR_DEVICE_INVALID = 3  // the caller's mistake: a null handle, a size that does not fit
};

// How a probe ended. Absence and fault are different things: what is not there is absent, what is there and broken is a
// fault.
enum {
  ARROWSCHUR_PROBE_AVAILABLE = 0,
  ARROWSCHUR_PROBE_DRIVER_UNAVAILABLE = 1,
  ARROWSCHUR_PROBE_RUNTIME_LIBRARY_UNAVAILABLE = 2,
  ARROWSCHUR_PROBE_NO_DEVICE = 3,
  ARROWSCHUR_PROBE_FAULT = 4
};

// Read from the device, never inferred from its name. Sizes in bytes; flags are 0 or 1, -1 where the driver does not say.
typedef struct ArrowschurDeviceFacts {
  int32_t ordinal;
  int32_t compute_major, compute_minor;
  int32_t multiprocessors, threads_per_multiprocessor;
  int32_t copy_engines;
  int32_t ecc, integrated, mig, memory_pools;
  uint64_t shared_bytes_per_block, shared_bytes_per_block_optin;
  uint64_t l2_bytes, total_bytes, free_bytes;
  int32_t driver_version, runtime_version;  // 1000 major + 10 minor
  char name[256];
} ArrowschurDeviceFacts;

typedef struct ArrowschurHostTable {
  uint32_t version;
  // Folders that may hold packages of device libraries (nvidia/*/lib below them), best first, ended by a null pointer.
  // Read during the call of arrowschur_device_table only.
  const char* const* package_roots;
} ArrowschurHostTable;

// Streams and events are handles of the backend. Where a stream is taken, the work is queued on it and the call returns;
// host memory that is copied must stay until the stream has passed the copy.
typedef struct ArrowschurDeviceTable {
  uint32_t version;
  const char* backend;  // "cuda"

  // The last failure on the calling thread, "" when there was none. Valid until the thread's next call.
  const char* (*last_error)(void);
  // Driver, libraries, lowest visible device, its context, its facts; an ARROWSCHUR_PROBE_ value. What is missing or
  // broken is in last_error.
  int (*probe)(ArrowschurDeviceFacts* facts);

  int (*stream_create)(void** stream);
  int (*stream_destroy)(void* stream);
  int (*stream_synchronize)(void* stream);

  // From the stream-ordered pool: usable, and given back, in the order of the stream's work.
  int (*allocate)(void** memory, size_t bytes, void* stream);
  int (*release)(void* memory, void* stream);
  // `count` copies of a 64-bit pattern: zeros, or the signalling NaN that shows what was read before it was written.
  int (*fill)(void* memory, uint64_t pattern, size_t count, void* stream);
  int (*copy_to_device)(void* to, const void* from, size_t bytes, void* stream);
  int (*copy_to_host)(void* to, const void* from, size_t bytes, void* stream);

  int (*event_create)(void** event);
  int (*event_destroy)(void* event);
  int (*event_record)(void* event, void* stream);
  // Between two recorded events of synchronized streams.
  int (*event_elapsed)(void* begin, void* end, double* milliseconds);
} ArrowschurDeviceTable;

// The table, valid until the process ends; null where the backend was compiled with another version, which it then
// leaves in *own_version. Calls no driver.
typedef const ArrowschurDeviceTable* (*ArrowschurDeviceTableFunction)(const ArrowschurHostTable* host,
                                                                      uint32_t* own_version);

#ifdef __cplusplus
}
#endif
