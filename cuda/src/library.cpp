#include "library.hpp"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

namespace arrowschur::cuda {
namespace {

constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;

std::string loader_error() {
  const char* error = ::dlerror();
  return error == nullptr ? "unknown error" : error;
}

}  // namespace

void* Library::address(const char* name) const { return ::dlsym(handle, name); }

Library open_library(const std::string& name, const std::vector<std::string>& folders) {
  if (void* mapped = ::dlopen(name.c_str(), kFlags | RTLD_NOLOAD)) return {Library::State::open, mapped, {}};
  for (const std::string& folder : folders) {
    const std::string path = folder + '/' + name;
    if (::access(path.c_str(), F_OK) != 0) continue;
    if (void* opened = ::dlopen(path.c_str(), kFlags)) return {Library::State::open, opened, {}};
    return {Library::State::fault, nullptr, loader_error()};
  }
  if (void* opened = ::dlopen(name.c_str(), kFlags)) return {Library::State::open, opened, {}};
  // The loader names the file that it could not open: this one, or one that this one needs.
  const std::string error = loader_error();
  const bool not_there = error.rfind(name + ": cannot open shared object file", 0) == 0;
  return {not_there ? Library::State::absent : Library::State::fault, nullptr, error};
}

std::string folder_of_mapped(const std::string& name) {
  void* const mapped = ::dlopen(name.c_str(), kFlags | RTLD_NOLOAD);
  if (mapped == nullptr) return {};
  link_map* map = nullptr;
  std::string path;
  if (::dlinfo(mapped, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr) path = map->l_name;
  ::dlclose(mapped);  // its owner's reference stays
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

}  // namespace arrowschur::cuda
