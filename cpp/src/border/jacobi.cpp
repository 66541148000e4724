// Scalar and block Jacobi (arrow_schur 10.4, 10.5): reciprocals of the diagonal of S, and Cholesky factors of its
// diagonal blocks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "arrowschur/error.hpp"
#include "border/preconditioner.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/ordered.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

using linalg::Buffer;

constexpr double kEps = 0x1p-52;
constexpr double kPdFloor = 1e-18;         // JACOBI_PD_FLOOR
constexpr double kTrustRegionFloor = 1e-8;  // of the largest |s_aa|
constexpr Index kWidestBlock = 256;        // BLOCK_JACOBI_MAX
constexpr Index kProbesAllowed = 64;       // calls of an operator cross block

// diag(W'W) and the blocks of W'W of an operator cost min(T, k) calls.
bool may_probe(const eliminate::Whitened& w) {
  return std::string_view(w.form()) != "operator" || std::min(w.rows(), w.cols()) <= kProbesAllowed;
}

// At or below it an entry M_aa - squares is rounding, not a positive number.
double floor_of(Guards guards, double m, double squares) {
  return guards == Guards::absolute ? kPdFloor : 8.0 * kEps * (std::abs(m) + squares);
}
bool usable(double s, double floor) { return std::isfinite(s) && s > floor; }

[[noreturn]] void refuse(Index column, double value, const char* name) {
  PcgError::Facts facts;
  facts.kind = PcgFailure::jacobi_diagonal;
  facts.index = column;
  facts.value = value;
  facts.preconditioner = name;
  facts.suggested_ridge = std::numeric_limits<double>::quiet_NaN();
  throw PcgError(facts);
}

// Reciprocals of the diagonal. With a trust region an entry that is no positive number is replaced by its size, so that
// the iteration meets the negative curvature itself and ends on the boundary.
std::vector<double> reciprocals(const PreconditionerInputs& in, SchurDiagonal s, const char* name) {
  double largest = 0.0;
  for (const double v : s.values) largest = linalg::worse(largest, std::abs(v));
  if (s.bad >= 0 && (!in.trust_region || !std::isfinite(largest))) {
    refuse(s.bad, s.values[static_cast<std::size_t>(s.bad)], name);
  }
  const double least = largest > 0.0 ? kTrustRegionFloor * largest : 1.0;
  for (double& v : s.values) v = 1.0 / (s.bad < 0 ? v : std::max(std::abs(v), least));
  return std::move(s.values);
}

class ScalarJacobi final : public Preconditioner {
 public:
  explicit ScalarJacobi(std::vector<double> inverse) : Preconditioner("diagonal"), inverse_(std::move(inverse)) {}
  void apply(const double* r, double* z) const override {
    for (std::size_t a = 0; a < inverse_.size(); ++a) z[a] = inverse_[a] * r[a];
  }
  Index nbytes() const override { return static_cast<Index>(inverse_.size() * sizeof(double)); }

 private:
  std::vector<double> inverse_;
};

// Per block the inverse of its Cholesky factor, K = L^-1: z = K'(K r) is positive definite whatever the rounding, and
// both products come from one pass over K, row by row.
class BlockJacobi final : public Preconditioner {
 public:
  BlockJacobi(std::vector<Index> offsets, std::vector<Index> start, Buffer<double> inverse_factors)
      : Preconditioner("block"),
        offsets_(std::move(offsets)),
        start_(std::move(start)),
        inverse_factors_(std::move(inverse_factors)) {}

  void apply(const double* r, double* z) const override {
    const Index blocks = static_cast<Index>(offsets_.size()) - 1, groups = std::min<Index>(blocks, 64);
    linalg::parallel_for_if(inverse_factors_.size() >= linalg::kParallelWork, groups, [&](Index g) {
      for (Index b = g * blocks / groups; b < (g + 1) * blocks / groups; ++b) apply_block(b, r, z);
    });
  }
  Index nbytes() const override {
    return inverse_factors_.nbytes() + static_cast<Index>((offsets_.size() + start_.size()) * sizeof(Index));
  }

 private:
  void apply_block(Index b, const double* r, double* z) const {
    const auto at = static_cast<std::size_t>(b);
    const Index first = offsets_[at], size = offsets_[at + 1] - first;
    const double* row = inverse_factors_.data() + start_[at];
    r += first;
    z += first;
    std::fill(z, z + size, 0.0);
    const auto& kernel = linalg::kernels().data<double>();
    for (Index i = 0; i < size; ++i, row += size) {
      double y = 0.0;
      kernel.rows_dot(1, i + 1, row, size, r, &y, nullptr);
      kernel.rows_axpy(1, i + 1, row, size, &y, z, nullptr);
    }
  }

  std::vector<Index> offsets_, start_;
  Buffer<double> inverse_factors_;  // blocks one after another, size x size, lower triangles
};

