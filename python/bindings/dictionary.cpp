// Sparse dictionaries.
#include "arrowschur/dictionary.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string_view>

#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;
using dictionary::EncodeOptions;
using dictionary::EpochRecord;
using dictionary::Fit;
using dictionary::Init;
using dictionary::Keep;
using dictionary::Model;
using dictionary::Options;
using dictionary::Ridge;
using dictionary::Router;
using dictionary::Rows;
using dictionary::Stream;

constexpr std::array kRouters{Named<Router>{"topk", Router::topk}, Named<Router>{"refine", Router::refine},
                              Named<Router>{"omp", Router::omp}};
constexpr std::array kInits{Named<Init>{"auto", Init::automatic}, Named<Init>{"line", Init::line},
                            Named<Init>{"euclidean", Init::euclidean}, Named<Init>{"given", Init::given},
                            Named<Init>{"sample", Init::sample}};
constexpr std::array kKeeps{Named<Keep>{"best", Keep::best}, Named<Keep>{"last", Keep::last}};
constexpr std::array kRidges{Named<Ridge>{"fixed", Ridge::fixed}, Named<Ridge>{"evidence", Ridge::evidence}};
constexpr std::array kDevices{Named<Device>{"auto", Device::automatic}, Named<Device>{"off", Device::off},
                              Named<Device>{"required", Device::required}};

template <class Table>
auto choice(const Table& table, const py::handle& value, const std::string& name) {
  const std::string text =
      py::isinstance<py::str>(value) ? value.cast<std::string>() : py::repr(value).cast<std::string>();
  std::string names;
  for (const auto& entry : table) {
    if (text == entry.name) return entry.value;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw InvalidArgument("sparse_dictionary: " + name + " must be one of " + names + "; got '" + text + "'", name, text,
                        "one of " + names);
}

// f(name, field) for the options that are numbers and flags, then the choices.
template <class O, class F>
void each_option(O& o, F&& f) {
  f("n_nonzero_coefs", o.n_nonzero_coefs);
  f("router", o.router, kRouters);
  f("refine_factor", o.refine_factor);
  f("code_ridge", o.code_ridge);
  f("batch_size", o.batch_size);
  f("score_tile", o.score_tile);
  f("device", o.device, kDevices);
  f("num_threads", o.num_threads);
  if constexpr (requires { o.n_components; }) {
    f("n_components", o.n_components);
    f("max_iter", o.max_iter);
    f("tol", o.tol);
    f("patience", o.patience);
    f("decoder_ridge", o.decoder_ridge);
    f("decoder_ridge_relative", o.decoder_ridge_relative);
    f("ridge", o.ridge, kRidges);
    f("unit_sweep", o.unit_sweep);
    f("profile_step", o.profile_step);
    f("refreshes_per_epoch", o.refreshes_per_epoch);
    f("center", o.center);
    f("init", o.init, kInits);
    f("revive", o.revive);
    f("revive_min_fires", o.revive_min_fires);
    f("revive_pool", o.revive_pool);
    f("refresh_memory_bytes", o.refresh_memory_bytes);
    f("keep", o.keep, kKeeps);
    f("keep_codes", o.keep_codes);
  }
}

[[noreturn]] void wrong_type(const std::string& name, const py::handle& value, const char* expected) {
  const auto got = py::repr(value).cast<std::string>();
  throw InvalidArgument("sparse_dictionary: " + name + " must be " + expected + ", got " + got, name, got, expected);
}

struct FromKeywords {
  const py::kwargs& given;
  Index used = 0;

  template <class T, class... Table>
  void operator()(const char* name, T& field, const Table&... table) {
    if (!given.contains(name)) return;
    ++used;
    const py::object value = given[name];
    if constexpr (sizeof...(Table) > 0) {
      field = choice(table..., value, name);
    } else if constexpr (std::is_same_v<T, bool>) {
      const int truth = PyObject_IsTrue(value.ptr());
      if (truth < 0) throw py::error_already_set();
      field = truth != 0;
    } else if constexpr (std::is_same_v<T, double>) {
      field = PyFloat_AsDouble(value.ptr());
      if (field == -1.0 && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        wrong_type(name, value, "a number");
      }
    } else if constexpr (std::is_same_v<T, std::optional<int>>) {
      field.reset();
      Index threads = 0;
      if (value.is_none()) return;
      integer(name, value, threads);
      field = static_cast<int>(std::clamp<Index>(threads, -1, 1 << 20));
    } else {
      integer(name, value, field);
    }
  }

  static void integer(const char* name, const py::object& value, Index& field) {
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!index) {
      PyErr_Clear();
      wrong_type(name, value, "an integer");
    }
    int overflow = 0;
    field = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow != 0) field = overflow > 0 ? std::numeric_limits<Index>::max() : std::numeric_limits<Index>::min();
  }
};

