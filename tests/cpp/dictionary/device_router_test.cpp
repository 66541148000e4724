// Routing on the fake device: everything that is learned and every code equal to those of the CPU in each bit; who is asked
// for a device and when; what comes back over the link; what a failure leads to.
#include "dictionary/device_router.hpp"

#include <cmath>
#include <cstring>
#include <functional>
#include <string>

#include "arrowschur/dictionary.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"
#include "arrowschur/telemetry.hpp"
#include "dictionary/fixture.hpp"
#include "newton/fake_backend.hpp"
#include "plan/device_mode.hpp"

using namespace arrowschur;
using namespace arrowschur::dictionary;

namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

struct Codes {
  std::vector<std::uint32_t> indices;
  std::vector<float> codes;
  RouteReport report;
  bool operator==(const Codes& other) const {
    return indices == other.indices && codes.size() == other.codes.size() &&
           std::memcmp(codes.data(), other.codes.data(), codes.size() * sizeof(float)) == 0;
  }
};

EncodeOptions on(Device device, Index s, Router router = Router::topk) {
  EncodeOptions o;
  o.device = device;
  o.n_nonzero_coefs = s;
  o.router = router;
  return o;
}

Codes encode(const Model& model, const std::vector<float>& x, const EncodeOptions& o) {
  const Index rows = static_cast<Index>(x.size()) / model.width();
  const Index s = std::min(o.n_nonzero_coefs, model.n_components());
  Codes out{std::vector<std::uint32_t>(size(rows * s)), std::vector<float>(size(rows * s)), {}};
  out.report = model.encode(Rows::of(x.data(), rows, model.width()), o, out.indices.data(), out.codes.data());
  return out;
}

// Unit rows from normal draws; `copies` of each.
std::vector<float> unit_rows(Index k, Index p, std::uint64_t seed, Index copies = 1) {
  fixture::SplitMix64 random(seed);
  std::vector<float> d(size(k * p));
  for (Index a = 0; a < k; ++a) {
    float* atom = d.data() + a * p;
    if (a % copies != 0) {
      std::copy_n(atom - p, p, atom);
      continue;
    }
    double square = 0.0;
    std::vector<double> draws(size(p));
    for (double& v : draws) {
      v = random.normal();
      square += v * v;
    }
    for (Index c = 0; c < p; ++c) atom[c] = static_cast<float>(draws[size(c)] / std::sqrt(square));
  }
  return d;
}

Options small_fit(Device device) {
  Options o;
  o.n_components = 64;
  o.n_nonzero_coefs = 3;
  o.max_iter = 4;
  o.device = device;
  return o;
}

bool same_story(const Fit& a, const Fit& b) {
  const auto bits = [](const auto& x, const auto& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof x[0]) == 0;
  };
  return bits(a.decoder, b.decoder) && bits(a.indices, b.indices) && bits(a.codes, b.codes) &&
         bits(a.ev_path, b.ev_path);
}

std::string words_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ArrowError& error) {
    return error.what();
  }
  return "";
}

// Large enough for automatic on a CPU that takes seconds for it: 512 x 2048 scores in a minibatch.
class SlowCpu {
 public:
  SlowCpu() {
    MachineProfile slow = policy::built_in_cpu_profile();
    slow.rate_mat = slow.rate_vec = slow.mem_bw = 1e6;
    policy::set_profile(slow);
  }
  ~SlowCpu() { policy::set_profile(policy::built_in_cpu_profile()); }
};
constexpr Index kWidth = 8;
const std::vector<float>& large_rows() {
  static const std::vector<float> x = unit_rows(700, kWidth, 5);
  return x;
}
const Model& large_model() {
  static const Model model(unit_rows(2048, kWidth, 7), 2048, kWidth, {});
  return model;
}

}  // namespace

