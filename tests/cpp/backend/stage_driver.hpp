// Drives the stages of a device table and holds them to plain references: for the fake device, and for a real one where
// there is one.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/device_api.h"
#include "check.hpp"

namespace stage_driver {

using Vector = std::vector<double>;
using std::size_t;

// ---- a system on the host ---------------------------------------------------------------------------------------------
struct Problem {
  std::vector<int> dims;  // in the caller's order
  std::int64_t k = 0;
  int form = ARROWSCHUR_BORDER_DENSE;
  std::int64_t width = 0;
  std::vector<std::int64_t> line, entry;  // of each row block
  std::int64_t total = 0, entries = 0;
  Vector a, b, border, g;

  size_t size() const { return static_cast<size_t>(total + k); }
  double border_at(std::int64_t r, std::int64_t c) const {
    const std::int64_t high = std::max(r, c), low = std::min(r, c);
    if (form == ARROWSCHUR_BORDER_DENSE) return border[static_cast<size_t>(high * k + low)];
    if (form == ARROWSCHUR_BORDER_BANDED) {
      return high - low <= width ? border[static_cast<size_t>((high - low) * k + low)] : 0.0;
    }
    return high / width == low / width ? border[static_cast<size_t>(high * width + low % width)] : 0.0;
  }
  double a_at(size_t i, int r, int c) const {
    return a[static_cast<size_t>(entry[i] + std::max(r, c) * dims[i] + std::min(r, c))];
  }
};

// Positive definite with room: rows near d I, border near 3 I, weak coupling. What must not be read is NaN.
inline Problem random_problem(std::vector<int> dims, std::int64_t k, int form, std::int64_t width, unsigned seed) {
  constexpr double kUnread = std::numeric_limits<double>::quiet_NaN();
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  const auto draw = [&] { return uniform(engine); };
  Problem p;
  p.dims = std::move(dims), p.k = k, p.form = form, p.width = width;
  for (const int d : p.dims) {
    p.line.push_back(p.total), p.entry.push_back(p.entries);
    p.total += d, p.entries += d * d;
  }
  for (const int d : p.dims) {
    for (int r = 0; r < d; ++r) {
      for (int c = 0; c < d; ++c) p.a.push_back(c > r ? kUnread : draw() + (r == c ? d + 1.0 : 0.0));
    }
  }
  const double shrink = 0.7 / std::sqrt(static_cast<double>(p.total + k + 1));
  p.b.resize(static_cast<size_t>(p.total * k));
  for (double& x : p.b) x = shrink * draw();
  // Entries off the diagonal of a line add up to 2 at most.
  const bool banded = form == ARROWSCHUR_BORDER_BANDED;
  const std::int64_t lines = banded ? width + 1 : k, columns = form == ARROWSCHUR_BORDER_BLOCKS ? width : k;
  for (std::int64_t r = 0; r < lines; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t offset = banded ? r : r % columns - c;  // below the diagonal
      const bool read = banded ? r + c < k : offset >= 0;
      const double scale = static_cast<double>(banded ? width + 1 : columns);
      p.border.push_back(!read ? kUnread : draw() / scale + (offset == 0 ? 3.0 : 0.0));
    }
  }
  p.g.resize(p.size());
  for (double& x : p.g) x = draw();
  return p;
}

// H with ridges, dense, row-major.
inline Vector dense(const Problem& p, double ridge_t, double ridge_beta) {
  const std::int64_t size = p.total + p.k;
  Vector h(static_cast<size_t>(size * size), 0.0);
  const auto at = [&](std::int64_t r, std::int64_t c) -> double& { return h[static_cast<size_t>(r * size + c)]; };
  for (size_t i = 0; i < p.dims.size(); ++i) {
    for (int r = 0; r < p.dims[i]; ++r) {
      for (int c = 0; c < p.dims[i]; ++c) {
        at(p.line[i] + r, p.line[i] + c) = p.a_at(i, r, c) + (r == c ? ridge_t : 0.0);
      }
    }
  }
  for (std::int64_t r = 0; r < p.total; ++r) {
    for (std::int64_t c = 0; c < p.k; ++c) {
      at(r, p.total + c) = at(p.total + c, r) = p.b[static_cast<size_t>(r * p.k + c)];
    }
  }
  for (std::int64_t r = 0; r < p.k; ++r) {
    for (std::int64_t c = 0; c < p.k; ++c) {
      at(p.total + r, p.total + c) = p.border_at(r, c) + (r == c ? ridge_beta : 0.0);
    }
  }
  return h;
}

