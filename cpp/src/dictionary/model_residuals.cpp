// What the residuals of rows say about a frozen decoder: certificates of supports, and atoms that are missing.
#include <algorithm>
#include <array>
#include <cmath>

#include "dictionary/decoder.hpp"
#include "dictionary/errors.hpp"
#include "dictionary/project.hpp"
#include "dictionary/seed.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

}  // namespace

// As in orthogonal matching pursuit, a float product of the residuals discards; d_k'r in float64 decides.
DualReport Model::dual_report(const Rows& rows, const EncodeOptions& o) const {
  const Index n = rows.count, s = std::min(std::max<Index>(o.n_nonzero_coefs, 1), k_);
  DualReport report;
  report.ratios.assign(size(std::max<Index>(n, 0)), 0.0);
  report.atoms.assign(report.ratios.size(), 0);
  std::vector<std::uint32_t> indices(size(std::max<Index>(n, 0) * s));
  std::vector<float> codes(indices.size());
  (void)encode(rows, o, indices.data(), codes.data());
  const linalg::ThreadScope threads(o.num_threads);
  const bool centred = std::any_of(mean_.begin(), mean_.end(), [](float v) { return v != 0.0f; });
  Packer pack(rows, exponent_, centred ? &mean_ : nullptr, o.batch_size);
  const double scale = std::ldexp(1.0, -exponent_);
  std::vector<char> live(size(k_));
  for (Index a = 0; a < k_; ++a) {
    live[size(a)] = kernels().s64(decoder_.data() + a * p_, decoder_.data() + a * p_, p_) > 0.0 ? 1 : 0;
  }
  const Index step = std::min(n, pack.step(8192)), per_task = 256;
  for (Index first = 0; first < n; first += step) {
    const RowBlock x = pack(first, std::min(step, n - first));
    linalg::parallel_for((x.count + per_task - 1) / per_task, [&](Index task) {
      const Index begin = task * per_task, count = std::min(per_task, x.count - begin);
      std::vector<double> r(size(count * p_)), eps(size(count));
      std::vector<float> rounded(size(count * p_));
      CandidateLists lists(count, 1, std::min(o.score_tile, k_));
      for (Index i = 0; i < count; ++i) {
        double* ri = r.data() + i * p_;
        double weight = 0.0, energy = 0.0;
        for (Index c = 0; c < p_; ++c) ri[c] = static_cast<double>(x[begin + i][c]);
        for (Index j = 0; j < s; ++j) {
          const Index e = (first + begin + i) * s + j;
          const double c = static_cast<double>(codes[size(e)]) * scale;
          weight += std::abs(c);
          const float* d = decoder_.data() + static_cast<Index>(indices[size(e)]) * p_;
          for (Index q = 0; q < p_; ++q) ri[q] -= c * static_cast<double>(d[q]);
        }
        for (Index c = 0; c < p_; ++c) {
          rounded[size(i * p_ + c)] = static_cast<float>(ri[c]);
          energy += ri[c] * ri[c];
        }
        const double norm = std::sqrt(energy);
        eps[size(i)] =
            score_error(norm * (1.0 + 0x1p-20), p_) + 0x1p-23 * norm + 0x1p-49 * static_cast<double>(p_) * weight;
      }
      lists.collect(rounded.data(), p_, count, decoder_.data(), k_, p_, eps.data(), live.data(),
                    indices.data() + (first + begin) * s, s, s);
      for (Index i = 0; i < count; ++i) {
        const Index row = first + begin + i;
        const std::uint32_t* mine = indices.data() + row * s;
        double least = 0.0, top = 0.0;
        for (Index j = 0; j < s; ++j) {
          const double c = std::abs(static_cast<double>(codes[size(row * s + j)])) * scale;
          if (c > 0.0 && (least == 0.0 || c < least)) least = c;
        }
        const auto offer = [&](std::uint32_t a) {
          if (std::find(mine, mine + s, a) != mine + s) return;
          double dot = 0.0;
          const float* d = decoder_.data() + static_cast<Index>(a) * p_;
          for (Index c = 0; c < p_; ++c) dot += r[size(i * p_ + c)] * static_cast<double>(d[c]);
          if (std::abs(dot) > top || (std::abs(dot) == top && top > 0.0 && a < report.atoms[size(row)])) {
            top = std::abs(dot);
            report.atoms[size(row)] = a;
          }
        };
        if (lists.crowded(i)) {
          for (Index a = 0; a < k_; ++a) {
            if (live[size(a)] != 0) offer(static_cast<std::uint32_t>(a));
          }
        } else {
          for (Index j = 0; j < lists.count(i); ++j) offer(lists.atoms(i)[j]);
        }
        report.ratios[size(row)] = least > 0.0 ? top / least : 0.0;
      }
    });
    linalg::poll_interrupt();
  }
  std::vector<double> sorted = report.ratios;
  std::sort(sorted.begin(), sorted.end());
  constexpr std::array levels{0.5, 0.9, 0.99, 1.0};
  for (std::size_t q = 0; q < levels.size(); ++q) {
    const auto last = static_cast<double>(sorted.size() - 1);
    report.quantiles[q] = sorted[static_cast<std::size_t>(std::ceil(levels[q] * last))];
  }
  const auto certified = std::upper_bound(sorted.begin(), sorted.end(), 1.0 + 1e-4) - sorted.begin();
  report.certified_fraction = static_cast<double>(certified) / static_cast<double>(sorted.size());
  return report;
}

