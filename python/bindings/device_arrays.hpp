// Arrays in the memory of a device: those of other libraries, read in place, and those of frames, handed out.
#pragma once

#include <cstdint>

#include "arrowschur/frame.hpp"
#include "common.hpp"

namespace arrowschur::python {

// float64, C-contiguous, on the device that the backend has.
struct DeviceArrayView {
  const double* data = nullptr;
  Shape shape;
  std::vector<std::uint64_t> streams;  // to be waited for
  py::object owner;  // keeps the memory
};
// Of a producer with __dlpack__ or __cuda_array_interface__; InvalidArgument names the argument and what is wrong with it.
// The core looks at the pointer.
DeviceArrayView import_device_array(const py::object& producer, const char* name);

// One of the two arrays of a DeviceArrays.
struct DeviceArrayHandle {
  DeviceArrays arrays;
  bool border = false;
  Shape shape;

  const double* data() const { return border ? arrays.beta() : arrays.t(); }
  Index size() const { return border ? arrays.k() : arrays.total_dim(); }
};
// A capsule of the DLPack protocol that shares the memory; of its first or its second layout.
py::capsule export_dlpack(const DeviceArrayHandle& array, bool versioned);

}  // namespace arrowschur::python