inline Vector times(const Vector& h, const Vector& x) {
  Vector y(x.size());
  for (size_t r = 0; r < x.size(); ++r) {
    long double sum = 0.0L;
    for (size_t c = 0; c < x.size(); ++c) sum += static_cast<long double>(h[r * x.size() + c]) * x[c];
    y[r] = static_cast<double>(sum);
  }
  return y;
}

// L of h = L L', row-major in place.
inline void factor_dense(Vector& h, size_t size) {
  for (size_t j = 0; j < size; ++j) {
    for (size_t r = j; r < size; ++r) {
      double sum = h[r * size + j];
      for (size_t q = 0; q < j; ++q) sum -= h[r * size + q] * h[j * size + q];
      h[r * size + j] = r == j ? std::sqrt(sum) : sum / h[j * size + j];
    }
  }
}

inline Vector solve_dense(const Vector& l, Vector x) {
  const size_t size = x.size();
  for (size_t r = 0; r < size; ++r) {
    for (size_t q = 0; q < r; ++q) x[r] -= l[r * size + q] * x[q];
    x[r] /= l[r * size + r];
  }
  for (size_t r = size; r-- > 0;) {
    for (size_t q = r + 1; q < size; ++q) x[r] -= l[q * size + r] * x[q];
    x[r] /= l[r * size + r];
  }
  return x;
}

inline bool same(const Vector& a, const Vector& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
  });
}

// ---- a frame on a device ------------------------------------------------------------------------------------------------
inline constexpr std::uint64_t kUnwritten = 0x7ff4dead0badf00du;  // a signalling NaN

class Stream {
 public:
  explicit Stream(const ArrowschurDeviceTable& table) : table_(table) { require(table_.stream_create(&stream_)); }
  ~Stream() {
    for (void* memory : owned_) table_.release(memory, stream_);
    table_.stream_destroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void require(int status) const {
    if (status == ARROWSCHUR_DEVICE_OK) return;
    checks::fail("stage_driver.hpp", 0, std::string("status ") + std::to_string(status) + ": " + table_.last_error());
    throw checks::EndOfCase{};
  }
  const ArrowschurDeviceTable& table() const { return table_; }
  void* handle() const { return stream_; }

  // Filled with what shows that it was not written.
  template <class T = double>
  T* allocate(std::int64_t count) {
    void* memory = nullptr;
    const auto words = static_cast<size_t>(std::max<std::int64_t>(count, 1)) * sizeof(T) / 8 + 1;
    require(table_.allocate(&memory, words * 8, stream_));
    owned_.push_back(memory);
    require(table_.fill(memory, kUnwritten, words, stream_));
    return static_cast<T*>(memory);
  }
  template <class T>
  T* upload(const std::vector<T>& values) {
    T* const memory = allocate<T>(static_cast<std::int64_t>(values.size()));
    if (!values.empty()) {
      require(table_.copy_to_device(memory, values.data(), values.size() * sizeof(T), stream_));
      synchronize();
    }
    return memory;
  }
  template <class T>
  std::vector<T> download(const T* memory, std::int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    if (count > 0) require(table_.copy_to_host(values.data(), memory, values.size() * sizeof(T), stream_));
    synchronize();
    return values;
  }
  void synchronize() { require(table_.stream_synchronize(stream_)); }

 private:
  const ArrowschurDeviceTable& table_;
  void* stream_ = nullptr;
  std::vector<void*> owned_;
};

struct Frame {
  Frame(Stream& s, const Problem& problem, bool full_inverse = false, bool in_place = false, bool dual = false)
      : stream(s), p(problem), table(s.table()) {
    group_rows();
    system = {.n = static_cast<std::int64_t>(p.dims.size()),
              .total = p.total,
              .k = p.k,
              .groups = static_cast<std::int32_t>(rows.size()),
              .rows = rows.data(),
              .a = stream.upload(p.a),
              .b = stream.upload(p.b),
              .border_form = p.form,
              .border_width = p.width,
              .border = stream.upload(p.border)};
    ArrowschurDeviceSizes sizes{};
    stream.require(table.sizes(&system, dual, full_inverse, &sizes));
    workspace = stream.allocate(static_cast<std::int64_t>(sizes.workspace / 8));
    const std::int64_t order = dual ? p.total : p.k, lds = (order + 15) / 16 * 16;
    double* const s0 = stream.allocate(order * lds);
    factor = {.l = stream.allocate(p.entries),
              .inverse_diagonal = stream.allocate(p.total),
              .w = in_place ? const_cast<double*>(system.b) : stream.allocate(p.total * p.k),
              .s0 = dual ? nullptr : s0,
              .s = in_place || dual ? s0 : stream.allocate(p.k * lds),
              .lds = lds,
              .border_inverses = stream.allocate(static_cast<std::int64_t>(sizes.inverse / 8)),
              .full_inverse = full_inverse,
              .v = dual ? stream.allocate(p.total * p.k) : nullptr,
              .band_factor = dual ? stream.allocate((p.width + 1) * p.k) : nullptr,
              .record = stream.allocate<ArrowschurBuildRecord>(1)};
  }

