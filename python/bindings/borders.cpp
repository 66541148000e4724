// Border forms: checked descriptions in, sums of border terms out.
#include <algorithm>
#include <map>

#include "structure.hpp"

namespace arrowschur::python {
namespace {

using namespace py::literals;

InvalidArgument wrong(const std::string& got, const std::string& expected) {
  return InvalidArgument("h_bb", got, expected);
}

// Sizes >= 0 of diagonal blocks; adds up their columns and their entries.
std::vector<Index> block_sizes(const py::dict& parameters, Index& columns, Index& entries) {
  auto sizes = parameters["sizes"].cast<std::vector<Index>>();
  for (const Index size : sizes) {
    if (size < 0) throw wrong("a block of negative size", "sizes >= 0");
    entries += product(size, size);
    columns += size;
  }
  return sizes;
}

void require_columns(Index columns, Index k) {
  if (columns == k) return;
  throw wrong("blocks covering " + std::to_string(columns) + " columns",
              "blocks covering k = " + std::to_string(k) + " columns");
}

// Lines of an integer table, `width` columns.
std::span<const Index> table(const py::dict& parameters, const char* name, Index width) {
  const auto flat = indices(parameters[name].cast<py::array>(), name);
  if (static_cast<Index>(flat.size()) % width != 0) {
    throw wrong(std::to_string(flat.size()) + " entries of " + name, "a multiple of " + std::to_string(width));
  }
  return flat;
}

struct TermMaker {
  Index k;
  DType dtype;
  const py::array& data;
  const py::dict& parameters;

  const void* entries(Index count) const { return checked_data(data, dtype, count, "h_bb"); }
  const void* at(const void* base, Index entry) const {
    return static_cast<const char*>(base) + entry * static_cast<Index>(size_of(dtype));
  }

  BorderTerm dense() const { return DenseBorder{entries(product(k, k))}; }
  BorderTerm diagonal() const { return DiagonalBorder{entries(k)}; }
  BorderTerm banded() const {
    if (data.ndim() != 2 || data.shape(0) < 1) throw wrong("bands without rows", "(w + 1, k) bands");
    return BandedBorder{entries(product(data.shape(0), k)), data.shape(0) - 1};
  }
  BorderTerm block_diagonal() const {
    Index columns = 0, count = 0;
    auto sizes = block_sizes(parameters, columns, count);
    require_columns(columns, k);
    return BlockDiagonalBorder{entries(count), std::move(sizes)};
  }
  BorderTerm kronecker() const {
    Index columns = 0, count = 0;
    auto sizes = block_sizes(parameters, columns, count);
    const auto p = parameters["p"].cast<Index>();
    require_columns(product(columns, p), k);
    return KroneckerBorder{entries(count), std::move(sizes), p};
  }
  BorderTerm kronecker_product() const {
    KroneckerProductBorder term;
    term.pa = parameters["pa"].cast<Index>();
    term.pb = parameters["pb"].cast<Index>();
    term.offset = parameters["offset"].cast<Index>();
    const Index first = product(term.pa, term.pa);
    term.a = entries(first + product(term.pb, term.pb));
    term.b = at(term.a, first);
    return term;
  }
  BorderTerm sparse_kronecker() const {
    SparseBlockKroneckerBorder term;
    term.p = parameters["p"].cast<Index>();
    term.mirror = parameters["mirror"].cast<bool>();
    const auto lines = table(parameters, "blocks", 4);  // row, col, rows, cols
    for (std::size_t at_line = 0; at_line < lines.size(); at_line += 4) {
      SparseBlockKroneckerBorder::Block block;
      block.row = lines[at_line];
      block.col = lines[at_line + 1];
      block.rows = lines[at_line + 2];
      block.cols = lines[at_line + 3];
      block.data = term.entries;
      if (block.rows < 0 || block.cols < 0) throw wrong("a block of negative size", "sizes >= 0");
      term.entries += product(block.rows, block.cols);
      term.blocks.push_back(block);
    }
    term.values = entries(term.entries);
    return term;
  }
  // The values of the blocks, then the frames that are given.
  BorderTerm framed_kronecker() const {
    FramedKroneckerBorder term;
    term.p = parameters["p"].cast<Index>();
    term.mirror = parameters["mirror"].cast<bool>();
    const auto groups = table(parameters, "groups", 3);  // basis, width, whether it has a frame
    const auto blocks = table(parameters, "blocks", 2);  // a, b
    const Index count = static_cast<Index>(groups.size()) / 3;
    const auto basis = [&](Index group) {
      if (group < 0 || group >= count) {
        throw wrong("a block of group " + std::to_string(group), "groups 0.." + std::to_string(count - 1));
      }
      return groups[static_cast<std::size_t>(3 * group)];
    };
    for (std::size_t at_line = 0; at_line < blocks.size(); at_line += 2) {
      term.blocks.push_back({blocks[at_line], blocks[at_line + 1], term.entries});
      term.entries += product(basis(blocks[at_line]), basis(blocks[at_line + 1]));
    }
    Index stored = term.entries;
    for (std::size_t at_line = 0; at_line < groups.size(); at_line += 3) {
      if (groups[at_line] < 0 || groups[at_line + 1] < 0) throw wrong("a group of negative size", "sizes >= 0");
      if (groups[at_line + 2] != 0) stored += product(term.p, groups[at_line + 1]);
    }
    term.values = entries(stored);
    Index frame = term.entries;
    for (std::size_t at_line = 0; at_line < groups.size(); at_line += 3) {
      const bool framed = groups[at_line + 2] != 0;
      term.groups.push_back({groups[at_line], groups[at_line + 1], framed ? at(term.values, frame) : nullptr});
      if (framed) frame += term.p * groups[at_line + 1];
    }
    return term;
  }
  BorderTerm callback() const {
    const auto diagonal_entries = input(data, k, "diagonal");
    OperatorBorder term;
    term.matvec = Callback(parameters["matvec"], "matvec");
    term.diagonal.assign(diagonal_entries.begin(), diagonal_entries.end());
    term.tag = parameters["tag"].cast<std::optional<std::uint64_t>>();
    term.thread_safe = parameters["thread_safe"].cast<bool>();
    return term;
  }
};

const std::map<std::string, BorderTerm (TermMaker::*)() const> kTerms = {
    {"dense", &TermMaker::dense},
    {"diagonal", &TermMaker::diagonal},
    {"banded", &TermMaker::banded},
    {"block_diagonal", &TermMaker::block_diagonal},
    {"kronecker", &TermMaker::kronecker},
    {"kronecker_product", &TermMaker::kronecker_product},
    {"sparse_kronecker", &TermMaker::sparse_kronecker},
    {"framed_kronecker", &TermMaker::framed_kronecker},
    {"operator", &TermMaker::callback},
};

struct BorderHandle {
  Border core;

