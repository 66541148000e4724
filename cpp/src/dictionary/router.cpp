#include "dictionary/router.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "dictionary/device_router.hpp"
#include "linalg/blas.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

// A greedy router stops when no atom explains more than this fraction of the row.
constexpr double kNothingLeft = 1e-12;
// The largest Gram matrix of atoms that is kept, K = 4096: of the size of A, and there twice as fast as the products.
constexpr Index kMostGramBytes = Index{64} << 20;

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

class StepTimer {
 public:
  explicit StepTimer(std::atomic<Index>& total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~StepTimer() {
    total_ += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_).count();
  }
  StepTimer(const StepTimer&) = delete;
  StepTimer& operator=(const StepTimer&) = delete;

 private:
  std::atomic<Index>& total_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

// Scratch of one row.
struct RowRouter::Work {
  Work(Index p, Index s, Index shortlist, Index candidates)
      : wide(padded(p)),
        selected(shortlist * padded(p)),
        scores(size(std::max(candidates, Index{CandidateLists::kTileAtoms}))),
        gram(size(s * shortlist)),
        own(size(s)),
        atoms(size(s)),
        rows(size(s)) {}

  linalg::Buffer<double> wide, selected;  // the row; atoms widened, [shortlist, padded(p)]
  std::vector<double> scores;
  std::vector<Scored> best;
  std::vector<double> gram;  // [s, shortlist] greedy: inner products of the chosen with the shortlist
  std::vector<double> own;   // [s] one row of the Gram matrix
  std::vector<std::uint32_t> atoms;
  std::vector<const float*> rows;
  std::vector<char> taken;
};

RowRouter::RowRouter(const float* d, Index k, Index p, const RouteSettings& settings, DeviceRouter* device)
    : d_(d), k_(k), p_(p), settings_(settings), square_(size(k)), live_(size(k)), device_(device) {
  const Kernels& kernel = kernels();
  constexpr Index kAtoms = 256;
  linalg::parallel_for_if(k * p >= linalg::kParallelWork, (k + kAtoms - 1) / kAtoms, [&](Index task) {
    for (Index a = task * kAtoms; a < std::min(k, (task + 1) * kAtoms); ++a) {
      square_[size(a)] = kernel.s64(d + a * p, d + a * p, p);
      live_[size(a)] = square_[size(a)] > 0.0 ? 1 : 0;
    }
  });
  // omp: s products of residuals with all atoms, 2 s K P flops a row, or one and 2 K s^2 with the Gram matrix of the atoms.
  const Index s = settings.s;
  if (settings.router != Router::omp || s * s >= (s - 1) * p || 4 * k * k > kMostGramBytes) return;
  gram_ = linalg::Buffer<float>(k * k);
  linalg::parallel_for((k + kAtoms - 1) / kAtoms, [&](Index task) {
    const Index first = task * kAtoms, count = std::min(kAtoms, k - first);
    linalg::blas().f32.gemm('T', 'N', k, count, p, 1.0f, d, p, d + first * p, p, 0.0f, gram_.data() + first * k, k);
  });
}

void RowRouter::route(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const {
  const Index s = settings_.s;
  if (device_ != nullptr) {
    device_->route(x, counters, [&](const FoundAtoms& found) {
      const auto at = [&](auto* p, Index width) { return p == nullptr ? p : p + found.first * width; };
      code_found({x[found.first], x.stride, found.count}, found,
                 {at(out.indices, s), at(out.codes, s), at(out.energies, 1), at(out.square_norms, 1)});
    });
    counters.flops = counters.flops + 2.0 * static_cast<double>(x.count) * static_cast<double>(k_ * p_);
    return;
  }
  Index most = kBlockRows;
  if (settings_.router == Router::omp) {  // factors, or the scores of all atoms, of a block of rows
    const Index fit = gram_.size() > 0 ? (Index{1} << 17) / k_ : (Index{1} << 19) / (s * s);
    most = std::clamp<Index>(fit, 16, kBlockRows);
  }
  const Index step = std::max<Index>(1, std::min(most, (x.count + 7) / 8));  // eight tasks where a block is small
  linalg::parallel_for((x.count + step - 1) / step, [&](Index task) {
    const Index first = task * step, count = std::min(step, x.count - first);
    const RowBlock part{x[first], x.stride, count};
    block(part,
          {out.indices + first * s, out.codes + first * s, out.energies == nullptr ? nullptr : out.energies + first,
           out.square_norms == nullptr ? nullptr : out.square_norms + first},
          counters);
  });
}

void RowRouter::block(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const {
  if (settings_.router == Router::omp) {
    if (gram_.size() > 0) {
      pursuit_by_gram(x, out, counters);
    } else {
      pursuit(x, out, counters);
    }
  } else {
    correlation(x, out, counters);
  }
}

void RowRouter::best(const CandidateLists& lists, Index row, const double* wide, Index want, Work& work,
                     RouteCounters& counters) const {
  const auto before = [](const Scored& a, const Scored& b) {
    const double x = std::abs(a.score), y = std::abs(b.score);
    return x > y || (x == y && a.atom < b.atom);
  };
  std::vector<Scored>& best = work.best;
  best.clear();
  const auto shorten = [&] {
    if (static_cast<Index>(best.size()) > want) {
      std::nth_element(best.begin(), best.begin() + (want - 1), best.end(), before);
      best.resize(size(want));
    }
  };
  if (lists.crowded(row)) {
    ++counters.rescanned;
    for (Index first = 0; first < k_; first += CandidateLists::kTileAtoms) {
      const Index count = std::min(CandidateLists::kTileAtoms, k_ - first);
      kernels().dots(wide, d_ + first * p_, p_, nullptr, count, work.scores.data());
      for (Index j = 0; j < count; ++j) {
        if (work.scores[size(j)] != 0.0) {
          best.push_back({work.scores[size(j)], static_cast<std::uint32_t>(first + j)});
        }
      }
      shorten();
    }
  } else {
    const Index count = lists.count(row);
    kernels().dots(wide, d_, p_, lists.atoms(row), count, work.scores.data());
    counters.rescored.fetch_add(count, std::memory_order_relaxed);
    for (Index j = 0; j < count; ++j) {
      if (work.scores[size(j)] != 0.0) best.push_back({work.scores[size(j)], lists.atoms(row)[j]});
    }
    shorten();
  }
  std::sort(best.begin(), best.end(), before);
}

void RowRouter::finish_row(double square_norm, const RowCode& code, const std::uint32_t* atoms, const RouteOutput& out,
                           Index row) const {
  const Index s = settings_.s, n = code.size();
  std::uint32_t* indices = out.indices + row * s;
  float* codes = out.codes + row * s;
  std::copy_n(atoms, n, indices);
  const double energy = code.finish(square_norm, codes);
  std::fill(indices + n, indices + s, n == 0 ? 0u : atoms[0]);
  std::fill(codes + n, codes + s, 0.0f);
  if (out.energies != nullptr) out.energies[row] = energy;
  if (out.square_norms != nullptr) out.square_norms[row] = square_norm;
}

void RowRouter::code_row(const float* x, double square, Work& work, RowCode& code, const RouteOutput& out,
                         Index row) const {
  const Kernels& kernel = kernels();
  const bool refine = settings_.router == Router::refine;
  const Index s = settings_.s, want = wanted_atoms(settings_, k_), wide_row = padded(p_);
  Index n = 0;
  code.clear();
  const Index found = static_cast<Index>(work.best.size());
  for (Index j = 0; j < found; ++j) {
    kernel.widen(d_ + static_cast<Index>(work.best[size(j)].atom) * p_, p_, work.selected.data() + j * wide_row);
  }
  if (refine && found > 0) {
    work.taken.assign(size(found), 0);
    while (n < s) {
      double top = 0.0;
      Index pick = -1;
      for (Index q = 0; q < found; ++q) {
        if (work.taken[size(q)] != 0) continue;
        double r = work.best[size(q)].score;
        for (Index j = 0; j < n; ++j) r -= code.codes()[j] * work.gram[size(j * want + q)];
        r = std::abs(r);
        if (r > top || (r == top && pick >= 0 && work.best[size(q)].atom < work.best[size(pick)].atom)) {
          top = r;
          pick = q;
        }
      }
      if (pick < 0 || top <= kNothingLeft * std::sqrt(square)) break;
      const Scored& chosen = work.best[size(pick)];
      kernel.dots_wide(work.selected.data() + pick * wide_row, work.selected.data(), p_, found,
                       work.gram.data() + n * want);
      for (Index j = 0; j < n; ++j) work.own[size(j)] = work.gram[size(j * want + pick)];
      work.own[size(n)] = square_[chosen.atom];
      work.taken[size(pick)] = 1;
      work.atoms[size(n)] = chosen.atom;
      work.rows[size(n)] = d_ + static_cast<Index>(chosen.atom) * p_;
      ++n;
      code.append(chosen.score, work.own.data());
      code.solve(x, work.rows.data(), p_);
    }
  } else {
    for (; n < found; ++n) {
      const Scored& chosen = work.best[size(n)];
      kernel.dots_wide(work.selected.data() + n * wide_row, work.selected.data(), p_, n, work.own.data());
      work.own[size(n)] = square_[chosen.atom];
      work.atoms[size(n)] = chosen.atom;
      work.rows[size(n)] = d_ + static_cast<Index>(chosen.atom) * p_;
      code.append(chosen.score, work.own.data());
    }
    code.solve(x, work.rows.data(), p_);
  }
  finish_row(square, code, work.atoms.data(), out, row);
}

void RowRouter::correlation(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const {
  const Kernels& kernel = kernels();
  const Index s = settings_.s;
  const Index want = wanted_atoms(settings_, k_);
  std::vector<double> squares(size(x.count)), eps(size(x.count));
  CandidateLists lists(x.count, want, std::min(settings_.score_tile, k_));
  {
    const StepTimer timer(counters.route_nanoseconds);
    for (Index i = 0; i < x.count; ++i) {
      squares[size(i)] = kernel.s64(x[i], x[i], p_);
      eps[size(i)] = score_error(std::sqrt(squares[size(i)]), p_);
    }
    lists.collect(x.data, x.stride, x.count, d_, k_, p_, eps.data(), live_.data());
  }
  counters.flops.fetch_add(2.0 * static_cast<double>(x.count) * static_cast<double>(k_ * p_));
  Index bytes = counters.score_bytes.load();
  while (bytes < lists.score_bytes() && !counters.score_bytes.compare_exchange_weak(bytes, lists.score_bytes())) {
  }

  const StepTimer timer(counters.code_nanoseconds);
  Work work(p_, s, want, lists.keep());
  RowCode code(s, settings_.code_ridge);
  for (Index i = 0; i < x.count; ++i) {
    work.best.clear();
    if (squares[size(i)] > 0.0) {
      kernel.widen(x[i], p_, work.wide.data());
      best(lists, i, work.wide.data(), want, work, counters);
    }
    code_row(x[i], squares[size(i)], work, code, out, i);
  }
}

void RowRouter::code_found(const RowBlock& x, const FoundAtoms& found, const RouteOutput& out) const {
  const Index want = wanted_atoms(settings_, k_);
  constexpr Index kRows = 32;
  linalg::parallel_for((x.count + kRows - 1) / kRows, [&](Index task) {
    Work work(p_, settings_.s, want, 0);
    RowCode code(settings_.s, settings_.code_ridge);
    for (Index i = task * kRows; i < std::min(x.count, (task + 1) * kRows); ++i) {
      work.best.clear();
      for (Index j = i * want; j < (i + 1) * want && found.score[j] != 0.0; ++j) {
        work.best.push_back({found.score[j], found.index[j]});
      }
      code_row(x[i], kernels().s64(x[i], x[i], p_), work, code, out, i);
    }
  });
}

// Orthogonal matching pursuit, all rows of the block one step at a time. A float product of the residuals with all atoms
// discards; b_k - sum_j c_j G_kj decides. In exact arithmetic that is d_k'r, so that the error of the float score is
// gamma |r| plus the rounding of r and, far below, that of the float64 formula.
void RowRouter::pursuit(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const {
  const Kernels& kernel = kernels();
  const Index s = settings_.s, rows = x.count;
  std::vector<double> squares(size(rows)), eps(size(rows));
  std::vector<char> active(size(rows), 1);
  std::vector<std::uint32_t> atoms(size(rows * s));
  std::vector<RowCode> codes(size(rows), RowCode(s, settings_.code_ridge));
  linalg::Buffer<float> residual(rows * p_);
  CandidateLists lists(rows, 1, std::min(settings_.score_tile, k_));
  Work work(p_, s, 2, std::max<Index>(lists.keep(), s));
  std::vector<double> sum(size(p_));

  Index left = 0;
  for (Index i = 0; i < rows; ++i) {
    squares[size(i)] = kernel.s64(x[i], x[i], p_);
    active[size(i)] = squares[size(i)] > 0.0 ? 1 : 0;
    left += active[size(i)];
    std::copy_n(x[i], p_, residual.data() + i * p_);
    eps[size(i)] = score_error(std::sqrt(squares[size(i)]), p_);
  }
  const auto value = [&](Index i, std::uint32_t atom, Index n) {  // b_k - sum_j c_j G_kj, j in selection order
    double r = 0.0;
    kernel.dots(work.wide.data(), d_, p_, &atom, 1, &r);
    if (n > 0) {
      kernel.widen(d_ + static_cast<Index>(atom) * p_, p_, work.selected.data());
      kernel.dots(work.selected.data(), d_, p_, atoms.data() + i * s, n, work.own.data());
      for (Index j = 0; j < n; ++j) r -= codes[size(i)].codes()[j] * work.own[size(j)];
    }
    return r;
  };

  for (Index step = 0; step < s && left > 0; ++step) {
    {
      const StepTimer timer(counters.route_nanoseconds);
      lists.collect(residual.data(), p_, rows, d_, k_, p_, eps.data(), live_.data(), atoms.data(), s, step);
    }
    counters.flops.fetch_add(2.0 * static_cast<double>(rows) * static_cast<double>(k_ * p_));
    const StepTimer timer(counters.code_nanoseconds);
    for (Index i = 0; i < rows; ++i) {
      if (active[size(i)] == 0) continue;
      RowCode& code = codes[size(i)];
      std::uint32_t* mine = atoms.data() + i * s;
      const auto is_chosen = [&](std::uint32_t a) { return std::find(mine, mine + step, a) != mine + step; };
      kernel.widen(x[i], p_, work.wide.data());
      double top = 0.0;
      std::uint32_t pick = 0;
      const auto offer = [&](std::uint32_t a) {
        const double r = std::abs(value(i, a, step));
        if (r > top || (r == top && r > 0.0 && a < pick)) {
          top = r;
          pick = a;
        }
      };
      if (lists.crowded(i)) {
        ++counters.rescanned;
        for (Index a = 0; a < k_; ++a) {
          if (live_[size(a)] != 0 && !is_chosen(static_cast<std::uint32_t>(a))) offer(static_cast<std::uint32_t>(a));
        }
      } else {
        counters.rescored.fetch_add(lists.count(i), std::memory_order_relaxed);
        for (Index j = 0; j < lists.count(i); ++j) {
          if (!is_chosen(lists.atoms(i)[j])) offer(lists.atoms(i)[j]);
        }
      }
      if (top <= kNothingLeft * std::sqrt(squares[size(i)])) {
        active[size(i)] = 0;
        --left;
        continue;
      }
      kernel.widen(d_ + static_cast<Index>(pick) * p_, p_, work.selected.data());
      kernel.dots(work.selected.data(), d_, p_, mine, step, work.own.data());
      work.own[size(step)] = square_[pick];
      double b = 0.0;
      kernel.dots(work.wide.data(), d_, p_, &pick, 1, &b);
      mine[step] = pick;
      for (Index j = 0; j <= step; ++j) work.rows[size(j)] = d_ + static_cast<Index>(mine[j]) * p_;
      code.append(b, work.own.data());
      code.solve(x[i], work.rows.data(), p_);
      if (step + 1 == s) continue;
      // r = x - sum_j c_j d_j, rounded to float for the next discard
      std::copy_n(work.wide.data(), p_, sum.data());
      double weight = std::sqrt(squares[size(i)]), energy = 0.0;
      for (Index j = 0; j <= step; ++j) {
        const double c = code.codes()[j];
        weight += std::abs(c);
        const float* d = work.rows[size(j)];
        for (Index q = 0; q < p_; ++q) sum[size(q)] -= c * static_cast<double>(d[q]);
      }
      float* r = residual.data() + i * p_;
      for (Index q = 0; q < p_; ++q) {
        r[q] = static_cast<float>(sum[size(q)]);
        energy += static_cast<double>(r[q]) * static_cast<double>(r[q]);
      }
      const double norm = std::sqrt(energy);
      eps[size(i)] = score_error(norm * (1.0 + 0x1p-20), p_) + 0x1p-23 * norm +
                     static_cast<double>(p_) * 0x1p-49 * weight + static_cast<double>(p_) * 0x1p-126;
    }
  }
  for (Index i = 0; i < rows; ++i) {
    finish_row(squares[size(i)], codes[size(i)], atoms.data() + i * s, out, i);
  }
}

// The same choices from float scores b - sum_j c_j G_j with the Gram matrix of the atoms, row after row. Scores and Gram
// entries are off by gamma |x| and gamma, the sum of n + 1 terms rounds 2 n times.
void RowRouter::pursuit_by_gram(const RowBlock& x, const RouteOutput& out, RouteCounters& counters) const {
  const Kernels& kernel = kernels();
  const Index s = settings_.s;
  linalg::Buffer<float> scores(x.count * k_), left(k_), value(k_ + 16);
  linalg::Buffer<std::uint32_t> found(k_ + 16);
  {
    const StepTimer timer(counters.route_nanoseconds);
    linalg::blas().f32.gemm('T', 'N', k_, x.count, p_, 1.0f, d_, p_, x.data, x.stride, 0.0f, scores.data(), k_);
  }
  counters.flops.fetch_add(2.0 * static_cast<double>(x.count) * static_cast<double>(k_) *
                           static_cast<double>(p_ + s * s / 2));
  const StepTimer timer(counters.code_nanoseconds);
  Work work(p_, s, 2, s);
  RowCode code(s, settings_.code_ridge);
  std::vector<const float*> gram(size(s));
  std::vector<float> weights(size(s));
  linalg::Buffer<double> residual(padded(p_));
  std::vector<double> exact(size(k_));
  Index rescored = 0, crowded = 0;
  for (Index i = 0; i < x.count; ++i) {
    code.clear();
    const double square = kernel.s64(x[i], x[i], p_), norm = std::sqrt(square);
    kernel.widen(x[i], p_, work.wide.data());
    double reach = norm;  // |x| + sum_j |c_j|
    for (Index n = 0; n < s && square > 0.0; ++n) {
      float* score = scores.data() + i * k_;
      if (n > 0) {
        kernel.subtract_rows(score, k_, gram.data(), weights.data(), n, left.data());
        score = left.data();
        for (Index j = 0; j < n; ++j) score[work.atoms[size(j)]] = 0.0f;
      }
      const double eps = score_error(reach, p_) + static_cast<double>(2 * n + 4) * 0x1p-23 * reach;
      const double least = static_cast<double>(kernel.nth_magnitude(score, k_, 1, 1)) - 2.0 * eps;
      Index count =
          kernel.at_least(score, k_, std::nextafterf(static_cast<float>(least), -1.0f), 0, found.data(), value.data());
      if (n > 0 && count > 1 + 8) {
        // A row that is nearly explained: its residual is below the float error. In float64 it discards once more.
        ++crowded;
        std::copy_n(work.wide.data(), padded(p_), residual.data());
        for (Index j = 0; j < n; ++j) {
          const double c = code.codes()[j];
          for (Index q = 0; q < p_; ++q) residual[q] -= c * static_cast<double>(work.rows[size(j)][q]);
        }
        kernel.dots(residual.data(), d_, p_, found.data(), count, exact.data());
        double most = 0.0;
        const auto chosen = [&](std::uint32_t a) {
          return std::find(work.atoms.begin(), work.atoms.begin() + n, a) != work.atoms.begin() + n;
        };
        for (Index q = 0; q < count; ++q) {
          if (!chosen(found[q])) most = std::max(most, std::abs(exact[size(q)]));
        }
        const double floor = most - static_cast<double>(p_) * 0x1p-48 * reach;
        Index kept = 0;
        for (Index q = 0; q < count; ++q) {
          if (std::abs(exact[size(q)]) >= floor) found[kept++] = found[q];
        }
        count = kept;
      }
      double top = 0.0, top_b = 0.0;
      std::uint32_t pick = 0;
      for (Index q = 0; q < count; ++q) {
        const std::uint32_t a = found[q];
        if (live_[a] == 0 || std::find(work.atoms.begin(), work.atoms.begin() + n, a) != work.atoms.begin() + n)
          continue;
        double b = 0.0;
        kernel.dots(work.wide.data(), d_, p_, &a, 1, &b);
        double r = b;
        if (n > 0) {
          kernel.widen(d_ + static_cast<Index>(a) * p_, p_, work.selected.data());
          kernel.dots(work.selected.data(), d_, p_, work.atoms.data(), n, work.scores.data());
          for (Index j = 0; j < n; ++j) r -= code.codes()[j] * work.scores[size(j)];
        }
        r = std::abs(r);
        if (r > top) {  // atoms ascend: a tie stays with the lower one
          top = r;
          top_b = b;
          pick = a;
          std::copy_n(work.scores.begin(), n, work.own.begin());
        }
      }
      rescored += count;
      if (top <= kNothingLeft * norm) break;
      work.own[size(n)] = square_[pick];
      work.atoms[size(n)] = pick;
      work.rows[size(n)] = d_ + static_cast<Index>(pick) * p_;
      gram[size(n)] = gram_.data() + static_cast<Index>(pick) * k_;
      code.append(top_b, work.own.data());
      code.solve(x[i], work.rows.data(), p_);
      reach = norm;
      for (Index j = 0; j <= n; ++j) {
        weights[size(j)] = static_cast<float>(code.codes()[j]);
        reach += std::abs(code.codes()[j]);
      }
    }
    finish_row(square, code, work.atoms.data(), out, i);
  }
  counters.rescored.fetch_add(rescored, std::memory_order_relaxed);
  counters.rescanned.fetch_add(crowded, std::memory_order_relaxed);
}

}  // namespace arrowschur::dictionary
