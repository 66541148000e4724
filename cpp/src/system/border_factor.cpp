// Exact factors M = R R' of borders whose structure survives a Cholesky factorization. The profile of the lower
// triangle decides: what lies left of the first entry of a row stays zero (A. George, J. W.-H. Liu, Computer Solution of Large
// Sparse Positive Definite Systems, 1981, section 4.2), and a border falls apart where no row reaches across.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"
#include "system/border_entries.hpp"
#include "system/storage.hpp"

namespace arrowschur::border {
namespace {

using linalg::Buffer;

constexpr Index kMaxBlock = 512;  // dense diagonal blocks of a border
constexpr Index kMaxLeft = 2048;  // dense blocks of a left Kronecker factor
constexpr Index kMaxRow = 256;  // mean length of the rows of an envelope
constexpr Index kDenseFrom = 33;  // blocks from this size on are for BLAS, where their envelope is about full
constexpr Index kShortRow = 8;  // rows below this length run in plain loops

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// ---- structure ------------------------------------------------------------------------------------------------------

// First column of each row of the lower triangle, by structure.
class Profile {
 public:
  explicit Profile(Index k) : first(at(k)) {
    for (Index i = 0; i < k; ++i) first[at(i)] = i;
  }
  std::vector<Index> first;

  void add_block(Index row, Index rows, Index col) {
    for (Index i = row; i < row + rows; ++i) first[at(i)] = std::min(first[at(i)], col);
  }
  bool operator()(const DenseBorder&) { return false; }
  bool operator()(const DiagonalBorder&) { return true; }
  bool operator()(const BandedBorder& t) {
    for (Index i = 0; i < static_cast<Index>(first.size()); ++i) add_block(i, 1, std::max<Index>(0, i - t.bandwidth));
    return true;
  }
  bool operator()(const BlockDiagonalBorder& t) {
    Index begin = 0;
    for (const Index size : t.sizes) {
      add_block(begin, size, begin);
      begin += size;
    }
    return true;
  }
  bool operator()(const SparseBlockKroneckerBorder& t) {  // its left factor
    for (const auto& block : t.blocks) {
      const bool above = block.row < block.col;
      if (above && !t.mirror) continue;
      if (block.rows == 0 || block.cols == 0) continue;
      if (above) {
        add_block(block.col, block.cols, block.row);
      } else {
        add_block(block.row, block.rows, block.col);
      }
    }
    return true;
  }
  template <class Term>
  bool operator()(const Term&) {
    return false;
  }

  // Diagonal blocks that no row reaches out of.
  std::vector<Index> blocks() const {
    std::vector<Index> sizes;
    const Index k = static_cast<Index>(first.size());
    Index reach = k, end = k;
    for (Index i = k - 1; i >= 0; --i) {
      reach = std::min(reach, first[at(i)]);
      if (reach < i) continue;
      sizes.push_back(end - i);
      end = i;
    }
    std::reverse(sizes.begin(), sizes.end());
    return sizes;
  }
  Index entries() const {
    Index sum = 0;
    for (Index i = 0; i < static_cast<Index>(first.size()); ++i) sum += i - first[at(i)] + 1;
    return sum;
  }
};

// How a border of scalars is factored.
struct Structure {
  enum Kind { none, envelope, dense_blocks } kind = none;
  std::vector<Index> first;  // envelope
  std::vector<Index> blocks;  // dense_blocks: sizes
  Index entries = 0;  // that the factor stores