  py::array_t<double> matvec(const py::array& x) const {
    const Index m = x.ndim() == 2 ? x.shape(1) : 1;
    const auto in = input(x, product(core.k, m), "x");
    auto y = new_array(x.ndim() == 2 ? Shape{core.k, m} : Shape{core.k});
    auto out = output(y, product(core.k, m), "y");
    released([&] {
      std::fill(out.begin(), out.end(), 0.0);
      core.matvec_add(in, out, m);
    });
    return y;
  }
  py::array_t<double> diagonal() const {
    auto y = new_array({core.k});
    auto out = output(y, core.k, "out");
    released([&] {
      std::fill(out.begin(), out.end(), 0.0);
      core.diagonal_add(out);
    });
    return y;
  }
  py::array_t<double> to_dense() const {
    auto y = new_array({core.k, core.k});
    auto out = output(y, product(core.k, core.k), "out");
    released([&] {
      std::fill(out.begin(), out.end(), 0.0);
      core.to_dense_add(out);
    });
    return y;
  }
};

}  // namespace

Border make_border(Index k, DType dtype, const py::list& terms, std::vector<py::object>& kept) {
  Border border;
  border.k = k;
  border.dtype = dtype;
  for (const py::handle& item : terms) {
    const auto term = item.cast<py::tuple>();
    const auto kind = term[0].cast<std::string>();
    const auto data = term[1].cast<py::array>();
    const auto parameters = term[2].cast<py::dict>();
    const auto known = kTerms.find(kind);
    if (known == kTerms.end()) throw wrong("'" + kind + "'", "a known border form");
    border.terms.push_back((TermMaker{k, dtype, data, parameters}.*known->second)());
    kept.push_back(data);
  }
  return border;
}

void register_borders(py::module_& m) {
  py::class_<BorderHandle>(m, "Border", "A sum of border terms.")
      .def(py::init([](Index k, bool single, const py::list& terms) {
             std::vector<py::object> kept;
             Border border = make_border(k, single ? DType::float32 : DType::float64, terms, kept);
             border.owner = keep_alive(std::move(kept));
             return BorderHandle{std::move(border)};
           }),
           "k"_a, "single"_a, "terms"_a)
      .def("matvec", &BorderHandle::matvec, "x"_a)
      .def("diagonal", &BorderHandle::diagonal)
      .def("to_dense", &BorderHandle::to_dense);
}

}  // namespace arrowschur::python
