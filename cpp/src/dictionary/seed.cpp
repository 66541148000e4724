#include "dictionary/seed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dictionary/filter.hpp"
#include "dictionary/kernels.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

constexpr double kCancelled = 1e-6, kNothing = 1e-24;
constexpr Index kBlockRows = 512;

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// The energy of x_i (square norm n_i) off the pick x_p.
struct Rule {
  bool lines;
  Index p;

  double operator()(double ni, double np, double w, const float* xi, const float* xp) const {
    double v = lines ? ni - (w * w) / np : ni + np - 2.0 * w;
    if (v < kCancelled * ni) {
      const double scale = lines ? w / np : 1.0;
      v = 0.0;
      for (Index c = 0; c < p; ++c) {
        const double r = static_cast<double>(xi[c]) - scale * static_cast<double>(xp[c]);
        v += r * r;
      }
    }
    return v <= kNothing * ni ? 0.0 : v;
  }
};

class Seeder {
 public:
  Seeder(Packer& pack, Index width, Index k, bool lines, Index pool)
      : pack_(pack),
        p_(width),
        k_(k),
        rule_{lines, width},
        pool_(pool),
        n_(size(pack.count())),
        m_(size(pack.count())) {}

  std::vector<Index> run() {
    measure();
    while (static_cast<Index>(picks_.size()) < k_) {
      const std::size_t before = picks_.size();
      pick_in_pool();
      if (picks_.size() == before) break;
      if (static_cast<Index>(picks_.size()) < k_) update();
    }
    return picks_;
  }

 private:
  template <class F>
  void each_step(F&& f) {
    const Index step = pack_.step(8192);
    for (Index first = 0; first < pack_.count(); first += step) {
      f(first, pack_(first, std::min(step, pack_.count() - first)));
      linalg::poll_interrupt();
    }
  }

  // n_i; before the first pick m_i = n_i picks the row of largest norm.
  void measure() {
    each_step([&](Index first, const RowBlock& x) {
      linalg::parallel_for_if(x.count * p_ >= linalg::kParallelWork, (x.count + 255) / 256, [&](Index task) {
        for (Index i = task * 256; i < std::min(x.count, (task + 1) * 256); ++i) {
          n_[size(first + i)] = kernels().s64(x[i], x[i], p_);
        }
      });
    });
    m_ = n_;
  }

  // Picks from the pool while its best beats (or, being a lower row, ties with) the best outside.
  void pick_in_pool() {
    const Index n = pack_.count();
    const Index want = std::min(n, first_ ? Index{1} : pool_);
    const auto before = [&](Index a, Index b) {
      return m_[size(a)] > m_[size(b)] || (m_[size(a)] == m_[size(b)] && a < b);
    };
    // The pool, and the best row outside: the want + 1 best by a heap of candidates.
    std::vector<Index> best;
    best.reserve(size(2 * (want + 1)));
    const auto shorten = [&] {
      std::nth_element(best.begin(), best.begin() + want, best.end(), before);
      best.resize(size(want + 1));
    };
    double least = 0.0;  // m of the want + 1-st of those seen
    for (Index i = 0; i < n; ++i) {
      // Rows come in ascending order: one that ties with `least` is behind those already there.
      if (m_[size(i)] <= least) continue;
      best.push_back(i);
      if (static_cast<Index>(best.size()) == 2 * (want + 1)) {
        shorten();
        least = m_[size(best.back())];
      }
    }
    std::sort(best.begin(), best.end(), before);
    Index outside = -1;
    if (static_cast<Index>(best.size()) > want) {
      outside = best[size(want)];
      best.resize(size(want));
    }
    std::vector<Index>& rows = pool_rows_;
    rows = best;
    block_begin_ = static_cast<Index>(picks_.size());
    if (rows.empty()) return;
    const Index t = static_cast<Index>(rows.size());
    pool_data_.resize(size(t * p_));
    for (Index j = 0; j < t; ++j) {
      const RowBlock x = pack_(rows[size(j)], 1);
      std::copy_n(x.data, p_, pool_data_.data() + j * p_);
    }
    gram();
    std::vector<double> m(size(t));
    for (Index j = 0; j < t; ++j) m[size(j)] = m_[size(rows[size(j)])];
    picked_.clear();
    while (static_cast<Index>(picks_.size()) < k_) {
      Index top = -1;
      for (Index j = 0; j < t; ++j) {
        if (m[size(j)] == 0.0) continue;
        if (top < 0 || m[size(j)] > m[size(top)] || (m[size(j)] == m[size(top)] && rows[size(j)] < rows[size(top)])) {
          top = j;
        }
      }
      if (top < 0) break;
      if (outside >= 0) {
        const double best_outside = m_[size(outside)];
        if (m[size(top)] < best_outside || (m[size(top)] == best_outside && rows[size(top)] > outside)) break;
      }
      picks_.push_back(rows[size(top)]);
      picked_.push_back(top);
      m[size(top)] = 0.0;
      const double np = n_[size(rows[size(top)])];
      for (Index j = 0; j < t; ++j) {
        if (m[size(j)] == 0.0) continue;
        const double v = rule_(n_[size(rows[size(j)])], np, gram_[size(std::max(j, top) * t + std::min(j, top))],
                               pool_data_.data() + j * p_, pool_data_.data() + top * p_);
        m[size(j)] = first_ ? v : std::min(m[size(j)], v);
      }
      if (first_) break;  // every row is new to the first pick
    }
  }

