// The C interface between the core and a device backend, a shared library that the core opens at run time.
//
// The backend exports one function, arrowschur_device_table. Everything else goes through the table that it returns, so
// that the core links no device library and a test can put another implementation in its place. Both sides state the
// version that they were compiled with; tables of different versions are never mixed, and a change of anything below is
// a new version. Plain C types only: the two libraries may come from different compilers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ARROWSCHUR_DEVICE_API_VERSION 3u
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

// ---- what the stages work on ----------------------------------------------------------------------------------------
//
// The mathematics of a frame, its rows A_i = h_tt[i] + ridge_t I (d_i x d_i), B_i = h_tb[i] (d_i x k), its border
// M = h_bb + ridge_beta I, T = sum d_i:
//
//     A_i = L_i L_i'     W_i = L_i^-1 B_i     S = M - W'W = L_S L_S'
//     u_i = L_i^-1 g_i   r = W'u - g_beta     dbeta = S^-1 r     dt_i = -L_i^-T (u_i + W_i dbeta)
//
// Every pointer in the structures below is device memory, 256-byte aligned (a vector's border part is not, it follows
// its T entries), except where they say host. Numbers are float64. The structures themselves, and the arrays that they
// call host, are read during the call only. Of a symmetric block the lower triangle is the matrix: entries above it are
// not read. n = 0 and k = 0 are legal; pointers to nothing may be null.
//
// A stage queues its work and returns: it allocates nothing, synchronizes nothing, and its results depend on its inputs
// alone (no floating-point atomics; chunks and tiles are functions of the shape). Its sticky failure is
// ArrowschurBuildRecord::failed: a stage that finds it set leaves its outputs as they are or meaningless, never signals
// success, and the core reads the record before it believes a result.

// Row blocks of one depth.
typedef struct ArrowschurDeviceRows {
  int32_t d;  // 1 .. ARROWSCHUR_DEVICE_MAX_DEPTH
  int64_t n;  // row blocks, >= 1
  // Where the j-th of them has its first line (of T) and its first entry in `a` (of sum d^2). Null: j d and j d^2.
  const int64_t* line;
  const int64_t* entry;
  const int64_t* row;  // its index in the caller's order; null: j
} ArrowschurDeviceRows;
#define ARROWSCHUR_DEVICE_MAX_DEPTH 32
#define ARROWSCHUR_DUAL_MAX_WIDTH 64  // widest band of the dual route

enum {
  ARROWSCHUR_BORDER_DENSE = 0,  // values [k, k], symmetric
  ARROWSCHUR_BORDER_BANDED = 1,  // values [width + 1, k], M[i + j, i] at [j, i]; entries with i + j >= k are not read.
  // width 0 is a diagonal
  ARROWSCHUR_BORDER_BLOCKS = 2  // values [k / width, width, width]: diagonal blocks of one size, which divides k
};

typedef struct ArrowschurDeviceSystem {
  int64_t n, total, k;  // row blocks, T, border width; n >= 0, k >= 0
  int32_t groups;
  const ArrowschurDeviceRows* rows;  // host [groups], together every row block once
  const double* a;  // [sum d^2], each block row-major
  const double* b;  // [T, k] row-major
  int32_t border_form;
  int64_t border_width;
  const double* border;
} ArrowschurDeviceSystem;

// How a build went, 64 bytes, on the device.
typedef struct ArrowschurBuildRecord {
  uint32_t failed;  // of the ARROWSCHUR_..._FAILED
  int32_t border_pivot;  // 0-based index of the pivot of S, of C or of the band that was not positive; -1
  int64_t failing_rows;
  // Smallest failing row (of the caller's order) and its 0-based pivot, row << 8 | pivot; all ones where none failed.
  uint64_t first_failure;
  double bump;  // the largest ridge_bump (inner_loop.hpp) of the failing rows, 0 where none failed
  double suggested_bump;  // by suggest_bump
  double log_det;  // log|H + ridges|
  // Squared, of rows and border; on the dual route of H with its border eliminated first, L_M[a, a]^2 and
  // (L_i[j, j] L_C[t, t])^2.
  double smallest_pivot;
  double reserved;
} ArrowschurBuildRecord;
enum {
  ARROWSCHUR_ROWS_FAILED = 1,
  ARROWSCHUR_BORDER_FAILED = 2,  // S, or C
  ARROWSCHUR_BAND_FAILED = 4  // M + ridge_beta I of the dual route: S may have a factor all the same
};

