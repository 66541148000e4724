#include "arrowschur/version.hpp"

#include <exception>
#include <string>

#include "arrowschur/threads.hpp"
#include "backend/device_loader.hpp"
#include "linalg/blas.hpp"
#include "linalg/kernels.hpp"

#define ARROWSCHUR_STRINGIFY_(x) #x
#define ARROWSCHUR_STRINGIFY(x) ARROWSCHUR_STRINGIFY_(x)

namespace arrowschur {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

const char* version() noexcept { return ARROWSCHUR_STRINGIFY(ARROWSCHUR_VERSION); }

std::vector<std::pair<std::string, std::string>> build_info() {
  std::vector<std::pair<std::string, std::string>> info;
  info.emplace_back("compiler", compiler());
  info.emplace_back("instruction_sets", joined(linalg::compiled_instruction_sets()));
  info.emplace_back("instruction_set", linalg::instruction_set());
  try {
    const linalg::Blas& blas = linalg::blas();
    info.emplace_back("blas", blas.name);
    info.emplace_back("blas_kernels", blas.kernels);
    info.emplace_back("blas_library", blas.library);
  } catch (const std::exception& error) {
    // A report about the build is most wanted when something is missing: say it here instead of throwing.
    info.emplace_back("blas", std::string("not usable: ") + error.what());
    info.emplace_back("blas_kernels", "");
    info.emplace_back("blas_library", "");
  }
  info.emplace_back("threads", "own pool, " + std::to_string(get_num_threads()) + " threads");
  const std::string backend = device::backend_path();
  info.emplace_back("cuda", backend.empty() ? "not built" : backend);
  return info;
}

void force_instruction_set(const std::string& name) { linalg::force_instruction_set(name); }

}  // namespace arrowschur
