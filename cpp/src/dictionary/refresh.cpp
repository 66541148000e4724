#include "dictionary/refresh.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "dictionary/components.hpp"
#include "dictionary/conjugate_gradients.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

using linalg::Buffer;
using linalg::PackedTriangle;

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// The residual of a solution in place, without a copy of the matrix: for vectors v of random signs, the mean of
// |v'R|^2 is |R|_F^2 (Hutchinson, 1990, on stochastic estimators of the trace), and v'R = (A v)'X - v'B needs A and B only
// before they are overwritten.
class Probes {
 public:
  static constexpr Index kCount = 4;

  Probes(const PackedTriangle& layout, const double* a, double ridge, Index p, const double* b)
      : m_(layout.n), p_(p), v_(m_ * kCount), u_(m_ * kCount), vb_(size(kCount * p)) {
    for (Index i = 0; i < m_; ++i) {
      for (Index q = 0; q < kCount; ++q) v_[i * kCount + q] = sign(i * kCount + q);
    }
    // u = (A + ridge) v: block rows in parallel, each with sums of its own that are added in order.
    const Index blocks = layout.blocks();
    Buffer<double> partial(blocks * m_ * kCount);
    linalg::parallel_for_if(m_ >= 512, blocks, [&](Index task) {
      const Index block = blocks - 1 - task;  // the longest first
      double* u = partial.data() + block * m_ * kCount;
      std::fill(u, u + m_ * kCount, 0.0);
      for (Index i = layout.begin(block); i < layout.end(block); ++i) {
        const double* row = a + layout.row(i);
        const double* vi = v_.data() + i * kCount;
        std::array<double, kCount> own{};
        for (Index j = 0; j < i; ++j) {
          for (Index q = 0; q < kCount; ++q) {
            own[size(q)] += row[j] * v_[j * kCount + q];
            u[j * kCount + q] += row[j] * vi[q];
          }
        }
        for (Index q = 0; q < kCount; ++q) u[i * kCount + q] += own[size(q)] + (row[i] + ridge) * vi[q];
      }
    });
    std::fill(u_.begin(), u_.end(), 0.0);
    for (Index block = 0; block < blocks; ++block) {
      const double* u = partial.data() + block * m_ * kCount;
      for (Index e = 0; e < m_ * kCount; ++e) u_[e] += u[e];
    }
    products(v_, b, vb_, &size_);
  }

  double size_squared() const noexcept { return size_; }
  double residual_squared(const double* x) const {
    std::vector<double> ux(size(kCount * p_));
    products(u_, x, ux, nullptr);
    double sum = 0.0;
    for (std::size_t e = 0; e < ux.size(); ++e) sum += (ux[e] - vb_[e]) * (ux[e] - vb_[e]);
    return sum / static_cast<double>(kCount);
  }

 private:
  static double sign(Index i) {  // one bit of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
    std::uint64_t z = (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z >> 63) == 0 ? 1.0 : -1.0;
  }
  // out [kCount, p] = w' x; and |x|_F^2
  void products(const Buffer<double>& w, const double* x, std::vector<double>& out, double* square) const {
    constexpr Index kColumns = 64;
    const Index tasks = (p_ + kColumns - 1) / kColumns;
    std::vector<double> squares(size(tasks));
    linalg::parallel_for_if(m_ * p_ >= linalg::kParallelWork, tasks, [&](Index task) {
      const Index first = task * kColumns, count = std::min(kColumns, p_ - first);
      std::array<double, kCount * kColumns> sums{};
      double s = 0.0;
      for (Index i = 0; i < m_; ++i) {
        const double* row = x + i * p_ + first;
        for (Index q = 0; q < kCount; ++q) {
          const double wi = w[i * kCount + q];
          for (Index c = 0; c < count; ++c) sums[size(q * kColumns + c)] += wi * row[c];
        }
        if (square != nullptr) {
          for (Index c = 0; c < count; ++c) s += row[c] * row[c];
        }
      }
      for (Index q = 0; q < kCount; ++q) {
        for (Index c = 0; c < count; ++c) out[size(q * p_ + first + c)] = sums[size(q * kColumns + c)];
      }
      squares[size(task)] = s;
    });
    if (square != nullptr) {
      *square = 0.0;
      for (const double s : squares) *square += s;
    }
  }

  Index m_, p_;
  Buffer<double> v_, u_;  // [m, kCount]
  std::vector<double> vb_;
  double size_ = 0.0;
};

struct Sums {
  double residual = 0.0, size = 0.0;  // squared
};

class Refresher {
 public:
  Refresher(Statistics& st, Index p, const float* previous, double ridge, Index budget, Solver solver)
      : st_(st), p_(p), previous_(previous), ridge_(ridge), budget_(budget), solver_(solver) {}

