// Training on shards.
#include <algorithm>
#include <cmath>
#include <functional>

#include "dictionary/archive.hpp"
#include "dictionary/decoder.hpp"
#include "dictionary/device_router.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::dictionary {
namespace {

constexpr char kMagic[] = "arrowschur.dictionary.stream/1";

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

void check_stream(const Options& o) {
  check(o);
  if (o.refreshes_per_epoch != 1) {
    throw invalid("refreshes_per_epoch must be 1 for streams, got " + std::to_string(o.refreshes_per_epoch),
                  "refreshes_per_epoch", std::to_string(o.refreshes_per_epoch), "1");
  }
  if (o.ridge == Ridge::evidence)
    throw UnsupportedConfiguration("ridge='evidence' in a stream", "", "use a one-shot fit");
  if (o.profile_step) throw UnsupportedConfiguration("profile_step in a stream", "", "use a one-shot fit");
}

}  // namespace

struct Stream::State {
  State(const Options& options, Index width)
      : o(options),
        k(options.n_components),
        p(width),
        s(effective_slots(options)),
        statistics(k, p, options.refresh_memory_bytes),
        reservoir(std::min(k, options.revive_pool), p, s, true),
        moments(width),
        idle(size(k)),
        device(options.device, k, p, options.batch_size, route_settings(options)) {}

  Options o;
  Index k, p, s;
  int exponent = 0;
  std::vector<float> mean, d;
  // the open epoch
  Statistics statistics;
  Reservoir reservoir;
  ShiftedSums moments;
  PassSums sums;
  StepSeconds seconds;
  std::vector<Index> revived;  // by the refresh before this epoch
  std::vector<Index> idle;     // step(): rows since the atom has fired
  // closed epochs
  std::vector<double> ev_path;
  std::vector<EpochRecord> records;
  std::vector<float> best_d;
  std::vector<std::uint64_t> best_fires;
  double best_ev = 0, best_rss = 0, best_tss = 0, best_l0 = 0;
  Index best_epoch = 0, plateau = 0;
  bool converged = false;
  StopReason stop = StopReason::max_iter;
  RouteReport route;
  RouteCounters counters;
  DeviceRouter device;

  double scale() const { return std::ldexp(1.0, exponent); }

  // Before anything is counted: rows that are refused leave the state as it was.
  void check_rows(const Rows& shard) const {
    check_shape(shard);
    if (shard.width != p) {
      throw invalid("X has " + std::to_string(shard.width) + " features, but SparseDictionary is expecting " +
                        std::to_string(p) + " features as input",
                    "X", std::to_string(shard.width) + " features", std::to_string(p) + " features");
    }
    check_range(shard, o.batch_size, exponent);
  }

  void pass(const Rows& shard, ShardReport& report) {
    Packer pack(shard, exponent, o.center ? &mean : nullptr, o.batch_size);
    device.consider(shard.count, 1);
    const RowRouter router(d.data(), k, p, route_settings(o), device.with(d.data()));
    const double before = sums.rss;
    const Index rows_before = sums.rows;
    run_pass(pack, 0, shard.count, sums.rows, router, s, {nullptr, nullptr, nullptr, &statistics, &reservoir, &moments},
             sums, counters, route, seconds);
    device.add_to(route);
    report.rss = (sums.rss - before) * scale() * scale();
    report.rows = sums.rows - rows_before;
  }

  StepInput input(Statistics& from, const std::vector<char>& dead) {
    return {from,
            d.data(),
            k,
            p,
            s,
            packed_ridge(o, exponent),
            o.decoder_ridge_relative,
            o.revive,
            o.refresh_memory_bytes,
            dead,
            reservoir,
            1e-10 * sums.energy / static_cast<double>(sums.rows),
            [this](const Reservoir::Entry& e) {
              return CodedRow{reservoir.row(e), reservoir.indices(e), reservoir.codes(e)};
            },
            static_cast<Index>(records.size()),
            o.unit_sweep};
  }

