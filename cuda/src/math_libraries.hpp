// cuBLAS and cuSOLVER: the few functions that the stages call, taken from the libraries that the probe has opened. Their
// headers are not needed: handles are opaque, and the enumerations are those of the BLAS.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "library.hpp"

namespace arrowschur::cuda {

struct MathLibraries {
  // enum values of both libraries
  static constexpr int kLower = 0, kLeft = 0, kNoTranspose = 0, kTranspose = 1, kNonUnit = 0;
  static constexpr int kFloat64 = 1;  // CUDA_R_64F

  int (*cublas_create)(void** handle) = nullptr;
  int (*cublas_destroy)(void* handle) = nullptr;
  int (*cublas_set_stream)(void* handle, cudaStream_t) = nullptr;
  int (*cublas_set_workspace)(void* handle, void* workspace, std::size_t bytes) = nullptr;
  int (*syrk)(void* handle, int fill, int transpose, std::int64_t n, std::int64_t k, const double* alpha,
              const double* a, std::int64_t lda, const double* beta, double* c, std::int64_t ldc) = nullptr;
  int (*trsm)(void* handle, int side, int fill, int transpose, int diagonal, std::int64_t m, std::int64_t n,
              const double* alpha, const double* a, std::int64_t lda, double* b, std::int64_t ldb) = nullptr;
  int (*sgemm)(void* handle, int transpose_a, int transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
               const float* alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
               const float* beta, float* c, std::int64_t ldc) = nullptr;

  int (*cusolver_create)(void** handle) = nullptr;
  int (*cusolver_destroy)(void* handle) = nullptr;
  int (*cusolver_set_stream)(void* handle, cudaStream_t) = nullptr;
  int (*create_params)(void** params) = nullptr;
  int (*destroy_params)(void* params) = nullptr;
  int (*potrf_bytes)(void* handle, void* params, int fill, std::int64_t n, int type_a, const void* a, std::int64_t lda,
                     int type, std::size_t* device, std::size_t* host) = nullptr;
  int (*potrf)(void* handle, void* params, int fill, std::int64_t n, int type_a, void* a, std::int64_t lda, int type,
               void* device, std::size_t device_bytes, void* host, std::size_t host_bytes, int* info) = nullptr;
};

// By the probe: the name of a function that is missing, or null. From then on math() has them.
const char* set_math_libraries(const Library& cublas, const Library& cusolver);
const MathLibraries* math() noexcept;  // null before

// A failure of a library's call as a status of the interface.
int check_library(int status, const char* call) noexcept;

// Workspace of the factorization of a k x k matrix, on the device and on the host.
int potrf_workspace(std::int64_t k, std::int64_t lds, std::size_t* device, std::size_t* host) noexcept;

}  // namespace arrowschur::cuda
