// Row blocks that do not factor, and the ridge that repairs them (linalg/gershgorin.hpp).
#include "newton/ridge_bump.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "linalg/gershgorin.hpp"
#include "linalg/pool.hpp"
#include "newton/solver.hpp"
#include "system/cross.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace {

linalg::Discs discs_of(std::span<const double> block, Index d) {
  return linalg::discs_of(static_cast<int>(d),
                          [&](int i, int j) { return block[static_cast<std::size_t>(i * d + j)]; });
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
  return linalg::ridge_bump(discs_of(block, d), static_cast<int>(d), ridge_t);
}

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
    const linalg::Discs discs = discs_of(block, s.row_dim(row.row));
    out.bump = std::max(out.bump, linalg::ridge_bump(discs, static_cast<int>(s.row_dim(row.row)), ridge_t));
    out.suggested_bump =
        std::max(out.suggested_bump, linalg::suggested_bump(discs, ridge_t, drain, cross::row_norm_sq(s, row.row)));
  }
  return out;
}

RowBump examine_rows(const ArrowSystem& s, double ridge_t) {
  newton::check_ridges(s, {ridge_t, 0.0});
  return newton::examine_rows(s, ridge_t, 0.0);
}

}  // namespace arrowschur
