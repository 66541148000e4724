// The one-shot fit.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "dictionary/decoder.hpp"
#include "dictionary/device_router.hpp"
#include "dictionary/errors.hpp"
#include "dictionary/profile.hpp"
#include "linalg/pool.hpp"
#include "linalg/symmetric_eigen.hpp"

namespace arrowschur::dictionary {
namespace {

using Clock = std::chrono::steady_clock;
std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// Supports and codes of one pass.
struct Codes {
  std::vector<std::uint32_t> indices;
  std::vector<float> codes;
};

// Everything that belongs to the decoder of one epoch.
struct Snapshot {
  std::vector<float> d;
  std::vector<std::uint64_t> fires;
  Index epoch = 0;
  double ev = 0.0, rss = 0.0, l0 = 0.0;
};

class Trainer {
 public:
  Trainer(const Rows& rows, const Options& options, const Progress& progress, DeviceRouter& device)
      : rows_(rows),
        o_(options),
        progress_(progress),
        device_(device),
        k_(options.n_components),
        p_(rows.width),
        s_(effective_slots(options)),
        moments_(examine(rows, options.batch_size)),
        pack_(rows, moments_.exponent, options.center ? &moments_.mean : nullptr, options.batch_size),
        scale_(std::ldexp(1.0, moments_.exponent)),
        statistics_(k_, p_, options.refresh_memory_bytes),
        reservoir_(std::min(k_, options.revive_pool), p_, s_, false) {}

  Fit run(const std::vector<double>* given) {
    const auto start = Clock::now();
    now_.d = seed_decoder(pack_, p_, o_, given);
    seed_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    for (Codes& c : codes_) {
      if (&c != codes_ && one_buffer()) break;
      c.indices.resize(size(rows_.count * s_));
      c.codes.resize(size(rows_.count * s_));
    }
    if (o_.refreshes_per_epoch > 1) energies_.resize(size(rows_.count));
    StepSeconds seconds;
    pass(seconds);  // before the first pass is done there is nothing to keep: an interrupt passes through
    ev_path_.push_back(now_.ev);
    best_ = now_;
    best_codes_ = last_codes_;
    try {
      if (o_.refreshes_per_epoch > 1) {
        segmented_loop();
      } else {
        loop();
      }
    } catch (const Interrupted&) {
      stop_ = StopReason::interrupted;
      if (o_.refreshes_per_epoch > 1) {
        now_.epoch = static_cast<Index>(epochs_.size());
      } else {
        now_ = best_;
      }
    }
    // In the one buffer, codes of several decoders have met: of the segments, or of a pass that was cut short.
    if (o_.refreshes_per_epoch > 1 || (one_buffer() && stop_ == StopReason::interrupted)) closing_pass();
    return result();
  }

 private:
  RowRouter router_of_now() {
    device_.forget_decoder();  // now_.d is another one in every pass
    return {now_.d.data(), k_, p_, route_settings(o_), device_.with(now_.d.data())};
  }

  // Whether no pass is kept while another is made.
  bool one_buffer() const { return o_.keep == Keep::last || o_.refreshes_per_epoch > 1; }

  // Route, code and accumulate all rows with now_.d.
  void pass(StepSeconds& seconds) {
    const RowRouter router = router_of_now();
    const int into = one_buffer() || best_codes_ != 0 ? 0 : 1;  // not where the best ones are
    statistics_.clear();
    reservoir_.clear();
    PassSums sums;
    Codes& codes = codes_[ev_path_.empty() ? 0 : into];
    run_pass(pack_, 0, rows_.count, 0, router, s_,
             {codes.indices.data(), codes.codes.data(), energies_.empty() ? nullptr : energies_.data(), &statistics_,
              &reservoir_, nullptr},
             sums, counters_, route_, seconds);
    last_codes_ = ev_path_.empty() ? 0 : into;
    energy_ = sums.energy;
    summarise(sums.rss);
  }

  void summarise(double rss) {
    now_.fires = statistics_.fires;
    now_.rss = rss;
    std::uint64_t fires = 0;
    for (const std::uint64_t f : now_.fires) fires += f;
    now_.l0 = static_cast<double>(fires) / static_cast<double>(rows_.count);
    now_.ev = explained_variance(rss, moments_.tss, energy_);
    if (!std::isfinite(rss)) throw not_finite("codes", now_.epoch);
  }

