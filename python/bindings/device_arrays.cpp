#include "device_arrays.hpp"

#include <cstring>

namespace arrowschur::python {
namespace {

using namespace py::literals;

// ---- the C layout of the DLPack protocol (https://dmlc.github.io/dlpack), versions 0 and 1 -----------------------------
enum : std::int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };  // kinds of device
constexpr std::uint8_t kFloat = 2;  // kind of number
struct DlDevice {
  std::int32_t kind, ordinal;
};
struct DlType {
  std::uint8_t kind, bits;
  std::uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t dimensions;
  DlType type;
  std::int64_t* shape;
  std::int64_t* strides;  // in entries; null: C order
  std::uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};
struct DlVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DlVersioned*);
  std::uint64_t flags;
  DlTensor tensor;
};
constexpr const char *kName = "dltensor", *kVersionedName = "dltensor_versioned";

[[noreturn]] void refuse(const char* name, const std::string& got, const std::string& expected) {
  throw InvalidArgument(name, got, expected);
}

std::string text_of(const Shape& shape) { return py::str(py::tuple(py::cast(shape))).cast<std::string>(); }

// Strides, in units of which an entry takes `entry`, of an array in C order; those of axes with at most one entry do not
// matter.
bool in_c_order(const Shape& shape, const Shape& strides, py::ssize_t entry) {
  py::ssize_t expected = entry;
  bool empty = false;
  for (std::size_t i = shape.size(); i-- > 0;) {
    empty = empty || shape[i] == 0;
    if (shape[i] > 1 && strides[i] != expected) return empty;
    expected *= std::max<py::ssize_t>(shape[i], 1);
  }
  return true;
}

// ---- in ---------------------------------------------------------------------------------------------------------------
DeviceArrayView view_of(const DlTensor& tensor, const char* name) {
  const std::string type = "DLPack type " + std::to_string(tensor.type.kind) + " of " +
                           std::to_string(tensor.type.bits) + " bits, " + std::to_string(tensor.type.lanes) + " lanes";
  if (tensor.type.kind != kFloat || tensor.type.bits != 64 || tensor.type.lanes != 1) refuse(name, type, "float64");
  DeviceArrayView view;
  view.shape.assign(tensor.shape, tensor.shape + tensor.dimensions);
  if (tensor.strides != nullptr &&
      !in_c_order(view.shape, Shape(tensor.strides, tensor.strides + tensor.dimensions), 1)) {
    refuse(name, "an array of shape " + text_of(view.shape) + " that is not in C order", "a C-contiguous array");
  }
  view.data = reinterpret_cast<const double*>(static_cast<const char*>(tensor.data) + tensor.byte_offset);
  return view;
}

// Takes what the capsule holds, which is from now on released with `owner`.
template <class Managed>
DeviceArrayView consume(const py::object& capsule, const char* own_name, const char* used_name, const char* name) {
  auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), own_name));
  if (managed == nullptr) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), used_name);
  const py::capsule owner(managed, [](void* p) {
    auto* const held = static_cast<Managed*>(p);
    if (held->deleter != nullptr) held->deleter(held);
  });
  if constexpr (requires { managed->major; }) {
    // Of a later major version only the deleter is where it was.
    if (managed->major != 1)
      refuse(name, "DLPack version " + std::to_string(managed->major), "version 1, or before it");
  }
  DeviceArrayView view = view_of(managed->tensor, name);
  view.owner = owner;
  return view;
}

DeviceArrayView from_dlpack(const py::object& producer, const char* name) {
  const auto [kind, ordinal] = producer.attr("__dlpack_device__")().cast<std::pair<std::int64_t, std::int64_t>>();
  if (kind != kCuda && kind != kCudaManaged) {
    const bool host = kind == kCpu || kind == kCudaHost;
    refuse(name, host ? "memory of the host" : "memory of DLPack device type " + std::to_string(kind),
           "memory of a CUDA device");
  }
  // The producer orders its work before the legacy default stream, on which the frame then waits.
  constexpr std::uint64_t kLegacyDefault = 1;
  const py::object ask = producer.attr("__dlpack__");
  py::object capsule;
  try {
    try {
      capsule = ask("stream"_a = kLegacyDefault, "max_version"_a = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;  // a producer of before version 1
      capsule = ask("stream"_a = kLegacyDefault);
    }
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_BufferError) && !error.matches(PyExc_RuntimeError)) throw;
    refuse(name, "a DLPack producer that refused (" + py::str(error.value()).cast<std::string>() + ")",
           "an array that can be shared");
  }
  const bool versioned = PyCapsule_IsValid(capsule.ptr(), kVersionedName) != 0;
  if (!versioned && PyCapsule_IsValid(capsule.ptr(), kName) == 0) {
    refuse(name, "a __dlpack__ that returned no tensor", "a DLPack capsule");
  }
  DeviceArrayView view = versioned ? consume<DlVersioned>(capsule, kVersionedName, "used_dltensor_versioned", name)
                                   : consume<DlManaged>(capsule, kName, "used_dltensor", name);
  view.streams.push_back(kLegacyDefault);
  return view;
}

