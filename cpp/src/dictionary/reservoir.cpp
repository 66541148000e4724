#include "dictionary/reservoir.hpp"

#include <algorithm>
#include <cmath>

#include "dictionary/kernels.hpp"
#include "dictionary/project.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

bool worse(const Reservoir::Entry& a, const Reservoir::Entry& b) {
  return a.energy > b.energy || (a.energy == b.energy && a.row < b.row);
}

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

}  // namespace

void Reservoir::clear() { heap_.clear(); }

void Reservoir::add(const RowBlock& x, Index first, const double* energies, const std::uint32_t* indices,
                    const float* codes) {
  for (Index i = 0; i < x.count; ++i) {
    Entry e{energies[i], first + i, static_cast<Index>(heap_.size())};
    if (static_cast<Index>(heap_.size()) == capacity_) {
      if (!worse(e, heap_.front())) continue;
      std::pop_heap(heap_.begin(), heap_.end(), worse);
      e.slot = heap_.back().slot;
      heap_.back() = e;
    } else {
      heap_.push_back(e);
    }
    std::push_heap(heap_.begin(), heap_.end(), worse);
    if (!keep_) continue;
    const auto needed = size(e.slot + 1);
    if (rows_.size() < needed * size(p_)) {
      rows_.resize(needed * size(p_));
      indices_.resize(needed * size(s_));
      codes_.resize(needed * size(s_));
    }
    std::copy_n(x[i], p_, rows_.data() + e.slot * p_);
    std::copy_n(indices + i * s_, s_, indices_.data() + e.slot * s_);
    std::copy_n(codes + i * s_, s_, codes_.data() + e.slot * s_);
  }
}

std::vector<Reservoir::Entry> Reservoir::worst_first() const {
  std::vector<Entry> sorted = heap_;
  std::sort(sorted.begin(), sorted.end(), worse);
  return sorted;
}

std::vector<Index> revive(const std::vector<Reservoir::Entry>& worst_first,
                          const std::function<CodedRow(const Reservoir::Entry&)>& look_up, const float* d, Index p,
                          Index s, double floor, const std::vector<Index>& dead, float* next) {
  std::vector<Index> revived;
  std::vector<double> installed;  // unit residuals, one after another
  std::vector<double> r(size(p));
  for (const Reservoir::Entry& e : worst_first) {
    if (revived.size() == dead.size() || e.energy <= floor) break;
    const CodedRow row = look_up(e);
    for (Index c = 0; c < p; ++c) r[size(c)] = static_cast<double>(row.x[c]);
    for (Index j = 0; j < s; ++j) {
      const auto weight = static_cast<double>(row.codes[j]);
      if (weight == 0.0) continue;
      const float* atom = d + static_cast<Index>(row.indices[j]) * p;
      for (Index c = 0; c < p; ++c) r[size(c)] -= weight * static_cast<double>(atom[c]);
    }
    const double norm = std::sqrt(kernels().square_norm(r.data(), p));
    if (!(norm > 0.0)) continue;
    for (double& v : r) v /= norm;
    const Index count = static_cast<Index>(revived.size());
    bool close = false;
    for (Index q = 0; q < count && !close; ++q) {
      double cosine = 0.0;
      const double* other = installed.data() + q * p;
      for (Index c = 0; c < p; ++c) cosine += r[size(c)] * other[c];
      close = std::abs(cosine) > 0.9;
    }
    if (close) continue;
    const Index atom = dead[revived.size()];
    project_row(r.data(), p, std::sqrt(kernels().square_norm(r.data(), p)), next + atom * p);
    installed.insert(installed.end(), r.begin(), r.end());
    revived.push_back(atom);
  }
  return revived;
}

}  // namespace arrowschur::dictionary