  bool dual() const { return factor.v != nullptr; }
  ArrowschurBuildRecord record() { return stream.download(factor.record, 1)[0]; }

  void build(double ridge_t, double ridge_beta) {
    void* const s = stream.handle();
    stream.require(table.factor_and_whiten(&system, ridge_t, &factor, workspace, s));
    if (dual()) {
      stream.require(table.dual_reduce(&system, ridge_beta, &factor, workspace, s));
    } else {
      stream.require(table.reduce(&system, &factor, workspace, s));
    }
    stream.require(table.factor_border(&system, ridge_beta, &factor, workspace, s));
    stream.require(table.log_det(&system, &factor, workspace, s));
    stream.require(table.prepare_border_solve(&system, &factor, workspace, s));
  }

  // -H^-1 g, queued.
  void solve(const double* g, double* x) {
    void* const s = stream.handle();
    stream.require(table.reduce_rhs(&system, &factor, g, x, workspace, s));
    stream.require(table.border_solve(&system, &factor, dual() ? x : x + p.total, workspace, s));
    stream.require(table.expand(&system, &factor, x, workspace, s));
  }
  Vector step(const Vector& g) {
    double* const x = stream.allocate(p.total + p.k);
    solve(stream.upload(g), x);
    return stream.download(x, p.total + p.k);
  }
  Vector apply_h(const Vector& z) {
    double* const q = stream.allocate(p.total + p.k);
    stream.require(table.apply_h(&system, stream.upload(z), q, workspace, stream.handle()));
    return stream.download(q, p.total + p.k);
  }
  double norm_h(double ridge_t, double ridge_beta) {
    double* const norm = stream.allocate(1);
    stream.require(table.norm_h(&system, ridge_t, ridge_beta, norm, workspace, stream.handle()));
    return stream.download(norm, 1)[0];
  }

  Stream& stream;
  const Problem& p;
  const ArrowschurDeviceTable& table;
  std::vector<ArrowschurDeviceRows> rows;
  ArrowschurDeviceSystem system{};
  ArrowschurDeviceFactor factor{};
  double* workspace = nullptr;

 private:
  // Row blocks of one depth lie apart where the depths are mixed.
  void group_rows() {
    for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
      std::vector<std::int64_t> line, entry, row;
      for (size_t i = 0; i < p.dims.size(); ++i) {
        if (p.dims[i] != d) continue;
        line.push_back(p.line[i]), entry.push_back(p.entry[i]), row.push_back(static_cast<std::int64_t>(i));
      }
      const auto n = static_cast<std::int64_t>(row.size());
      if (n == static_cast<std::int64_t>(p.dims.size()) && n > 0) {
        rows.push_back({d, n, nullptr, nullptr, nullptr});
      } else if (n > 0) {
        rows.push_back({d, n, stream.upload(line), stream.upload(entry), stream.upload(row)});
      }
    }
  }
};

// ---- claims that hold on every device -----------------------------------------------------------------------------------
inline double log_det_of(const Vector& l, size_t size) {
  double sum = 0.0;
  for (size_t j = 0; j < size; ++j) sum += std::log(l[j * size + j]);
  return 2.0 * sum;
}

inline double norm_of(const Vector& h, size_t size) {
  double norm = 0.0;
  for (size_t r = 0; r < size; ++r) {
    double sum = 0.0;
    for (size_t c = 0; c < size; ++c) sum += std::fabs(h[r * size + c]);
    norm = std::max(norm, sum);
  }
  return norm;
}

