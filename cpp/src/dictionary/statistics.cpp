#include "dictionary/statistics.hpp"

#include <algorithm>

#include "dictionary/kernels.hpp"

#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

}  // namespace

Statistics::Statistics(Index k, Index p, Index budget)
    : a(k, budget), b(k * p), fires(size(k)), k_(k), p_(p), offsets_(size(k) + 1) {
  std::fill(b.begin(), b.end(), 0.0);
}

Statistics::Statistics(const Statistics& other)
    : a(other.a.copy()), b(other.b.size()), fires(other.fires), k_(other.k_), p_(other.p_), offsets_(size(k_) + 1) {
  std::copy_n(other.b.data(), b.size(), b.data());
}

void Statistics::clear() {
  a.clear();
  std::fill(b.begin(), b.end(), 0.0);
  std::fill(fires.begin(), fires.end(), 0);
}

void Statistics::forget(Index atom) {
  a.forget(atom);
  std::fill_n(b.data() + atom * p_, p_, 0.0);
  fires[size(atom)] = 0;
}

void Statistics::add(const RowBlock& x, const std::uint32_t* indices, const float* codes, Index s, double sign) {
  // Counting sort by atom; rows ascend inside a list.
  std::fill(offsets_.begin(), offsets_.end(), 0u);
  const Index slots = x.count * s;
  for (Index e = 0; e < slots; ++e) {
    if (codes[e] != 0.0f) ++offsets_[indices[e] + 1];
  }
  for (Index k = 0; k < k_; ++k) offsets_[size(k) + 1] += offsets_[size(k)];
  postings_.resize(offsets_.back());
  for (Index i = 0; i < x.count; ++i) {
    for (Index slot = 0; slot < s; ++slot) {
      const Index e = i * s + slot;
      if (codes[e] == 0.0f) continue;
      // offsets_[k] is the end of list k - 1 and, while it fills, the next place of list k
      postings_[offsets_[indices[e]]++] = {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(slot)};
    }
  }
  // now offsets_[k] is the end of list k

  const Index tasks = std::min<Index>(k_, 64);
  linalg::parallel_for_if(slots * p_ >= linalg::kParallelWork / 4, tasks, [&](Index task) {
    // Atoms cut so that the tasks have equal numbers of postings.
    const auto cut = [&](Index t) {
      const Index target = static_cast<Index>(postings_.size()) * t / tasks;
      if (t == tasks) return k_;
      return static_cast<Index>(std::lower_bound(offsets_.begin(), offsets_.begin() + k_, target,
                                                 [](std::uint32_t o, Index at) { return static_cast<Index>(o) < at; }) -
                                offsets_.begin());
    };
    std::vector<const float*> rows;
    std::vector<double> weights;
    const Index first = task == 0 ? 0 : cut(task), last = cut(task + 1);
    for (Index k = first; k < last; ++k) {
      const Posting* begin = postings_.data() + (k == 0 ? 0 : offsets_[size(k) - 1]);
      const Posting* end = postings_.data() + offsets_[size(k)];
      if (begin == end) continue;
      const auto fired = static_cast<std::uint64_t>(end - begin);
      fires[size(k)] = sign > 0.0 ? fires[size(k)] + fired : fires[size(k)] - fired;
      add_pairs(k, begin, end, indices, codes, s, sign);
      rows.clear();
      weights.clear();
      for (const Posting* q = begin; q < end; ++q) {
        rows.push_back(x[q->row]);
        weights.push_back(sign * static_cast<double>(codes[static_cast<Index>(q->row) * s + q->slot]));
      }
      kernels().add_rows(b.data() + k * p_, p_, rows.data(), weights.data(), static_cast<Index>(rows.size()));
    }
  });
}

void Statistics::add_pairs(Index k, const Posting* begin, const Posting* end, const std::uint32_t* indices,
                           const float* codes, Index s, double sign) {
  const auto each_pair = [&](auto&& f) {
    for (const Posting* q = begin; q < end; ++q) {
      const std::uint32_t* atoms = indices + static_cast<Index>(q->row) * s;
      const float* c = codes + static_cast<Index>(q->row) * s;
      const double own = sign * static_cast<double>(c[q->slot]);
      for (Index j = 0; j < s; ++j) {
        if (atoms[j] < k && c[j] != 0.0f) f(atoms[j], own * static_cast<double>(c[j]));
      }
    }
  };
  double& diagonal = a.diagonal(k);
  for (const Posting* q = begin; q < end; ++q) {
    const auto c = static_cast<double>(codes[static_cast<Index>(q->row) * s + q->slot]);
    diagonal += sign * (c * c);
  }
  if (a.dense()) {
    double* row = a.row(k);
    each_pair([&](std::uint32_t l, double v) { row[l] += v; });
    return;
  }
  std::vector<std::uint32_t> columns;
  each_pair([&](std::uint32_t l, double) { columns.push_back(l); });
  std::sort(columns.begin(), columns.end());
  columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
  a.insert(k, columns);
  NormalMatrix::List& list = a.list(k);
  each_pair([&](std::uint32_t l, double v) {
    const auto at = std::lower_bound(list.columns.begin(), list.columns.end(), l) - list.columns.begin();
    list.values[static_cast<std::size_t>(at)] += v;
  });
}

}  // namespace arrowschur::dictionary
