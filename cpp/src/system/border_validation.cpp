#include "system/border_validation.hpp"

#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "linalg/buffer.hpp"
#include "system/border_kronecker.hpp"
#include "system/border_structure.hpp"
#include "system/examine.hpp"

namespace arrowschur::validate {
namespace {

using linalg::Buffer;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

[[noreturn]] void reject(const std::string& got, const std::string& expected) {
  throw InvalidArgument("h_bb", got, expected);
}

// Sizes of diagonal blocks: their sum, and checked squares.
Index sum_of(const std::vector<Index>& sizes, const char* what) {
  Index sum = 0, entries = 0;
  for (const Index size : sizes) {
    if (size < 0) reject("a diagonal block of size " + std::to_string(size), "sizes >= 0");
    sum = checked_sum(sum, size, what);
    entries = checked_sum(entries, checked_product(size, size, what), what);
  }
  return sum;
}

// `count` entries from `first` of `values` with `entries` entries.
void require_inside(Index first, Index rows, Index cols, Index entries, std::size_t block) {
  const Index count = checked_product(rows, cols, "a block of h_bb");
  if (first >= 0 && count <= entries && first <= entries - count) return;
  reject("block " + std::to_string(block) + " with entries " + std::to_string(first) + " to " +
             std::to_string(checked_sum(std::max<Index>(first, 0), count, "a block of h_bb")),
         "blocks inside their " + std::to_string(entries) + " values");
}

struct BorderShape {
  Index k;

