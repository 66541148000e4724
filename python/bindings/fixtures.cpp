// Deterministic test systems.
#include "common.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;
using namespace arrowschur::fixtures;

py::object array_or_none(std::vector<double>&& values, Shape shape) {
  if (values.empty()) return py::none();
  return adopt(std::move(values), std::move(shape));
}

py::dict fields(FixtureData&& f) {
  const Index n = f.n, d = f.d, k = f.k, b = f.basis_cols;
  const Shape border_shape = f.border == BorderKind::dense         ? Shape{k, k}
                             : f.border == BorderKind::tridiagonal ? Shape{2, k}
                                                                   : Shape{k};
  const char* border = f.border == BorderKind::dense         ? "dense"
                       : f.border == BorderKind::tridiagonal ? "tridiagonal"
                                                             : "diagonal";
  return py::dict("n"_a = n, "d"_a = d, "k"_a = k, "basis_cols"_a = b, "border"_a = border,
                  "h_tt"_a = adopt(std::move(f.h_tt), {n, d, d}), "h_tb"_a = adopt(std::move(f.h_tb), {n, d, k}),
                  "h_bb"_a = adopt(std::move(f.h_bb), border_shape), "g_t"_a = adopt(std::move(f.g_t), {n, d}),
                  "g_beta"_a = adopt(std::move(f.g_beta), {k}), "target"_a = array_or_none(std::move(f.target), {n, k}),
                  "basis"_a = array_or_none(std::move(f.basis), {n, b}),
                  "gates"_a = array_or_none(std::move(f.gates), {n, b}));
}

BorderKind border_kind(const std::string& name) {
  if (name == "dense") return BorderKind::dense;
  if (name == "tridiagonal") return BorderKind::tridiagonal;
  if (name == "diagonal") return BorderKind::diagonal;
  throw InvalidArgument("border", "'" + name + "'", "one of 'dense', 'tridiagonal', 'diagonal'");
}

}  // namespace

void register_fixtures(py::module_& m) {
  m.def(
      "shape_fixture",
      [](Index n, Index k, Index basis_cols, Index d, std::uint64_t seed, bool with_target) {
        return fields(released([&] { return shape_fixture(n, k, basis_cols, d, seed, with_target); }));
      },
      "n"_a, "k"_a, "basis_cols"_a, "d"_a, "seed"_a, "with_target"_a);
  m.def(
      "qwen_fixture", [](bool with_target) { return fields(released([&] { return qwen_fixture(with_target); })); },
      "with_target"_a);
  m.def(
      "color_arm_fixture",
      [](bool with_target) { return fields(released([&] { return color_arm_fixture(with_target); })); },
      "with_target"_a);
  m.def(
      "small_fixture", [](std::uint64_t seed) { return fields(released([&] { return small_fixture(seed); })); },
      "seed"_a);
  m.def(
      "coupled_fixture",
      [](Index n, Index d, Index k, std::uint64_t seed, double coupling, const std::string& border) {
        const BorderKind kind = border_kind(border);
        return fields(released([&] { return coupled_fixture(n, d, k, seed, coupling, kind); }));
      },
      "n"_a, "d"_a, "k"_a, "seed"_a, "coupling"_a, "border"_a);
  m.def("color_arm_variant_matrix", [] {
    py::list variants;
    for (const SweepVariant& v : color_arm_variant_matrix()) {
      variants.append(py::make_tuple(v.shape.n, v.shape.p, v.shape.basis_cols, v.shape.d, v.seed));
    }
    return variants;
  });
  m.def(
      "splitmix64",
      [](std::uint64_t seed, Index count) {
        SplitMix64 stream(seed);
        std::vector<std::uint64_t> words(static_cast<std::size_t>(count));
        for (auto& word : words) word = stream.next();
        return words;
      },
      "seed"_a, "count"_a, "First outputs of the random stream.");
}

}  // namespace arrowschur::python
