// Fortran BLAS and LAPACK routines (LP64: 32-bit integers) behind the function table of blas.hpp.
//
// Character arguments carry a hidden length at the end of the argument list, by value, in the compiler conventions of
// GNU and LLVM Fortran.
#pragma once

#include <cstddef>
#include <limits>
#include <string>

#include "arrowschur/error.hpp"
#include "linalg/blas.hpp"

namespace arrowschur::linalg::fortran {

using Int = int;

template <class T>
using Gemm = void(const char* transa, const char* transb, const Int* m, const Int* n, const Int* k, const T* alpha,
                  const T* a, const Int* lda, const T* b, const Int* ldb, const T* beta, T* c, const Int* ldc,
                  std::size_t, std::size_t);
template <class T>
using Trsm = void(const char* side, const char* uplo, const char* transa, const char* diag, const Int* m, const Int* n,
                  const T* alpha, const T* a, const Int* lda, T* b, const Int* ldb, std::size_t, std::size_t,
                  std::size_t, std::size_t);
template <class T>
using Potrf = void(const char* uplo, const Int* n, T* a, const Int* lda, Int* info, std::size_t);

template <class T>
struct Routines {
  Gemm<T>* gemm = nullptr;
  Trsm<T>* trsm = nullptr;
  Potrf<T>* potrf = nullptr;
};

// Set once, before the table is handed out.
template <class T>
inline Routines<T> routines;

inline Int to_int(Index value) {
  if (value > std::numeric_limits<Int>::max()) {
    throw UnsupportedConfiguration("a matrix dimension of " + std::to_string(value), "direct",
                                   "the BLAS in use counts in 32-bit integers; split the system into smaller ones");
  }
  return static_cast<Int>(value);
}

// `Guard` is constructed around each call: what the library in use needs per call (see blas_system.cpp).
template <class T, class Guard>
void gemm(char transa, char transb, Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb,
          T beta, T* c, Index ldc) {
  const Int m_ = to_int(m), n_ = to_int(n), k_ = to_int(k), lda_ = to_int(lda), ldb_ = to_int(ldb), ldc_ = to_int(ldc);
  [[maybe_unused]] const Guard guard;
  routines<T>.gemm(&transa, &transb, &m_, &n_, &k_, &alpha, a, &lda_, b, &ldb_, &beta, c, &ldc_, 1, 1);
}

template <class T, class Guard>
void trsm(char side, char uplo, char trans, Index m, Index n, T alpha, const T* a, Index lda, T* b, Index ldb) {
  const char diag = 'N';
  const Int m_ = to_int(m), n_ = to_int(n), lda_ = to_int(lda), ldb_ = to_int(ldb);
  [[maybe_unused]] const Guard guard;
  routines<T>.trsm(&side, &uplo, &trans, &diag, &m_, &n_, &alpha, a, &lda_, b, &ldb_, 1, 1, 1, 1);
}

template <class T, class Guard>
Index potrf(char uplo, Index n, T* a, Index lda) {
  const Int n_ = to_int(n), lda_ = to_int(lda);
  Int info = 0;
  [[maybe_unused]] const Guard guard;
  routines<T>.potrf(&uplo, &n_, a, &lda_, &info, 1);
  return info;
}

template <class T, class Guard>
BlasTable<T> table() {
  return {&gemm<T, Guard>, &trsm<T, Guard>, &potrf<T, Guard>};
}

}  // namespace arrowschur::linalg::fortran