  void operator()(const DenseBorder& t) const { require_buffer(t.data, k * k, "h_bb"); }
  void operator()(const DiagonalBorder& t) const { require_buffer(t.data, k, "h_bb"); }
  void operator()(const BandedBorder& t) const {
    if (t.bandwidth < 0 || t.bandwidth >= std::max<Index>(k, 1)) {
      reject("a banded border with " + std::to_string(t.bandwidth) + " sub-diagonals",
             "between 0 and " + std::to_string(std::max<Index>(k, 1) - 1));
    }
    require_buffer(t.bands, term_entries(t, k), "h_bb");
  }
  void operator()(const BlockDiagonalBorder& t) const {
    const Index sum = sum_of(t.sizes, "the block-diagonal border h_bb");
    if (sum != k) {
      reject("diagonal blocks whose sizes sum to " + std::to_string(sum), "a sum of k = " + std::to_string(k));
    }
    require_buffer(t.data, term_entries(t, k), "h_bb");
  }
  void operator()(const KroneckerBorder& t) const {
    require_identity(t.p);
    const Index sum = sum_of(t.sizes, "the Kronecker border h_bb");
    if (checked_product(sum, t.p, "the Kronecker border h_bb") != k) {
      reject("factors of sizes that sum to " + std::to_string(sum) + ", with p = " + std::to_string(t.p),
             "p times the sum = k = " + std::to_string(k));
    }
    require_buffer(t.factors, term_entries(t, k), "h_bb");
  }
  void operator()(const KroneckerProductBorder& t) const {
    for (const Index number : {t.pa, t.pb, t.offset}) {
      if (number < 0) reject("a Kronecker product with size or offset " + std::to_string(number), "integers >= 0");
    }
    const Index size = checked_product(t.pa, t.pb, "the Kronecker product h_bb");
    if (checked_sum(t.offset, size, "the Kronecker product h_bb") > k) {
      reject("a Kronecker product of size " + std::to_string(size) + " at offset " + std::to_string(t.offset),
             "offset + size <= k = " + std::to_string(k));
    }
    require_buffer(t.a, checked_product(t.pa, t.pa, "the Kronecker product h_bb"), "h_bb");
    require_buffer(t.b, checked_product(t.pb, t.pb, "the Kronecker product h_bb"), "h_bb");
  }
  void operator()(const SparseBlockKroneckerBorder& t) const {
    require_identity(t.p);
    if (k % t.p != 0) reject("p = " + std::to_string(t.p), "a divisor of k = " + std::to_string(k));
    const Index left = k / t.p;
    require_values(t.values, t.entries);
    for (std::size_t e = 0; e < t.blocks.size(); ++e) {
      const auto& block = t.blocks[e];
      const auto inside = [left](Index first, Index count) {
        return first >= 0 && count >= 0 && count <= left && first <= left - count;
      };
      const auto name = [e] { return "block " + std::to_string(e); };
      if (!inside(block.row, block.rows) || !inside(block.col, block.cols)) {
        reject(
            name() + " at " + index_text({block.row, block.col}) + " of shape " + index_text({block.rows, block.cols}),
            "blocks inside the left factor of size k / p = " + std::to_string(left));
      }
      if (block.row == block.col && block.rows != block.cols) {
        reject(name() + " on the diagonal of shape " + index_text({block.rows, block.cols}), "square diagonal blocks");
      }
      if (block.row != block.col && block.row < block.col + block.cols && block.col < block.row + block.rows) {
        reject(name() + " at " + index_text({block.row, block.col}) + ", which reaches across the diagonal",
               "blocks with equal offsets, or off the diagonal");
      }
      require_inside(block.data, block.rows, block.cols, t.entries, e);
    }
  }
  void operator()(const FramedKroneckerBorder& t) const {
    require_identity(t.p);
    Index sum = 0;
    for (std::size_t a = 0; a < t.groups.size(); ++a) {
      const auto& group = t.groups[a];
      if (group.basis < 0 || group.width < 0 || (group.frame == nullptr && group.width != t.p)) {
        reject("group " + std::to_string(a) + " of basis size " + std::to_string(group.basis) + " and width " +
                   std::to_string(group.width),
               "sizes >= 0, and width p = " + std::to_string(t.p) + " without a frame");
      }
      checked_product(t.p, group.width, "the frames of h_bb");
      sum = checked_sum(sum, checked_product(group.basis, group.width, "the border h_bb"), "the border h_bb");
    }
    if (sum != k) {
      reject("groups whose sizes (basis times width) sum to " + std::to_string(sum),
             "a sum of k = " + std::to_string(k));
    }
    require_values(t.values, t.entries);
    const Index groups = static_cast<Index>(t.groups.size());
    for (std::size_t e = 0; e < t.blocks.size(); ++e) {
      const auto& block = t.blocks[e];
      if (block.a < 0 || block.a >= groups || block.b < 0 || block.b >= groups) {
        reject("block " + std::to_string(e) + " between groups " + index_text({block.a, block.b}),
               "groups 0 to " + std::to_string(groups - 1));
      }
      require_inside(block.data, t.groups[at(block.a)].basis, t.groups[at(block.b)].basis, t.entries, e);
    }
  }
  void operator()(const OperatorBorder& t) const {
    if (!t.matvec || t.lock == nullptr) reject("an operator border without a product", "a callable");
    if (static_cast<Index>(t.diagonal.size()) != k) {
      reject("an operator border with a diagonal of " + std::to_string(t.diagonal.size()) + " entries",
             "k = " + std::to_string(k) + " entries");
    }
  }

 private:
  static void require_identity(Index p) {
    if (p < 1) reject("a Kronecker factor I_p with p = " + std::to_string(p), "p >= 1");
  }
  static void require_values(const void* values, Index entries) {
    if (entries < 0) reject(std::to_string(entries) + " values", "a count >= 0");
    require_buffer(values, entries, "h_bb");
  }
};

struct BorderExamination {
  Index k;
  const ValidationOptions& options;
  std::vector<std::shared_ptr<const void>>& copies;
  std::string term;  // " of term 2", where there are several

