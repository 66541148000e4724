#include "own_directory.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>

namespace arrowschur {
namespace {

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
  return resolved ? std::string(resolved.get()) : std::string();
}

}  // namespace

std::string own_directory() {
  Dl_info info{};
  std::string path;
  if (::dladdr(reinterpret_cast<const void*>(&own_directory), &info) != 0 && info.dli_fname != nullptr) {
    path = real_path(info.dli_fname);
  }
  // A program started through PATH is known to the loader by its bare name only.
  if (path.empty()) path = real_path("/proc/self/exe");
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

}  // namespace arrowschur