  RefreshReport run(const std::vector<char>& live) {
    // An atom that is out may still share entries with others: forgotten rows leave some, and taking codes away leaves
    // rounding.
    st_.a.restrict_to(live);
    const Components components = find_components(st_.a, live);
    report_.components = static_cast<Index>(components.members.size());
    report_.nnz = components.nnz;
    const std::vector<Index>* largest = nullptr;
    for (const auto& m : components.members) {
      if (largest == nullptr || m.size() > largest->size()) largest = &m;
    }
    if (largest != nullptr) report_.max_component = static_cast<Index>(largest->size());
    for (const auto& m : components.members) {
      if (m.size() == 1) {
        divide(m.front());
      } else if (&m != largest) {
        component(m, false);
      }
    }
    if (largest != nullptr && largest->size() > 1) component(*largest, true);  // last: it may use the memory of A
    report_.method = methods_ == 0   ? "none"
                     : methods_ == 1 ? "division"
                     : methods_ <= 3 ? "cholesky"
                     : methods_ <= 5 ? "conjugate_gradients"
                                     : "mixed";
    report_.relative_residual = sums_.size > 0.0 ? std::sqrt(sums_.residual / sums_.size) : 0.0;
    return report_;
  }

 private:
  enum Method { kDivision = 1, kCholesky = 2, kConjugateGradients = 4 };

  void divide(Index atom) {
    methods_ |= kDivision;
    const double a = st_.a.diagonal(atom) + ridge_;
    double* b = st_.b.data() + atom * p_;
    for (Index c = 0; c < p_; ++c) {
      const double x = a > 0.0 ? b[c] / a : b[c];
      sums_.size += b[c] * b[c];
      sums_.residual += (a * x - b[c]) * (a * x - b[c]);
      b[c] = x;
    }
  }

  void component(const std::vector<Index>& members, bool last) {
    const auto m = static_cast<double>(members.size());
    const Index entries = report_.components == 1 ? report_.nnz : count(members);
    const bool fits = 4.0 * m * (m + 128.0) <= static_cast<double>(budget_);
    const auto columns = static_cast<double>(p_);
    const bool cheap = m * m * m / 3.0 + 2.0 * m * m * columns <= 60.0 * static_cast<double>(entries) * columns;
    const bool direct = solver_ == Solver::automatic ? fits && cheap : solver_ == Solver::cholesky;
    if (direct) {
      factor(members, last, nullptr);
    } else {
      iterate(members, entries, last, fits && solver_ == Solver::automatic);
    }
  }

  Index count(const std::vector<Index>& members) const {
    Index entries = 0;
    for (const Index k : members) st_.a.each(k, [&](Index, double) { ++entries; });
    return 2 * entries;
  }

  // Right-hand sides of the component, in place when it is everything.
  double* gather(const std::vector<Index>& members, Buffer<double>& space) {
    if (static_cast<Index>(members.size()) == st_.a.k()) return st_.b.data();
    space = Buffer<double>(static_cast<Index>(members.size()) * p_);
    for (std::size_t i = 0; i < members.size(); ++i) {
      std::copy_n(st_.b.data() + members[i] * p_, p_, space.data() + static_cast<Index>(i) * p_);
    }
    return space.data();
  }
  void scatter(const std::vector<Index>& members, const double* b) {
    if (b == st_.b.data()) return;
    for (std::size_t i = 0; i < members.size(); ++i) {
      std::copy_n(b + static_cast<Index>(i) * p_, p_, st_.b.data() + members[i] * p_);
    }
  }

  // All right-hand sides, or those of some columns.
  void factor(const std::vector<Index>& members, bool last, const std::vector<Index>* columns) {
    methods_ |= kCholesky;
    const Index p = columns == nullptr ? p_ : static_cast<Index>(columns->size());
    const PackedTriangle layout{static_cast<Index>(members.size())};
    Buffer<double> space, rhs;
    double* a = nullptr;
    if (st_.a.dense() && last) {
      // Rows and columns move towards the front only, so that the triangle can be closed up where it is.
      a = st_.a.data();
      if (layout.n < st_.a.k()) {
        for (Index i = 0; i < layout.n; ++i) {
          const double* from = st_.a.row(members[size(i)]);
          double* to = a + layout.row(i);
          for (Index j = 0; j <= i; ++j) to[j] = from[members[size(j)]];
        }
      }
    } else {
      space = Buffer<double>(layout.size());
      a = space.data();
      std::fill(space.begin(), space.end(), 0.0);
      std::vector<Index> place(size(members.back() + 1), -1);
      for (std::size_t i = 0; i < members.size(); ++i) place[size(members[i])] = static_cast<Index>(i);
      for (Index i = 0; i < layout.n; ++i) {
        double* to = a + layout.row(i);
        st_.a.each(members[size(i)], [&](Index l, double v) { to[place[size(l)]] = v; });
        to[i] = st_.a.diagonal(members[size(i)]);
      }
    }
    double* b = nullptr;
    if (columns == nullptr) {
      b = gather(members, rhs);
    } else {
      rhs = Buffer<double>(layout.n * p);
      b = rhs.data();
      each_entry(members, *columns, [&](Index at, double& value) { b[at] = value; });
    }
    const Probes probes(layout, a, ridge_, p, b);
    double largest = 0.0;
    for (Index i = 0; i < layout.n; ++i) {
      double& diagonal = a[layout.row(i) + i];
      largest = std::max(largest, diagonal);
      diagonal += ridge_;
    }
    double bump = 0.0;
    int attempt = 0;
    while (linalg::solve_packed(layout, a, p, b)) {
      if (attempt == 6) {
        for (Index i = 0; i < layout.n; ++i) {
          const double diagonal = std::max(a[layout.row(i) + i] - bump, 1e-12 * largest);
          for (Index c = 0; c < p; ++c) b[i * p + c] /= diagonal;
        }
        break;
      }
      const double next = 1e-8 * std::pow(16.0, attempt++) * largest;
      for (Index i = 0; i < layout.n; ++i) a[layout.row(i) + i] += next - bump;
      bump = next;
    }
    report_.bump = std::max(report_.bump, bump);
    sums_.residual += probes.residual_squared(b);
    if (columns == nullptr) {
      sums_.size += probes.size_squared();
      scatter(members, b);
    } else {
      each_entry(members, *columns, [&](Index at, double& value) { value = b[at]; });
    }
  }