  // The averaged copy of `size` x `size` blocks that follow one another.
  template <class T>
  const void* averaged(const T* data, const std::vector<Index>& sizes, Index entries) const {
    auto copy = std::make_shared<Buffer<T>>(entries);
    Index at = 0;
    for (const Index size : sizes) {
      average_square(data + at, size, copy->data() + at);
      at += size * size;
    }
    const void* result = copy->data();
    copies.push_back(std::move(copy));
    return result;
  }

  template <class T>
  void square(const T* data, Index size, const std::string& name) const {
    const bool symmetry = options.symmetry == Symmetry::check;
    if (!options.check_finite && !symmetry) return;
    if (!symmetry) {
      const Index bad = first_non_finite(data, size * size);
      if (bad >= 0) report_square(data, size, bad, name);
      return;
    }
    const SymmetryFacts f =
        size < kSmallBlock && !options.check_finite ? examine_block(data, size) : examine_square(data, size);
    if (options.check_finite && !f.finite) {
      report_square(data, size, first_non_finite(data, size * size), name);
    }
    if (asymmetric<T>(f)) {
      throw_asymmetric("h_bb", "a " + name + term + " ", f.difference, f.scale, kSymmetryTolerance<T>);
    }
  }
  template <class T>
  [[noreturn]] void report_square(const T* data, Index size, Index bad, const std::string& name) const {
    const std::string where = index_text({bad / size, bad % size});
    throw_not_finite("h_bb", static_cast<double>(data[bad]),
                     name == "matrix" ? where + term : where + " of " + name + term);
  }

