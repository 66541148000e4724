// BLAS and LAPACK that CMake found on the system and linked (ARROWSCHUR_BLAS=system).
//
// The library belongs to the whole process, so that its global thread count is left alone. MKL has a thread count per
// thread: it is set to 1 around each call. With any other multi-threaded BLAS set its own variable (for instance
// OPENBLAS_NUM_THREADS=1) when the machine seems oversubscribed: the pool calls it from several threads at once.
#include <dlfcn.h>

#include "linalg/blas.hpp"
#include "linalg/blas_fortran.hpp"

extern "C" {
arrowschur::linalg::fortran::Gemm<double> dgemm_;
arrowschur::linalg::fortran::Gemm<float> sgemm_;
arrowschur::linalg::fortran::Trsm<double> dtrsm_;
arrowschur::linalg::fortran::Trsm<float> strsm_;
arrowschur::linalg::fortran::Potrf<double> dpotrf_;
arrowschur::linalg::fortran::Potrf<float> spotrf_;
}

namespace arrowschur::linalg {
namespace {

template <class Function>
Function* find_symbol(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
}

using SetThreadsLocal = int(int);
SetThreadsLocal* g_set_threads_local = nullptr;  // returns the previous value; 0 means "follow the global setting"

class OneThread {
 public:
  OneThread() : before_(g_set_threads_local == nullptr ? 0 : g_set_threads_local(1)) {}
  ~OneThread() {
    if (g_set_threads_local != nullptr) g_set_threads_local(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

Blas open_blas() {
  g_set_threads_local = find_symbol<SetThreadsLocal>("MKL_Set_Num_Threads_Local");
  fortran::routines<double> = {&dgemm_, &dtrsm_, &dpotrf_};
  fortran::routines<float> = {&sgemm_, &strsm_, &spotrf_};
  Blas blas{fortran::table<double, OneThread>(), fortran::table<float, OneThread>(), "system", {}, "unknown"};
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&dgemm_), &info) != 0 && info.dli_fname != nullptr) {
    blas.library = info.dli_fname;
  }
  if (auto* corename = find_symbol<char*()>("openblas_get_corename")) {
    if (const char* name = corename()) blas.kernels = name;
  }
  return blas;
}

}  // namespace

const Blas& blas() {
  static const Blas table = open_blas();
  return table;
}

}  // namespace arrowschur::linalg