// Factors at one pair of ridges. The core allocates; ldS is a multiple of 16 not below k. Conjugate gradients need the rows
// only: s, s0 and border_inverses are null then, lds is 0, and reduce_rhs and expand take such a factor.
typedef struct ArrowschurDeviceFactor {
  double* l;  // [sum d^2], as `a`: the lower triangles; above them undefined
  double* inverse_diagonal;  // [T]: 1 / L_i[j, j]
  double* w;  // [T, k]; may be system.b when the system is not needed any more
  double* s0;  // [k, ldS]: M - W'W, without ridge_beta. May be `s` when it need not be kept
  double* s;  // [k, ldS]: L_S. Both lower triangles of column-major matrices
  int64_t lds;
  double* border_inverses;  // what prepare_border_solve makes; inverse_bytes of sizes()
  int32_t full_inverse;  // 1: the whole of L_S^-1 instead of that of its diagonal blocks
  // Dual route, for a border of the banded form (Woodbury; diagonals are bands of width 0). Null on the direct one.
  //     M + ridge_beta I = L_M L_M'   V = (M + ridge_beta I)^-1 W'   C = I - W V = L_C L_C'
  // `s` then has order T (lds not below it) and holds C - I after dual_reduce, L_C after factor_border: one of the one for
  // each of the other. border_inverses are those of L_C, s0 is not used. v is what tells the routes apart: never null on
  // the dual one, T k = 0 or not.
  double* v;  // [T, k]: row t is column t of V
  double* band_factor;  // [width + 1, k]: L_M in the layout of the border
  ArrowschurBuildRecord* record;
} ArrowschurDeviceFactor;

// What an attempt of the inner loop is judged by, 64 bytes, on the device: sums over all T + k entries.
typedef struct ArrowschurLoopRecord {
  double r_delta, delta_q;  // r'delta, delta'q
  double delta_t_squared, delta_beta_squared;
  double objective;  // (z + delta)'(r + q - g)
  double gradient_squared, point_squared;  // |r + q|^2, |z + delta|^2
  uint64_t failed;  // of the factor that made delta; 0 where there is none
} ArrowschurLoopRecord;

// Where conjugate gradients stand, 64 bytes, on the device. Nothing moves any more once `stop` is set, so the result does
// not depend on how many iterations are queued between two looks at it.
typedef struct ArrowschurPcgRecord {
  uint32_t stop;  // ARROWSCHUR_PCG_
  int32_t iterations;
  double rz;  // r'z of the iteration to come
  double residual, right_side;  // |r|_2 by the recurrence, |b|_2
  double tolerance;  // |r|_2 <= tolerance ends it
  double value;  // what was not positive, where stop says so
  int64_t max_iterations;
  double reserved;
} ArrowschurPcgRecord;
enum {
  ARROWSCHUR_PCG_RUNNING = 0,
  ARROWSCHUR_PCG_CONVERGED = 1,
  ARROWSCHUR_PCG_BUDGET = 2,
  ARROWSCHUR_PCG_DIAGONAL = 3,  // an entry of the diagonal of S is not positive, or not finite
  ARROWSCHUR_PCG_CURVATURE = 4  // r'z or p'Sp is not positive, or not finite
};

// Small systems solved at once, one depth and one border width each.
typedef struct ArrowschurBatchEntry {
  int64_t n;
  int32_t d, k;  // d <= ARROWSCHUR_DEVICE_MAX_DEPTH, k <= ARROWSCHUR_BATCH_MAX_BORDER
  int64_t a, b, m,
      x;  // offsets, in numbers, of its blocks [n, d, d], [n, d, k], [k, k], and of its [n d + k] in g and x
} ArrowschurBatchEntry;
#define ARROWSCHUR_BATCH_MAX_BORDER 32
typedef struct ArrowschurDeviceBatch {
  int64_t count;
  const ArrowschurBatchEntry* host_entries;  // host [count]: decides the launches
  const ArrowschurBatchEntry* entries;  // the same on the device
  const double* a;
  const double* b;
  const double* m;
  const double* g;
} ArrowschurDeviceBatch;

// A dictionary whose atoms are to be chosen from (cpp/src/dictionary/router.hpp), in float32.
typedef struct ArrowschurDeviceAtoms {
  int64_t count, width;  // K, P
  const float* atoms;  // [K, P]; each of norm 1 within 2^-16, or zeros: never chosen
} ArrowschurDeviceAtoms;
#define ARROWSCHUR_ROUTE_MAX 128  // most atoms that are looked for in a row

typedef struct ArrowschurDeviceSizes {  // bytes
  size_t workspace;  // that any stage on a system and factor of this shape takes
  size_t inverse;  // of border_inverses
} ArrowschurDeviceSizes;

// Of one stream since it was created. A call of a library counts as one launch; what a graph replays is not counted
// again as launches.
typedef struct ArrowschurDeviceCounters {
  int64_t h2d_bytes, d2h_bytes, kernel_launches, graph_replays, syncs, allocations, handle_creations;
} ArrowschurDeviceCounters;