  // The record of the pass that ends, before the statistics are used up.
  EpochRecord record_pass(const std::vector<std::uint64_t>& fires) {
    EpochRecord record;
    record.epoch = static_cast<Index>(records.size());
    record.ev = explained_variance(sums.rss, moments.tss(), sums.energy);
    record.rss = sums.rss * scale() * scale();
    std::uint64_t total = 0;
    for (const std::uint64_t f : fires) {
      total += f;
      (f > 0 ? record.alive : record.dead) += 1;
    }
    record.l0 = static_cast<double>(total) / static_cast<double>(sums.rows);
    for (const Index a : revived) record.accepted += fires[size(a)] > 0 ? 1 : 0;
    // With keep = last the figures that finalize() returns are those of the last pass.
    if (records.empty() || o.keep == Keep::last || record.ev > best_ev) {
      best_ev = record.ev;
      best_rss = record.rss;
      best_tss = moments.tss() * scale() * scale();
      best_l0 = record.l0;
      best_epoch = record.epoch;
      best_d = d;
      best_fires = fires;
    }
    return record;
  }

  void close(EpochRecord& record, Step step, std::vector<float>& next) {
    const double previous = ev_path.empty() ? 0.0 : ev_path.back();
    const double best = ev_path.empty() ? 0.0 : *std::max_element(ev_path.begin(), ev_path.end());
    const bool failed = !records.empty() && records.back().refresh.failed_columns > 0;
    if (record.epoch >= 1) {
      plateau = record.ev - best <= std::max(o.tol, 1e-3 * (best - ev_path.front())) ? plateau + 1 : 0;
      if (record.epoch >= 2 && record.accepted == 0 && !failed && std::abs(record.ev - previous) <= o.tol) {
        converged = true;
        stop = StopReason::tolerance;
      } else if (o.patience > 0 && plateau >= o.patience) {
        converged = !failed;
        stop = StopReason::plateau;
      } else {
        converged = false;
        stop = StopReason::max_iter;
      }
    }
    std::swap(d, next);
    device.forget_decoder();
    revived = std::move(step.revived);
    record.refresh = std::move(step.refresh);
    record.revived = static_cast<Index>(revived.size());
    record.seconds = seconds;
    ev_path.push_back(record.ev);
    records.push_back(record);
    reservoir.clear();
    moments.reset();
    sums = {};
    seconds = {};
  }
};

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

Stream::Stream(const Rows& seed, const Options& options, const std::vector<double>* dict_init) {
  check_stream(options);
  check_shape(seed);
  check_init(options, dict_init, seed.width);
  const linalg::ThreadScope threads(options.num_threads);
  const Moments moments = examine(seed, options.batch_size);
  state_ = std::make_unique<State>(options, seed.width);
  state_->exponent = moments.exponent;
  state_->mean = options.center ? moments.mean : std::vector<float>(size(seed.width), 0.0f);
  Packer pack(seed, moments.exponent, options.center ? &moments.mean : nullptr, options.batch_size);
  state_->d = seed_decoder(pack, seed.width, options, dict_init);
}

Stream::Stream(const Model& seed, const Options& options) {
  check_stream(options);
  if (options.n_components != seed.n_components()) {
    throw invalid("seed has " + std::to_string(seed.n_components()) + " atoms, n_components is " +
                      std::to_string(options.n_components),
                  "n_components", std::to_string(options.n_components), std::to_string(seed.n_components()));
  }
  state_ = std::make_unique<State>(options, seed.width());
  state_->exponent = seed.exponent();
  state_->mean = seed.mean();
  state_->d = seed.decoder();
  state_->o.center = std::any_of(seed.mean().begin(), seed.mean().end(), [](float v) { return v != 0.0f; });
}

