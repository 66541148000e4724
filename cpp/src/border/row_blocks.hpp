// (H^-1)_ii of rows with block-sparse W from entries of S^-1 at their support alone: with A_i = L_i L_i', W_i =
// L_i^-1 B_i on its support s and Q = S^-1[s, s],
//
//     (H^-1)_ii = A_i^-1 + A_i^-1 B_i S^-1 B_i' A_i^-1 = L_i^-T (I + W_i Q W_i') L_i^-1,
//
// d_i nnz_i^2 work a row instead of d_i k^2.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "eliminate/row_factor.hpp"
#include "eliminate/whitened.hpp"
#include "linalg/buffer.hpp"
#include "linalg/kernels.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::border {

// Scalar rows of the listed row blocks (empty: all).
inline Index listed_dim(const ArrowSystem& system, std::span<const Index> which) {
  if (which.empty()) return system.total_dim();
  Index sum = 0;
  for (const Index row : which) sum += system.row_dim(row);
  return sum;
}

// gather(blocks, q, ld): the upper triangle of Q [c, c] for the columns of these border blocks, c in all; the rest of
// q is left alone. Called from several threads. Blocks of the rows `which` (empty: all) go to `out`, one after
// another.
//
// With U the upper triangle of Q, its diagonal halved, and Z = W_i U: W_i Q W_i' = Z W_i' + W_i Z'.
template <class Gather>
void latent_blocks_on_support(const ArrowSystem& system, const eliminate::RowFactors<double>& rows,
                              const eliminate::BlockSparseWhitened& w, std::span<const Index> which, double* out,
                              const Gather& gather) {
  constexpr Index kChunk = 64;  // rows per task
  constexpr Index kStep = 8;  // rows of U at a time
  struct Place {
    Index bucket = 0, position = 0;
  };
  std::vector<Place> places;
  if (!system.is_uniform()) {
    places.resize(static_cast<std::size_t>(system.n()));
    for (std::size_t b = 0; b < system.buckets().size(); ++b) {
      const RowBucket& bucket = system.buckets()[b];
      for (Index p = 0; p < bucket.count; ++p) {
        const Index row = bucket.rows.empty() ? p : bucket.rows[static_cast<std::size_t>(p)];
        places[static_cast<std::size_t>(row)] = {static_cast<Index>(b), p};
      }
    }
  }
  const Index count = which.empty() ? system.n() : static_cast<Index>(which.size());
  const auto row_at = [&](Index at) { return which.empty() ? at : which[static_cast<std::size_t>(at)]; };
  const auto at = [](std::span<const Index> list, Index i) { return list[static_cast<std::size_t>(i)]; };
  std::vector<Index> first(static_cast<std::size_t>(count) + 1, 0);  // where each block begins
  Index widest = 0;  // columns of a support
  for (Index i = 0; i < count; ++i) {
    const Index row = row_at(i), d = system.row_dim(row);
    first[static_cast<std::size_t>(i) + 1] = first[static_cast<std::size_t>(i)] + d * d;
    const Index entries = at(w.value_ptr(), at(w.indptr(), row + 1)) - at(w.value_ptr(), at(w.indptr(), row));
    widest = std::max(widest, d == 0 ? 0 : entries / d);
  }
  const Index d_max = system.max_dim();

  const auto& data = linalg::kernels().data64;
  linalg::parallel_for_if(
      count * widest * widest >= linalg::kParallelWork, (count + kChunk - 1) / kChunk, [&](Index t) {
        const Index ld = widest;
        linalg::Buffer<double> q(ld * ld), wi(ld * d_max), z(ld), p(d_max * d_max);
        std::fill(q.begin(), q.end(), 0.0);  // and the lower triangle stays zero
        for (Index i = t * kChunk; i < std::min(count, (t + 1) * kChunk); ++i) {
          const Index row = row_at(i), d = system.row_dim(row);
          if (d == 0) continue;
          const Index begin = at(w.indptr(), row), end = at(w.indptr(), row + 1);
          Index c = 0;
          for (Index e = begin; e < end; ++e) {
            const double* block = w.values() + at(w.value_ptr(), e);
            const Index width = (at(w.value_ptr(), e + 1) - at(w.value_ptr(), e)) / d;
            for (Index r = 0; r < d; ++r) std::copy_n(block + r * width, width, wi.data() + r * ld + c);
            c += width;
          }
          gather(w.block_index().subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
                 q.data(), ld);
          for (Index a = 0; a < c; ++a) q[a * ld + a] *= 0.5;

          // P = Z W_i'
          for (Index r = 0; r < d; ++r) {
            const double* wr = wi.data() + r * ld;
            std::fill(z.data(), z.data() + c, 0.0);
            for (Index a = 0; a < c; a += kStep) {
              data.rows_axpy(std::min(kStep, c - a), c - a, q.data() + a * ld + a, ld, wr + a, z.data() + a, nullptr);
            }
            data.rows_dot(d, c, wi.data(), ld, z.data(), p.data() + r * d, nullptr);
          }
          const Place place = places.empty() ? Place{0, row} : places[static_cast<std::size_t>(row)];
          const auto& factor = rows.buckets[static_cast<std::size_t>(place.bucket)];
          double* block = out + first[static_cast<std::size_t>(i)];
          if (d == 1) {
            const double inverse = factor.inv[place.position];
            block[0] = inverse * (1.0 + 2.0 * p[0]) * inverse;
            continue;
          }
          // C = I + P + P', then L_i^-T C L_i^-1 by two solves with a transposition between them.
          for (Index r = 0; r < d; ++r) {
            for (Index s = 0; s < d; ++s) block[r * d + s] = p[r * d + s] + p[s * d + r] + (r == s ? 1.0 : 0.0);
          }
          eliminate::solve_blocks(backend::Part::upper, factor, place.position, 1, block, d);
          for (Index r = 0; r < d; ++r) {
            for (Index s = 0; s < d; ++s) p[s * d + r] = block[r * d + s];
          }
          eliminate::solve_blocks(backend::Part::upper, factor, place.position, 1, p.data(), d);
          for (Index r = 0; r < d; ++r) {
            for (Index s = 0; s <= r; ++s) block[r * d + s] = block[s * d + r] = p[r * d + s];
          }
        }
      });
}

}  // namespace arrowschur::border
