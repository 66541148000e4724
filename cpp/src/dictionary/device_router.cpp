#include "dictionary/device_router.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "arrowschur/profile.hpp"
#include "backend/device_factors.hpp"
#include "backend/device_memory.hpp"
#include "backend/device_stage.hpp"
#include "dictionary/errors.hpp"
#include "linalg/pool.hpp"
#include "plan/device_mode.hpp"
#include "telemetry.hpp"

namespace arrowschur::dictionary {
namespace {

using Clock = std::chrono::steady_clock;

constexpr Index kFewestScores = Index{1} << 20;  // of a minibatch, for automatic
// Rows of one trip: enough for a product, and few enough that one half of a minibatch is coded while the other is on the
// device; at most 16 MiB of rows.
constexpr Index kTripRows = 2048, kTripEntries = Index{1} << 22;

std::size_t size(Index n) { return static_cast<std::size_t>(n); }
Index nanoseconds(Clock::duration time) { return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count(); }

DeviceUnavailableError unavailable(const std::string& reason) {
  return {kPrefix + "device 'required' but no usable CUDA device: " + reason, reason};
}

// What no device does; empty: nothing.
std::string obstacle(const RouteSettings& settings, Index k) {
  if (settings.router == Router::omp) return "router='omp'";
  const Index wanted = wanted_atoms(settings, k);
  if (wanted <= ARROWSCHUR_ROUTE_MAX) return {};
  return "a search for " + std::to_string(wanted) + " atoms of a row (at most " + std::to_string(ARROWSCHUR_ROUTE_MAX) +
         " on a device)";
}

// The products at the rate of the CPU's matrix products, which is twice as high in float as in double. Whether a device is
// worth it was decided by the size of a minibatch: of its time only the link counts.
policy::Decision ask(Device mode, double rows, double passes, double k, double p) {
  policy::DeviceQuestion question;
  question.cpu_seconds = passes * rows * k * p / policy::profile_in_force()->rate_mat;
  question.admissible = true;
  question.device_seconds = [=](const MachineProfile& profile) {
    return passes * (rows + k) * p * sizeof(float) / profile.link_bw;
  };
  return policy::consider_device(mode, question);
}

}  // namespace

// What is on the device: the decoder, and for each of two lanes rows, winners and a workspace.
struct DeviceRouter::Resident {
  Resident(Index k, Index p, Index trip, Index wanted);
  ~Resident() {
    if (!device::handles_are_valid()) return;
    // The decoder is read on both lanes, and given back on the first.
    for (const device::LaneLease& lane : lanes) lane->table().stream_synchronize(lane->stream());
  }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  void send(int side, const RowBlock& x, Index first, Index count);
  FoundAtoms receive(int side, Index first, Index count);
  void count_work();

  std::array<device::LaneLease, 2> lanes;
  ArrowschurDeviceAtoms atoms;
  Index trip, wanted;
  std::size_t rows_at, found_at, rescanned_at, workspace_at;
  device::Memory decoder;
  std::array<device::Memory, 2> places;
  // Of the lanes so far.
  Telemetry work;
  std::array<std::int64_t, 2> rescanned{};
  Index bytes_reported = 0;
  std::vector<std::byte> found;  // [trip, wanted] scores, then indices