  template <class T>
  void examine(DenseBorder& t) const {
    const T* data = static_cast<const T*>(t.data);
    square(data, k, "matrix");
    if (options.symmetry == Symmetry::average) t.data = averaged(data, {k}, k * k);
  }
  template <class T>
  void examine(DiagonalBorder& t) const {
    if (!options.check_finite) return;
    const T* data = static_cast<const T*>(t.data);
    const Index bad = first_non_finite(data, k);
    if (bad >= 0)
      throw_not_finite("h_bb", static_cast<double>(data[bad]), index_text({bad}) + " of the diagonal" + term);
  }
  template <class T>
  void examine(BandedBorder& t) const {
    if (!options.check_finite) return;
    const T* data = static_cast<const T*>(t.bands);
    for (Index j = 0; j <= t.bandwidth; ++j) {
      const Index bad = first_non_finite(data + j * k, k - j);  // what lies behind is not part of the matrix
      if (bad < 0) continue;
      throw_not_finite("h_bb", static_cast<double>(data[j * k + bad]), index_text({j, bad}) + " of the bands" + term);
    }
  }
  template <class T>
  void examine(BlockDiagonalBorder& t) const {
    const T* data = static_cast<const T*>(t.data);
    Index at = 0;
    for (std::size_t b = 0; b < t.sizes.size(); ++b) {
      square(data + at, t.sizes[b], "diagonal block " + std::to_string(b));
      at += t.sizes[b] * t.sizes[b];
    }
    if (options.symmetry == Symmetry::average) t.data = averaged(data, t.sizes, at);
  }
  template <class T>
  void examine(KroneckerBorder& t) const {
    const T* data = static_cast<const T*>(t.factors);
    Index next = 0;
    for (std::size_t b = 0; b < t.sizes.size(); ++b) {
      square(data + next, t.sizes[b], "Kronecker factor " + std::to_string(b));
      next += t.sizes[b] * t.sizes[b];
    }
    if (options.symmetry == Symmetry::average) t.factors = averaged(data, t.sizes, next);
  }
  template <class T>
  void examine(KroneckerProductBorder& t) const {
    const T* a = static_cast<const T*>(t.a);
    const T* b = static_cast<const T*>(t.b);
    square(a, t.pa, "left Kronecker factor");
    square(b, t.pb, "right Kronecker factor");
    if (options.symmetry != Symmetry::average) return;
    t.a = averaged(a, {t.pa}, t.pa * t.pa);
    t.b = averaged(b, {t.pb}, t.pb * t.pb);
  }
  template <class T>
  void examine(SparseBlockKroneckerBorder& t) const {
    std::vector<LeftPlace> places;
    places.reserve(t.blocks.size());
    for (const auto& block : t.blocks) places.push_back({block.row, block.col, block.rows, block.cols, block.data});
    const void* values = examine_left<T>(places, static_cast<const T*>(t.values), t.entries, t.mirror);
    keep_lower(t, [](const auto& block) { return block.row >= block.col; });
    t.values = values;
    sort_blocks(t);
  }
  // In ascending order of their lower offset, blocks of one offset as given: a counting sort.
  void sort_blocks(SparseBlockKroneckerBorder& t) const {
    std::erase_if(t.blocks, [](const auto& block) { return block.rows == 0 || block.cols == 0; });
    std::vector<Index> place(at(k / t.p + 1), 0);
    t.tallest = 1;
    for (const auto& block : t.blocks) {
      ++place[at(std::max(block.row, block.col) + 1)];
      t.tallest = std::max(t.tallest, block.row < block.col ? block.cols : block.rows);
    }
    std::partial_sum(place.begin(), place.end(), place.begin());
    std::vector<SparseBlockKroneckerBorder::Block> sorted(t.blocks.size());
    for (const auto& block : t.blocks) sorted[at(place[at(std::max(block.row, block.col))]++)] = block;
    t.blocks = std::move(sorted);
  }
  template <class T>
  void examine(FramedKroneckerBorder& t) const {
    std::vector<Index> first{0};
    for (std::size_t a = 0; a < t.groups.size(); ++a) {
      const auto& group = t.groups[a];
      first.push_back(first.back() + group.basis);
      if (group.frame != nullptr && options.check_finite) {
        finite(static_cast<const T*>(group.frame), t.p * group.width, "frame " + std::to_string(a), group.width);
      }
    }
    std::vector<LeftPlace> places;
    for (const auto& block : t.blocks) {
      places.push_back({first[at(block.a)], first[at(block.b)], t.groups[at(block.a)].basis,
                        t.groups[at(block.b)].basis, block.data});
    }
    const void* values = examine_left<T>(places, static_cast<const T*>(t.values), t.entries, t.mirror);
    keep_lower(t, [](const auto& block) { return block.a >= block.b; });
    t.values = values;
    border::prepare_grams(t, sizeof(T) == sizeof(double) ? DType::float64 : DType::float32);
  }
  template <class T>
  void examine(OperatorBorder& t) const {
    if (!options.check_finite) return;
    const Index bad = first_non_finite(t.diagonal.data(), k);
    if (bad >= 0) {
      throw_not_finite("h_bb", t.diagonal[at(bad)], index_text({bad}) + " of the operator's diagonal" + term);
    }
  }

  // ---- blocks of a left factor ----
  struct LeftPlace {
    Index row, col, rows, cols, data;
    bool diagonal() const { return row == col; }
  };

  template <class T>
  void finite(const T* data, Index size, const std::string& name, Index width) const {
    const Index bad = first_non_finite(data, size);
    if (bad < 0) return;
    throw_not_finite("h_bb", static_cast<double>(data[bad]),
                     index_text({bad / width, bad % width}) + " of " + name + term);
  }

  // Without `mirror` both halves are given: from here on the lower one stands for both (averaged: each for its half).
  template <class T>
  void keep_lower(T& t, auto&& lower) const {
    if (!t.mirror && options.symmetry != Symmetry::average) std::erase_if(t.blocks, std::not_fn(lower));
    t.mirror = true;
  }

