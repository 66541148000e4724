// Moving between the caller's row order and a bucket's: rows of equal size, taken chunk by chunk.
#pragma once

#include <algorithm>
#include <cstring>

#include "arrowschur/system.hpp"

namespace arrowschur::eliminate {

inline Index row_of(const RowBucket& bucket, Index i) {
  return bucket.rows.empty() ? i : bucket.rows[static_cast<std::size_t>(i)];
}

// A run of a bucket's rows: positions [first, first + count).
struct RowRun {
  const ArrowSystem* system;
  const RowBucket* bucket;
  Index first, count;

  Index d() const { return bucket->d; }
  Index rows() const { return count * bucket->d; }
  Index row(Index i) const { return row_of(*bucket, first + i); }
  Index offset(Index i) const { return system->row_offset(row(i)); }

  // f(position, blocks): maximal stretches whose rows follow one another in the caller's arrays.
  template <class F>
  void stretches(F&& f) const {
    if (bucket->rows.empty()) return f(Index{0}, count);
    for (Index i = 0; i < count;) {
      Index j = i + 1;
      while (j < count && row(j) == row(j - 1) + 1) ++j;
      f(i, j - i);
      i = j;
    }
  }

  // Vectors: out [rows, m] <- x [T, m], and back.
  template <class To, class From>
  void gather(const From* x, To* out, Index m = 1) const {
    stretches([&](Index i, Index blocks) {
      const From* from = x + offset(i) * m;
      To* to = out + i * d() * m;
      for (Index j = 0; j < blocks * d() * m; ++j) to[j] = static_cast<To>(from[j]);
    });
  }
  template <class To, class From>
  void scatter(const From* x, To* out, Index m = 1) const {
    stretches([&](Index i, Index blocks) {
      const From* from = x + i * d() * m;
      To* to = out + offset(i) * m;
      for (Index j = 0; j < blocks * d() * m; ++j) to[j] = static_cast<To>(from[j]);
    });
  }

  // Row blocks one after another, [count, d, d]: in place when they lie so and have the type, else in `scratch`.
  template <class To, class From>
  const To* blocks(const From* h_tt, To* scratch) const {
    const Index dd = d() * d();
    if constexpr (std::is_same_v<To, From>) {
      if (bucket->rows.empty()) return h_tt + first * dd;
    }
    for (Index i = 0; i < count; ++i) {
      const From* from = h_tt + system->block_offset(row(i));
      for (Index j = 0; j < dd; ++j) scratch[i * dd + j] = static_cast<To>(from[j]);
    }
    return scratch;
  }
};

// Calls f(const In*) with one part of the system in its stored type.
template <class F>
decltype(auto) with_storage(DType dtype, const void* data, F&& f) {
  return dtype == DType::float64 ? f(static_cast<const double*>(data)) : f(static_cast<const float*>(data));
}

}  // namespace arrowschur::eliminate
