#include "backend/measure_device.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "arrowschur/error.hpp"
#include "backend/backend.hpp"
#include "backend/device_factor.hpp"

namespace arrowschur::policy {
namespace {

// Entries of the published grid: smooth, of both signs, the same on every machine.
double entry(Index r, Index c, double phase) {
  const double x = 0.017 * static_cast<double>(r + 1) + 0.031 * static_cast<double>(c + 1) + phase;
  return std::sin(x) + 0.25 * std::cos(2.0 * x);
}
double weight(Index i) { return 0.5 + std::abs(std::sin(0.019 * static_cast<double>(i + 1))); }

std::vector<double> matrix(Index rows, Index cols, double phase) {
  std::vector<double> values(static_cast<std::size_t>(rows * cols));
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) values[static_cast<std::size_t>(r * cols + c)] = entry(r, c, phase);
  }
  return values;
}

// A system whose elimination is the operation.
struct Problem {
  Index n = 0, k = 0;
  std::vector<double> h_tt, h_tb, h_bb, g_t, g_beta;
  bool factors = false;

  ArrowSystem system() const {
    SystemParts parts;
    parts.n = n, parts.k = k, parts.d = 1;
    parts.h_tt = h_tt.data(), parts.h_tb = h_tb.data(), parts.g_t = g_t.data(), parts.g_beta = g_beta.data();
    parts.border = {k, DType::float64, {DenseBorder{h_bb.data()}}, nullptr};
    ValidationOptions as_given;
    as_given.detect_structure = false;
    return ArrowSystem::make(parts, as_given);
  }
};

Problem product(Index rows, Index k, double phase, bool weighted) {
  Problem p;
  p.n = rows, p.k = k;
  p.h_tb = matrix(rows, k, phase);
  p.h_tt.assign(static_cast<std::size_t>(rows), 1.0);
  for (Index i = 0; i < rows && weighted; ++i) p.h_tt[static_cast<std::size_t>(i)] = 1.0 / weight(i);
  p.h_bb.assign(static_cast<std::size_t>(k * k), 0.0);
  p.g_t.assign(static_cast<std::size_t>(rows), 0.0);
  p.g_beta.assign(static_cast<std::size_t>(k), 0.0);
  return p;
}

Problem cholesky(Index k) {
  Problem p;
  p.k = k, p.factors = true;
  const std::vector<double> a = matrix(k, k, 0.89);
  p.h_bb.assign(a.size(), 0.0);
  for (Index i = 0; i < k; ++i) {
    for (Index r = 0; r < k; ++r) {
      for (Index c = 0; c < k; ++c) {
        p.h_bb[static_cast<std::size_t>(r * k + c)] +=
            a[static_cast<std::size_t>(i * k + r)] * a[static_cast<std::size_t>(i * k + c)];
      }
    }
  }
  for (Index r = 0; r < k; ++r) p.h_bb[static_cast<std::size_t>(r * k + r)] += static_cast<double>(k);
  p.g_beta.assign(static_cast<std::size_t>(k), 0.0);
  return p;
}

void require_finite(double checksum, const char* where) {
  if (!std::isfinite(checksum)) throw DeviceError("calibration", std::string(where) + ": a result is not finite");
}

double cpu_seconds(const Problem& p, const Measurement& point, const OperationTimer& timer) {
  SolveOptions options;
  options.mode = Mode::direct;
  options.device = Device::off;
  const ArrowSystem s = p.system();
  const SolvePlan how = plan(s, options, PlanPurpose::factor);
  double checksum = 0.0;
  const double seconds = timer(point, false, [&] {
    const auto frame = backend::choose_backend(Device::off).make_frame(s, options, how);
    frame->factor_rows({}, {Guards::relative, RowLift::never, false});
    frame->reduce();
    if (!p.factors) return;
    const backend::BorderReport border = frame->factor_border({}, Guards::relative, false);
    checksum += border.ok ? frame->log_det_border() : std::nan("");
  });
  require_finite(checksum, "on the CPU");
  return seconds;
}

double gpu_seconds(const Problem& p, const Measurement& point, const OperationTimer& timer) {
  using namespace device;
  const LaneLease lane = lease_lane();
  const Table& table = lane->table();
  const ArrowSystem s = p.system();
  DeviceSystem there(*lane, s, FullInverse{});
  const auto rows = std::make_shared<RowPart>(there, false);
  const DeviceFactor factor(there, BorderRoute::direct, rows);
  std::vector<double> back(static_cast<std::size_t>(p.k * factor.view()->lds));
  double checksum = 0.0;
  const double seconds = timer(point, true, [&] {
    void *const workspace = there.workspace(), *const stream = lane->stream();
    there.overwrite(s);
    lane->require(table.factor_and_whiten(there.view(), 0.0, factor.view(), workspace, stream), "factor_and_whiten");
    lane->require(table.reduce(there.view(), factor.view(), workspace, stream), "reduce");
    if (p.factors) {
      lane->require(table.factor_border(there.view(), 0.0, factor.view(), workspace, stream), "factor_border");
    }
    lane->download(back.data(), factor.view()->s, back.size() * sizeof(double));
    // The lower triangle of a column-major matrix: what is beside it is nobody's.
    for (Index j = 0; j < p.k; ++j) checksum += back[static_cast<std::size_t>(j * factor.view()->lds + p.k - 1)];
  });
  require_finite(checksum, "on the device");
  return seconds;
}

}  // namespace

double median_of_five(const Measurement&, bool, const std::function<void()>& run) {
  run();
  run();
  std::array<double, 5> seconds{};
  for (double& value : seconds) {
    const auto start = std::chrono::steady_clock::now();
    run();
    value = std::max(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 1e-9);
  }
  std::nth_element(seconds.begin(), seconds.begin() + 2, seconds.end());
  return seconds[2];
}

std::vector<Measurement> measure_operations(const OperationTimer& timer) {
  std::vector<Measurement> points;
  const auto measure = [&](const char* operation, std::vector<Size> sizes, const Problem& problem) {
    Measurement point{operation, std::move(sizes), 0.0, 0.0};
    point.cpu_seconds = cpu_seconds(problem, point, timer);
    point.gpu_seconds = gpu_seconds(problem, point, timer);
    points.push_back(std::move(point));
  };
  const auto index = [](Size size) { return static_cast<Index>(size); };
  for (const Size m : kGemmGrid) measure("gemm", {m, m, m}, product(index(m), index(m), 0.13, false));
  for (const auto& [n, p] : kGramGrid) measure("xtwx", {n, p}, product(index(n), index(p), 0.61, true));
  for (const Size p : kPotrfGrid) measure("potrf", {p}, cholesky(index(p)));
  return points;
}

}  // namespace arrowschur::policy