// The smallest pivot of h = L L', its last `last` lines and columns taken first.
inline double smallest_pivot_of(const Vector& h, size_t size, size_t last) {
  Vector l(h.size());
  const auto from = [&](size_t i) { return i < last ? size - last + i : i - last; };
  for (size_t r = 0; r < size; ++r) {
    for (size_t c = 0; c < size; ++c) l[r * size + c] = h[from(r) * size + from(c)];
  }
  factor_dense(l, size);
  double smallest = std::numeric_limits<double>::infinity();
  for (size_t j = 0; j < size; ++j) smallest = std::min(smallest, l[j * size + j] * l[j * size + j]);
  return smallest;
}

// One system: factor, border, logarithm, step, product and norm against the dense matrix.
inline void check_system(const ArrowschurDeviceTable& table, const Problem& p, bool full_inverse, bool in_place,
                         bool dual = false) {
  constexpr double kTolerance = 1e-12;
  const double ridge_t = 0.25, ridge_beta = 0.5;
  Stream stream(table);
  Frame frame(stream, p, full_inverse, in_place, dual);
  const Vector h = dense(p, 0.0, 0.0);
  const Vector product = frame.apply_h(p.g);  // before W may take the place of B
  CHECK_NEAR(std::span<const double>(product), std::span<const double>(times(h, p.g)), kTolerance);

  for (const double ridge : {0.0, ridge_t}) {
    CHECK_NEAR(frame.norm_h(ridge, 2.0 * ridge), norm_of(dense(p, ridge, 2.0 * ridge), p.size()), kTolerance);
  }

  frame.build(ridge_t, ridge_beta);
  const ArrowschurBuildRecord record = frame.record();
  CHECK_EQUAL(record.failed, 0u);
  CHECK_EQUAL(record.failing_rows, std::int64_t{0});
  CHECK_EQUAL(record.border_pivot, -1);
  CHECK_EQUAL(record.bump, 0.0);
  Vector l = dense(p, ridge_t, ridge_beta);
  factor_dense(l, p.size());
  if (p.size() > 0) CHECK_NEAR(record.log_det + 1.0, log_det_of(l, p.size()) + 1.0, kTolerance);
  const Vector ridged = dense(p, ridge_t, ridge_beta);
  CHECK_NEAR(record.smallest_pivot, smallest_pivot_of(ridged, p.size(), dual ? static_cast<size_t>(p.k) : 0), 1e-11);

  Vector reference = solve_dense(l, p.g);
  for (double& x : reference) x = -x;
  const Vector step = frame.step(p.g);
  CHECK_NEAR(std::span<const double>(step), std::span<const double>(reference), kTolerance);
  const Vector again = frame.step(p.g);
  CHECK(step == again);
  if (!dual) return;
  for (const double x : stream.download(frame.factor.v, p.total * p.k)) {
    CHECK(std::bit_cast<std::uint64_t>(x) != kUnwritten);
  }
}

inline std::vector<int> repeated(int d, int n) { return std::vector<int>(static_cast<size_t>(n), d); }

inline void check_shapes(const ArrowschurDeviceTable& table, unsigned seed) {
  std::cout << "seed " << seed << "\n";
  constexpr int kDense = ARROWSCHUR_BORDER_DENSE, kBanded = ARROWSCHUR_BORDER_BANDED,
                kBlocks = ARROWSCHUR_BORDER_BLOCKS;
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    const std::int64_t k = 1 + (d * 7) % 40;
    check_system(table, random_problem(repeated(d, 5), k, kDense, 0, seed + static_cast<unsigned>(d)), d % 2 == 0,
                 d % 3 == 0);
  }
  struct Case {
    std::vector<int> dims;
    std::int64_t k;
    int form;
    std::int64_t width;
  };
  const Case cases[] = {
      {{}, 5, kDense, 0},
      {{}, 0, kDense, 0},
      {repeated(3, 4), 0, kDense, 0},
      {repeated(1, 1), 1, kDense, 0},
      {repeated(2, 200), 33, kDense, 0},
      {repeated(2, 3), 128, kBanded, 0},
      {repeated(2, 40), 129, kBanded, 3},
      {repeated(4, 9), 300, kDense, 0},
      {repeated(1, 70), 264, kBlocks, 12},
      {repeated(3, 11), 130, kBanded, 200},
      {{2, 5, 2, 32, 1, 9, 5, 17, 2}, 45, kDense, 0},
      {{4, 3, 3, 4, 12, 24, 7}, 258, kBlocks, 1},
  };
  unsigned salt = 100;
  for (const Case& c : cases) {
    const Problem p = random_problem(c.dims, c.k, c.form, c.width, seed + ++salt);
    check_system(table, p, false, false);
    check_system(table, p, true, true);
  }
}

