// BLAS from the copy of OpenBLAS that is installed beside this library (ARROWSCHUR_BLAS=bundled).
//
// It is opened with dlopen on first use instead of being linked, for two reasons. Its thread count and its kernel set
// are read from the environment once, while it is being loaded: only then can they be set for this copy alone. And the
// package that it came from at build time is gone after installation, so that it must be found relative to this
// library. The copy is private: RTLD_LOCAL, a file name of its own (libarrowschur_openblas.so, which threadpoolctl
// does not take for a knob of the user's), every routine that we call exported under the prefix scipy_ and free of
// calls through symbols that another OpenBLAS in the process could interpose.
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/blas_fortran.hpp"
#include "own_directory.hpp"

extern char** environ;

namespace arrowschur::linalg {
namespace {

constexpr const char* kFileName = "libarrowschur_openblas.so";

// Variables set, or (without a value) absent, for the lifetime of the object.
//
// setenv() could free a string that another thread has just got from getenv(), and would leave the array changed. So
// the whole array is replaced by an extended copy and the original pointer put back: afterwards the environment is
// the same object as before. The copies are never freed, because another thread may still be reading them.
class EnvironmentOverlay {
 public:
  using Variables = std::vector<std::pair<std::string, std::optional<std::string>>>;

  explicit EnvironmentOverlay(const Variables& variables) : outer_(environ) {
    auto copy = std::make_unique<Copy>();
    for (const auto& [name, value] : variables) {
      const char* old = std::getenv(name.c_str());
      before_.push_back({name, old == nullptr ? std::string() : std::string(old), old != nullptr});
      if (!value) continue;
      copy->strings.push_back(std::make_unique<std::string>(name + '=' + *value));
      copy->array.push_back(copy->strings.back()->data());
    }
    for (char** entry = outer_; entry != nullptr && *entry != nullptr; ++entry) {
      if (!is_replaced(*entry)) copy->array.push_back(*entry);
    }
    copy->array.push_back(nullptr);
    environ = copy->array.data();
    ours_ = environ;
    static std::vector<std::unique_ptr<Copy>>* const keep = new std::vector<std::unique_ptr<Copy>>();
    keep->push_back(std::move(copy));
  }

  ~EnvironmentOverlay() {
    if (environ == ours_) {
      environ = outer_;
      return;
    }
    for (const Before& b : before_) {  // another thread has called setenv meanwhile: keep its change, undo ours
      if (b.was_set) {
        ::setenv(b.name.c_str(), b.value.c_str(), 1);
      } else {
        ::unsetenv(b.name.c_str());
      }
    }
  }
  EnvironmentOverlay(const EnvironmentOverlay&) = delete;
  EnvironmentOverlay& operator=(const EnvironmentOverlay&) = delete;

 private:
  struct Copy {
    std::vector<std::unique_ptr<std::string>> strings;
    std::vector<char*> array;
  };
  struct Before {
    std::string name, value;
    bool was_set;
  };

  bool is_replaced(const char* entry) const {
    const std::string text(entry);
    for (const Before& b : before_) {
      if (text.size() > b.name.size() && text[b.name.size()] == '=' && text.compare(0, b.name.size(), b.name) == 0) {
        return true;
      }
    }
    return false;
  }

  char** outer_;
  char** ours_ = nullptr;
  std::vector<Before> before_;
};

// True where OpenBLAS may run AVX2 kernels although the CPU has AVX-512. Its detection goes by CPU family, and releases
// older than a family fall back to AVX2 (Zen 5: GEMM at 125 instead of 208 GF/s on two cores). On Intel's CPUs it
// recognises the feature itself and may have a better choice than the one we would make.
bool avx512_must_be_asked_for() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") == 0 && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512cd") != 0;
#else
  return false;
#endif
}