Model Model::grow(const Rows& rows, Index n_components, const EncodeOptions& o) const {
  if (n_components < k_) {
    throw broken_rule("n_components", "must be at least " + std::to_string(k_), std::to_string(n_components));
  }
  const Index sample = std::min(rows.count, std::max(4 * n_components, Index{65536}));
  const Index stride = sample > 0 ? rows.count / sample : 1, s = std::min(std::max<Index>(o.n_nonzero_coefs, 1), k_);
  // The sampled rows, as a source of their own that the caller's rows stand behind.
  Rows taken{sample, rows.width, rows.dtype, nullptr, rows.width, {}};
  const std::size_t item = size_of(rows.dtype);
  taken.read = [&](Index first, Index count, void* out) {
    for (Index i = 0; i < count; ++i) {
      char* to = static_cast<char*>(out) + static_cast<std::size_t>(i * rows.width) * item;
      const Index row = (first + i) * stride;
      if (rows.in_place()) {
        const char* from = static_cast<const char*>(rows.data) + static_cast<std::size_t>(row * rows.stride) * item;
        std::copy_n(from, static_cast<std::size_t>(rows.width) * item, to);
      } else {
        rows.read(row, 1, to);
      }
    }
  };
  const Rows& source = stride == 1 && sample == rows.count ? rows : taken;
  std::vector<std::uint32_t> indices(size(sample * s));
  std::vector<float> codes(size(sample * s));
  (void)encode(source, o, indices.data(), codes.data());
  const linalg::ThreadScope threads(o.num_threads);
  const bool centred = std::any_of(mean_.begin(), mean_.end(), [](float v) { return v != 0.0f; });
  Packer pack(source, exponent_, centred ? &mean_ : nullptr, o.batch_size);
  const double scale = std::ldexp(1.0, -exponent_);
  std::vector<float> residual(size(sample * p_));
  std::vector<double> r(size(p_));
  const Index step = std::min(sample, pack.step(8192));
  for (Index first = 0; first < sample; first += step) {
    const RowBlock x = pack(first, std::min(step, sample - first));
    for (Index i = 0; i < x.count; ++i) {
      for (Index c = 0; c < p_; ++c) r[size(c)] = static_cast<double>(x[i][c]);
      double before = 0.0, after = 0.0;
      for (const double v : r) before += v * v;
      for (Index j = 0; j < s; ++j) {
        const Index e = (first + i) * s + j;
        const double c = static_cast<double>(codes[size(e)]) * scale;
        const float* d = decoder_.data() + static_cast<Index>(indices[size(e)]) * p_;
        for (Index q = 0; q < p_; ++q) r[size(q)] -= c * static_cast<double>(d[q]);
      }
      for (const double v : r) after += v * v;
      // What is left of a row that is explained is rounding, and no direction.
      const bool left = after > 1e-10 * before;
      for (Index c = 0; c < p_; ++c)
        residual[size((first + i) * p_ + c)] = left ? static_cast<float>(r[size(c)]) : 0.0f;
    }
  }
  std::vector<float> decoder(decoder_);
  decoder.resize(size(n_components * p_), 0.0f);
  const Rows left = Rows::of(residual.data(), sample, p_);
  Packer residuals(left, 0, nullptr, o.batch_size);
  Index next = k_;
  for (const Index row : seed_rows(residuals, p_, n_components - k_, true)) {
    const float* x = residual.data() + row * p_;
    for (Index c = 0; c < p_; ++c) r[size(c)] = static_cast<double>(x[c]);
    project_row(r.data(), p_, std::sqrt(kernels().square_norm(r.data(), p_)), decoder.data() + next++ * p_);
  }
  return {std::move(decoder), n_components, p_, mean_, exponent_};
}

}  // namespace arrowschur::dictionary