ShardReport Stream::partial_fit(const Rows& shard) {
  State& st = *state_;
  ShardReport report;
  if (shard.count > 0) {
    const linalg::ThreadScope threads(st.o.num_threads);
    st.check_rows(shard);
    st.pass(shard, report);
  }
  for (const std::uint64_t f : st.statistics.fires) report.alive += f > 0 ? 1 : 0;
  return report;
}

EpochRecord Stream::end_epoch() {
  State& st = *state_;
  if (st.sums.rows == 0) {
    throw invalid("end_epoch called before any rows were given", "rows", "0", "at least one row");
  }
  const linalg::ThreadScope threads(st.o.num_threads);
  const linalg::InterruptShield whole;
  EpochRecord record = st.record_pass(st.statistics.fires);
  const std::vector<char> dead = dead_atoms(st.statistics.fires, st.o.revive_min_fires);
  std::vector<float> next;
  Step step = next_decoder(st.input(st.statistics, dead), next, st.seconds);
  st.close(record, std::move(step), next);
  st.statistics.clear();
  return st.records.back();
}

EpochRecord Stream::step(const Rows& rows, Index window_rows) {
  State& st = *state_;
  if (window_rows < 1) {
    throw invalid("window_rows must be at least 1, got " + std::to_string(window_rows), "window_rows",
                  std::to_string(window_rows), "at least 1");
  }
  if (st.sums.rows != 0) {
    throw invalid("end_epoch must close the rows of partial_fit before a step", "rows",
                  std::to_string(st.sums.rows) + " open rows", "0 open rows");
  }
  const linalg::ThreadScope threads(st.o.num_threads);
  st.check_rows(rows);
  const double beta = std::max(0.0, 1.0 - static_cast<double>(rows.count) / static_cast<double>(window_rows));
  st.statistics.a.scale(beta);
  for (double& v : st.statistics.b) v *= beta;
  std::fill(st.statistics.fires.begin(), st.statistics.fires.end(), 0);
  const linalg::InterruptShield whole;  // a step is one thing: forgetting cannot be taken back
  ShardReport unused;
  st.pass(rows, unused);
  EpochRecord record = st.record_pass(st.statistics.fires);
  std::vector<char> dead(size(st.k));
  Statistics work(st.statistics);
  for (Index a = 0; a < st.k; ++a) {
    Index& idle = st.idle[size(a)];
    idle = st.statistics.fires[size(a)] > 0 ? 0 : idle + rows.count;
    dead[size(a)] = idle >= window_rows ? 1 : 0;
    // live: what is left of its statistics decides
    work.fires[size(a)] = dead[size(a)] == 0 && work.a.diagonal(a) > 0.0 ? 1 : 0;
  }
  std::vector<float> next;
  Step done = next_decoder(st.input(work, dead), next, st.seconds);
  for (const Index a : done.revived) {
    st.statistics.forget(a);  // they were those of another direction
    st.idle[size(a)] = 0;
  }
  st.close(record, std::move(done), next);
  return st.records.back();
}

Model Stream::model() const { return {state_->d, state_->k, state_->p, state_->mean, state_->exponent}; }
const Options& Stream::options() const noexcept { return state_->o; }
Index Stream::rows_in_epoch() const noexcept { return state_->sums.rows; }
Index Stream::epochs() const noexcept { return static_cast<Index>(state_->records.size()); }
bool Stream::converged() const noexcept { return state_->converged; }