  StepInput step_input(Statistics& statistics, const std::vector<char>& dead, bool revive) {
    return {statistics,
            now_.d.data(),
            k_,
            p_,
            s_,
            packed_ridge(o_, moments_.exponent),
            o_.decoder_ridge_relative,
            revive,
            o_.refresh_memory_bytes,
            dead,
            reservoir_,
            1e-10 * energy_ / static_cast<double>(rows_.count),
            [this](const Reservoir::Entry& e) {
              const Codes& c = codes_[last_codes_];
              return CodedRow{pack_(e.row, 1).data, c.indices.data() + e.row * s_, c.codes.data() + e.row * s_};
            },
            now_.epoch + 1,
            o_.unit_sweep,
            profile()};
  }

  std::function<void(const std::vector<char>&, double*)> profile() {
    if (!o_.profile_step) return {};
    return [this](const std::vector<char>& live, double* b) {
      const Codes& c = codes_[last_codes_];
      leading_directions(pack_, c.indices.data(), c.codes.data(), k_, p_, live, b);
    };
  }

  void loop() {
    std::vector<float> next;
    for (Index e = 1; e <= o_.max_iter; ++e) {
      EpochRecord record;
      const std::vector<char> dead = dead_atoms(now_.fires, o_.revive_min_fires);
      Step step = next_decoder(step_input(statistics_, dead, o_.revive), next, record.seconds);
      std::swap(now_.d, next);
      now_.epoch = e;
      pass(record.seconds);
      record.refresh = std::move(step.refresh);
      if (!close_epoch(record, step.revived)) return;
    }
  }

  // Rows in m segments, a refresh before each; a segment's new codes replace its old terms.
  void segmented_loop() {
    const Index n = rows_.count, m = o_.refreshes_per_epoch;
    Codes& codes = codes_[last_codes_];
    std::vector<float> next;
    for (Index e = 1; e <= o_.max_iter; ++e) {
      EpochRecord record;
      std::vector<Index> revived;
      const std::vector<char> dead = dead_atoms(now_.fires, o_.revive_min_fires);
      for (Index part = 0; part < m; ++part) {
        const Index begin = n * part / m, end = n * (part + 1) / m;
        if (begin == end) continue;
        Statistics work(statistics_);
        if (begin == 0) {
          reservoir_.clear();
          const RowBlock unused{nullptr, 0, n};
          reservoir_.add(unused, 0, energies_.data(), codes.indices.data(), codes.codes.data());
        }
        Step step = next_decoder(step_input(work, dead, o_.revive && begin == 0), next, record.seconds);
        if (begin == 0) {
          revived = step.revived;
          record.refresh = step.refresh;
        } else {
          record.refresh.failed_columns += step.refresh.failed_columns;
          record.refresh.relative_residual = std::max(record.refresh.relative_residual, step.refresh.relative_residual);
          record.refresh.bump = std::max(record.refresh.bump, step.refresh.bump);
        }
        std::swap(now_.d, next);
        now_.epoch = e;
        accumulate(begin, end, -1.0);
        const RowRouter router = router_of_now();
        PassSums sums;
        run_pass(pack_, begin, end, begin, router, s_,
                 {codes.indices.data() + begin * s_, codes.codes.data() + begin * s_, energies_.data() + begin,
                  &statistics_, nullptr, nullptr},
                 sums, counters_, route_, record.seconds);
      }
      if (e % 8 == 0) {  // drops what subtraction has left of rounding
        statistics_.clear();
        accumulate(0, n, 1.0);
      }
      double rss = 0.0;
      for (const double energy : energies_) rss += energy;
      summarise(rss);
      if (!close_epoch(record, revived)) return;
    }
  }

  // One more pass makes all stored codes those of now_.d.
  void closing_pass() {
    const linalg::InterruptShield whole;
    StepSeconds unused;
    pass(unused);
    best_ = now_;
    best_codes_ = last_codes_;
  }

