#include "dictionary/normal_matrix.hpp"

#include <algorithm>
#include <limits>

#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

// f(begin, end) over pieces of a large array, in parallel.
template <class F>
void pieces(Index n, F&& f) {
  constexpr Index kPiece = Index{1} << 17;
  linalg::parallel_for_if(n >= 2 * kPiece, (n + kPiece - 1) / kPiece,
                          [&](Index task) { f(task * kPiece, std::min(n, (task + 1) * kPiece)); });
}

}  // namespace

NormalMatrix::NormalMatrix(Index k, Index budget)
    : k_(k),
      dense_(4.0 * static_cast<double>(k) * static_cast<double>(k + 128) <= static_cast<double>(budget)),
      layout_{k} {
  if (dense_) {
    values_ = linalg::Buffer<double>(layout_.size());
  } else {
    lists_.resize(static_cast<std::size_t>(k));
    diagonal_.resize(static_cast<std::size_t>(k));
  }
  clear();
}

void NormalMatrix::clear() {
  if (dense_) {
    pieces(values_.size(),
           [&](Index begin, Index end) { std::fill(values_.data() + begin, values_.data() + end, 0.0); });
    return;
  }
  std::fill(diagonal_.begin(), diagonal_.end(), 0.0);
  for (List& list : lists_) list = {};
}

void NormalMatrix::scale(double beta) {
  if (dense_) {
    pieces(values_.size(), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) values_[i] *= beta;
    });
    return;
  }
  for (double& v : diagonal_) v *= beta;
  for (List& list : lists_) {
    for (double& v : list.values) v *= beta;
  }
}

void NormalMatrix::forget(Index atom) {
  diagonal(atom) = 0.0;
  if (dense_) {
    std::fill_n(row(atom), atom, 0.0);
    for (Index r = atom + 1; r < k_; ++r) row(r)[atom] = 0.0;
    return;
  }
  list(atom) = {};
  for (Index r = atom + 1; r < k_; ++r) {
    List& l = list(r);
    const auto at = std::lower_bound(l.columns.begin(), l.columns.end(), static_cast<std::uint32_t>(atom));
    if (at != l.columns.end() && *at == static_cast<std::uint32_t>(atom)) {
      l.values[static_cast<std::size_t>(at - l.columns.begin())] = 0.0;
    }
  }
}

void NormalMatrix::restrict_to(const std::vector<char>& live) {
  std::vector<Index> others;
  for (Index k = 0; k < k_; ++k) {
    if (live[static_cast<std::size_t>(k)] == 0) others.push_back(k);
  }
  if (others.empty()) return;
  constexpr Index kRows = 64;
  linalg::parallel_for_if(k_ >= 512, (k_ + kRows - 1) / kRows, [&](Index task) {
    for (Index r = task * kRows; r < std::min(k_, (task + 1) * kRows); ++r) {
      if (live[static_cast<std::size_t>(r)] == 0) {
        diagonal(r) = 0.0;
        if (dense_) {
          std::fill_n(row(r), r, 0.0);
        } else {
          list(r) = {};
        }
      } else if (dense_) {
        for (const Index l : others) {
          if (l >= r) break;
          row(r)[l] = 0.0;
        }
      } else {
        List& a = list(r);
        for (std::size_t j = 0; j < a.columns.size(); ++j) {
          if (live[a.columns[j]] == 0) a.values[j] = 0.0;
        }
      }
    }
  });
}

NormalMatrix NormalMatrix::copy() const {
  NormalMatrix other(k_, dense_ ? std::numeric_limits<Index>::max() : 0);
  if (dense_) {
    std::copy_n(values_.data(), values_.size(), other.values_.data());
  } else {
    other.lists_ = lists_;
    other.diagonal_ = diagonal_;
  }
  return other;
}

Index NormalMatrix::nbytes() const noexcept {
  if (dense_) return values_.nbytes();
  Index bytes = k_ * static_cast<Index>(sizeof(double) + sizeof(List));
  for (const List& list : lists_) bytes += static_cast<Index>(list.columns.capacity() * 4 + list.values.capacity() * 8);
  return bytes;
}

void NormalMatrix::insert(Index k, const std::vector<std::uint32_t>& columns) {
  List& old = list(k);
  std::size_t missing = 0, j = 0;
  for (const std::uint32_t c : columns) {
    while (j < old.columns.size() && old.columns[j] < c) ++j;
    if (j == old.columns.size() || old.columns[j] != c) ++missing;
  }
  if (missing == 0) return;
  List merged;
  merged.columns.reserve(old.columns.size() + missing);  // no more: these lists are the memory of the trainer
  merged.values.reserve(old.columns.size() + missing);
  j = 0;
  for (const std::uint32_t c : columns) {
    for (; j < old.columns.size() && old.columns[j] < c; ++j) {
      merged.columns.push_back(old.columns[j]);
      merged.values.push_back(old.values[j]);
    }
    if (j < old.columns.size() && old.columns[j] == c) continue;
    merged.columns.push_back(c);
    merged.values.push_back(0.0);
  }
  for (; j < old.columns.size(); ++j) {
    merged.columns.push_back(old.columns[j]);
    merged.values.push_back(old.values[j]);
  }
  old = std::move(merged);
}

}  // namespace arrowschur::dictionary