// Rows that do not factor: how many, which first, by how much; and the advice.
inline void check_failing_rows(const ArrowschurDeviceTable& table) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const int d : {1, 2, 5, 8, 9, 16, 20, 32}) {
    Problem p = random_problem(repeated(d, 40), 6, ARROWSCHUR_BORDER_DENSE, 0, 7u + static_cast<unsigned>(d));
    const auto block = [&](int row) { return p.a.data() + p.entry[static_cast<size_t>(row)]; };
    for (int r = 0; r < d; ++r) block(7)[r * d + r] = r == d - 1 ? -250.0 : block(7)[r * d + r];
    for (int r = 0; r < d; ++r) block(23)[r * d + r] = -1.0;
    block(31)[0] = nan;
    block(33)[0] = inf;
    Stream stream(table);
    Frame frame(stream, p);
    frame.build(0.0, 0.0);
    stream.require(table.suggest_bump(&frame.system, 0.0, 0.0, &frame.factor, frame.workspace, stream.handle()));
    const ArrowschurBuildRecord record = frame.record();
    CHECK_EQUAL(record.failed & ARROWSCHUR_ROWS_FAILED, unsigned{ARROWSCHUR_ROWS_FAILED});
    CHECK_EQUAL(record.failing_rows, std::int64_t{4});
    CHECK_EQUAL(record.first_failure, std::uint64_t{7} << 8 | static_cast<unsigned>(d - 1));
    CHECK_EQUAL(record.border_pivot, -1);

    double off = 0.0, squared = 0.0, border = inf;
    for (int c = 0; c < d - 1; ++c) off += std::fabs(block(7)[(d - 1) * d + c]);
    for (std::int64_t i = 0; i < d * p.k; ++i) {
      const double x = p.b[static_cast<size_t>(p.line[7] * p.k + i)];
      squared += x * x;
    }
    for (std::int64_t j = 0; j < p.k; ++j) border = std::min(border, p.border_at(j, j));
    CHECK_NEAR(record.bump, 250.0 + off, 1e-12);
    const double lacking = 250.0 + off;
    CHECK_NEAR(record.suggested_bump, lacking + 0x1p-25 * (250.0 + lacking) + 8.0 / border * squared, 1e-12);
    // A step of a build that failed is not one.
    const Vector step = frame.step(p.g);
    CHECK(std::bit_cast<std::uint64_t>(step[0]) == kUnwritten);
  }
}

// A border that has no factor: its pivot; and another ridge on it is enough to have one.
inline void check_failing_border(const ArrowschurDeviceTable& table) {
  Problem p = random_problem(repeated(2, 10), 200, ARROWSCHUR_BORDER_BANDED, 0, 11);
  p.border[150] = -2.0;
  Stream stream(table);
  Frame frame(stream, p);
  frame.build(0.0, 0.0);
  ArrowschurBuildRecord record = frame.record();
  CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_BORDER_FAILED});
  CHECK_EQUAL(record.border_pivot, 150);
  stream.require(table.factor_border(&frame.system, 3.0, &frame.factor, frame.workspace, stream.handle()));
  record = frame.record();
  CHECK_EQUAL(record.failed, 0u);
  CHECK_EQUAL(record.border_pivot, -1);
  Problem broken = p;
  broken.border[150] = std::numeric_limits<double>::quiet_NaN();
  Frame poisoned(stream, broken);
  poisoned.build(0.0, 0.0);
  record = poisoned.record();
  CHECK_EQUAL(record.failed, unsigned{ARROWSCHUR_BORDER_FAILED});
  CHECK_EQUAL(record.border_pivot, 150);
}