struct ToDictionary {
  py::dict out;

  template <class T, class... Table>
  void operator()(const char* name, const T& field, const Table&... table) {
    if constexpr (sizeof...(Table) > 0) {
      out[name] = name_of(table..., field);
    } else {
      out[name] = py::cast(field);
    }
  }
};

template <class O>
O options_from(const py::kwargs& given) {
  O o;
  FromKeywords read{given};
  each_option(o, read);
  if (read.used != static_cast<Index>(given.size())) {
    ToDictionary known;
    each_option(o, known);
    for (const auto& entry : given) {
      const auto name = py::str(entry.first).template cast<std::string>();
      if (!known.out.contains(name)) throw py::type_error("unexpected option '" + name + "'");
    }
  }
  return o;
}

Options options_for_fit(const py::kwargs& given) {
  auto o = options_from<Options>(given);
  if (const auto bad = dictionary::complaint(o)) throw *bad;
  return o;
}

py::dict option_fields(const Options& o) {
  ToDictionary write;
  each_option(o, write);
  return write.out;
}

// Calls Python, with the GIL. Ctrl-C that falls into the callee ends the call as it does elsewhere: with Interrupted,
// which keeps what was computed.
template <class... Args>
py::object interruptible(const py::handle& callable, Args&&... args) {
  try {
    return callable(std::forward<Args>(args)...);
  } catch (const py::error_already_set& error) {
    if (error.matches(PyExc_KeyboardInterrupt)) throw Interrupted();
    throw;
  }
}

// Rows and what keeps them alive.
struct RowsHandle {
  Rows core;
  py::object owner;
};

template <class T>
py::array writable_view(T* data, Index count, Index width) {
  // A base that owns nothing: the array borrows the buffer for the call.
  return py::array_t<T>({count, width}, data, py::capsule(data, [](void*) {}));
}

RowsHandle make_rows(const py::object& array, Index count, Index width, const std::string& dtype,
                     const py::object& read) {
  RowsHandle rows;
  if (!array.is_none()) {
    const auto a = array.cast<py::array>();
    const bool f32 = py::isinstance<py::array_t<float>>(a), f64 = py::isinstance<py::array_t<double>>(a);
    const auto item = a.itemsize();
    const bool usable = (f32 || f64) && a.ndim() == 2 && (a.shape(1) <= 1 || a.strides(1) == item) &&
                        (a.shape(0) <= 1 || (a.strides(0) > 0 && a.strides(0) % item == 0)) &&
                        reinterpret_cast<std::uintptr_t>(a.data()) % static_cast<std::uintptr_t>(item) == 0;
    if (!usable)
      throw py::type_error("DictionaryRows needs an aligned 2-D float32 or float64 array of adjacent columns");
    rows.core.count = a.shape(0);
    rows.core.width = a.shape(1);
    rows.core.dtype = f32 ? DType::float32 : DType::float64;
    rows.core.data = a.data();
    rows.core.stride = a.shape(0) <= 1 ? a.shape(1) : a.strides(0) / item;
    rows.owner = a;
    return rows;
  }
  rows.core.count = count;
  rows.core.width = width;
  if (dtype != "float32" && dtype != "float64") throw py::type_error("dtype must be 'float32' or 'float64'");
  rows.core.dtype = dtype == "float32" ? DType::float32 : DType::float64;
  rows.owner = read;
  PyObject* callable = read.ptr();  // kept alive by `owner`
  rows.core.read = [callable, width, type = rows.core.dtype](Index first, Index number, void* out) {
    const py::gil_scoped_acquire gil;
    const py::array view = type == DType::float32 ? writable_view(static_cast<float*>(out), number, width)
                                                  : writable_view(static_cast<double*>(out), number, width);
    interruptible(callable, first, view);
  };
  return rows;
}