  Structure(const Border& border, Index largest_block) {
    Profile profile(border.k);
    for (const BorderTerm& term : border.terms) {
      if (!std::visit(profile, term)) return;
    }
    blocks = profile.blocks();
    Index block_entries = 0, largest = 0;
    for (const Index size : blocks) {
      block_entries += size * size;
      largest = std::max(largest, size);
    }
    const Index envelope_entries = profile.entries();
    if (largest >= kDenseFrom && largest <= largest_block && block_entries <= 4 * envelope_entries) {
      kind = dense_blocks;
      entries = block_entries;
    } else if (envelope_entries <= kMaxRow * std::max<Index>(border.k, 1)) {
      kind = envelope;
      entries = envelope_entries;
      first = std::move(profile.first);
    }
  }
};

// The border as A (x) I_p, A a border of scalars; p = 1 when it has no Kronecker term. Diagonal terms are not part of
// A: they join the shift.
struct LeftForm {
  Index p = 1;
  Border left;
  std::vector<BorderTerm> diagonals;
};

bool has_frames(const FramedKroneckerBorder& t) {
  return std::any_of(t.groups.begin(), t.groups.end(), [](const auto& group) { return group.frame != nullptr; });
}

// The same matrix without frames: offsets of groups in place of groups.
SparseBlockKroneckerBorder without_groups(const FramedKroneckerBorder& t) {
  std::vector<Index> first{0};
  for (const auto& group : t.groups) first.push_back(first.back() + group.basis);
  SparseBlockKroneckerBorder sparse;
  for (const auto& block : t.blocks) {
    sparse.blocks.push_back(
        {first[at(block.a)], first[at(block.b)], t.groups[at(block.a)].basis, t.groups[at(block.b)].basis, block.data});
  }
  sparse.values = t.values;
  sparse.entries = t.entries;
  sparse.p = t.p;
  sparse.mirror = t.mirror;
  return sparse;
}

std::optional<LeftForm> left_form(const Border& border) {
  LeftForm form;
  form.left.dtype = border.dtype;
  bool scalars = false;  // terms off the diagonal that are no A (x) I_p
  const auto join = [&](Index p) {
    const bool fits = form.p == 1 || form.p == p;
    form.p = p;
    return fits;
  };
  for (const BorderTerm& term : border.terms) {
    if (std::holds_alternative<DiagonalBorder>(term)) {
      form.diagonals.push_back(term);
    } else if (const auto* kronecker = std::get_if<KroneckerBorder>(&term); kronecker != nullptr && kronecker->p > 1) {
      if (!join(kronecker->p)) return std::nullopt;
      form.left.terms.push_back(BlockDiagonalBorder{kronecker->factors, kronecker->sizes});
    } else if (kronecker != nullptr) {
      scalars = true;
      form.left.terms.push_back(BlockDiagonalBorder{kronecker->factors, kronecker->sizes});
    } else if (std::holds_alternative<SparseBlockKroneckerBorder>(term) ||
               std::holds_alternative<FramedKroneckerBorder>(term)) {
      const auto* framed = std::get_if<FramedKroneckerBorder>(&term);
      if (framed != nullptr && has_frames(*framed)) return std::nullopt;
      SparseBlockKroneckerBorder sparse =
          framed != nullptr ? without_groups(*framed) : std::get<SparseBlockKroneckerBorder>(term);
      if (sparse.p > 1 && !join(sparse.p)) return std::nullopt;
      scalars = scalars || sparse.p == 1;
      sparse.p = 1;
      form.left.terms.push_back(std::move(sparse));
    } else {
      scalars = true;
      form.left.terms.push_back(term);
    }
  }
  if (scalars && form.p > 1) return std::nullopt;
  form.left.k = border.k / form.p;
  return form;
}

// total += the diagonal terms.
void add_diagonals(const LeftForm& form, DType dtype, double* total, Index k) {
  with_dtype(dtype, [&]<class In>(In) {
    for (const BorderTerm& term : form.diagonals) {
      const In* diagonal = static_cast<const In*>(std::get<DiagonalBorder>(term).data);
      for (Index i = 0; i < k; ++i) total[i] += static_cast<double>(diagonal[i]);
    }
  });
}

bool constant_in_groups(const double* x, Index k, Index p) {
  for (Index first = 0; first < k; first += p) {
    for (Index c = 1; c < p; ++c) {
      if (x[first + c] != x[first]) return false;
    }
  }
  return true;
}

// ---- factors --------------------------------------------------------------------------------------------------------

void merge_pivot(double r, double& smallest, double& largest) {
  smallest = std::min(smallest, r * r);
  largest = std::max(largest, r * r);
}

// Row i holds R[i, first_i .. i - 1], contiguous; the diagonal and its reciprocals apart.
class EnvelopeFactor final : public BorderFactor {
 public:
  EnvelopeFactor(const Border& border, std::vector<Index> first, const double* shift)
      : first_(std::move(first)), start_(first_.size() + 1, 0), diagonal_(border.k), inverse_(border.k) {
    const Index k = border.k;
    for (Index i = 0; i < k; ++i) start_[at(i + 1)] = start_[at(i)] + i - first_[at(i)];
    rows_ = Buffer<double>(start_.back());
    std::fill(rows_.begin(), rows_.end(), 0.0);
    std::copy(shift, shift + k, diagonal_.data());
    for_each_lower(border, [&](Index i, Index j, double value) {
      if (i == j) {
        diagonal_[i] += value;
      } else {
        row(i)[j - first_[at(i)]] += value;
      }
    });
  }

  // R_ij = (M_ij - sum_t R_it R_jt) / R_jj along each row; the first pivot that is not positive, or -1.
  Index decompose() {
    for (Index i = 0; i < diagonal_.size(); ++i) {
      double* r = row(i);
      const Index from = first_[at(i)];
      double pivot = diagonal_[i];
      for (Index j = from; j < i; ++j) {
        const Index begin = std::max(from, first_[at(j)]);
        const double value =
            (r[j - from] - dot(j - begin, r + begin - from, row(j) + begin - first_[at(j)])) * inverse_[j];
        r[j - from] = value;
        pivot -= value * value;
      }
      if (!(pivot > 0.0) || !std::isfinite(pivot)) return i;
      diagonal_[i] = std::sqrt(pivot);
      inverse_[i] = 1.0 / diagonal_[i];
    }
    return -1;
  }