  void accumulate(Index begin, Index end, double sign) {
    const linalg::InterruptShield whole;
    const Codes& codes = codes_[last_codes_];
    const Index step = pack_.step(16384);
    for (Index first = begin; first < end; first += step) {
      const RowBlock x = pack_(first, std::min(step, end - first));
      statistics_.add(x, codes.indices.data() + first * s_, codes.codes.data() + first * s_, s_, sign);
    }
  }

  // Records the epoch, keeps the best, and says whether to go on.
  bool close_epoch(EpochRecord& record, const std::vector<Index>& revived) {
    const double previous = ev_path_.back(), best = *std::max_element(ev_path_.begin(), ev_path_.end());
    const double square = scale_ * scale_;
    record.epoch = now_.epoch;
    record.ev = now_.ev;
    record.rss = now_.rss * square;
    record.l0 = now_.l0;
    for (const std::uint64_t f : now_.fires) (f > 0 ? record.alive : record.dead) += 1;
    record.revived = static_cast<Index>(revived.size());
    for (const Index a : revived) record.accepted += now_.fires[size(a)] > 0 ? 1 : 0;
    ev_path_.push_back(now_.ev);
    epochs_.push_back(record);
    if (o_.keep == Keep::last || now_.ev > best_.ev) {
      if (o_.refreshes_per_epoch == 1) best_ = now_;
      best_codes_ = last_codes_;
    }

    const bool settled = record.accepted == 0 && record.refresh.failed_columns == 0;
    if (now_.epoch >= 2 && settled && std::abs(now_.ev - previous) <= o_.tol) {
      stop_ = StopReason::tolerance;
      converged_ = true;
    }
    plateau_ = now_.ev - best <= std::max(o_.tol, 1e-3 * (best - ev_path_.front())) ? plateau_ + 1 : 0;
    const bool flat = o_.patience > 0 && plateau_ >= o_.patience;
    const bool go_on = !progress_ || progress_(record);
    if (converged_) return false;
    if (flat) {
      stop_ = StopReason::plateau;
      converged_ = record.refresh.failed_columns == 0;
      return false;
    }
    if (!go_on) {
      stop_ = StopReason::callback;
      return false;
    }
    return true;
  }

  Fit result() {
    Fit fit;
    fit.rows = rows_.count;
    fit.width = p_;
    fit.n_components = k_;
    fit.n_nonzero_coefs = s_;
    fit.decoder = std::move(best_.d);
    fit.dormant = count_dormant(fit.decoder.data(), k_, p_);
    if (o_.keep_codes) {
      fit.indices = std::move(codes_[best_codes_].indices);
      fit.codes = std::move(codes_[best_codes_].codes);
      if (moments_.exponent != 0) {
        for (float& c : fit.codes) c = static_cast<float>(static_cast<double>(c) * scale_);
      }
    }
    fit.mean = o_.center ? moments_.mean : std::vector<float>(size(p_), 0.0f);
    fit.exponent = moments_.exponent;
    fit.explained_variance = best_.ev;
    fit.fvu = 1.0 - best_.ev;
    fit.rss = best_.rss * scale_ * scale_;
    fit.tss = moments_.tss * scale_ * scale_;
    fit.l0 = best_.l0;
    fit.n_iter = static_cast<Index>(epochs_.size());
    fit.best_epoch = best_.epoch;
    fit.converged = converged_;
    fit.stop_reason = stop_;
    for (const std::uint64_t f : best_.fires) (f > 0 ? fit.alive : fit.dead) += 1;
    fit.atom_fires = std::move(best_.fires);
    fit.ev_path = std::move(ev_path_);
    fit.epochs = std::move(epochs_);
    route_.score_flops = counters_.flops;
    route_.rescored = counters_.rescored;
    route_.rescanned_rows = counters_.rescanned;
    route_.peak_score_bytes = counters_.score_bytes;
    device_.add_to(route_);
    fit.route = route_;
    fit.seed_seconds = seed_seconds_;
    fit.ridge = o_.code_ridge;
    return fit;
  }