  // f(i columns + j, entry of B) over the members i and some columns j.
  template <class F>
  void each_entry(const std::vector<Index>& members, const std::vector<Index>& columns, F&& f) {
    Index at = 0;
    for (const Index k : members) {
      for (const Index c : columns) f(at++, st_.b[k * p_ + c]);
    }
  }

  // When the iterations have cost what a factorization does (an ill-conditioned system, of which the cost rule knows
  // nothing), the columns that are left are factored instead, if the triangle fits.
  void iterate(const std::vector<Index>& members, Index entries, bool last, bool may_factor) {
    methods_ |= kConjugateGradients;
    const Index m = static_cast<Index>(members.size());
    std::vector<std::uint32_t> place(size(members.back() + 1));
    for (Index i = 0; i < m; ++i) place[size(members[size(i)])] = static_cast<std::uint32_t>(i);
    SparseSymmetric a;
    a.n = m;
    a.ptr.assign(size(m + 1), 0);
    for (Index i = 0; i < m; ++i) {
      st_.a.each(members[size(i)], [&](Index l, double) {
        ++a.ptr[size(i) + 1];
        ++a.ptr[place[size(l)] + 1];
      });
      a.diagonal.push_back(st_.a.diagonal(members[size(i)]) + ridge_);
    }
    for (Index i = 0; i < m; ++i) a.ptr[size(i) + 1] += a.ptr[size(i)];
    a.columns.resize(size(entries));
    a.values.resize(size(entries));
    std::vector<Index> next(a.ptr.begin(), a.ptr.end() - 1);
    // Rows ascending: the columns of a row are written before the rows below write theirs, so that they ascend.
    for (Index i = 0; i < m; ++i) {
      st_.a.each(members[size(i)], [&](Index l, double v) {
        const std::uint32_t j = place[size(l)];
        a.columns[size(next[size(i)])] = j;
        a.values[size(next[size(i)]++)] = v;
        a.columns[size(next[j])] = static_cast<std::uint32_t>(i);
        a.values[size(next[j]++)] = v;
      });
    }
    Buffer<double> rhs;
    double* b = gather(members, rhs);
    std::vector<const float*> start(size(m));
    for (Index i = 0; i < m; ++i) start[size(i)] = previous_ + members[size(i)] * p_;
    // Four arrays of the tile in float64: at most the bytes of B for all threads together.
    const Index share = st_.a.k() * p_ / (5 * m) / std::max(1, linalg::current_threads());
    const Index width = std::clamp<Index>(share, 1, 64);
    Index cap = iteration_cap(a, ridge_);
    if (may_factor) {
      const auto n = static_cast<double>(m), c = static_cast<double>(p_);
      // Flops of a sparse product take about four times as long as those of a factorization.
      const double as_much = (n * n * n / 3.0 + 2.0 * n * n * c) / (8.0 * static_cast<double>(entries) * c);
      cap = std::min(cap, std::max<Index>(30, static_cast<Index>(as_much)));
    }
    const ColumnsReport columns = solve_columns(a, cap, p_, b, start.data(), width);
    report_.iterations = std::max(report_.iterations, columns.iterations);
    sums_.residual += columns.residual;
    sums_.size += columns.size;
    scatter(members, b);
    if (columns.failed.empty()) return;
    if (may_factor) {
      a = {};
      rhs = {};
      factor(members, last, &columns.failed);
      return;
    }
    report_.failed_columns += static_cast<Index>(columns.failed.size());
    for (const Index k : members) {
      for (const Index c : columns.failed) st_.b[k * p_ + c] = static_cast<double>(previous_[k * p_ + c]);
    }
  }

  Statistics& st_;
  Index p_;
  const float* previous_;
  double ridge_;
  Index budget_;
  Solver solver_;
  RefreshReport report_;
  Sums sums_;
  int methods_ = 0;
};

}  // namespace

RefreshReport refresh(Statistics& statistics, Index p, const std::vector<char>& live, const float* previous,
                      double ridge, Index budget, Solver solver) {
  return Refresher(statistics, p, previous, ridge, budget, solver).run(live);
}

}  // namespace arrowschur::dictionary
