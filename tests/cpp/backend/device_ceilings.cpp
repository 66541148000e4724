// What a device can do, and what its stages take, by its own events: one JSON object per line, for bench/device_check.py.
//
//     device_ceilings BACKEND WARM_UPS REPETITIONS ROTATE_BYTES COPY_BYTES NAME:N:D:K:BANDWIDTH...
//
// A copy on the device gives the ceiling of bytes; `reduce`, one symmetric update of a large shape, that of products. Each
// stage is timed on several frames in turn, so that more than ROTATE_BYTES lie between two visits of one: what a cache of
// that size kept is gone. BANDWIDTH is the border's, -1 for a dense one. Times are in seconds, one per repetition.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "backend/device_loader.hpp"
#include "backend/stage_driver.hpp"
#include "check.hpp"

using namespace stage_driver;

namespace {

struct Shape {
  std::string name;
  int n = 0, d = 0;
  std::int64_t k = 0, bandwidth = -1;
};
struct Plan {
  int warm_ups = 0, repetitions = 0;
  std::int64_t rotate_bytes = 0, copy_bytes = 0;
  std::vector<Shape> shapes;
};

Shape parse_shape(const std::string& text) {
  std::istringstream parts(text);
  std::string name, n, d, k, bandwidth;
  for (std::string* part : {&name, &n, &d, &k, &bandwidth}) std::getline(parts, *part, ':');
  return {name, std::stoi(n), std::stoi(d), std::stoll(k), std::stoll(bandwidth)};
}

// ---- events ---------------------------------------------------------------------------------------------------------
class Event {
 public:
  explicit Event(const Stream& stream) : stream_(stream) { stream_.require(stream_.table().event_create(&event_)); }
  ~Event() { stream_.table().event_destroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { stream_.require(stream_.table().event_record(event_, stream_.handle())); }
  double seconds_since(const Event& begin) const {
    double milliseconds = 0.0;
    stream_.require(stream_.table().event_elapsed(begin.event_, event_, &milliseconds));
    return 1e-3 * milliseconds;
  }

 private:
  const Stream& stream_;
  void* event_ = nullptr;
};

std::int64_t launches(const Stream& stream) {
  ArrowschurDeviceCounters counters{};
  stream.require(stream.table().counters(stream.handle(), &counters));
  return counters.kernel_launches + counters.graph_replays;
}

struct Timing {
  std::vector<double> seconds;
  std::int64_t launches = 0;  // of one repetition
};

// Nothing is waited for between two repetitions: the device has its next work at hand.
Timing time_work(Stream& stream, const Plan& plan, const std::function<void(int)>& work) {
  for (int i = 0; i < plan.warm_ups; ++i) work(i);
  stream.synchronize();
  std::vector<std::unique_ptr<Event>> begins, ends;
  const std::int64_t before = launches(stream);
  for (int i = 0; i < plan.repetitions; ++i) {
    begins.push_back(std::make_unique<Event>(stream));
    ends.push_back(std::make_unique<Event>(stream));
    begins.back()->record();
    work(plan.warm_ups + i);
    ends.back()->record();
  }
  stream.synchronize();
  Timing timing;
  timing.launches = (launches(stream) - before) / plan.repetitions;
  for (std::size_t i = 0; i < begins.size(); ++i) timing.seconds.push_back(ends[i]->seconds_since(*begins[i]));
  return timing;
}

void print(const std::string& stage, const Shape& s, std::size_t frames, const Timing& timing) {
  std::ostringstream out;
  out.precision(9);
  out << R"({"stage": ")" << stage << R"(", "fixture": ")" << s.name << R"(", "n": )" << s.n << R"(, "d": )" << s.d
      << R"(, "k": )" << s.k << R"(, "bandwidth": )" << s.bandwidth << R"(, "frames": )" << frames
      << R"(, "launches": )" << timing.launches << R"(, "seconds": [)";
  for (std::size_t i = 0; i < timing.seconds.size(); ++i) out << (i == 0 ? "" : ", ") << timing.seconds[i];
  std::cout << out.str() << "]}" << std::endl;
}

// ---- ceilings and stages --------------------------------------------------------------------------------------------
void measure_copy(const ArrowschurDeviceTable& table, const Plan& plan) {
  Stream stream(table);
  void* const from = stream.allocate(plan.copy_bytes / 8);
  void* const to = stream.allocate(plan.copy_bytes / 8);
  const auto bytes = static_cast<std::size_t>(plan.copy_bytes);
  const Timing timing =
      time_work(stream, plan, [&](int) { stream.require(table.copy_on_device(to, from, bytes, stream.handle())); });
  // In the place of n: the bytes that one copy reads and writes.
  print("copy", {.name = "bytes", .n = 1, .d = 1, .k = 2 * plan.copy_bytes}, 1, timing);
}

// A built frame with a gradient, a step and the graph of a solve.
struct Bench {
  Bench(Stream& s, const Problem& p)
      : stream(s), frame(s, p), g(s.upload(p.g)), x(s.allocate(p.total + p.k)), q(s.allocate(p.total + p.k)) {
    frame.build(0.1, 0.2);
    frame.solve(g, x);
    stream.synchronize();
    const ArrowschurDeviceTable& table = stream.table();
    stream.require(table.capture_begin(stream.handle()));
    frame.solve(g, x);
    stream.require(table.capture_end(stream.handle(), &graph));
  }
  ~Bench() { stream.table().graph_destroy(graph); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  Stream& stream;
  Frame frame;
  double *g, *x, *q;
  void* graph = nullptr;
};

// As many frames as keep their slabs and their borders out of the cache, within half of what is free.
std::size_t frames_for(const ArrowschurDeviceTable& table, const Plan& plan, const Problem& p) {
  const std::int64_t slab = 8 * p.total * p.k, border = 8 * p.k * p.k;
  const std::int64_t wanted = 2 + plan.rotate_bytes / std::max<std::int64_t>(std::min(slab, border), 1);
  std::size_t available = 0;
  if (table.free_memory(&available) != ARROWSCHUR_DEVICE_OK) return 2;
  const std::int64_t room = static_cast<std::int64_t>(available) / (2 * (3 * slab + 5 * border) + 1);
  return static_cast<std::size_t>(std::clamp<std::int64_t>(std::min(wanted, room), 2, 16));
}

void measure_stages(const ArrowschurDeviceTable& t, const Plan& plan, const Shape& shape) {
  const bool dense = shape.bandwidth < 0;
  const Problem p =
      random_problem(repeated(shape.d, shape.n), shape.k, dense ? ARROWSCHUR_BORDER_DENSE : ARROWSCHUR_BORDER_BANDED,
                     dense ? 0 : shape.bandwidth, 7);
  Stream stream(t);
  std::vector<std::unique_ptr<Bench>> frames(frames_for(t, plan, p));
  for (auto& frame : frames) frame = std::make_unique<Bench>(stream, p);

  void* const s = stream.handle();
  const auto time = [&](const char* stage, const std::function<int(Bench&, const Frame&)>& queue) {
    const auto work = [&](int i) {
      Bench& b = *frames[static_cast<std::size_t>(i) % frames.size()];
      stream.require(queue(b, b.frame));
    };
    print(stage, shape, frames.size(), time_work(stream, plan, work));
  };
  // Each may be queued again and again: none works on what it has made, but for the two that replace a vector.
  time("factor_and_whiten",
       [&](Bench&, const Frame& f) { return t.factor_and_whiten(&f.system, 0.1, &f.factor, f.workspace, s); });
  time("reduce", [&](Bench&, const Frame& f) { return t.reduce(&f.system, &f.factor, f.workspace, s); });
  time("factor_border",
       [&](Bench&, const Frame& f) { return t.factor_border(&f.system, 0.2, &f.factor, f.workspace, s); });
  time("log_det", [&](Bench&, const Frame& f) { return t.log_det(&f.system, &f.factor, f.workspace, s); });
  time("prepare_border_solve",
       [&](Bench&, const Frame& f) { return t.prepare_border_solve(&f.system, &f.factor, f.workspace, s); });
  time("reduce_rhs",
       [&](Bench& b, const Frame& f) { return t.reduce_rhs(&f.system, &f.factor, b.g, b.x, f.workspace, s); });
  time("border_solve",
       [&](Bench& b, const Frame& f) { return t.border_solve(&f.system, &f.factor, b.x + p.total, f.workspace, s); });
  time("expand", [&](Bench& b, const Frame& f) { return t.expand(&f.system, &f.factor, b.x, f.workspace, s); });
  time("apply_h", [&](Bench& b, const Frame& f) { return t.apply_h(&f.system, b.g, b.q, f.workspace, s); });
  time("schur_apply", [&](Bench& b, const Frame& f) {
    return t.schur_apply(&f.system, 0.2, &f.factor, b.g + p.total, b.q, f.workspace, s);
  });
  time("solve", [&](Bench& b, const Frame&) { return t.graph_launch(b.graph, s); });
  for (const auto& frame : frames) CHECK_EQUAL(frame->frame.record().failed, 0u);
  if (dense || p.total >= p.k) return;

  // The dual route, where it pays: W is made, V and C are made again and again.
  std::vector<std::unique_ptr<Frame>> duals(frames.size());
  frames.clear();
  for (auto& frame : duals) {
    frame = std::make_unique<Frame>(stream, p, false, false, true);
    frame->build(0.1, 0.2);
  }
  const auto reduce = [&](int i) {
    const Frame& f = *duals[static_cast<std::size_t>(i) % duals.size()];
    stream.require(t.dual_reduce(&f.system, 0.2, &f.factor, f.workspace, s));
  };
  print("dual_reduce", shape, duals.size(), time_work(stream, plan, reduce));
  for (const auto& frame : duals) CHECK_EQUAL(frame->record().failed, 0u);
}

int run(const std::string& backend, const Plan& plan) {
  const arrowschur::device::Runtime runtime = arrowschur::device::open_runtime(backend);
  if (runtime.table == nullptr) {
    std::cerr << runtime.info.why() << "\n";
    return 2;
  }
  try {
    measure_copy(*runtime.table, plan);
    for (const Shape& shape : plan.shapes) measure_stages(*runtime.table, plan, shape);
  } catch (const checks::EndOfCase&) {  // it has said why
  }
  return checks::failures_of_case() == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::cerr
        << "usage: device_ceilings BACKEND WARM_UPS REPETITIONS ROTATE_BYTES COPY_BYTES NAME:N:D:K:BANDWIDTH...\n";
    return 2;
  }
  try {
    Plan plan{std::atoi(argv[2]), std::max(std::atoi(argv[3]), 1), std::atoll(argv[4]), std::atoll(argv[5]), {}};
    for (int i = 6; i < argc; ++i) plan.shapes.push_back(parse_shape(argv[i]));
    return run(argv[1], plan);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