  // Finiteness, and symmetry of diagonal blocks and of the two halves. Returns the values to use.
  template <class T>
  const void* examine_left(const std::vector<LeftPlace>& places, const T* values, Index entries, bool mirror) const {
    // One look at all values; those that no block uses may be anything.
    const bool all_finite = !options.check_finite || first_non_finite(values, entries) < 0;
    for (std::size_t e = 0; e < places.size(); ++e) {
      const LeftPlace& block = places[e];
      if (all_finite && (!block.diagonal() || block.rows == 1)) continue;
      const std::string name = "block " + std::to_string(e);
      if (block.diagonal()) {
        square(values + block.data, block.rows, name);
      } else {
        finite(values + block.data, block.rows * block.cols, name, block.cols);
      }
    }
    if (options.symmetry == Symmetry::check && !mirror) require_mirror_images(places, values);
    if (options.symmetry != Symmetry::average) return values;

    auto copy = std::make_shared<Buffer<T>>(entries);
    std::copy(values, values + entries, copy->data());
    for (const LeftPlace& block : places) {
      T* to = copy->data() + block.data;
      if (block.diagonal()) {
        average_square(values + block.data, block.rows, to);
      } else if (!mirror) {
        for (Index i = 0; i < block.rows * block.cols; ++i) to[i] = T(0.5) * values[block.data + i];
      }
    }
    const void* result = copy->data();
    copies.push_back(std::move(copy));
    return result;
  }

  // The sum of the blocks above the diagonal is the transpose of the sum below.
  template <class T>
  void require_mirror_images(const std::vector<LeftPlace>& places, const T* values) const {
    std::map<std::pair<Index, Index>, std::pair<double, double>> halves;  // entry below: its sum, that of its image
    SymmetryFacts facts;
    for (const LeftPlace& block : places) {
      for (Index r = 0; r < block.rows; ++r) {
        for (Index c = 0; c < block.cols; ++c) {
          const double value = static_cast<double>(values[block.data + r * block.cols + c]);
          facts.scale = std::max(facts.scale, std::fabs(value));
          if (block.row > block.col) halves[{block.row + r, block.col + c}].first += value;
          if (block.row < block.col) halves[{block.col + c, block.row + r}].second += value;
        }
      }
    }
    for (const auto& [place, sums] : halves) {
      facts.difference = std::fabs(sums.first - sums.second);
      if (asymmetric<T>(facts)) {
        throw_asymmetric("h_bb", "a left factor" + term + " at " + index_text({place.first, place.second}) + " ",
                         facts.difference, facts.scale, kSymmetryTolerance<T>);
      }
    }
  }
};

}  // namespace

void require_border_shape(const Border& border, Index k, DType dtype) {
  if (border.k != k) reject("a border of width " + std::to_string(border.k), "width k = " + std::to_string(k));
  if (border.dtype != dtype) reject("a border of another dtype", "the dtype of h_tt");
  for (const BorderTerm& term : border.terms) {
    std::visit(BorderShape{k}, term);
    require_bytes(std::visit([&](const auto& t) { return term_entries(t, k); }, term), dtype, "the border h_bb");
  }
}

void examine_border(Border& border, const ValidationOptions& options, std::vector<std::shared_ptr<const void>>& copies,
                    std::vector<std::string>& detected) {
  with_dtype(border.dtype, [&]<class T>(T) {
    for (std::size_t t = 0; t < border.terms.size(); ++t) {
      BorderTerm& term = border.terms[t];
      const std::string place = border.terms.size() > 1 ? " of term " + std::to_string(t) : std::string();
      const BorderExamination examination{border.k, options, copies, place};
      std::visit([&](auto& form) { examination.template examine<T>(form); }, term);
      const auto* dense = std::get_if<DenseBorder>(&term);
      if (dense == nullptr || !options.detect_structure) continue;
      auto found = border::recognise<T>(static_cast<const T*>(dense->data), border.k);
      if (!found) continue;
      term = std::move(found->term);
      copies.push_back(std::move(found->copy));
      detected.push_back("h_bb" + place + ": " + found->what);
    }
  });
}

}  // namespace arrowschur::validate
