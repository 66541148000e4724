// A frozen decoder at work: encode, decode, score, metrics.
#include <algorithm>
#include <array>
#include <cmath>

#include "dictionary/decoder.hpp"
#include "dictionary/device_router.hpp"
#include "dictionary/errors.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

void check(const EncodeOptions& o) {
  Options all;
  all.n_components = 1;
  all.n_nonzero_coefs = o.n_nonzero_coefs;
  all.refine_factor = o.refine_factor;
  all.code_ridge = o.code_ridge;
  all.batch_size = o.batch_size;
  all.score_tile = o.score_tile;
  all.num_threads = o.num_threads;
  check(all);
}

void check_width(const Rows& rows, Index p) {
  if (rows.width != p && rows.width > 0) {
    const std::string have = std::to_string(rows.width), want = std::to_string(p);
    throw invalid("X has " + have + " features, but SparseDictionary is expecting " + want + " features as input", "X",
                  have + " features", want + " features");
  }
}

RouteSettings settings_of(const EncodeOptions& o, Index k) {
  return {std::min(o.n_nonzero_coefs, k), o.router, o.refine_factor, o.code_ridge, o.score_tile};
}

// out [p] = mu + sum_j c_j d_j, slots ascending.
void reconstruct(const float* d, Index p, const std::uint32_t* indices, const float* codes, Index slots,
                 const double* mean, double* out) {
  for (Index c = 0; c < p; ++c) out[c] = 0.0;
  for (Index j = 0; j < slots; ++j) {
    if (codes[j] == 0.0f) continue;
    const auto weight = static_cast<double>(codes[j]);
    const float* atom = d + static_cast<Index>(indices[j]) * p;
    for (Index c = 0; c < p; ++c) out[c] += weight * static_cast<double>(atom[c]);
  }
  if (mean != nullptr) {
    for (Index c = 0; c < p; ++c) out[c] += mean[c];
  }
}

void copy_counters(const RouteCounters& counters, RouteReport& report) {
  report.score_flops = counters.flops;
  report.rescored = counters.rescored;
  report.rescanned_rows = counters.rescanned;
  report.peak_score_bytes = counters.score_bytes;
}

const std::vector<float>* mean_or_null(const std::vector<float>& mean) {
  return std::any_of(mean.begin(), mean.end(), [](float v) { return v != 0.0f; }) ? &mean : nullptr;
}

}  // namespace

Model::Model(std::vector<float> decoder, Index n_components, Index width, std::vector<float> mean, int exponent)
    : decoder_(std::move(decoder)), mean_(std::move(mean)), k_(n_components), p_(width), exponent_(exponent) {
  const auto finite = [](const std::vector<float>& v) {
    return std::all_of(v.begin(), v.end(), [](float x) { return std::isfinite(x); });
  };
  if (k_ < 1 || p_ < 1 || static_cast<Index>(decoder_.size()) != k_ * p_) {
    throw broken_rule("decoder", "must have shape (n_components, width)", std::to_string(decoder_.size()) + " numbers");
  }
  if (mean_.empty()) mean_.assign(size(p_), 0.0f);
  if (static_cast<Index>(mean_.size()) != p_) {
    throw broken_rule("mean", "must have shape (" + std::to_string(p_) + ",)",
                      std::to_string(mean_.size()) + " numbers");
  }
  if (!finite(decoder_)) throw broken_rule("decoder", "must be finite", "NaN or infinity");
  if (!finite(mean_)) throw broken_rule("mean", "must be finite", "NaN or infinity");
  for (Index a = 0; a < k_; ++a) {
    const double norm = std::sqrt(kernels().s64(decoder_.data() + a * p_, decoder_.data() + a * p_, p_));
    if (norm != 0.0 && std::abs(norm - 1.0) > 1e-5) {
      throw broken_rule("decoder", "must have rows of norm 1 or 0",
                        "norm " + std::to_string(norm) + " at row " + std::to_string(a));
    }
  }
}