// The lower triangle of a (size x size) becomes L^-1, A = L L'. False when a pivot does not exceed its floor; then a is
// garbage.
bool invert_cholesky(Index size, double* a, const double* floors) {
  for (Index i = 0; i < size; ++i) {
    double* row = a + i * size;
    for (Index j = 0; j < i; ++j) {
      double sum = row[j];
      const double* other = a + j * size;
      for (Index c = 0; c < j; ++c) sum -= row[c] * other[c];
      row[j] = sum / other[j];
    }
    double pivot = row[i];
    for (Index c = 0; c < i; ++c) pivot -= row[c] * row[c];
    if (!usable(pivot, floors[i])) return false;
    row[i] = std::sqrt(pivot);
  }
  // Row i of L^-1 is (e_i - sum_{j < i} L_ij (row j of L^-1)) / L_ii.
  std::vector<double> out(static_cast<std::size_t>(size));
  for (Index i = 0; i < size; ++i) {
    double* row = a + i * size;
    std::fill(out.begin(), out.end(), 0.0);
    for (Index j = 0; j < i; ++j) {
      for (Index c = 0; c <= j; ++c) out[static_cast<std::size_t>(c)] -= row[j] * a[j * size + c];
    }
    const double reciprocal = 1.0 / row[i];
    for (Index c = 0; c < i; ++c) row[c] = reciprocal * out[static_cast<std::size_t>(c)];
    row[i] = reciprocal;
  }
  return true;
}

}  // namespace

SchurDiagonal schur_diagonal(const PreconditionerInputs& in) {
  const Index k = in.system->k();
  SchurDiagonal s;
  s.values.assign(in.shift, in.shift + k);
  in.system->border().diagonal_add(s.values);
  std::vector<double> squares(static_cast<std::size_t>(k), 0.0);
  if (may_probe(*in.w)) in.w->column_squares(squares.data());
  for (std::size_t a = 0; a < squares.size(); ++a) {
    const double m = s.values[a];
    s.values[a] = m - squares[a];
    if (s.bad < 0 && !usable(s.values[a], floor_of(in.guards, m, squares[a]))) s.bad = static_cast<Index>(a);
  }
  return s;
}

Built scalar_jacobi(const PreconditionerInputs& in) {
  return std::make_unique<ScalarJacobi>(reciprocals(in, schur_diagonal(in), "diagonal"));
}

Built block_jacobi(const PreconditionerInputs& in, std::string& why) {
  const auto given = in.system->border_blocks();
  if (given.size() < 2) {
    why = "no border blocks";
    return nullptr;
  }
  std::vector<Index> offsets(given.begin(), given.end()), start{0};
  Index widest = 0;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const Index size = offsets[b + 1] - offsets[b];
    widest = std::max(widest, size);
    start.push_back(start.back() + size * size);
  }
  if (widest > kWidestBlock) {
    why = "a border block has " + std::to_string(widest) + " columns, more than " + std::to_string(kWidestBlock);
    return nullptr;
  }

  const Index blocks = static_cast<Index>(offsets.size()) - 1, k = in.system->k();
  Buffer<double> values(start.back());
  std::vector<double> floors(static_cast<std::size_t>(k));
  eliminate::ColumnSets sets;
  std::vector<double*> out;
  std::fill(values.begin(), values.end(), 0.0);
  for (Index b = 0; b < blocks; ++b) {
    const auto at = static_cast<std::size_t>(b);
    const Index first = offsets[at], size = offsets[at + 1] - first;
    double* block = values.data() + start[at];
    block_add(in.system->border(), first, offsets[at + 1], block);
    for (Index a = 0; a < size; ++a) {
      block[a * size + a] += in.shift[first + a];
      floors[static_cast<std::size_t>(first + a)] = block[a * size + a];
      sets.cols.push_back(first + a);
    }
    sets.ptr.push_back(first + size);
    out.push_back(block);
  }
  if (may_probe(*in.w)) in.w->subtract_gram_blocks(sets, out);
  std::vector<char> failed(static_cast<std::size_t>(blocks), 0);
  linalg::parallel_for_if(start.back() * std::min<Index>(widest, 32) >= linalg::kParallelWork, blocks, [&](Index b) {
    const auto at = static_cast<std::size_t>(b);
    const Index first = offsets[at], size = offsets[at + 1] - first;
    double *block = values.data() + start[at], *floor = floors.data() + first;
    for (Index a = 0; a < size; ++a) floor[a] = floor_of(in.guards, floor[a], std::abs(floor[a] - block[a * size + a]));
    failed[at] = !invert_cholesky(size, block, floor);
  });
  if (std::find(failed.begin(), failed.end(), 1) != failed.end()) {
    const std::vector<double> inverse = reciprocals(in, schur_diagonal(in), "block");
    for (std::size_t b = 0; b < failed.size(); ++b) {
      if (failed[b] == 0) continue;
      const Index first = offsets[b], size = offsets[b + 1] - first;
      double* block = values.data() + start[b];
      std::fill(block, block + size * size, 0.0);
      for (Index a = 0; a < size; ++a) block[a * size + a] = std::sqrt(inverse[static_cast<std::size_t>(first + a)]);
    }
  }
  return std::make_unique<BlockJacobi>(std::move(offsets), std::move(start), std::move(values));
}

}  // namespace arrowschur::border