  void solve_lower(double* x, Index ldx, Index m) const override {
    const auto& kernel = linalg::kernels().data<double>();
    Buffer<double> minus(0);
    for (Index i = 0; i < diagonal_.size(); ++i) {
      const Index from = first_[at(i)], length = i - from;
      const double* r = row(i);
      double* to = x + i * ldx;
      if (length < kShortRow || m < kShortRow) {
        for (Index j = 0; j < length; ++j) subtract(r[j], x + (from + j) * ldx, to, m);
      } else {
        if (minus.size() < length) minus = Buffer<double>(2 * length);
        for (Index j = 0; j < length; ++j) minus[j] = -r[j];
        kernel.rows_axpy(length, m, x + from * ldx, ldx, minus.data(), to, nullptr);
      }
      scale(inverse_[i], to, m);
    }
  }

  void solve_upper(double* x, Index ldx, Index m) const override {
    for (Index i = diagonal_.size() - 1; i >= 0; --i) {
      const Index from = first_[at(i)];
      const double* r = row(i);
      double* own = x + i * ldx;
      scale(inverse_[i], own, m);
      for (Index j = 0; j < i - from; ++j) subtract(r[j], own, x + (from + j) * ldx, m);
    }
  }

  double log_det() const override {
    double sum = 0.0;
    for (Index i = 0; i < diagonal_.size(); ++i) sum += std::log(diagonal_[i]);
    return 2.0 * sum;
  }
  void pivots(double& smallest, double& largest) const override {
    for (Index i = 0; i < diagonal_.size(); ++i) merge_pivot(diagonal_[i], smallest, largest);
  }
  Index nbytes() const override { return rows_.nbytes() + diagonal_.nbytes() + inverse_.nbytes(); }

 private:
  double* row(Index i) { return rows_.data() + start_[at(i)]; }
  const double* row(Index i) const { return rows_.data() + start_[at(i)]; }
  static double dot(Index n, const double* a, const double* b) {
    double sum = 0.0;
    if (n < 2 * kShortRow) {
      for (Index t = 0; t < n; ++t) sum += a[t] * b[t];
    } else {
      linalg::kernels().data<double>().rows_dot(1, n, a, n, b, &sum, nullptr);
    }
    return sum;
  }
  static void subtract(double r, const double* from, double* to, Index m) {
    for (Index q = 0; q < m; ++q) to[q] -= r * from[q];
  }
  static void scale(double r, double* to, Index m) {
    for (Index q = 0; q < m; ++q) to[q] *= r;
  }

  std::vector<Index> first_, start_;
  Buffer<double> rows_, diagonal_, inverse_;
};

// Dense diagonal blocks, row-major lower triangles (column-major upper ones) in BLAS' hands.
class DenseBlocksFactor final : public BorderFactor {
 public:
  DenseBlocksFactor(const Border& border, const std::vector<Index>& sizes, const double* shift) {
    Index row = 0, entry = 0;
    std::vector<Index> block_of;
    for (const Index size : sizes) {
      blocks_.push_back({row, size, entry});
      block_of.insert(block_of.end(), at(size), static_cast<Index>(blocks_.size()) - 1);
      row += size;
      entry += size * size;
    }
    data_ = Buffer<double>(entry);
    std::fill(data_.begin(), data_.end(), 0.0);
    const auto entry_at = [&](Index i, Index j) -> double& {
      const Block& block = blocks_[at(block_of[at(i)])];
      return data_[block.entry + (i - block.row) * block.size + j - block.row];
    };
    for (Index i = 0; i < border.k; ++i) entry_at(i, i) = shift[i];
    for_each_lower(border, [&](Index i, Index j, double value) { entry_at(i, j) += value; });
  }

  Index decompose() {
    std::vector<Index> bad(blocks_.size(), 0);
    linalg::parallel_for_if(data_.size() >= linalg::kParallelWork, static_cast<Index>(blocks_.size()), [&](Index b) {
      const Block& block = blocks_[at(b)];
      bad[at(b)] = linalg::blas_table<double>().potrf('U', block.size, data_.data() + block.entry,
                                                      std::max<Index>(block.size, 1));
      for (Index i = 0; i < block.size && bad[at(b)] == 0; ++i) {
        if (!std::isfinite(data_[block.entry + i * block.size + i])) bad[at(b)] = i + 1;
      }
    });
    for (std::size_t b = 0; b < bad.size(); ++b) {
      if (bad[b] > 0) return blocks_[b].row + bad[b] - 1;
    }
    return -1;
  }