 private:
  std::size_t score_bytes(Index count) const { return size(count * wanted) * sizeof(double); }
};

DeviceRouter::Resident::Resident(Index k, Index p, Index most_rows, Index most_atoms)
    : lanes{device::lease_lane(), device::lease_lane()},
      atoms{k, p, nullptr},
      trip(most_rows),
      wanted(most_atoms),
      found(size(most_rows * most_atoms) * (sizeof(double) + sizeof(std::uint32_t))) {
  const device::Table& table = lanes[0]->table();
  std::size_t workspace = 0;
  lanes[0]->require(table.route_sizes(&atoms, trip, static_cast<std::int32_t>(wanted), &workspace), "route_sizes");
  device::Layout layout;
  rows_at = layout.add_array<float>(trip * p);
  found_at = layout.add(found.size());
  rescanned_at = layout.add_array<std::int64_t>(1);
  workspace_at = layout.add(workspace);
  const std::size_t atoms_bytes = size(k * p) * sizeof(float), needed = atoms_bytes + 2 * layout.bytes();
  const std::size_t budget = device::byte_budget(table, {}, 0);
  if (needed > budget) {
    throw device::OutOfMemory(std::to_string(needed) + " bytes needed for the decoder and its workspace, " +
                              std::to_string(budget) + " allowed");
  }
  decoder = device::Memory(*lanes[0], atoms_bytes);
  atoms.atoms = decoder.at<float>(0);
  for (const std::size_t side : {0u, 1u}) {
    places[side] = device::Memory(*lanes[side], layout.bytes());
    lanes[side]->require(table.fill(places[side].at<void>(rescanned_at), 0, 1, lanes[side]->stream()), "fill");
  }
}

void DeviceRouter::Resident::send(int side, const RowBlock& x, Index first, Index count) {
  device::Lane& lane = *lanes[size(side)];
  const device::Memory& place = places[size(side)];
  const std::size_t row = size(atoms.width) * sizeof(float);
  const auto* from = reinterpret_cast<const std::byte*>(x[first]);
  if (x.stride == atoms.width) {
    lane.upload(place.at<void>(rows_at), from, size(count) * row);
  } else {
    const std::size_t stride = size(x.stride) * sizeof(float);
    lane.upload_made(place.at<void>(rows_at), size(count) * row,
                     [&](std::byte* to, std::size_t begin, std::size_t bytes) {
                       for (std::size_t at = begin; at < begin + bytes;) {
                         const std::size_t within = at % row, part = std::min(row - within, begin + bytes - at);
                         std::memcpy(to + (at - begin), from + at / row * stride + within, part);
                         at += part;
                       }
                     });
  }
  auto* const score = place.at<double>(found_at);
  auto* const index = reinterpret_cast<std::uint32_t*>(score + count * wanted);
  const device::Table& table = lane.table();
  lane.require(table.route(&atoms, count, place.at<float>(rows_at), static_cast<std::int32_t>(wanted), index, score,
                           place.at<std::int64_t>(rescanned_at), place.at<void>(workspace_at), lane.stream()),
               "route");
}

FoundAtoms DeviceRouter::Resident::receive(int side, Index first, Index count) {
  lanes[size(side)]->download(found.data(), places[size(side)].at<void>(found_at),
                              size(count * wanted) * (sizeof(double) + sizeof(std::uint32_t)));
  return {first, count, reinterpret_cast<const std::uint32_t*>(found.data() + score_bytes(count)),
          reinterpret_cast<const double*>(found.data())};
}

void DeviceRouter::Resident::count_work() {
  for (const device::LaneLease& lane : lanes) telemetry::count(work, lane->take_telemetry());
}

DeviceRouter::DeviceRouter(Device mode, Index k, Index p, Index b, const RouteSettings& settings)
    : mode_(policy::device_mode(mode)), k_(k), p_(p), b_(b), settings_(settings) {
  if (mode_ != Device::required) return;
  try {
    ask(mode_, 0.0, 0.0, 0.0, 0.0);
  } catch (const DeviceUnavailableError& error) {
    throw unavailable(error.reason);
  }
  if (const std::string what = obstacle(settings_, k_); !what.empty()) {
    throw UnsupportedConfiguration(kPrefix + what, "a device",
                                   "use device='off', or 'auto', which leaves it to the CPU");
  }
}

DeviceRouter::~DeviceRouter() = default;

bool DeviceRouter::may_fall_back() const noexcept { return mode_ != Device::required && !started_; }

void DeviceRouter::give_up(const std::string& why) {
  resident_.reset();
  given_up_ = true;
  Telemetry call, work;
  work.cpu_fallbacks = 1;
  work.fallback_reasons.push_back(why);
  telemetry::count(call, work);
}

void DeviceRouter::take() {
  const Index trip = std::min(kTripRows, std::max<Index>(64, kTripEntries / p_));
  resident_ = std::make_unique<Resident>(k_, p_, trip, wanted_atoms(settings_, k_));
  sent_ = false;
}

void DeviceRouter::consider(Index rows, Index passes) {
  if (resident_ != nullptr || given_up_ || mode_ == Device::off) return;
  const bool required = mode_ == Device::required;
  if (!required) {
    if (std::min(b_, rows) < (kFewestScores + k_ - 1) / k_ || !obstacle(settings_, k_).empty()) return;
    const auto number = [](Index n) { return static_cast<double>(n); };
    if (!ask(mode_, number(rows), number(passes), number(k_), number(p_)).use_device) return;
  }
  try {
    take();
  } catch (const DeviceUnavailableError& error) {
    if (required) throw unavailable(error.reason);
    give_up("device_unavailable: " + error.reason);
  } catch (const DeviceError& error) {
    if (required) throw;
    give_up(std::string("device_fault: ") + error.what());
  }
}

DeviceRouter* DeviceRouter::with(const float* d) {
  if (resident_ == nullptr) return nullptr;
  if (sent_) return this;
  try {
    device::Lane& lane = *resident_->lanes[0];
    lane.upload(resident_->decoder.at<void>(0), d, resident_->decoder.bytes());
    lane.synchronize();  // the other lane reads it too
    sent_ = true;
    return this;
  } catch (const DeviceUnavailableError& error) {
    if (mode_ == Device::required) throw unavailable(error.reason);
    if (!may_fall_back()) throw;
    give_up("device_unavailable: " + error.reason);
    return nullptr;
  } catch (const DeviceError& error) {
    if (!may_fall_back()) throw;
    give_up(std::string("device_fault: ") + error.what());
    return nullptr;
  }
}

void DeviceRouter::route(const RowBlock& x, RouteCounters& counters, const Code& code) {
  started_ = true;
  Resident& r = *resident_;
  // Halves of a block at least, so that there is something to do while the device works.
  const Index trips = std::max<Index>(x.count > 128 ? 2 : 1, (x.count + r.trip - 1) / r.trip);
  const Index each = (x.count + trips - 1) / trips;
  const auto rows_of = [&](Index t) { return std::min(each, x.count - t * each); };
  auto mark = Clock::now();
  const auto lap = [&](std::atomic<Index>& total) {
    const auto now = Clock::now();
    total += nanoseconds(now - mark);
    mark = now;
  };
  r.send(0, x, 0, rows_of(0));
  for (Index t = 0; t * each < x.count; ++t) {
    const Index next = t + 1;
    if (next * each < x.count) r.send(static_cast<int>(next % 2), x, next * each, rows_of(next));
    const FoundAtoms found = r.receive(static_cast<int>(t % 2), t * each, rows_of(t));
    lap(counters.route_nanoseconds);
    code(found);
    lap(counters.code_nanoseconds);
  }
}

void DeviceRouter::add_to(RouteReport& report) {
  if (resident_ == nullptr || !started_) return;
  Resident& r = *resident_;
  for (const std::size_t side : {0u, 1u}) {
    std::int64_t total = 0;
    r.lanes[side]->download(&total, r.places[side].at<void>(r.rescanned_at), sizeof total);
    report.rescanned_rows += total - r.rescanned[side];
    r.rescanned[side] = total;
  }
  r.count_work();
  report.device_to_host_bytes += r.work.d2h_bytes - r.bytes_reported;
  r.bytes_reported = r.work.d2h_bytes;
}

}  // namespace arrowschur::dictionary