// Sums of an attempt, multiples, largest entries.
inline void check_vectors(const ArrowschurDeviceTable& table) {
  for (const std::int64_t k : {0, 1, 700}) {
    const Problem p = random_problem(repeated(3, k == 700 ? 900 : 3), k, ARROWSCHUR_BORDER_BANDED, 1, 17);
    const size_t size = p.size();
    std::mt19937_64 engine(3);
    std::normal_distribution<double> normal;
    std::vector<Vector> v(5, Vector(size));
    for (Vector& one : v) {
      for (double& x : one) x = normal(engine);
    }
    const auto &g = v[0], &z = v[1], &r = v[2], &delta = v[3], &q = v[4];
    Stream stream(table);
    Frame frame(stream, p);
    std::vector<const double*> on_device;
    for (const Vector& one : v) on_device.push_back(stream.upload(one));
    auto* const record = stream.allocate<ArrowschurLoopRecord>(1);
    stream.require(table.measure(&frame.system, nullptr, on_device[0], on_device[1], on_device[2], on_device[3],
                                 on_device[4], record, frame.workspace, stream.handle()));
    const ArrowschurLoopRecord found = stream.download(record, 1)[0];
    long double sums[7] = {}, sizes[7] = {};
    for (size_t i = 0; i < size; ++i) {
      const long double residual = static_cast<long double>(r[i]) + q[i],
                        point = static_cast<long double>(z[i]) + delta[i];
      const bool row = i < static_cast<size_t>(p.total);
      const long double terms[7] = {static_cast<long double>(r[i]) * delta[i],
                                    static_cast<long double>(delta[i]) * q[i],
                                    row ? static_cast<long double>(delta[i]) * delta[i] : 0.0L,
                                    row ? 0.0L : static_cast<long double>(delta[i]) * delta[i],
                                    point * (residual - g[i]),
                                    residual * residual,
                                    point * point};
      for (int s = 0; s < 7; ++s) sums[s] += terms[s], sizes[s] += std::fabs(terms[s]);
    }
    const double values[7] = {found.r_delta,   found.delta_q,          found.delta_t_squared, found.delta_beta_squared,
                              found.objective, found.gradient_squared, found.point_squared};
    for (int s = 0; s < 7; ++s) CHECK(std::fabs(values[s] - sums[s]) <= 1e-14L * sizes[s]);
    CHECK_EQUAL(found.failed, std::uint64_t{0});

    const double coefficients[4] = {2.0, -1.0, 0.5, 3.0};
    double* const out = stream.allocate(p.total + p.k);
    stream.require(
        table.combine(static_cast<std::int64_t>(size), 4, coefficients, on_device.data(), out, stream.handle()));
    double* const first = const_cast<double*>(on_device[0]);  // over one of its inputs
    stream.require(
        table.combine(static_cast<std::int64_t>(size), 2, coefficients, on_device.data(), first, stream.handle()));
    const Vector four = stream.download(out, p.total + p.k), two = stream.download(first, p.total + p.k);
    for (size_t i = 0; i < size; ++i) {
      CHECK(std::fabs(four[i] - (2.0 * g[i] - z[i] + 0.5 * r[i] + 3.0 * delta[i])) <= 1e-14);
      CHECK(two[i] == 2.0 * g[i] - z[i]);
    }

    double* const norm = stream.allocate(1);
    stream.require(
        table.norm_inf(static_cast<std::int64_t>(size), on_device[1], norm, frame.workspace, stream.handle()));
    double largest = 0.0;
    for (const double x : z) largest = std::max(largest, std::fabs(x));
    CHECK_EQUAL(stream.download(norm, 1)[0], largest);
    Vector with_nan = z;
    with_nan[size / 2] = std::numeric_limits<double>::quiet_NaN();
    stream.require(table.norm_inf(static_cast<std::int64_t>(size), stream.upload(with_nan), norm, frame.workspace,
                                  stream.handle()));
    CHECK(std::isnan(stream.download(norm, 1)[0]));
  }
}

// A recorded solve, replayed with another right-hand side, has the bits of the queued one.
inline void check_graph(const ArrowschurDeviceTable& table) {
  const Problem p = random_problem({2, 3, 2, 1}, 150, ARROWSCHUR_BORDER_BANDED, 2, 23);
  Stream stream(table);
  Frame frame(stream, p);
  frame.build(0.0, 0.0);
  Vector other = p.g;
  for (double& x : other) x = 1.0 - x;
  const Vector expected = frame.step(other);
  double* const g = stream.upload(p.g);
  double* const x = stream.allocate(p.total + p.k);
  stream.synchronize();
  void* graph = nullptr;
  stream.require(table.capture_begin(stream.handle()));
  frame.solve(g, x);
  stream.require(table.capture_end(stream.handle(), &graph));
  CHECK(std::bit_cast<std::uint64_t>(stream.download(x, 1)[0]) == kUnwritten);
  stream.require(table.copy_to_device(g, other.data(), other.size() * sizeof(double), stream.handle()));
  stream.require(table.graph_launch(graph, stream.handle()));
  CHECK(stream.download(x, p.total + p.k) == expected);
  stream.require(table.graph_destroy(graph));
}