Fit Stream::finalize() const {
  const State& st = *state_;
  if (st.records.empty()) {
    throw invalid("end_epoch called before any rows were given", "epochs", "0", "at least one closed epoch");
  }
  const bool best = st.o.keep == Keep::best;
  Fit fit;
  fit.rows = 0;
  fit.width = st.p;
  fit.n_components = st.k;
  fit.n_nonzero_coefs = st.s;
  fit.decoder = best ? st.best_d : st.d;
  fit.mean = st.mean;
  fit.exponent = st.exponent;
  fit.explained_variance = best ? st.best_ev : st.records.back().ev;
  fit.fvu = 1.0 - fit.explained_variance;
  fit.rss = best ? st.best_rss : st.records.back().rss;
  fit.tss = st.best_tss;
  fit.l0 = best ? st.best_l0 : st.records.back().l0;
  fit.atom_fires = st.best_fires;
  fit.ev_path = st.ev_path;
  fit.n_iter = static_cast<Index>(st.records.size());
  fit.best_epoch = best ? st.best_epoch : fit.n_iter - 1;
  fit.converged = st.converged;
  fit.stop_reason = st.stop;
  for (const std::uint64_t f : fit.atom_fires) (f > 0 ? fit.alive : fit.dead) += 1;
  fit.dormant = count_dormant(fit.decoder.data(), st.k, st.p);
  fit.epochs = st.records;
  fit.route = st.route;
  fit.ridge = st.o.code_ridge;
  return fit;
}

// ---- state to bytes ---------------------------------------------------------------------------------------------------
struct StreamFile {
  template <class Archive, class T>
  static void choice(Archive& io, T& value, T last) {
    auto number = static_cast<std::uint8_t>(value);
    io(number);
    if (number > static_cast<std::uint8_t>(last)) Reader::damaged();
    value = static_cast<T>(number);
  }
  template <class Archive>
  static void options(Archive& io, Options& o) {
    io(o.n_components), io(o.n_nonzero_coefs), choice(io, o.router, Router::omp), io(o.refine_factor), io(o.max_iter),
        io(o.tol);
    io(o.patience), io(o.code_ridge), io(o.decoder_ridge), io(o.decoder_ridge_relative), io(o.refreshes_per_epoch);
    choice(io, o.ridge, Ridge::evidence), io(o.unit_sweep), io(o.profile_step);
    io(o.center), choice(io, o.init, Init::sample), io(o.batch_size), io(o.score_tile), io(o.revive),
        io(o.revive_min_fires);
    io(o.revive_pool), io(o.refresh_memory_bytes), choice(io, o.keep, Keep::last), io(o.keep_codes);
    choice(io, o.device, Device::required);
    int threads = o.num_threads.value_or(0);
    io(threads);
    o.num_threads = threads > 0 ? std::optional<int>(threads) : std::nullopt;
  }
  template <class Archive>
  static void record(Archive& io, EpochRecord& r) {
    io(r.epoch), io(r.ev), io(r.rss), io(r.l0), io(r.alive), io(r.dead), io(r.revived), io(r.accepted);
    io(r.refresh.method), io(r.refresh.components), io(r.refresh.max_component), io(r.refresh.nnz);
    io(r.refresh.iterations), io(r.refresh.relative_residual), io(r.refresh.bump), io(r.refresh.failed_columns);
    io(r.seconds);
  }
  template <class Archive>
  static void moments(Archive& io, ShiftedSums& m) {
    io(m.n_), io(m.shift_), io(m.s1_), io(m.s2_);
  }
  template <class Archive>
  static void reservoir(Archive& io, Reservoir& r) {
    io(r.heap_), io(r.rows_), io(r.indices_), io(r.codes_);
  }
  template <class Archive>
  static void statistics(Archive& io, Statistics& st, Index k) {
    io(st.fires);
    io.array(st.b.data(), st.b.size());
    if (st.a.dense()) {
      for (Index r = 0; r < k; ++r) io.array(st.a.row(r), r + 1);
      return;
    }
    for (Index r = 0; r < k; ++r) {
      io(st.a.diagonal(r)), io(st.a.list(r).columns), io(st.a.list(r).values);
    }
  }
  template <class Archive>
  static void state(Archive& io, Stream::State& st) {
    io(st.exponent), io(st.mean), io(st.d), moments(io, st.moments), reservoir(io, st.reservoir);
    io(st.sums), io(st.seconds), io(st.revived), io(st.idle), io(st.ev_path);
    Index count = static_cast<Index>(st.records.size());
    io.length(count, sizeof(double));
    st.records.resize(size(count));
    for (EpochRecord& r : st.records) record(io, r);
    io(st.best_d), io(st.best_fires), io(st.best_ev), io(st.best_rss), io(st.best_tss), io(st.best_l0);
    io(st.best_epoch), io(st.plateau), io(st.converged);
    choice(io, st.stop, StopReason::interrupted), io(st.route);
    statistics(io, st.statistics, st.k);
  }