TEST(CodesHaveTheBitsOfTheCpu) {
  const fake::Leaks leaks;
  const auto compare = [](const Model& model, const std::vector<float>& x, Index s, Router router = Router::topk) {
    const Codes there = encode(model, x, on(Device::required, s, router)),
                here = encode(model, x, on(Device::off, s, router));
    CHECK(there == here);
    CHECK(there.report.device_minibatches > 0 && there.report.cpu_minibatches == 0);
    CHECK(here.report.device_minibatches == 0 && here.report.device_to_host_bytes == 0);
    return there.report;
  };
  const std::vector<float> g1 = fixture::g1();
  compare(Model(unit_rows(64, 32, 1), 64, 32, {}), g1, 3);
  compare(Model(unit_rows(64, 32, 1), 64, 32, {}), g1, 5, Router::refine);  // a shortlist of 20
  compare(Model(unit_rows(3, 32, 2), 3, 32, {}), g1, 9);  // fewer atoms than slots
  compare(Model(unit_rows(900, 32, 3), 900, 32, {}), g1, 32);
  CHECK(compare(Model(unit_rows(640, 32, 4, 64), 640, 32, {}), g1, 3).rescanned_rows == 2000);  // copies
  compare(Model({1.0f, -1.0f, 0.0f}, 3, 1, {}), {3.0f, 0.0f, -2.0f, 1e-3f}, 2);  // one column
  std::vector<float> dormant = unit_rows(200, 32, 6);
  std::fill(dormant.begin() + 7 * 32, dormant.end(), 0.0f);
  compare(Model(dormant, 200, 32, {}), g1, 9);
  std::vector<float> zeros = g1;
  std::fill_n(zeros.begin(), 10 * 32, 0.0f);
  compare(Model(unit_rows(64, 32, 1), 64, 32, std::vector<float>(32, 0.25f)), zeros, 4);  // packed, not in place
}

TEST(AFitHasTheHashOfTheCpu) {
  const fake::Leaks leaks;
  const std::vector<float> x = fixture::g1();
  const Rows rows = Rows::of(x.data(), 2000, 32);
  const Fit here = fit(rows, small_fit(Device::off)), there = fit(rows, small_fit(Device::required));
  CHECK(same_story(here, there));
  CHECK_EQUAL(there.route.device_minibatches, there.route.minibatches);
  CHECK_EQUAL(there.route.cpu_minibatches, Index{0});
  // The winners of five passes, and one count of each lane.
  CHECK_EQUAL(there.route.device_to_host_bytes, Index{5 * 12 * 2000 * 3 + 16});
  Options refine = small_fit(Device::off);
  refine.router = Router::refine;
  refine.refreshes_per_epoch = 3;
  refine.center = true;
  const Fit parts_here = fit(rows, refine);
  refine.device = Device::required;
  CHECK(same_story(parts_here, fit(rows, refine)));
}

TEST(AStreamKeepsItsDecoderThere) {
  const fake::Leaks leaks;
  const std::vector<float> x = fixture::g1();
  const auto run = [&](Device device) {
    Stream stream(Rows::of(x.data(), 2000, 32), small_fit(device));
    for (int epoch = 0; epoch < 3; ++epoch) {
      for (const Index first : {0, 700, 1400}) {
        stream.partial_fit(Rows::of(x.data() + first * 32, first == 1400 ? 600 : 700, 32));
      }
      stream.end_epoch();
    }
    return stream.finalize();
  };
  const Fit here = run(Device::off);
  const std::size_t before = fake::counts().h2d_bytes;
  const Fit there = run(Device::required);
  CHECK(same_story(here, there));
  // The rows of three epochs and three decoders.
  CHECK_EQUAL(fake::counts().h2d_bytes - before, std::size_t{3 * 4 * 2000 * 32 + 3 * 4 * 64 * 32});
  CHECK_EQUAL(there.route.device_to_host_bytes, Index{3 * 12 * 2000 * 3 + 9 * 16});
}

