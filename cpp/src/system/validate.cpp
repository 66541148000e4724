#include "system/validate.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "arrowschur/error.hpp"
#include "linalg/pool.hpp"
#include "system/format.hpp"

namespace arrowschur::validate {
namespace {

// 16-byte vectors: what every 64-bit target has. Memory is the limit, not the width.
template <class T>
struct Lanes;
template <>
struct Lanes<double> {
  using Int = std::uint64_t;
  typedef double Vec __attribute__((vector_size(16)));
  typedef std::uint64_t Bits __attribute__((vector_size(16)));
  static constexpr Int kMagnitude = 0x7fffffffffffffffu;
  static constexpr Int kExponentStep = 0x0010000000000000u;
  static constexpr Int kSign = 0x8000000000000000u;
};
template <>
struct Lanes<float> {
  using Int = std::uint32_t;
  typedef float Vec __attribute__((vector_size(16)));
  typedef std::uint32_t Bits __attribute__((vector_size(16)));
  static constexpr Int kMagnitude = 0x7fffffffu;
  static constexpr Int kExponentStep = 0x00800000u;
  static constexpr Int kSign = 0x80000000u;
};

// The magnitude's bits plus one exponent step reach the sign bit exactly when the exponent is all ones: Inf or NaN.
template <class T>
bool all_finite(const T* x, Index size) {
  using L = Lanes<T>;
  using Bits = typename L::Bits;
  constexpr Index kWidth = static_cast<Index>(sizeof(Bits) / sizeof(T));
  Bits seen[4] = {};
  Index i = 0;
  for (; i + 4 * kWidth <= size; i += 4 * kWidth) {
    for (int v = 0; v < 4; ++v) {
      Bits b;
      std::memcpy(&b, x + i + v * kWidth, sizeof b);
      seen[v] |= (b & L::kMagnitude) + L::kExponentStep;
    }
  }
  const Bits all = seen[0] | seen[1] | seen[2] | seen[3];
  typename L::Int tail = 0;
  for (Index w = 0; w < kWidth; ++w) tail |= all[w];
  for (; i < size; ++i) {
    typename L::Int b;
    std::memcpy(&b, x + i, sizeof b);
    tail |= static_cast<typename L::Int>((b & L::kMagnitude) + L::kExponentStep);
  }
  return (tail & L::kSign) == 0;
}

constexpr Index kFiniteChunk = Index{1} << 16;

constexpr Index kTile = 64;
constexpr Index kTileStride = kTile + 8;  // not a power of two: the columns of a tile do not share a cache set

// Short pieces of many rows are no stream that the hardware would see coming: ask for the next tile's piece.
template <class T>
void prefetch_piece(const T* p) {
  for (Index line = 0; line < kTile * static_cast<Index>(sizeof(T)); line += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + line);
  }
}

// Tile (i, j) with rows x cols entries: its mirror image, copied transposed into `mirror`. `next`: tile (i, j + kTile)
// follows.
template <class T>
void load_mirror(const T* x, Index k, Index i, Index j, Index rows, Index cols, bool next, T* mirror) {
  for (Index c = 0; c < cols; ++c) {
    const T* from = x + (j + c) * k + i;
    if (next && j + c + kTile < k) prefetch_piece(from + kTile * k);
    for (Index r = 0; r < rows; ++r) mirror[r * kTileStride + c] = from[r];
  }
}

template <class T>
struct TileMaxima {
  using L = Lanes<T>;
  using Vec = typename L::Vec;
  using Bits = typename L::Bits;
  static constexpr Index kWidth = static_cast<Index>(sizeof(Vec) / sizeof(T));
  Bits seen = {};
  Vec difference = {}, scale = {};

  static Vec load(const T* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static Vec magnitude(Vec v) { return reinterpret_cast<Vec>(reinterpret_cast<Bits>(v) & L::kMagnitude); }

  void add(Vec a, Vec b) {
    const Vec size_a = magnitude(a), size_b = magnitude(b), gap = magnitude(a - b);
    seen |= (reinterpret_cast<Bits>(size_a) + L::kExponentStep) | (reinterpret_cast<Bits>(size_b) + L::kExponentStep);
    const Vec larger = size_a > size_b ? size_a : size_b;
    scale = larger > scale ? larger : scale;
    difference = gap > difference ? gap : difference;
  }
  void add_row(const T* a, const T* b, Index n) {
    Index c = 0;
    for (; c + kWidth <= n; c += kWidth) add(load(a + c), load(b + c));
    if (c == n) return;
    T last[2][kWidth] = {};
    for (Index q = 0; c + q < n; ++q) {
      last[0][q] = a[c + q];
      last[1][q] = b[c + q];
    }
    add(load(last[0]), load(last[1]));
  }
  SymmetryFacts facts() const {
    SymmetryFacts f;
    for (Index w = 0; w < kWidth; ++w) {
      f.finite = f.finite && (seen[w] & L::kSign) == 0;
      f.difference = std::max(f.difference, static_cast<double>(difference[w]));
      f.scale = std::max(f.scale, static_cast<double>(scale[w]));
    }
    return f;
  }
};

void require_non_negative(std::span<const double> x, Index size, const char* name) {
  if (x.empty()) return;
  if (static_cast<Index>(x.size()) != size) {
    throw InvalidArgument(name, std::to_string(x.size()) + " entries", std::to_string(size) + " entries, or none");
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!(x[i] >= 0.0) || !std::isfinite(x[i])) {
      throw InvalidArgument(name, describe(x[i]) + " at index " + std::to_string(i), "finite entries >= 0");
    }
  }
}

}  // namespace