// A vector of float64 [K, P], or none; the shape is checked here, where it is known.
std::optional<std::vector<double>> initial_decoder(const py::object& given, Index k, Index p) {
  if (given.is_none()) return std::nullopt;
  const auto a = given.cast<py::array_t<double, py::array::c_style | py::array::forcecast>>();
  if (a.ndim() != 2 || a.shape(0) != k || a.shape(1) != p) {
    const std::string want = "(" + std::to_string(k) + ", " + std::to_string(p) + ")";
    const auto got = py::str(py::tuple(a.attr("shape"))).cast<std::string>();
    throw InvalidArgument("sparse_dictionary: dict_init must have shape " + want + ", got " + got, "dict_init", got,
                          want);
  }
  return std::vector<double>(a.data(), a.data() + a.size());
}

template <class T>
py::array take(std::vector<T>&& values, Shape shape) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* v) { delete static_cast<std::vector<T>*>(v); });
  return py::array_t<T>(std::move(shape), kept->data(), owner);
}

py::dict record_fields(const EpochRecord& r) {
  const auto& f = r.refresh;
  const auto& s = r.seconds;
  return py::dict("epoch"_a = r.epoch, "ev"_a = r.ev, "rss"_a = r.rss, "l0"_a = r.l0, "alive"_a = r.alive,
                  "dead"_a = r.dead, "revived"_a = r.revived, "accepted"_a = r.accepted,
                  "refresh"_a = py::dict("method"_a = f.method, "components"_a = f.components,
                                         "max_component"_a = f.max_component, "nnz"_a = f.nnz,
                                         "iterations"_a = f.iterations, "relative_residual"_a = f.relative_residual,
                                         "bump"_a = f.bump, "failed_columns"_a = f.failed_columns),
                  "seconds"_a = py::dict("route"_a = s.route, "codes"_a = s.codes, "accumulate"_a = s.accumulate,
                                         "refresh"_a = s.refresh, "project"_a = s.project, "revive"_a = s.revive));
}

py::dict route_fields(const dictionary::RouteReport& r) {
  return py::dict("minibatches"_a = r.minibatches, "device_minibatches"_a = r.device_minibatches,
                  "cpu_minibatches"_a = r.cpu_minibatches, "score_flops"_a = r.score_flops, "rescored"_a = r.rescored,
                  "rescanned_rows"_a = r.rescanned_rows, "peak_score_bytes"_a = r.peak_score_bytes,
                  "device_to_host_bytes"_a = r.device_to_host_bytes);
}

py::dict fit_fields(Fit&& f) {
  py::list epochs;
  for (const EpochRecord& r : f.epochs) epochs.append(record_fields(r));
  py::dict out("rows"_a = f.rows, "width"_a = f.width, "n_nonzero_coefs"_a = f.n_nonzero_coefs,
               "exponent"_a = f.exponent, "explained_variance"_a = f.explained_variance, "fvu"_a = f.fvu,
               "rss"_a = f.rss, "tss"_a = f.tss, "l0"_a = f.l0, "n_iter"_a = f.n_iter, "best_epoch"_a = f.best_epoch,
               "converged"_a = f.converged, "stop_reason"_a = to_string(f.stop_reason), "alive"_a = f.alive,
               "dead"_a = f.dead, "dormant"_a = f.dormant, "epochs"_a = epochs, "route"_a = route_fields(f.route),
               "seed_seconds"_a = f.seed_seconds, "ridge"_a = f.ridge, "ridge_steps"_a = f.ridge_steps);
  if (f.indices.empty()) {
    out["indices"] = py::none();
    out["codes"] = py::none();
  } else {
    out["indices"] = take(std::move(f.indices), {f.rows, f.n_nonzero_coefs});
    out["codes"] = take(std::move(f.codes), {f.rows, f.n_nonzero_coefs});
  }
  out["decoder"] = take(std::move(f.decoder), {f.n_components, f.width});
  out["mean"] = take(std::move(f.mean), {f.width});
  const auto length = static_cast<py::ssize_t>(f.ev_path.size());
  out["ev_path"] = take(std::move(f.ev_path), {length});
  out["atom_fires"] = take(std::move(f.atom_fires), {f.n_components});
  return out;
}

