#include "dictionary/unit_sweep.hpp"

#include <algorithm>
#include <cmath>

#include "dictionary/kernels.hpp"
#include "dictionary/project.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// Entries of a whole row of A without the diagonal, ascending.
struct Neighbour {
  Index atom;
  double value;
};

class Neighbours {
 public:
  explicit Neighbours(const NormalMatrix& a) : a_(a) {
    if (a.dense()) return;
    above_.resize(size(a.k()));
    for (Index k = 0; k < a.k(); ++k) {
      a.each(k, [&](Index l, double v) { above_[size(l)].push_back({k, v}); });
    }
  }
  const std::vector<Neighbour>& of(Index k) {
    list_.clear();
    a_.each(k, [&](Index l, double v) { list_.push_back({l, v}); });
    if (a_.dense()) {
      for (Index r = k + 1; r < a_.k(); ++r) {
        if (const double v = a_.row(r)[k]; v != 0.0) list_.push_back({r, v});
      }
    } else {
      list_.insert(list_.end(), above_[size(k)].begin(), above_[size(k)].end());
    }
    return list_;
  }

 private:
  const NormalMatrix& a_;
  std::vector<std::vector<Neighbour>> above_;
  std::vector<Neighbour> list_;
};

// tr(D'A D) - 2 tr(B'D) over the live rows.
double loss(const Statistics& st, Index p, const std::vector<char>& live, const float* d) {
  const Index k = st.a.k();
  std::vector<double> terms(size(k));
  linalg::parallel_for(k, [&](Index r) {
    if (live[size(r)] == 0) return;
    std::vector<double> v(size(p));
    for (Index c = 0; c < p; ++c) {
      v[size(c)] = st.a.diagonal(r) * static_cast<double>(d[r * p + c]) - 2.0 * st.b[r * p + c];
    }
    st.a.each(r, [&](Index l, double a) {
      for (Index c = 0; c < p; ++c) v[size(c)] += 2.0 * a * static_cast<double>(d[l * p + c]);
    });
    for (Index c = 0; c < p; ++c) terms[size(r)] += v[size(c)] * static_cast<double>(d[r * p + c]);
  });
  double sum = 0.0;
  for (const double t : terms) sum += t;
  return sum;
}

}  // namespace

void unit_sweep(const Statistics& st, Index p, const std::vector<char>& live, const double* solution, const float* d,
                float* next) {
  const Index k = st.a.k();
  for (Index a = 0; a < k; ++a) {
    double aligned = 0.0;
    for (Index c = 0; c < p; ++c) aligned += solution[a * p + c] * static_cast<double>(next[a * p + c]);
    if (live[size(a)] == 0 || aligned >= 0.0) continue;
    for (Index c = 0; c < p; ++c) next[a * p + c] = -next[a * p + c];
  }
  if (loss(st, p, live, next) > loss(st, p, live, d)) std::copy_n(d, k * p, next);
  Neighbours neighbours(st.a);
  std::vector<double> v(size(p));
  constexpr Index kColumns = 64;
  for (Index a = 0; a < k; ++a) {
    if (live[size(a)] == 0) continue;
    const std::vector<Neighbour>& list = neighbours.of(a);
    const Index work = static_cast<Index>(list.size()) * p;
    linalg::parallel_for_if(work >= linalg::kParallelWork / 4, (p + kColumns - 1) / kColumns, [&](Index task) {
      const Index begin = task * kColumns, end = std::min(p, begin + kColumns);
      for (Index c = begin; c < end; ++c) v[size(c)] = st.b[a * p + c];
      for (const Neighbour& n : list) {
        const float* row = next + n.atom * p;
        for (Index c = begin; c < end; ++c) v[size(c)] -= n.value * static_cast<double>(row[c]);
      }
    });
    const double norm = std::sqrt(kernels().square_norm(v.data(), p));
    double aligned = 0.0;
    for (Index c = 0; c < p; ++c) aligned += v[size(c)] * static_cast<double>(next[a * p + c]);
    if (!(norm > aligned)) continue;
    // Kept with its own sign here: the codes of this sweep belong to it. The common sign is chosen at the end.
    for (Index c = 0; c < p; ++c) next[a * p + c] = static_cast<float>(v[size(c)] / norm);
  }
  std::vector<double> wide(size(p));
  for (Index a = 0; a < k; ++a) {
    if (live[size(a)] == 0) continue;
    for (Index c = 0; c < p; ++c) wide[size(c)] = static_cast<double>(next[a * p + c]);
    const double norm = std::sqrt(kernels().square_norm(wide.data(), p));
    if (norm > 0.0) project_row(wide.data(), p, norm, next + a * p);
  }
}

}  // namespace arrowschur::dictionary
