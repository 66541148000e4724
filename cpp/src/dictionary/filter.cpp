#include "dictionary/filter.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "linalg/blas.hpp"

namespace arrowschur::dictionary {
namespace {

// A float not above the value.
float below(double value) {
  const float f = static_cast<float>(value);
  return static_cast<double>(f) > value ? std::nextafterf(f, -std::numeric_limits<float>::infinity()) : f;
}

}  // namespace

CandidateLists::CandidateLists(Index max_rows, Index s, Index tile)
    : s_(s),
      spare_(std::max<Index>(8, s)),
      capacity_(2 * (s + spare_) + 16),
      tile_(std::min(tile, kTileAtoms)),
      vectors_(s <= 8    ? 1
               : s <= 64 ? (2 * s + 15) / 16
                         : 0),
      scores_(max_rows * ((tile_ + 15) / 16 * 16)),
      index_(max_rows * capacity_),
      new_index_(tile_ + 16),
      value_(max_rows * capacity_),
      new_value_(tile_ + 16),
      scratch_(capacity_),
      count_(at(max_rows)),
      crowded_(at(max_rows)),
      threshold_(at(max_rows)) {}

void CandidateLists::collect(const float* x, Index stride, Index rows, const float* d, Index k, Index p,
                             const double* eps, const char* live, const std::uint32_t* chosen, Index chosen_stride,
                             Index n_chosen) {
  const Kernels& kernel = kernels();
  const auto& blas = linalg::blas().f32;
  const Index ld = (tile_ + 15) / 16 * 16;
  std::fill_n(count_.begin(), rows, 0);
  std::fill_n(crowded_.begin(), rows, char{0});
  std::fill_n(threshold_.begin(), rows, 0.0f);
  for (Index first = 0; first < k; first += tile_) {
    const Index atoms = std::min(tile_, k - first);
    // S = X D' of this tile, row-major [rows, ld]
    blas.gemm('T', 'N', atoms, rows, p, 1.0f, d + first * p, p, x, stride, 0.0f, scores_.data(), ld);
    for (Index i = 0; i < rows; ++i) {
      if (crowded_[at(i)] != 0) continue;
      float* scores = scores_.data() + i * ld;
      for (Index j = 0; j < n_chosen; ++j) {
        const Index a = static_cast<Index>(chosen[i * chosen_stride + j]) - first;
        if (a >= 0 && a < atoms) scores[a] = 0.0f;
      }
      if (first == 0 && vectors_ > 0 && atoms > capacity_) {
        const double least = static_cast<double>(kernel.nth_magnitude(scores, atoms, vectors_, s_));
        threshold_[at(i)] = below(least - 2.0 * eps[i]);
      }
      const Index found = kernel.at_least(scores, atoms, threshold_[at(i)], static_cast<std::uint32_t>(first),
                                          new_index_.data(), new_value_.data());
      if (found > 0) append(i, found, eps[i], live);
    }
  }
  for (Index i = 0; i < rows; ++i) {
    if (crowded_[at(i)] != 0) continue;
    prune(i, eps[i]);
    if (count_[at(i)] > keep()) crowded_[at(i)] = 1;
  }
}

void CandidateLists::append(Index row, Index found, double eps, const char* live) {
  std::uint32_t* index = index_.data() + row * capacity_;
  float* value = value_.data() + row * capacity_;
  Index& count = count_[at(row)];
  for (Index j = 0; j < found; ++j) {
    if (new_value_[j] < threshold_[at(row)] || live[new_index_[j]] == 0) continue;
    if (count == capacity_) {
      prune(row, eps);
      if (count == capacity_) {
        crowded_[at(row)] = 1;
        return;
      }
      if (new_value_[j] < threshold_[at(row)]) continue;
    }
    index[count] = new_index_[j];
    value[count++] = new_value_[j];
  }
}

void CandidateLists::prune(Index row, double eps) {
  Index& count = count_[at(row)];
  if (count <= s_) return;
  std::uint32_t* index = index_.data() + row * capacity_;
  float* value = value_.data() + row * capacity_;
  std::copy_n(value, count, scratch_.data());
  std::nth_element(scratch_.begin(), scratch_.begin() + (s_ - 1), scratch_.begin() + count, std::greater<>());
  const float threshold = below(static_cast<double>(scratch_[s_ - 1]) - 2.0 * eps);
  threshold_[at(row)] = std::max(threshold_[at(row)], threshold);
  Index kept = 0;
  for (Index j = 0; j < count; ++j) {
    if (value[j] < threshold_[at(row)]) continue;
    index[kept] = index[j];
    value[kept++] = value[j];
  }
  count = kept;
}

}  // namespace arrowschur::dictionary