// OPENBLAS_CORETYPE, often set for a whole container, speaks to the OpenBLAS of NumPy and SciPy; this private copy
// has a knob of its own, ARROWSCHUR_BLAS_KERNELS, with the same values. An empty value lets OpenBLAS detect the CPU.
std::optional<std::string> kernels_to_ask_for() {
  if (const char* chosen = std::getenv("ARROWSCHUR_BLAS_KERNELS")) {
    return *chosen == '\0' ? std::nullopt : std::optional<std::string>(chosen);
  }
  return avx512_must_be_asked_for() ? std::optional<std::string>("SKYLAKEX") : std::nullopt;
}

EnvironmentOverlay::Variables load_settings() {
  // One thread: OpenBLAS then starts none of its own, and parallelism is the business of the library's pool.
  return {{"OPENBLAS_NUM_THREADS", "1"}, {"OPENBLAS_CORETYPE", kernels_to_ask_for()}};
}

// Where the library may be, best first. A bare name makes the loader search the run path of the program or library that
// contains this code: how a statically linked program finds it (the CMake package sets that run path).
std::vector<std::string> candidates() {
  if (const char* path = std::getenv("ARROWSCHUR_OPENBLAS"); path != nullptr && *path != '\0') return {path};
  std::vector<std::string> paths;
  const std::string here = own_directory();
  if (!here.empty()) {
    paths.push_back(here + '/' + kFileName);
    paths.push_back(here + "/../lib/" + kFileName);
  }
  paths.emplace_back(kFileName);
  return paths;
}

void* open_library() {
  std::string reasons;
  for (const std::string& path : candidates()) {
    // A file that is not there need not be asked for with a changed environment.
    if (path.find('/') != std::string::npos && ::access(path.c_str(), R_OK) != 0) {
      reasons += "\n  " + path + ": no such file";
      continue;
    }
    void* handle = nullptr;
    {
      const EnvironmentOverlay overlay(load_settings());
      handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    if (handle != nullptr) return handle;
    const char* error = ::dlerror();
    reasons += "\n  " + path + ": " + (error == nullptr ? "unknown error" : error);
  }
  throw std::runtime_error(std::string("the bundled OpenBLAS (") + kFileName +
                           ") cannot be opened; set ARROWSCHUR_OPENBLAS to its path. Tried:" + reasons);
}

template <class Function>
Function* symbol(void* handle, const char* name) {
  void* address = ::dlsym(handle, name);
  if (address == nullptr) throw std::runtime_error(std::string("the bundled OpenBLAS does not export ") + name);
  return reinterpret_cast<Function*>(address);
}

struct NoGuard {
  NoGuard() {}
};

Blas open_blas() {
  void* handle = open_library();  // never closed: its code may run until the process ends
  fortran::routines<double> = {symbol<fortran::Gemm<double>>(handle, "scipy_dgemm_"),
                               symbol<fortran::Trsm<double>>(handle, "scipy_dtrsm_"),
                               symbol<fortran::Potrf<double>>(handle, "scipy_dpotrf_")};
  fortran::routines<float> = {symbol<fortran::Gemm<float>>(handle, "scipy_sgemm_"),
                              symbol<fortran::Trsm<float>>(handle, "scipy_strsm_"),
                              symbol<fortran::Potrf<float>>(handle, "scipy_spotrf_")};
  // Already so, unless the file was in the process before us under this very path.
  symbol<void(int)>(handle, "scipy_openblas_set_num_threads")(1);

  Blas blas{fortran::table<double, NoGuard>(), fortran::table<float, NoGuard>(), "openblas (bundled)", {}, "unknown"};
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(fortran::routines<double>.gemm), &info) != 0 &&
      info.dli_fname != nullptr) {
    blas.library = info.dli_fname;
  }
  if (const char* name = symbol<char*()>(handle, "scipy_openblas_get_corename")()) blas.kernels = name;
  return blas;
}

}  // namespace

const Blas& blas() {
  static const Blas table = open_blas();  // a throwing attempt is repeated by the next call
  return table;
}

}  // namespace arrowschur::linalg