  const Rows& rows_;
  const Options& o_;
  const Progress& progress_;
  DeviceRouter& device_;
  Index k_, p_, s_;
  Moments moments_;
  Packer pack_;
  double scale_;  // 2^e
  Statistics statistics_;
  Reservoir reservoir_;
  Snapshot now_, best_;
  Codes codes_[2];
  int last_codes_ = 0, best_codes_ = 0;
  double energy_ = 0.0, seed_seconds_ = 0.0;
  std::vector<double> energies_;  // [N] of the residuals, with segments
  std::vector<double> ev_path_;
  std::vector<EpochRecord> epochs_;
  Index plateau_ = 0;
  bool converged_ = false;
  StopReason stop_ = StopReason::max_iter;
  RouteCounters counters_;
  RouteReport route_;
};

// sum over rows and singular values of their atoms of sigma^2 / (sigma^2 + rho).
double effective_parameters(const Fit& fit, double rho) {
  const Index s = fit.n_nonzero_coefs, p = fit.width, rows_per_task = 256;
  const Index tasks = (fit.rows + rows_per_task - 1) / rows_per_task;
  std::vector<double> sums(size(tasks));
  linalg::parallel_for(tasks, [&](Index task) {
    std::vector<const float*> atoms;
    for (Index i = task * rows_per_task; i < std::min(fit.rows, (task + 1) * rows_per_task); ++i) {
      atoms.clear();
      for (Index j = 0; j < s; ++j) {
        if (fit.codes[size(i * s + j)] != 0.0f) atoms.push_back(fit.decoder.data() + fit.indices[size(i * s + j)] * p);
      }
      const Index m = static_cast<Index>(atoms.size());
      if (m == 0) continue;
      Eigen::MatrixXd gram(m, m);
      for (Index j = 0; j < m; ++j) {
        for (Index l = 0; l <= j; ++l) gram(j, l) = kernels().s64(atoms[size(j)], atoms[size(l)], p);
      }
      for (const double v : linalg::symmetric_eigenvalues(gram)) {
        const double square = std::max(v, 0.0);
        if (square > 0.0) sums[size(task)] += square / (square + rho);
      }
    }
  });
  double sum = 0.0;
  for (const double v : sums) sum += v;
  return sum;
}

Fit fit_by_evidence(const Rows& rows, const Options& options, const std::vector<double>* dict_init,
                    const Progress& progress, DeviceRouter& device) {
  constexpr Index kSteps = 64;
  Options o = options;
  o.keep_codes = true;
  double rho = options.code_ridge > 0.0 ? options.code_ridge : 1e-6;
  std::vector<double> warm;
  const std::vector<double>* start = dict_init;
  Fit result;
  for (Index step = 1;; ++step) {
    o.code_ridge = o.decoder_ridge = rho;
    result = Trainer(rows, o, progress, device).run(start);
    result.ridge_steps = step;
    if (result.stop_reason == StopReason::callback || result.stop_reason == StopReason::interrupted) break;
    double square = 0.0;
    for (const float c : result.codes) square += static_cast<double>(c) * static_cast<double>(c);
    const double gamma = effective_parameters(result, rho);
    const double numbers = static_cast<double>(rows.count) * static_cast<double>(rows.width);
    const double next = result.rss / (numbers - gamma) * gamma / square;
    // No residual or no code: there is nothing to weigh, as for rows of zeros.
    if (step == kSteps || !(next > 0.0) || !std::isfinite(next)) break;
    if (std::abs(std::log(next / rho)) <= std::sqrt(options.tol)) break;
    rho = next;
    warm.assign(result.decoder.begin(), result.decoder.end());
    start = &warm;
    o.init = Init::given;
  }
  if (!options.keep_codes) {
    result.indices = {};
    result.codes = {};
  }
  return result;
}

}  // namespace

Fit fit(const Rows& rows, const Options& options, const std::vector<double>* dict_init, const Progress& progress) {
  check(options);
  check_init(options, dict_init, rows.width);
  DeviceRouter device(options.device, options.n_components, rows.width, options.batch_size, route_settings(options));
  const linalg::ThreadScope threads(options.num_threads);
  check_shape(rows);
  const bool several = options.ridge == Ridge::evidence;
  device.consider(rows.count, (options.max_iter + 1) * (several ? 2 : 1));  // of evidence two fits at least
  if (several) return fit_by_evidence(rows, options, dict_init, progress, device);
  return Trainer(rows, options, progress, device).run(dict_init);
}

}  // namespace arrowschur::dictionary