  // Inner products of the pool, lower triangle.
  void gram() {
    const Index t = static_cast<Index>(pool_rows_.size()), wide = padded(p_);
    gram_.resize(size(t * t));
    pool_wide_.resize(size(t * wide));
    const Kernels& kernel = kernels();
    for (Index j = 0; j < t; ++j) kernel.widen(pool_data_.data() + j * p_, p_, pool_wide_.data() + j * wide);
    constexpr Index kRows = 16;
    const Index tasks = (t + kRows - 1) / kRows;
    linalg::parallel_for_if(t * t * p_ >= linalg::kParallelWork, tasks, [&](Index task) {
      const Index block = tasks - 1 - task;
      for (Index j = block * kRows; j < std::min(t, (block + 1) * kRows); ++j) {
        kernel.dots_wide(pool_wide_.data() + j * wide, pool_wide_.data(), p_, j, gram_.data() + j * t);
      }
    });
  }

  // m of all rows with the picks of this block.
  void update() {
    const Index t = static_cast<Index>(picked_.size());
    std::vector<float> unit(size(t * p_)),
        given(size(t * p_));  // directions for the float scores; the picks as they are
    std::vector<double> norms(size(t));
    for (Index j = 0; j < t; ++j) {
      const float* x = pool_data_.data() + picked_[size(j)] * p_;
      norms[size(j)] = n_[size(picks_[size(block_begin_ + j)])];
      const double scale = 1.0 / std::sqrt(norms[size(j)]);
      std::copy_n(x, p_, given.data() + j * p_);
      for (Index c = 0; c < p_; ++c) unit[size(j * p_ + c)] = static_cast<float>(static_cast<double>(x[c]) * scale);
    }
    for (Index j = 0; j < t; ++j) m_[size(picks_[size(block_begin_ + j)])] = 0.0;
    const std::vector<char> live(size(t), 1);
    const bool fresh = first_;
    first_ = false;
    each_step([&](Index first, const RowBlock& x) {
      const Index tasks = (x.count + kBlockRows - 1) / kBlockRows;
      linalg::parallel_for_if(x.count * t * p_ >= linalg::kParallelWork, tasks, [&](Index task) {
        const Index begin = task * kBlockRows, rows = std::min(kBlockRows, x.count - begin);
        linalg::Buffer<double> wide(padded(p_));
        std::vector<double> eps(size(rows)), w(size(t));
        for (Index i = 0; i < rows; ++i) {
          // The directions are rounded too: one more unit of the last place per component.
          const double norm = std::sqrt(n_[size(first + begin + i)]);
          eps[size(i)] = (score_error(norm, p_) + 0x1p-22 * norm) * (1.0 + 0x1p-10);
        }
        const bool filtered = rule_.lines && t > 16;
        CandidateLists lists(filtered ? rows : 0, 1, t);
        if (filtered) {
          lists.collect(x[begin], x.stride, rows, unit.data(), t, p_, eps.data(), live.data());
        }
        for (Index i = 0; i < rows; ++i) {
          const Index row = first + begin + i;
          double& m = m_[size(row)];
          if (m == 0.0) continue;  // picked, or all zeros
          kernels().widen(x[begin + i], p_, wide.data());
          const bool few = filtered && !lists.crowded(i);
          const Index count = few ? lists.count(i) : t;
          kernels().dots(wide.data(), given.data(), p_, few ? lists.atoms(i) : nullptr, count, w.data());
          double least = fresh ? std::numeric_limits<double>::infinity() : m;
          for (Index j = 0; j < count; ++j) {
            const Index q = few ? static_cast<Index>(lists.atoms(i)[j]) : j;
            least =
                std::min(least, rule_(n_[size(row)], norms[size(q)], w[size(j)], x[begin + i], given.data() + q * p_));
          }
          m = least;
        }
      });
    });
  }

  Packer& pack_;
  Index p_, k_;
  Rule rule_;
  Index pool_;
  bool first_ = true;  // no pick yet
  std::vector<double> n_, m_;
  std::vector<Index> picks_, pool_rows_, picked_;  // picked_: places in the pool of the picks from block_begin_ on
  Index block_begin_ = 0;
  std::vector<float> pool_data_;
  std::vector<double> pool_wide_, gram_;
};

}  // namespace

std::vector<Index> seed_rows(Packer& pack, Index width, Index k, bool lines, Index pool) {
  return Seeder(pack, width, k, lines, pool).run();
}

}  // namespace arrowschur::dictionary