DeviceArrayView from_cuda_array_interface(const py::object& producer, const char* name) {
  const py::dict fields = producer.attr("__cuda_array_interface__");
  const auto type = fields["typestr"].cast<std::string>();
  if (type != "<f8" && type != "=f8") refuse(name, "entries of type '" + type + "'", "float64 ('<f8')");
  if (fields.contains("mask") && !fields["mask"].is_none()) refuse(name, "a masked array", "an array without a mask");
  DeviceArrayView view;
  view.shape = fields["shape"].cast<Shape>();
  if (fields.contains("strides") && !fields["strides"].is_none()) {
    const Shape strides = fields["strides"].cast<Shape>();  // in bytes: a field of a record has any
    if (strides.size() != view.shape.size() || !in_c_order(view.shape, strides, sizeof(double))) {
      refuse(name, "an array of shape " + text_of(view.shape) + " that is not in C order", "a C-contiguous array");
    }
  }
  const auto address = fields["data"].cast<std::pair<std::uintptr_t, bool>>().first;
  view.data = reinterpret_cast<const double*>(address);
  if (fields.contains("stream") && !fields["stream"].is_none()) {
    view.streams.push_back(fields["stream"].cast<std::uint64_t>());
    if (view.streams.back() == 0) refuse(name, "stream 0", "stream 1, 2, or the address of a stream");
  }
  view.owner = producer;
  return view;
}

// ---- out --------------------------------------------------------------------------------------------------------------
// What an exported tensor points to, and its share in the memory. Released without the GIL, from any thread.
struct Export {
  explicit Export(const DeviceArrayHandle& array) : handle(array), shape(array.shape.begin(), array.shape.end()) {}
  DeviceArrayHandle handle;
  std::vector<std::int64_t> shape;

  DlTensor tensor() {
    return {const_cast<double*>(handle.data()),
            {kCuda, handle.arrays.device_ordinal()},
            static_cast<std::int32_t>(shape.size()),
            {kFloat, 64, 1},
            shape.data(),
            nullptr,
            0};
  }
};