  void solve_lower(double* x, Index ldx, Index m) const override { solve('N', x, ldx, m); }
  void solve_upper(double* x, Index ldx, Index m) const override { solve('T', x, ldx, m); }

  double log_det() const override {
    double sum = 0.0;
    for_diagonal([&](double r) { sum += std::log(r); });
    return 2.0 * sum;
  }
  void pivots(double& smallest, double& largest) const override {
    for_diagonal([&](double r) { merge_pivot(r, smallest, largest); });
  }
  Index nbytes() const override { return data_.nbytes(); }

 private:
  struct Block {
    Index row, size, entry;
  };
  // Row-major X [size, m] is column-major X' [m, size]: L X = B reads X' L' = B', L' the column-major upper triangle.
  void solve(char trans, double* x, Index ldx, Index m) const {
    if (m == 0) return;
    for (const Block& block : blocks_) {
      linalg::blas_table<double>().trsm('R', 'U', trans, m, block.size, 1.0, data_.data() + block.entry, block.size,
                                        x + block.row * ldx, ldx);
    }
  }
  template <class F>
  void for_diagonal(F&& f) const {
    for (const Block& block : blocks_) {
      for (Index i = 0; i < block.size; ++i) f(data_[block.entry + i * block.size + i]);
    }
  }

  std::vector<Block> blocks_;
  Buffer<double> data_;
};

// R (x) I_p: row mu p + c of x belongs to row mu of R.
class KroneckerFactor final : public BorderFactor {
 public:
  KroneckerFactor(std::unique_ptr<BorderFactor> left, Index p) : left_(std::move(left)), p_(p) {}

  void solve_lower(double* x, Index ldx, Index m) const override {
    for_each_right(x, ldx, m, [&](double* y, Index columns) { left_->solve_lower(y, p_ * ldx, columns); });
  }
  void solve_upper(double* x, Index ldx, Index m) const override {
    for_each_right(x, ldx, m, [&](double* y, Index columns) { left_->solve_upper(y, p_ * ldx, columns); });
  }
  double log_det() const override { return static_cast<double>(p_) * left_->log_det(); }
  void pivots(double& smallest, double& largest) const override { left_->pivots(smallest, largest); }
  Index nbytes() const override { return left_->nbytes(); }

 private:
  // All right-hand sides at once where nothing lies between them.
  template <class F>
  void for_each_right(double* x, Index ldx, Index m, F&& f) const {
    if (ldx == m) return f(x, p_ * m);
    for (Index c = 0; c < p_; ++c) f(x + c * ldx, m);
  }

  std::unique_ptr<BorderFactor> left_;
  Index p_;
};

Structure structure_of(const LeftForm& form) { return {form.left, form.p > 1 ? kMaxLeft : kMaxBlock}; }

template <class Factor>
FactorOutcome decomposed(std::unique_ptr<Factor> factor) {
  const Index bad = factor->decompose();
  if (bad >= 0) return {nullptr, bad};
  return {std::move(factor), -1};
}

}  // namespace

bool cheap_to_factor(const Border& border) {
  const auto form = left_form(border);
  if (!form || structure_of(*form).kind == Structure::none) return false;
  if (form->p == 1) return true;
  std::vector<double> total(at(border.k), 0.0);
  add_diagonals(*form, border.dtype, total.data(), border.k);
  return constant_in_groups(total.data(), border.k, form->p);
}

FactorOutcome factor(const Border& border, const double* shift) {
  const auto form = left_form(border);
  const Index k = border.k, p = form->p, left = form->left.k;
  std::vector<double> total(shift, shift + k);
  add_diagonals(*form, border.dtype, total.data(), k);
  if (!constant_in_groups(total.data(), k, p)) return {};
  for (Index mu = 0; mu < left; ++mu) total[at(mu)] = total[at(mu * p)];

  Structure structure = structure_of(*form);
  FactorOutcome outcome =
      structure.kind == Structure::dense_blocks
          ? decomposed(std::make_unique<DenseBlocksFactor>(form->left, structure.blocks, total.data()))
          : decomposed(std::make_unique<EnvelopeFactor>(form->left, std::move(structure.first), total.data()));
  if (outcome.bad_pivot >= 0) outcome.bad_pivot *= p;
  if (outcome.factor != nullptr && p > 1) {
    outcome.factor = std::make_unique<KroneckerFactor>(std::move(outcome.factor), p);
  }
  return outcome;
}

Index factor_bytes(const Border& border) {
  const auto form = left_form(border);
  const Structure structure = structure_of(*form);
  const Index item = static_cast<Index>(sizeof(double));
  // An envelope keeps its diagonal twice, apart from the rows.
  return structure.kind == Structure::dense_blocks ? structure.entries * item
                                                   : (structure.entries + form->left.k) * item;
}

}  // namespace arrowschur::border