RouteReport Model::encode(const Rows& rows, const EncodeOptions& o, std::uint32_t* indices, float* codes) const {
  check(o);
  check_shape(rows);
  check_width(rows, p_);
  const RouteSettings settings = settings_of(o, k_);
  DeviceRouter device(o.device, k_, p_, o.batch_size, settings);
  const linalg::ThreadScope threads(o.num_threads);
  check_finite(rows, o.batch_size);
  Packer pack(rows, exponent_, mean_or_null(mean_), o.batch_size);
  device.consider(rows.count, 1);
  const RowRouter router(decoder_.data(), k_, p_, settings, device.with(decoder_.data()));
  RouteCounters counters;
  RouteReport report;
  PassSums sums;
  StepSeconds seconds;
  run_pass(pack, 0, rows.count, 0, router, settings.s, {indices, codes, nullptr, nullptr, nullptr, nullptr}, sums,
           counters, report, seconds);
  if (exponent_ != 0) {
    for (Index e = 0; e < rows.count * settings.s; ++e) codes[e] = std::ldexp(codes[e], exponent_);
  }
  copy_counters(counters, report);
  device.add_to(report);
  return report;
}

void Model::decode(const std::uint32_t* indices, const float* codes, Index rows, Index slots, float* out,
                   std::optional<int> num_threads) const {
  for (Index e = 0; e < rows * slots; ++e) {
    if (static_cast<Index>(indices[e]) >= k_) {
      const std::string index = std::to_string(indices[e]);
      throw invalid(
          "atom index " + index + " at row " + std::to_string(e / slots) + " is not below " + std::to_string(k_),
          "indices", index, "atoms below " + std::to_string(k_));
    }
  }
  const linalg::ThreadScope threads(num_threads);
  const std::vector<double> mean(mean_.begin(), mean_.end());
  constexpr Index kRows = 64;
  linalg::parallel_for_if(rows * slots * p_ >= linalg::kParallelWork, (rows + kRows - 1) / kRows, [&](Index task) {
    std::vector<double> x(size(p_));
    for (Index i = task * kRows; i < std::min(rows, (task + 1) * kRows); ++i) {
      reconstruct(decoder_.data(), p_, indices + i * slots, codes + i * slots, slots, mean.data(), x.data());
      for (Index c = 0; c < p_; ++c) out[i * p_ + c] = static_cast<float>(x[size(c)]);
    }
  });
}

double Model::score(const Rows& rows, const EncodeOptions& o) const {
  check(o);
  check_shape(rows);
  check_width(rows, p_);
  const RouteSettings settings = settings_of(o, k_);
  DeviceRouter device(o.device, k_, p_, o.batch_size, settings);
  const linalg::ThreadScope threads(o.num_threads);
  const Moments moments = examine(rows, o.batch_size, exponent_);
  Packer pack(rows, exponent_, mean_or_null(mean_), o.batch_size);
  device.consider(rows.count, 1);
  const RowRouter router(decoder_.data(), k_, p_, settings, device.with(decoder_.data()));
  RouteCounters counters;
  RouteReport report;
  PassSums sums;
  StepSeconds seconds;
  run_pass(pack, 0, rows.count, 0, router, settings.s, {}, sums, counters, report, seconds);
  return explained_variance(sums.rss, moments.tss, sums.energy);
}