py::dict fit_rows(const RowsHandle& rows, const Options& options, const py::object& dict_init,
                  const py::object& progress) {
  const auto given = initial_decoder(dict_init, options.n_components, rows.core.width);
  dictionary::Progress report;
  if (!progress.is_none()) {
    report = [&](const EpochRecord& record) {
      const py::gil_scoped_acquire gil;
      return interruptible(progress, record_fields(record)).ptr() != Py_False;
    };
  }
  Fit result = released([&] { return dictionary::fit(rows.core, options, given ? &*given : nullptr, report); });
  return fit_fields(std::move(result));
}

std::vector<float> floats(const py::object& values, const char* name) {
  if (values.is_none()) return {};
  if (!py::isinstance<py::array_t<float, py::array::c_style>>(values)) {
    throw py::type_error(std::string(name) + " must be a C-contiguous float32 array");
  }
  const auto a = values.cast<py::array_t<float, py::array::c_style>>();
  return {a.data(), a.data() + a.size()};
}

Model make_model(const py::array& decoder, const py::object& mean, int exponent) {
  if (decoder.ndim() != 2) throw py::type_error("decoder must be a 2-D array");
  return {floats(decoder, "decoder"), decoder.shape(0), decoder.shape(1), floats(mean, "mean"), exponent};
}

py::tuple encode(const Model& model, const RowsHandle& rows, const py::kwargs& given) {
  const auto options = options_from<EncodeOptions>(given);
  const Index s = std::min(std::max<Index>(options.n_nonzero_coefs, 1), model.n_components());
  py::array_t<std::uint32_t> indices({rows.core.count, s});
  py::array_t<float> codes({rows.core.count, s});
  auto* to_indices = indices.mutable_data();
  float* to_codes = codes.mutable_data();
  const auto report = released([&] { return model.encode(rows.core, options, to_indices, to_codes); });
  return py::make_tuple(indices, codes, route_fields(report));
}

py::array decode(const Model& model,
                 const py::array_t<std::uint32_t, py::array::c_style | py::array::forcecast>& indices,
                 const py::array_t<float, py::array::c_style | py::array::forcecast>& codes,
                 std::optional<int> num_threads) {
  if (indices.ndim() != 2 || codes.ndim() != 2 || indices.shape(0) != codes.shape(0) ||
      indices.shape(1) != codes.shape(1)) {
    throw py::type_error("indices and codes must be 2-D arrays of one shape");
  }
  py::array_t<float> out({static_cast<Index>(codes.shape(0)), model.width()});
  const auto* i = indices.data();
  const float* c = codes.data();
  float* to = out.mutable_data();
  const Index rows = codes.shape(0), slots = codes.shape(1);
  released([&] { model.decode(i, c, rows, slots, to, num_threads); });
  return out;
}

py::dict metrics(const Model& model, const RowsHandle& rows, const py::kwargs& given) {
  const auto options = options_from<EncodeOptions>(given);
  auto m = released([&] { return model.metrics(rows.core, options); });
  return py::dict("mse"_a = m.mse, "mse_row"_a = m.mse_row, "explained_variance"_a = m.explained_variance,
                  "explained_variance_row"_a = m.explained_variance_row, "fvu"_a = m.fvu, "l0"_a = m.l0, "l1"_a = m.l1,
                  "l2_ratio"_a = m.l2_ratio, "cosine"_a = m.cosine, "alive_fraction"_a = m.alive_fraction,
                  "dead_fraction"_a = m.dead_fraction,
                  "firing_frequency"_a = take(std::move(m.firing_frequency), {model.n_components()}));
}

py::dict dual_report(const Model& model, const RowsHandle& rows, const py::kwargs& given) {
  const auto options = options_from<EncodeOptions>(given);
  auto r = released([&] { return model.dual_report(rows.core, options); });
  const Index n = rows.core.count;
  return py::dict("ratios"_a = take(std::move(r.ratios), {n}), "atoms"_a = take(std::move(r.atoms), {n}),
                  "quantiles"_a = py::make_tuple(r.quantiles[0], r.quantiles[1], r.quantiles[2], r.quantiles[3]),
                  "certified_fraction"_a = r.certified_fraction);
}