template <class Managed>
py::capsule capsule_of(Managed* managed, const char* name) {
  managed->deleter = [](Managed* self) {
    delete static_cast<Export*>(self->context);
    delete self;
  };
  // Nobody has taken it: its name is still the one that it was made with.
  PyObject* const capsule = PyCapsule_New(managed, name, [](PyObject* self) {
    for (const char* own : {kName, kVersionedName}) {
      if (PyCapsule_IsValid(self, own) == 0) continue;
      auto* const held = static_cast<Managed*>(PyCapsule_GetPointer(self, own));
      held->deleter(held);
    }
  });
  if (capsule == nullptr) {
    managed->deleter(managed);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::dict array_interface(const DeviceArrayHandle& self) {
  return py::dict("shape"_a = py::tuple(py::cast(self.shape)), "typestr"_a = "<f8",
                  "data"_a = py::make_tuple(reinterpret_cast<std::uintptr_t>(self.data()), false),
                  "strides"_a = py::none(), "stream"_a = py::none(), "version"_a = 3);
}

py::array_t<double> copy_to_host(const DeviceArrayHandle& self) {
  auto host = new_array(self.shape);
  const std::span<double> out = output(host, self.size(), "array");
  released([&] { self.border ? self.arrays.copy_to_host({}, out) : self.arrays.copy_to_host(out, {}); });
  return host;
}

}  // namespace

DeviceArrayView import_device_array(const py::object& producer, const char* name) {
  if (py::hasattr(producer, "__dlpack__") && py::hasattr(producer, "__dlpack_device__")) {
    return from_dlpack(producer, name);
  }
  if (py::hasattr(producer, "__cuda_array_interface__")) return from_cuda_array_interface(producer, name);
  refuse(name, py::str(py::type::of(producer)).cast<std::string>(),
         "an array of a device: a producer with __dlpack__ or __cuda_array_interface__");
}

py::capsule export_dlpack(const DeviceArrayHandle& array, bool versioned) {
  auto* const held = new Export(array);
  if (versioned) return capsule_of(new DlVersioned{1, 0, held, nullptr, 0, held->tensor()}, kVersionedName);
  return capsule_of(new DlManaged{held->tensor(), held, nullptr}, kName);
}

void register_device_arrays(py::module_& m) {
  py::class_<DeviceArrayHandle>(m, "DeviceArray", "An array in the memory of a device.")
      .def_property_readonly("shape", [](const DeviceArrayHandle& self) { return py::tuple(py::cast(self.shape)); })
      .def_property_readonly("ordinal", [](const DeviceArrayHandle& self) { return self.arrays.device_ordinal(); })
      .def_property_readonly("interface", &array_interface)
      .def("dlpack", &export_dlpack, "versioned"_a)
      .def("copy_to_host", &copy_to_host);

  py::class_<DeviceParts>(m, "DeviceParts", "Blocks of a system in the memory of a device.")
      .def(py::init([](const py::object& h_tt, const py::object& h_tb, const py::object& h_bb, const py::object& g_t,
                       const py::object& g_beta, std::optional<Index> bandwidth) {
             const DeviceArrayView tt = import_device_array(h_tt, "h_tt"), tb = import_device_array(h_tb, "h_tb"),
                                   bb = import_device_array(h_bb, "h_bb"), t = import_device_array(g_t, "g_t"),
                                   beta = import_device_array(g_beta, "g_beta");
             if (tt.shape.size() != 3 || tt.shape[1] != tt.shape[2])
               refuse("h_tt", "shape " + text_of(tt.shape), "(n, d, d)");
             if (beta.shape.size() != 1) refuse("g_beta", "shape " + text_of(beta.shape), "(k,)");
             DeviceParts parts;
             parts.n = tt.shape[0], parts.d = tt.shape[1], parts.k = beta.shape[0];
             const py::ssize_t n = parts.n, d = parts.d, k = parts.k;
             const auto expect = [](const char* name, const Shape& got, std::initializer_list<Shape> allowed) {
               std::string text;
               for (const Shape& shape : allowed) {
                 if (got == shape) return;
                 text += (text.empty() ? "shape " : " or ") + text_of(shape);
               }
               refuse(name, "shape " + text_of(got), text);
             };
             expect("h_tb", tb.shape, {{n, d, k}, {n * d, k}});
             expect("g_t", t.shape, {{n, d}, {n * d}});
             if (bandwidth) {
               expect("h_bb", bb.shape, {{static_cast<py::ssize_t>(*bandwidth) + 1, k}});
               parts.bandwidth = bandwidth;
             } else {
               expect("h_bb", bb.shape, {{k, k}, {k}});
               if (bb.shape.size() == 1) parts.bandwidth = 0;
             }
             parts.h_tt = tt.data, parts.h_tb = tb.data, parts.h_bb = bb.data;
             parts.g_t = t.data, parts.g_beta = beta.data;
             for (const DeviceArrayView* view : {&tt, &tb, &bb, &t, &beta}) {
               for (const std::uint64_t stream : view->streams) {
                 const bool known =
                     std::find(parts.streams.begin(), parts.streams.end(), stream) != parts.streams.end();
                 if (!known) parts.streams.push_back(stream);
               }
             }
             parts.owner = keep_alive({tt.owner, tb.owner, bb.owner, t.owner, beta.owner});
             released([&] { check(parts); });
             return parts;
           }),
           "h_tt"_a, "h_tb"_a, "h_bb"_a, "g_t"_a, "g_beta"_a, "bandwidth"_a)
      .def_readonly("n", &DeviceParts::n)
      .def_readonly("d", &DeviceParts::d)
      .def_readonly("k", &DeviceParts::k)
      .def_readonly("bandwidth", &DeviceParts::bandwidth);
}

}  // namespace arrowschur::python