std::string describe(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0.0 ? "inf" : "-inf";
  return format_number(value);
}

void require(const std::optional<Complaint>& complaint) {
  if (complaint) throw InvalidArgument(complaint->field, complaint->value, complaint->rule);
}

void require_ridges(const Ridges& r, Index total_dim, Index k) {
  if (!(r.t >= 0.0) || !std::isfinite(r.t)) throw InvalidArgument("ridge_t", describe(r.t), "a finite number >= 0");
  if (!(r.beta >= 0.0) || !std::isfinite(r.beta)) {
    throw InvalidArgument("ridge_beta", describe(r.beta), "a finite number >= 0");
  }
  require_non_negative(r.damping_t, total_dim, "damping_t");
  require_non_negative(r.damping_beta, k, "damping_beta");
}

template <class T>
Index first_non_finite(const T* x, Index size) {
  const Index chunks = (size + kFiniteChunk - 1) / kFiniteChunk;
  std::atomic<Index> lowest{chunks};
  linalg::parallel_for_if(size >= linalg::kParallelWork, chunks, [&](Index c) {
    if (c > lowest.load(std::memory_order_relaxed)) return;
    const Index begin = c * kFiniteChunk;
    if (all_finite(x + begin, std::min(kFiniteChunk, size - begin))) return;
    Index seen = lowest.load(std::memory_order_relaxed);
    while (c < seen && !lowest.compare_exchange_weak(seen, c, std::memory_order_relaxed)) {
    }
  });
  const Index bad = lowest.load();
  if (bad == chunks) return -1;
  for (Index i = bad * kFiniteChunk;; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
}

template <class T>
SymmetryFacts examine_square(const T* x, Index k) {
  const Index tiles = (k + kTile - 1) / kTile;
  std::vector<SymmetryFacts> of_row(static_cast<std::size_t>(tiles));
  linalg::parallel_for_if(k * k >= linalg::kParallelWork, tiles, [&](Index task) {
    const Index tile_row = tiles - 1 - task;  // the longest rows of tiles first
    const Index i = tile_row * kTile, rows = std::min(kTile, k - i);
    TileMaxima<T> maxima;
    alignas(64) T mirror[kTile * kTileStride];
    for (Index j = 0; j <= i; j += kTile) {
      const Index cols = std::min(kTile, k - j);
      const bool next = j < i;
      load_mirror(x, k, i, j, rows, cols, next, mirror);
      for (Index r = 0; r < rows; ++r) {
        const T* from = x + (i + r) * k + j;
        if (next) prefetch_piece(from + kTile);
        maxima.add_row(from, mirror + r * kTileStride, cols);
      }
    }
    of_row[static_cast<std::size_t>(tile_row)] = maxima.facts();
  });
  SymmetryFacts all;
  for (const SymmetryFacts& f : of_row) {
    all.finite = all.finite && f.finite;
    all.difference = std::max(all.difference, f.difference);
    all.scale = std::max(all.scale, f.scale);
  }
  return all;
}

template <class T>
void average_square(const T* x, Index k, T* out) {
  const Index tiles = (k + kTile - 1) / kTile;
  linalg::parallel_for_if(k * k >= linalg::kParallelWork, tiles, [&](Index row) {
    const Index i = row * kTile, rows = std::min(kTile, k - i);
    alignas(64) T mirror[kTile * kTileStride];
    for (Index j = 0; j < k; j += kTile) {
      const Index cols = std::min(kTile, k - j);
      load_mirror(x, k, i, j, rows, cols, j + kTile < k, mirror);
      for (Index r = 0; r < rows; ++r) {
        const T* a = x + (i + r) * k + j;
        const T* b = mirror + r * kTileStride;
        T* to = out + (i + r) * k + j;
        for (Index c = 0; c < cols; ++c)
          to[c] = T(0.5) * a[c] + T(0.5) * b[c];  // halves first: the sum cannot overflow
      }
    }
  });
}

template Index first_non_finite<double>(const double*, Index);
template Index first_non_finite<float>(const float*, Index);
template SymmetryFacts examine_square<double>(const double*, Index);
template SymmetryFacts examine_square<float>(const float*, Index);
template void average_square<double>(const double*, Index, double*);
template void average_square<float>(const float*, Index, float*);

}  // namespace arrowschur::validate