std::unique_ptr<Stream> make_stream(const py::object& seed, const Options& options, const py::object& dict_init) {
  if (py::isinstance<Model>(seed)) {
    if (!dict_init.is_none()) throw py::type_error("dict_init does not go with a fitted dictionary as seed");
    return std::make_unique<Stream>(seed.cast<const Model&>(), options);
  }
  const auto& rows = seed.cast<const RowsHandle&>();
  const auto given = initial_decoder(dict_init, options.n_components, rows.core.width);
  return released([&] { return std::make_unique<Stream>(rows.core, options, given ? &*given : nullptr); });
}

}  // namespace

void register_dictionary(py::module_& m) {
  py::class_<Options>(m, "DictionaryOptions").def(py::init(&options_for_fit)).def_static("defaults", [] {
    return option_fields({});
  });
  py::class_<RowsHandle>(m, "DictionaryRows")
      .def(py::init(&make_rows), "array"_a, "count"_a, "width"_a, "dtype"_a, "read"_a);
  py::class_<Model>(m, "DictionaryModel")
      .def(py::init(&make_model), "decoder"_a, "mean"_a, "exponent"_a)
      .def_property_readonly("decoder",
                             [](const Model& model) {
                               return take(std::vector<float>(model.decoder()), {model.n_components(), model.width()});
                             })
      .def_property_readonly("mean",
                             [](const Model& model) { return take(std::vector<float>(model.mean()), {model.width()}); })
      .def_property_readonly("exponent", &Model::exponent)
      .def("encode", &encode, "rows"_a)
      .def("decode", &decode, "indices"_a, "codes"_a, "num_threads"_a)
      .def(
          "score",
          [](const Model& model, const RowsHandle& rows, const py::kwargs& given) {
            const auto options = options_from<EncodeOptions>(given);
            return released([&] { return model.score(rows.core, options); });
          },
          "rows"_a)
      .def("metrics", &metrics, "rows"_a)
      .def("dual_report", &dual_report, "rows"_a)
      .def(
          "grow",
          [](const Model& model, const RowsHandle& rows, Index n_components, const py::kwargs& given) {
            const auto options = options_from<EncodeOptions>(given);
            return released([&] { return model.grow(rows.core, n_components, options); });
          },
          "rows"_a, "n_components"_a);
  py::class_<Stream>(m, "DictionaryStream")
      .def(py::init(&make_stream), "seed"_a, "options"_a, "dict_init"_a)
      .def(
          "partial_fit",
          [](Stream& stream, const RowsHandle& rows) {
            const auto r = released([&] { return stream.partial_fit(rows.core); });
            return py::dict("rows"_a = r.rows, "rss"_a = r.rss, "alive"_a = r.alive);
          },
          "rows"_a)
      .def("end_epoch", [](Stream& stream) { return record_fields(released([&] { return stream.end_epoch(); })); })
      .def(
          "step",
          [](Stream& stream, const RowsHandle& rows, Index window_rows) {
            return record_fields(released([&] { return stream.step(rows.core, window_rows); }));
          },
          "rows"_a, "window_rows"_a)
      .def("finalize", [](const Stream& stream) { return fit_fields(released([&] { return stream.finalize(); })); })
      .def("model", &Stream::model)
      .def("options", [](const Stream& stream) { return option_fields(stream.options()); })
      .def_property_readonly("rows_in_epoch", &Stream::rows_in_epoch)
      .def_property_readonly("epochs", &Stream::epochs)
      .def_property_readonly("converged", &Stream::converged)
      .def("save", [](const Stream& stream) { return py::bytes(released([&] { return stream.save(); })); })
      .def_static("load", [](const py::bytes& state) { return Stream::load(std::string_view(state)); }, "state"_a);
  m.def("dictionary_fit", &fit_rows, "rows"_a, "options"_a, "dict_init"_a, "progress"_a);
}

}  // namespace arrowschur::python
