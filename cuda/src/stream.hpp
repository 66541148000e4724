// What a handle of a stream is: a CUDA stream with its library handles, their workspace, and its counters. Used by one
// thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/device_api.h"

namespace arrowschur::cuda {

struct Graph {
  cudaGraphExec_t exec = nullptr;
  std::int64_t h2d_bytes = 0, d2h_bytes = 0;  // of one replay
};

class Stream {
 public:
  static int create(Stream** stream) noexcept;
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  ArrowschurDeviceCounters& counters() { return counters_; }
  void count_bytes(std::int64_t h2d, std::int64_t d2h);

  // Refuses what a capture cannot hold, and spoils the capture.
  int not_in_a_capture(const char* what) noexcept;
  int capture_begin() noexcept;
  int capture_end(Graph** graph) noexcept;
  int launch(const Graph& graph) noexcept;

  // Orders this stream's work and that of another one, by an event.
  int wait_for(cudaStream_t other) noexcept;
  int let_wait(cudaStream_t other) noexcept;

  // ---- library calls of the stages (kernels/stages.hpp) ----
  int subtract_gram(std::int64_t k, std::int64_t lines, const double* w, double* s, std::int64_t lds) noexcept;
  int minus_outer(std::int64_t lines, std::int64_t k, const double* z, double* c, std::int64_t ldc) noexcept;
  int cholesky(std::int64_t k, double* s, std::int64_t lds, int* info, void* workspace) noexcept;
  int solve_lower(std::int64_t k, const double* l, std::int64_t lds, double* x, std::int64_t ldx) noexcept;
  int scores(std::int64_t atoms, std::int64_t rows, std::int64_t width, const float* d, const float* x, float* s,
             std::int64_t lds) noexcept;

 private:
  Stream() = default;
  int make() noexcept;

  cudaStream_t stream_ = nullptr;
  cudaEvent_t fence_ = nullptr;
  void* cublas_ = nullptr;
  void* cusolver_ = nullptr;
  void* params_ = nullptr;
  void* workspace_ = nullptr;         // of cuBLAS
  std::vector<unsigned char> host_;  // workspace of cuSOLVER on the host: grows, never shrinks
  std::int64_t potrf_k_ = 0, potrf_lds_ = 0;  // what the sizes below are of
  std::size_t potrf_device_ = 0, potrf_host_ = 0;
  ArrowschurDeviceCounters counters_{};
  bool capturing_ = false, spoilt_ = false;
  std::int64_t capture_h2d_ = 0, capture_d2h_ = 0;
};

// The stream of a handle, its device current; null where there is none, with its words and `status`.
Stream* stream_of(void* handle, int* status) noexcept;

}  // namespace arrowschur::cuda