// Streams that are not the table's, and where memory is.
inline void check_neighbours(const ArrowschurDeviceTable& table) {
  Stream stream(table);
  double* const memory = stream.allocate(4);
  std::int32_t ordinal = -2;
  stream.require(table.memory_ordinal(memory + 3, &ordinal));
  CHECK_EQUAL(ordinal, 0);
  const double host = 0.0;
  stream.require(table.memory_ordinal(&host, &ordinal));
  CHECK_EQUAL(ordinal, -1);

  for (const std::uint64_t external : {1u, 2u}) {
    stream.require(table.stream_wait_external(stream.handle(), external));
    stream.require(table.external_wait_stream(external, stream.handle()));
  }
  CHECK_EQUAL(table.stream_wait_external(stream.handle(), 0), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(table.external_wait_stream(0, stream.handle()), int{ARROWSCHUR_DEVICE_INVALID});
  void* graph = nullptr;
  stream.require(table.capture_begin(stream.handle()));
  CHECK_EQUAL(table.stream_wait_external(stream.handle(), 1), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(table.capture_end(stream.handle(), &graph), int{ARROWSCHUR_DEVICE_FAILED});
  stream.synchronize();
}

// What is not supported is refused by name.
inline void check_refusals(const ArrowschurDeviceTable& table) {
  ArrowschurDeviceSizes sizes{};
  ArrowschurDeviceRows rows{33, 2, nullptr, nullptr, nullptr};
  ArrowschurDeviceSystem system{};
  system.n = 2, system.total = 66, system.k = 4, system.groups = 1, system.rows = &rows;
  const auto refused = [&](const char* part) {
    return table.sizes(&system, 0, 0, &sizes) == ARROWSCHUR_DEVICE_INVALID &&
           std::string(table.last_error()).find(part) != std::string::npos;
  };
  CHECK(refused("depth"));
  rows.d = 32;
  CHECK(refused("not the rows"));
  system.total = 64;
  CHECK_EQUAL(table.sizes(&system, 0, 0, &sizes), 0);
  system.border_form = ARROWSCHUR_BORDER_BLOCKS, system.border_width = 3;
  CHECK(refused("divide"));
  system.border_width = 2;
  CHECK_EQUAL(table.sizes(&system, 0, 0, &sizes), 0);
  CHECK_EQUAL(table.sizes(&system, 1, 0, &sizes), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK(std::string(table.last_error()).find("banded") != std::string::npos);
  system.border_form = ARROWSCHUR_BORDER_BANDED, system.border_width = ARROWSCHUR_DUAL_MAX_WIDTH;
  CHECK_EQUAL(table.sizes(&system, 1, 0, &sizes), 0);
  ++system.border_width;
  CHECK_EQUAL(table.sizes(&system, 0, 0, &sizes), 0);
  CHECK_EQUAL(table.sizes(&system, 1, 0, &sizes), int{ARROWSCHUR_DEVICE_INVALID});
  system.k = std::int64_t{1} << 33;
  CHECK(refused("larger"));

  ArrowschurBatchEntry entry{.n = 2, .d = 2, .k = ARROWSCHUR_BATCH_MAX_BORDER + 1, .a = 0, .b = 0, .m = 0, .x = 0};
  ArrowschurDeviceBatch batch{};
  batch.count = 1, batch.host_entries = &entry;
  size_t bytes = 0;
  CHECK_EQUAL(table.batch_sizes(&batch, &bytes), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK(std::string(table.last_error()).find("too wide") != std::string::npos);
  entry.k = 0, entry.d = 33;
  CHECK_EQUAL(table.batch_sizes(&batch, &bytes), int{ARROWSCHUR_DEVICE_INVALID});
  entry.d = 32;
  CHECK_EQUAL(table.batch_sizes(&batch, &bytes), 0);
}

}  // namespace stage_driver