Metrics Model::metrics(const Rows& rows, const EncodeOptions& o) const {
  check(o);
  check_shape(rows);
  check_width(rows, p_);
  const RouteSettings settings = settings_of(o, k_);
  DeviceRouter device(o.device, k_, p_, o.batch_size, settings);
  const linalg::ThreadScope threads(o.num_threads);
  const Moments moments = examine(rows, o.batch_size, exponent_);
  Packer pack(rows, exponent_, mean_or_null(mean_), o.batch_size), plain(rows, exponent_, nullptr, o.batch_size);
  const Index s = settings.s, step = std::min(rows.count, pack.step(8192));
  device.consider(rows.count, 1);
  const RowRouter router(decoder_.data(), k_, p_, settings, device.with(decoder_.data()));
  std::vector<double> mean;
  for (const float v : mean_) mean.push_back(std::ldexp(static_cast<double>(v), -exponent_));
  RouteCounters counters;
  std::vector<std::uint32_t> indices(size(step * s));
  std::vector<float> codes(size(step * s));
  std::vector<double> squares(size(step));
  // By row: residual, spread about the mean, |x|, |x'|, <x, x'>, |c|_1.
  using RowNumbers = std::array<double, 6>;
  std::vector<RowNumbers> numbers(size(step));
  std::vector<std::uint64_t> fires(size(k_));
  Metrics m;
  double rss = 0.0, energy = 0.0, ev_row = 0.0, l2 = 0.0, cosine = 0.0, l1 = 0.0, l0 = 0.0;
  for (Index first = 0; first < rows.count; first += step) {
    const Index count = std::min(step, rows.count - first);
    router.route(pack(first, count), {indices.data(), codes.data(), nullptr, squares.data()}, counters);
    const RowBlock x = plain(first, count);
    linalg::parallel_for_if(count * s * p_ >= linalg::kParallelWork, (count + 63) / 64, [&](Index task) {
      std::vector<double> fit(size(p_));
      for (Index i = task * 64; i < std::min(count, (task + 1) * 64); ++i) {
        reconstruct(decoder_.data(), p_, indices.data() + i * s, codes.data() + i * s, s, mean.data(), fit.data());
        RowNumbers r{};
        for (Index c = 0; c < p_; ++c) {
          const auto v = static_cast<double>(x[i][c]);
          const double f = fit[size(c)], spread = v - moments.center[size(c)];
          r[0] += (v - f) * (v - f);
          r[1] += spread * spread;
          r[2] += v * v;
          r[3] += f * f;
          r[4] += v * f;
        }
        for (Index j = 0; j < s; ++j) r[5] += std::abs(static_cast<double>(codes[size(i * s + j)]));
        numbers[size(i)] = r;
      }
    });
    for (Index i = 0; i < count; ++i) {
      const auto& [residual, spread, norm, fit_norm, inner, weight] = numbers[size(i)];
      rss += residual;
      energy += squares[size(i)];
      ev_row += explained_variance(residual, spread, norm);
      l2 += norm > 0.0 ? std::sqrt(fit_norm / norm) : 1.0;
      cosine += norm > 0.0 && fit_norm > 0.0 ? inner / std::sqrt(norm * fit_norm) : (norm == fit_norm ? 1.0 : 0.0);
      l1 += weight;
      for (Index j = 0; j < s; ++j) {
        if (codes[size(i * s + j)] == 0.0f) continue;
        ++fires[indices[size(i * s + j)]];
        l0 += 1.0;
      }
    }
    linalg::poll_interrupt();
  }
  const auto n = static_cast<double>(rows.count);
  const double scale = std::ldexp(1.0, exponent_);
  m.mse_row = rss / n * scale * scale;
  m.mse = m.mse_row / static_cast<double>(p_);
  m.explained_variance = explained_variance(rss, moments.tss, energy);
  m.explained_variance_row = ev_row / n;
  m.fvu = 1.0 - m.explained_variance;
  m.l0 = l0 / n;
  m.l1 = l1 / n * scale;
  m.l2_ratio = l2 / n;
  m.cosine = cosine / n;
  Index alive = 0;
  for (const std::uint64_t f : fires) {
    alive += f > 0 ? 1 : 0;
    m.firing_frequency.push_back(static_cast<double>(f) / n);
  }
  m.alive_fraction = static_cast<double>(alive) / static_cast<double>(k_);
  m.dead_fraction = 1.0 - m.alive_fraction;
  return m;
}

}  // namespace arrowschur::dictionary