TEST(AutomaticAsksForADeviceWhenAMinibatchIsLarge) {
  const fake::Leaks leaks;
  const SlowCpu slow;
  const Codes here = encode(large_model(), large_rows(), on(Device::off, 4));
  const Codes large = encode(large_model(), large_rows(), on(Device::automatic, 4));
  CHECK(large == here);
  CHECK(large.report.device_minibatches > 0 && large.report.cpu_minibatches == 0);
  const auto asked = policy::probe_counters().availability_requests;
  EncodeOptions narrow = on(Device::automatic, 4);
  narrow.batch_size = 511;  // 511 x 2048 scores
  CHECK(encode(large_model(), large_rows(), narrow).report.device_minibatches == 0);
  CHECK(encode(large_model(), {large_rows().begin(), large_rows().begin() + kWidth * 511}, on(Device::automatic, 4))
            .report.device_minibatches == 0);
  CHECK(encode(large_model(), large_rows(), on(Device::off, 4)).report.device_minibatches == 0);
  EncodeOptions pursuit = on(Device::automatic, 1, Router::omp);
  const std::vector<float> few(large_rows().begin(), large_rows().begin() + kWidth * 512);
  CHECK(encode(large_model(), few, pursuit).report.device_minibatches == 0);
  CHECK_EQUAL(policy::probe_counters().availability_requests, asked);
  policy::set_profile(policy::built_in_cpu_profile());  // which predicts less than a millisecond
  const policy::OwnSizeScope alone;
  CHECK(encode(large_model(), large_rows(), on(Device::automatic, 4)).report.device_minibatches == 0);
  CHECK_EQUAL(policy::probe_counters().availability_requests, asked);
}

TEST(WhatADeviceDoesNotTakeIsAnError) {
  const Model model(unit_rows(300, 32, 1), 300, 32, {});
  const std::vector<float> x = fixture::g1();
  CHECK_THROWS(UnsupportedConfiguration, encode(model, x, on(Device::required, 2, Router::omp)));
  CHECK_THROWS(UnsupportedConfiguration, encode(model, x, on(Device::required, 33, Router::refine)));
  CHECK_THROWS(UnsupportedConfiguration, encode(model, x, on(Device::required, 129)));
  Options o = small_fit(Device::required);
  o.router = Router::omp;
  const std::string words = words_of([&] { (void)fit(Rows::of(x.data(), 2000, 32), o); });
  CHECK(words.find("sparse_dictionary: router='omp' is not supported by the route 'a device'") == 0);
}

// Before the first minibatch `auto` goes to the CPU and counts it; `required` says why in the words of its text.
TEST(AFailureBeforeTheFirstMinibatch) {
  const fake::Leaks leaks;
  const SlowCpu slow;
  const Codes here = encode(large_model(), large_rows(), on(Device::off, 4));
  for (const auto& [name, first, status] : {std::tuple{"allocate", 1, int{ARROWSCHUR_DEVICE_OUT_OF_MEMORY}},
                                            {"allocate", 3, int{ARROWSCHUR_DEVICE_OUT_OF_MEMORY}},
                                            {"route_sizes", 1, int{ARROWSCHUR_DEVICE_FAILED}},
                                            {"copy_to_device", 1, int{ARROWSCHUR_DEVICE_FAILED}}}) {
    const Telemetry before = process_telemetry();
    {
      const fake::Failing script(name, first, 1, status);
      const Codes found = encode(large_model(), large_rows(), on(Device::automatic, 4));
      CHECK(found == here && found.report.device_minibatches == 0);
    }
    CHECK_EQUAL(process_telemetry().cpu_fallbacks - before.cpu_fallbacks, std::int64_t{1});
    const fake::Failing script(name, first, 1, status);
    const std::string words = words_of([&] { (void)encode(large_model(), large_rows(), on(Device::required, 4)); });
    const bool memory = status == ARROWSCHUR_DEVICE_OUT_OF_MEMORY;
    const std::string expected = "sparse_dictionary: device 'required' but no usable CUDA device: device memory: ";
    CHECK(memory ? words.find(expected) == 0 : words.find("scripted failure") != std::string::npos);
  }
}

// From then on a fault is an error, never a result of two places.
TEST(AFaultAfterThatIsAnError) {
  const fake::Leaks leaks;
  const SlowCpu slow;
  for (const Device device : {Device::automatic, Device::required}) {
    for (const auto& [name, first] :
         {std::pair{"route", 1}, {"route", 2}, {"copy_to_host", 1}, {"stream_synchronize", 5}}) {
      const fake::Failing script(name, first, 1, ARROWSCHUR_DEVICE_FAILED);
      CHECK_THROWS(DeviceError, encode(large_model(), large_rows(), on(device, 4)));
    }
    CHECK(encode(large_model(), large_rows(), on(device, 4)).report.device_minibatches >
          0);  // the next is none the worse
  }
}

CHECK_MAIN()
