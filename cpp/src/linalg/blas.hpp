// The few BLAS and LAPACK routines that the library calls, through one function table.
//
// Column-major, as everywhere in BLAS: a row-major lower triangle is a column-major upper one. Every call runs in the
// calling thread (the table's library is held to one thread); parallelism is the pool's business. Routines are called
// concurrently from several threads.
#pragma once

#include <string>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

template <class T>
struct BlasTable {
  // C = alpha op(A) op(B) + beta C, op by 'N' or 'T'; C is m x n, the inner dimension is k.
  void (*gemm)(char transa, char transb, Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b,
               Index ldb, T beta, T* c, Index ldc);
  // B = alpha op(A)^-1 B (side 'L') or alpha B op(A)^-1 (side 'R'); A triangular, non-unit; B is m x n.
  void (*trsm)(char side, char uplo, char trans, Index m, Index n, T alpha, const T* a, Index lda, T* b, Index ldb);
  // A = U'U ('U') or LL' ('L') in place; returns LAPACK's info: 0, or i > 0 when the leading minor of order i is not
  // PD.
  Index (*potrf)(char uplo, Index n, T* a, Index lda);
};

struct Blas {
  BlasTable<double> f64;
  BlasTable<float> f32;
  std::string name;     // "openblas (bundled)", "system", "eigen"
  std::string library;  // path, where there is one
  std::string kernels;  // the kernel set in use ("SkylakeX", ...), "unknown" where the library does not say
};

// Opened on first use; throws std::runtime_error with the reason when the bundled library cannot be opened.
const Blas& blas();

template <class T>
const BlasTable<T>& blas_table() {
  if constexpr (sizeof(T) == sizeof(double)) {
    return blas().f64;
  } else {
    return blas().f32;
  }
}

}  // namespace arrowschur::linalg
