#include "dictionary/decoder.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "dictionary/errors.hpp"
#include "dictionary/project.hpp"
#include "dictionary/seed.hpp"
#include "dictionary/unit_sweep.hpp"

namespace arrowschur::dictionary {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// Rows of a source by number, as a source of its own.
std::vector<float> sample_rows(Packer& pack, Index p, Index count) {
  const Index stride = pack.count() / count;
  std::vector<float> rows(size(count * p));
  for (Index i = 0; i < count; ++i) std::copy_n(pack(i * stride, 1).data, p, rows.data() + i * p);
  return rows;
}

}  // namespace

void check(const Options& options) {
  if (const auto bad = complaint(options)) throw *bad;
}

void check_init(const Options& o, const std::vector<double>* given, Index width) {
  const std::string rule = "must have shape (" + std::to_string(o.n_components) + ", " + std::to_string(width) + ")";
  if (given == nullptr) {
    if (o.init == Init::given) throw broken_rule("dict_init", rule, "None");
    return;
  }
  if (o.init != Init::given && o.init != Init::automatic) {
    throw broken_rule("init", "must be 'given' or 'auto' where dict_init is passed", to_string(o.init));
  }
  if (static_cast<Index>(given->size()) != o.n_components * width) {
    throw broken_rule("dict_init", rule, std::to_string(given->size()) + " numbers");
  }
}

Index effective_slots(const Options& o) { return std::min(o.n_nonzero_coefs, o.n_components); }

double packed_ridge(const Options& o, int exponent) {
  // A relative ridge has no unit.
  return o.decoder_ridge_relative ? o.decoder_ridge : std::ldexp(o.decoder_ridge, -2 * exponent);
}

RouteSettings route_settings(const Options& o) {
  return {effective_slots(o), o.router, o.refine_factor, o.code_ridge, o.score_tile};
}

double explained_variance(double rss, double tss, double energy) noexcept {
  if (tss <= 1e-24 * energy) return rss <= 1e-10 * energy ? 1.0 : 0.0;
  return 1.0 - rss / tss;
}

std::vector<char> dead_atoms(const std::vector<std::uint64_t>& fires, Index min_fires) {
  std::vector<char> dead(fires.size());
  for (std::size_t k = 0; k < fires.size(); ++k) dead[k] = fires[k] < static_cast<std::uint64_t>(min_fires) ? 1 : 0;
  return dead;
}

Index count_dormant(const float* d, Index k, Index p) {
  Index count = 0;
  for (Index a = 0; a < k; ++a) {
    count += std::all_of(d + a * p, d + (a + 1) * p, [](float v) { return v == 0.0f; }) ? 1 : 0;
  }
  return count;
}

std::vector<float> seed_decoder(Packer& pack, Index p, const Options& o, const std::vector<double>* given) {
  const Index k = o.n_components;
  std::vector<float> d(size(k * p), 0.0f);
  if (given != nullptr) {
    if (!project(given->data(), k, p, std::vector<char>(size(k), 1), d.data())) {
      throw invalid("dict_init must be finite", "dict_init", "NaN or infinity", "finite numbers");
    }
    return d;
  }
  const double work = static_cast<double>(pack.count()) * static_cast<double>(k) * static_cast<double>(p);
  const Index sample = std::max(4 * k, Index{65536});
  const bool sampled =
      pack.count() > sample && (o.init == Init::sample || (o.init == Init::automatic && work > 0x1p42));
  const Index pool = k > 1024 ? 512 : 256;
  std::vector<float> rows;
  std::vector<Index> picks;
  Rows source;
  std::optional<Packer> own;
  Packer* from = &pack;
  if (sampled) {
    rows = sample_rows(pack, p, sample);
    source = Rows::of(rows.data(), sample, p);
    from = &own.emplace(source, 0, nullptr, o.batch_size);
  }
  picks = seed_rows(*from, p, k, o.init != Init::euclidean, pool);
  std::vector<double> wide(size(p));
  for (std::size_t j = 0; j < picks.size(); ++j) {
    const float* x = (*from)(picks[j], 1).data;
    for (Index c = 0; c < p; ++c) wide[size(c)] = static_cast<double>(x[c]);
    project_row(wide.data(), p, std::sqrt(kernels().square_norm(wide.data(), p)), d.data() + static_cast<Index>(j) * p);
  }
  return d;
}

Step next_decoder(const StepInput& in, std::vector<float>& next, StepSeconds& seconds) {
  Step step;
  const Index k = in.k, p = in.p;
  std::vector<char> live(size(k));
  Index alive = 0;
  double trace = 0.0;
  for (Index a = 0; a < k; ++a) {
    live[size(a)] = in.statistics.fires[size(a)] > 0 ? 1 : 0;
    alive += live[size(a)];
    if (live[size(a)] != 0) trace += in.statistics.a.diagonal(a);
  }
  next.assign(in.d, in.d + k * p);
  auto start = Clock::now();
  if (alive > 0) {
    // Far above A the direction of D = B / ridge does not depend on it any more, and squares of D must not underflow.
    const double ridge = std::min(in.ridge * (in.ridge_relative ? trace / static_cast<double>(alive) : 1.0), 0x1p300);
    std::optional<Statistics> kept;
    if (in.unit_sweep && !in.profile) kept.emplace(in.statistics);  // a leading direction is final
    if (in.profile) {
      in.profile(live, in.statistics.b.data());
      step.refresh.method = "profile";
    } else {
      step.refresh = refresh(in.statistics, p, live, in.d, ridge, in.budget);
    }
    seconds.refresh += since(start);
    start = Clock::now();
    if (!project(in.statistics.b.data(), k, p, live, next.data())) throw not_finite("refresh", in.epoch);
    if (kept) unit_sweep(*kept, p, live, in.statistics.b.data(), in.d, next.data());
    seconds.project += since(start);
  }
  if (in.revive) {
    start = Clock::now();
    std::vector<Index> dead;
    for (Index a = 0; a < k; ++a) {
      if (in.dead[size(a)] != 0) dead.push_back(a);
    }
    if (!dead.empty()) {
      step.revived = revive(in.reservoir.worst_first(), in.look_up, in.d, p, in.s, in.floor, dead, next.data());
    }
    seconds.revive += since(start);
  }
  return step;
}

}  // namespace arrowschur::dictionary