  // Whether the arrays of a file fit together: every index that will be followed leads somewhere.
  static bool consistent(const Stream::State& st) {
    const auto whole = [](const auto& v, Index n) { return static_cast<Index>(v.size()) == n; };
    const auto at_least = [](const auto& v, Index n) { return static_cast<Index>(v.size()) >= n; };
    const auto atom = [&](auto a) { return a >= 0 && static_cast<Index>(a) < st.k; };
    const auto n = static_cast<Index>(st.records.size());
    const Reservoir& r = st.reservoir;
    const auto m = static_cast<Index>(r.heap_.size());
    const auto entry = [&](const Reservoir::Entry& e) {
      return e.energy >= 0.0 && std::isfinite(e.energy) && e.slot >= 0 && e.slot < m;
    };
    const auto ascending = [](const NormalMatrix::List& list, Index row) {
      return list.columns.size() == list.values.size() &&
             std::is_sorted(list.columns.begin(), list.columns.end(), std::less_equal<>()) &&
             (list.columns.empty() || static_cast<Index>(list.columns.back()) < row);
    };
    if (!st.statistics.a.dense()) {
      for (Index k = 0; k < st.k; ++k) {
        if (!ascending(st.statistics.a.list(k), k)) return false;
      }
    }
    return std::abs(st.exponent) <= 1100 && whole(st.d, st.k * st.p) && whole(st.mean, st.p) && whole(st.idle, st.k) &&
           whole(st.statistics.fires, st.k) && whole(st.moments.shift_, st.p) && whole(st.moments.s1_, st.p) &&
           whole(st.moments.s2_, st.p) && st.sums.rows >= 0 && whole(st.ev_path, n) &&
           whole(st.best_d, n > 0 ? st.k * st.p : 0) && whole(st.best_fires, n > 0 ? st.k : 0) &&
           std::all_of(st.revived.begin(), st.revived.end(), atom) && m <= r.capacity_ &&
           std::all_of(r.heap_.begin(), r.heap_.end(), entry) && at_least(r.rows_, m * st.p) &&
           at_least(r.indices_, m * st.s) && at_least(r.codes_, m * st.s) &&
           std::all_of(r.indices_.begin(), r.indices_.end(), atom);
  }
};

std::string Stream::save() const {
  Writer io;
  io(std::string(kMagic));
  StreamFile::options(io, state_->o);
  io(state_->p);
  StreamFile::state(io, *state_);
  return std::move(io.out);
}

Stream Stream::load(std::string_view bytes) {
  Reader io(bytes);
  std::string magic;
  io(magic);
  if (magic != kMagic) Reader::damaged();
  Options o;
  StreamFile::options(io, o);
  check_stream(o);
  Index p = 0;
  io(p);
  // The decoder and B are in the file, and A where it is dense: no space is made for what cannot be there.
  const Index k = o.n_components;
  const bool dense =
      4.0 * static_cast<double>(k) * static_cast<double>(k + 128) <= static_cast<double>(o.refresh_memory_bytes);
  const double least =
      static_cast<double>(k) * (12.0 * static_cast<double>(p) + (dense ? 4.0 * static_cast<double>(k) : 8.0));
  if (p < 1 || least > static_cast<double>(io.left())) Reader::damaged();
  auto state = std::make_unique<State>(o, p);
  StreamFile::state(io, *state);
  if (!io.done() || !StreamFile::consistent(*state)) Reader::damaged();
  (void)Model(state->d, k, p, state->mean, state->exponent);  // finite, of norm 1 or 0
  return Stream(std::move(state));
}

}  // namespace arrowschur::dictionary
