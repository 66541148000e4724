// Shared libraries that are opened by name: where they are looked for, and absence told apart from fault.
#pragma once

#include <string>
#include <vector>

namespace arrowschur::cuda {

struct Library {
  enum class State { open, absent, fault };
  State state = State::absent;
  void* handle = nullptr;  // never closed
  std::string message;  // of an absence or a fault

  template <class Function>
  Function* symbol(const char* name) const {
    return reinterpret_cast<Function*>(address(name));
  }

 private:
  void* address(const char* name) const;
};

// The copy that the process has mapped already, else the first of the folders that has the file, else what the system's
// loader finds under that name. A file that is there and does not load is a fault.
Library open_library(const std::string& name, const std::vector<std::string>& folders);

// Folder of a library that is mapped already; empty when it is not.
std::string folder_of_mapped(const std::string& name);

}  // namespace arrowschur::cuda