// Streams, graphs and events are handles of the backend. Where a stream is taken, the work is queued on it and the call
// returns; host memory that is copied must stay until the stream has passed the copy. A stream brings its library
// handles with it and is used by one thread at a time.
typedef struct ArrowschurDeviceTable {
  uint32_t version;
  const char* backend;  // "cuda"

  // The last failure on the calling thread, "" when there was none. Valid until the thread's next call.
  const char* (*last_error)(void);
  // Driver, libraries, lowest visible device, its context, its facts; an ARROWSCHUR_PROBE_ value. What is missing or
  // broken is in last_error.
  int (*probe)(ArrowschurDeviceFacts* facts);
  int (*free_memory)(size_t* bytes);  // of the device, now

  int (*stream_create)(void** stream);
  int (*stream_destroy)(void* stream);
  int (*stream_synchronize)(void* stream);
  int (*counters)(void* stream, ArrowschurDeviceCounters* counters);
  // Work queued on `stream` from now on begins after what is queued on the caller's own stream (a cudaStream_t as a
  // number; 1 the legacy default stream, 2 the per-thread one), and the other way round.
  int (*stream_wait_external)(void* stream, uint64_t external);
  int (*external_wait_stream)(uint64_t external, void* stream);
  // The ordinal of the device that holds `memory`; -1 for memory of the host.
  int (*memory_ordinal)(const void* memory, int32_t* ordinal);

  // From the stream-ordered pool: usable, and given back, in the order of the stream's work.
  int (*allocate)(void** memory, size_t bytes, void* stream);
  int (*release)(void* memory, void* stream);
  // Pinned host memory, for transfers that overlap.
  int (*host_allocate)(void** memory, size_t bytes);
  int (*host_release)(void* memory);
  // `count` copies of a 64-bit pattern: zeros, or the signalling NaN that shows what was read before it was written.
  int (*fill)(void* memory, uint64_t pattern, size_t count, void* stream);
  int (*copy_to_device)(void* to, const void* from, size_t bytes, void* stream);
  int (*copy_to_host)(void* to, const void* from, size_t bytes, void* stream);
  int (*copy_on_device)(void* to, const void* from, size_t bytes, void* stream);

  int (*event_create)(void** event);
  int (*event_destroy)(void* event);
  int (*event_record)(void* event, void* stream);
  // Between two recorded events of synchronized streams.
  int (*event_elapsed)(void* begin, void* end, double* milliseconds);

  // Work queued between begin and end is recorded, not run; it may neither allocate nor synchronize. end gives the
  // graph, or fails and leaves the stream as it was before begin.
  int (*capture_begin)(void* stream);
  int (*capture_end)(void* stream, void** graph);
  int (*graph_launch)(void* graph, void* stream);
  int (*graph_destroy)(void* graph);

  // ---- stages: names and costs in the documentation of the library ----
  // Host arithmetic: what a frame must allocate. ARROWSCHUR_DEVICE_INVALID where the shape is not supported (a depth out
  // of range, counts that the libraries' arguments cannot hold, a dual route of a border that is not banded or
  // whose band is wider than ARROWSCHUR_DUAL_MAX_WIDTH).
  int (*sizes)(const ArrowschurDeviceSystem* system, int32_t dual, int32_t full_inverse, ArrowschurDeviceSizes* sizes);

  // Resets the record; L, 1 / diagonals, W (E1, E2). A row that has no factor is counted in the record, its bump
  // evaluated.
  int (*factor_and_whiten)(const ArrowschurDeviceSystem* system, double ridge_t, const ArrowschurDeviceFactor* factor,
                           void* workspace, void* stream);
  // s0 = M - W'W (E3).
  int (*reduce)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, void* workspace,
                void* stream);
  // Dual: L_M, V and C, from W (Y1).
  int (*dual_reduce)(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                     void* workspace, void* stream);
  // s = s0 + ridge_beta I = L_S L_S' (E4). Dual: C = L_C L_C', the ridge is in it already (Y2).
  int (*factor_border)(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                       void* workspace, void* stream);
  // record->log_det, record->smallest_pivot (E5).
  int (*log_det)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, void* workspace,
                 void* stream);
  // border_inverses (E6).
  int (*prepare_border_solve)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor,
                              void* workspace, void* stream);
  // record->suggested_bump of a build whose rows have failed (examine_rows of inner_loop.hpp).
  int (*suggest_bump)(const ArrowschurDeviceSystem* system, double ridge_t, double ridge_beta,
                      const ArrowschurDeviceFactor* factor, void* workspace, void* stream);

  // u = L^-1 g_t (first T entries of `out`), W'u - g_beta (last k) (V2, V3). g and out: [T + k], not the same.
  // Dual (Y3): m = (M + ridge_beta I)^-1 g_beta in the last k, u - W m in the first T.
  int (*reduce_rhs)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, const double* g,
                    double* out, void* workspace, void* stream);
  // x = S^-1 x, [k] (V4). Dual: x = C^-1 x, [T].
  int (*border_solve)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, double* x,
                      void* workspace, void* stream);
  // x [T + k] holds u and dbeta: u is replaced by dt (V5, V6). Dual: x holds w = C^-1 (u - W m) and m; they are replaced
  // by dt = -L^-T w and dbeta = V w - m.
  int (*expand)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, double* x, void* workspace,
                void* stream);

  // y = (M + ridge_beta I) x - W'(W x), [k] each, not the same: S x from W alone, W read once where a slab of a row fits
  // the memory of a block (P1). Only `w` and `record` of the factor are used.
  int (*schur_apply)(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                     const double* x, double* y, void* workspace, void* stream);
  // Conjugate gradients on S x = b from x = 0, preconditioned by the diagonal of S: b, x [k], vectors [5, k] to work in.
  // begin makes the diagonal and the record; iterate does one iteration, nothing once the record says stop. They end
  // when |r| <= max(relative_tolerance, gamma_k) |b| or after max_iterations. Of a build that has failed the record says
  // ARROWSCHUR_PCG_DIAGONAL with a NaN. vectors: r, z, p, S p, the diagonal.
  int (*pcg_begin)(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                   double relative_tolerance, int64_t max_iterations, const double* b, double* x, double* vectors,
                   ArrowschurPcgRecord* record, void* workspace, void* stream);
  int (*pcg_iterate)(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                     double* x, double* vectors, ArrowschurPcgRecord* record, void* workspace, void* stream);

  // Every system of the batch on its own: x = its dt and dbeta where its record (of [count]) has no failure, and NaN
  // where it has one. Rows that fail say so alone, whatever the border; suggested_bump is left at 0. E1 to V6 in one
  // launch for all systems of one depth that have up to 4096 lines.
  int (*batch_sizes)(const ArrowschurDeviceBatch* batch, size_t* workspace);
  int (*batch_solve)(const ArrowschurDeviceBatch* batch, double ridge_t, double ridge_beta, double* x,
                     ArrowschurBuildRecord* records, void* workspace, void* stream);

  // For each of the rows x [rows, P], finite: the `wanted` atoms of largest |s64(x, d)|, in descending order, ties by
  // ascending index, to index and score [rows, wanted], which need the alignment of their types only; unused places have
  // score 0 and index 0xffffffff, an atom of score 0 is never chosen. Scores are those of s64 of the dictionary's kernels
  // (kernels.hpp there), to the bit: what float32 products are used for is to discard atoms, under the bound of
  // score_error.hpp. A row with more candidates than wanted + max(8, wanted) is scanned whole, and added to *rescanned
  // (device). wanted <= ARROWSCHUR_ROUTE_MAX and <= K. route_sizes also refuses a process whose environment makes the
  // library's float32 products something else.
  int (*route_sizes)(const ArrowschurDeviceAtoms* atoms, int64_t rows, int32_t wanted, size_t* workspace);
  int (*route)(const ArrowschurDeviceAtoms* atoms, int64_t rows, const float* x, int32_t wanted, uint32_t* index,
               double* score, int64_t* rescanned, void* workspace, void* stream);

  // q = H z without ridges, [T + k] each, not the same (Q1).
  int (*apply_h)(const ArrowschurDeviceSystem* system, const double* z, double* q, void* workspace, void* stream);
  // max over the lines of H + ridges of the sum of its absolute entries: |H + ridges|_inf, to *norm (device).
  int (*norm_h)(const ArrowschurDeviceSystem* system, double ridge_t, double ridge_beta, double* norm, void* workspace,
                void* stream);
  // max |x_i| to *norm (device).
  int (*norm_inf)(int64_t size, const double* x, double* norm, void* workspace, void* stream);

  // out = sum_i coefficients[i] inputs[i], 1 to 4 vectors (host arrays), [size] each, in the order given; out may be one
  // of them.
  int (*combine)(int64_t size, int32_t count, const double* coefficients, const double* const* inputs, double* out,
                 void* stream);
  // Sums of an attempt, in an order fixed by the shape; vectors [T + k]. `factor` may be null.
  int (*measure)(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, const double* g,
                 const double* z, const double* r, const double* delta, const double* q, ArrowschurLoopRecord* record,
                 void* workspace, void* stream);
} ArrowschurDeviceTable;

// The table, valid until the process ends; null where the backend was compiled with another version, which it then
// leaves in *own_version. Calls no driver.
typedef const ArrowschurDeviceTable* (*ArrowschurDeviceTableFunction)(const ArrowschurHostTable* host,
                                                                      uint32_t* own_version);

#ifdef __cplusplus
}
#endif
