// How much ridge a row block lacks.
//
// For a symmetric block A (d x d) at ridge_t, Gershgorin's discs give
//     lambda_min(A + ridge_t I) >= edge + ridge_t,     edge = min_i (a_ii - sum_{j != i} |a_ij|),
// so that `deficit` = max(0, -(edge + ridge_t)) makes the shifted block semidefinite; computing edge and adding the ridge
// rounds by at most gamma_{d+1} (rowsum + |ridge_t|), which is added to it. Cholesky of a block with unit diagonal scale
// runs to completion when the smallest eigenvalue exceeds c = d gamma_{d+1} / (1 - gamma_{d+1}) times the scale (Higham,
// Accuracy and Stability, theorem 10.7; Demmel); `rel` counts the rounding of the shifted diagonal on top of c, and the
// shift itself enters the scale, hence rel / (1 - rel).
#include "newton/ridge_bump.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "linalg/pool.hpp"
#include "newton/solver.hpp"
#include "system/cross.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace {

constexpr double kUnit = 0x1p-53;
constexpr double kPivotGuard = 0x1p-25;  // twice the solver's relative pivot guard

double gamma_of(Index m) { return static_cast<double>(m) * kUnit / (1.0 - static_cast<double>(m) * kUnit); }

struct Discs {
  double edge = std::numeric_limits<double>::infinity();  // min_i (a_ii - sum_{j != i} |a_ij|)
  double rowsum = 0.0;  // max_i sum_j |a_ij|
  double scale = 1.0;  // max(1, max_i |a_ii|)
  double deficit(double ridge_t) const { return std::max(0.0, -(edge + ridge_t)); }
};

Discs discs_of(std::span<const double> block, Index d) {
  Discs discs;
  for (Index i = 0; i < d; ++i) {
    double off = 0.0;
    for (Index j = 0; j < d; ++j) {
      if (j != i) off += std::abs(block[static_cast<std::size_t>(i * d + j)]);
    }
    const double diagonal = block[static_cast<std::size_t>(i * d + i)];
    discs.edge = std::min(discs.edge, diagonal - off);
    discs.rowsum = std::max(discs.rowsum, std::abs(diagonal) + off);
    discs.scale = std::max(discs.scale, std::abs(diagonal));
  }
  return discs;
}

// The block of row i, both triangles from the lower one.
void read_block(const ArrowSystem& s, Index i, std::vector<double>& block) {
  const Index d = s.row_dim(i);
  block.resize(static_cast<std::size_t>(d * d));
  with_dtype(s.dtype(), [&]<class T>(T) {
    const T* from = static_cast<const T*>(s.h_tt()) + s.block_offset(i);
    for (Index r = 0; r < d; ++r) {
      for (Index c = 0; c <= r; ++c) {
        block[static_cast<std::size_t>(r * d + c)] = block[static_cast<std::size_t>(c * d + r)] =
            static_cast<double>(from[r * d + c]);
      }
    }
  });
}

// First pivot of the Cholesky factorization of block + ridge I that is not positive and finite, or -1. Overwrites the
// lower triangle.
Index first_bad_pivot(std::vector<double>& block, Index d, double ridge) {
  const auto at = [&](Index r, Index c) -> double& { return block[static_cast<std::size_t>(r * d + c)]; };
  for (Index j = 0; j < d; ++j) {
    double pivot = at(j, j) + ridge;
    for (Index q = 0; q < j; ++q) pivot -= at(j, q) * at(j, q);
    if (!(pivot > 0.0) || !std::isfinite(pivot)) return j;
    at(j, j) = std::sqrt(pivot);
    for (Index r = j + 1; r < d; ++r) {
      double sum = at(r, j);
      for (Index q = 0; q < j; ++q) sum -= at(r, q) * at(j, q);
      at(r, j) = sum / at(j, j);
    }
  }
  return -1;
}

struct Failing {
  Index row = 0, pivot = 0;
};

std::vector<Failing> failing_rows(const ArrowSystem& s, double ridge_t) {
  constexpr Index kRows = 256;
  const Index chunks = (s.n() + kRows - 1) / kRows;
  std::vector<std::vector<Failing>> found(static_cast<std::size_t>(chunks));
  linalg::parallel_for_if(s.total_dim() * s.max_dim() >= linalg::kParallelWork, chunks, [&](Index c) {
    std::vector<double> block;
    for (Index i = c * kRows; i < std::min(s.n(), (c + 1) * kRows); ++i) {
      read_block(s, i, block);
      const Index pivot = first_bad_pivot(block, s.row_dim(i), ridge_t);
      if (pivot >= 0) found[static_cast<std::size_t>(c)].push_back({i, pivot});
    }
  });
  std::vector<Failing> all;
  for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
  return all;
}

double smallest_border_diagonal(const ArrowSystem& s, double ridge_beta) {
  std::vector<double> diagonal(static_cast<std::size_t>(s.k()), ridge_beta);
  s.border().diagonal_add(diagonal);
  return diagonal.empty() ? std::numeric_limits<double>::infinity()
                          : *std::min_element(diagonal.begin(), diagonal.end());
}

}  // namespace

double ridge_bump(std::span<const double> block, Index d, double ridge_t) noexcept {
  const Discs discs = discs_of(block, d);
  const double gamma = gamma_of(d + 1), gamma_2 = gamma_of(2), ridge = std::abs(ridge_t);
  const double deficit = discs.deficit(ridge_t) + gamma * (discs.rowsum + ridge);
  const double c = static_cast<double>(d) * gamma / (1.0 - gamma), rel = c * (1.0 + gamma_2) + gamma_2;
  const double margin = rel / (1.0 - rel) * (discs.scale + ridge + deficit);
  return deficit + margin;
}

// A row that is made barely positive definite has a huge inverse, which would leave the border hopelessly indefinite:
// the last summand lets the repaired rows together take at most half of the smallest border diagonal.
RowBump newton::examine_rows(const ArrowSystem& s, double ridge_t, double ridge_beta) {
  RowBump out;
  const std::vector<Failing> failing = failing_rows(s, ridge_t);
  if (failing.empty()) return out;
  out.failing_rows = static_cast<Index>(failing.size());
  out.first_row = failing.front().row;
  out.first_pivot = failing.front().pivot;
  const double border = smallest_border_diagonal(s, ridge_beta);
  // Without a positive diagonal no ridge on the rows can make the border positive.
  const double drain = border > 0.0 ? 2.0 * static_cast<double>(out.failing_rows) / border : 0.0;
  std::vector<double> block;
  for (const Failing& row : failing) {
    read_block(s, row.row, block);
    const Discs discs = discs_of(block, s.row_dim(row.row));
    const double deficit = discs.deficit(ridge_t);
    out.bump = std::max(out.bump, ridge_bump(block, s.row_dim(row.row), ridge_t));
    out.suggested_bump = std::max(out.suggested_bump, deficit + kPivotGuard * (discs.scale + ridge_t + deficit) +
                                                          drain * cross::row_norm_sq(s, row.row));
  }
  return out;
}

RowBump examine_rows(const ArrowSystem& s, double ridge_t) {
  newton::check_ridges(s, {ridge_t, 0.0});
  return newton::examine_rows(s, ridge_t, 0.0);
}

}  // namespace arrowschur
