// Every stage with the threads and blocks of its kernels in three orders: equal bits, or a barrier is missing.
#include <array>
#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include "backend/host_queue.hpp"
#include "backend/route_driver.hpp"
#include "backend/stage_driver.hpp"
#include "check.hpp"
#include "kernels/shape.hpp"

using namespace arrowschur::kernels;
using stage_driver::Problem;
using stage_driver::Vector;

namespace {

constexpr Order kOrders[] = {Order::forward, Order::reverse, Order::shuffled};
const double kNothing = std::bit_cast<double>(kPoison);

// All that the stages write for one system, on host memory, poisoned before. Padding is poison in the end, too.
std::vector<Vector> results(const Problem& p, bool full_inverse, bool dual_route, Order order) {
  HostQueue queue(order);
  std::vector<std::vector<std::int64_t>> maps;
  std::vector<ArrowschurDeviceRows> groups;
  maps.reserve(3 * ARROWSCHUR_DEVICE_MAX_DEPTH);
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    std::vector<std::int64_t> line, entry, row;
    for (std::size_t i = 0; i < p.dims.size(); ++i) {
      if (p.dims[i] != d) continue;
      line.push_back(p.line[i]), entry.push_back(p.entry[i]), row.push_back(static_cast<std::int64_t>(i));
    }
    if (row.empty()) continue;
    const auto n = static_cast<std::int64_t>(row.size());
    for (auto* map : {&line, &entry, &row}) maps.push_back(std::move(*map));
    const auto at = [&](std::size_t which) { return maps[maps.size() - 3 + which].data(); };
    groups.push_back({d, n, at(0), at(1), at(2)});
  }
  System s{};
  s.n = static_cast<std::int64_t>(p.dims.size()), s.total = p.total, s.k = p.k;
  s.groups = static_cast<std::int32_t>(groups.size()), s.rows = groups.data();
  s.a = p.a.data(), s.b = p.b.data(), s.border = p.border.data();
  s.border_form = p.form, s.border_width = p.width;

  std::vector<Vector> out;
  out.reserve(24);
  const auto make = [&](std::int64_t size) -> double* {
    return out.emplace_back(static_cast<std::size_t>(size), kNothing).data();
  };
  ArrowschurBuildRecord record;
  ArrowschurLoopRecord sums;
  const std::int64_t rank = dual_route ? p.total : p.k, lds = padded(rank), size = p.total + p.k;
  Factor f{};
  f.l = make(p.entries), f.inverse_diagonal = make(p.total), f.w = make(p.total * p.k);
  f.s0 = make(rank * lds), f.s = make(rank * lds), f.lds = lds;
  f.border_inverses = make(inverse_doubles(rank, full_inverse)), f.full_inverse = full_inverse, f.record = &record;
  if (dual_route) f.v = make(p.total * p.k), f.band_factor = make((p.width + 1) * p.k);
  double* const workspace = make(workspace_doubles(p.total, p.k, rank) + 1);
  double* const x = make(size);
  double* const q = make(size);
  double* const norm = make(2);
  double* const mixed = make(size);

  factor_and_whiten(queue, s, 0.125, f);
  if (dual_route) {
    dual_reduce(queue, s, 0.5, f);
  } else {
    reduce(queue, s, f);
  }
  factor_border(queue, s, 0.5, f, reinterpret_cast<int*>(workspace), nullptr);
  log_det(queue, s, f, workspace);
  prepare_border_solve(queue, s, f);
  suggest_bump(queue, s, 0.125, 0.5, f, workspace);
  reduce_rhs(queue, s, f, p.g.data(), x, workspace);
  border_solve(queue, s, f, dual_route ? x : x + p.total, workspace);
  expand(queue, s, f, x, workspace);
  apply_h(queue, s, p.g.data(), q, workspace);
  norm_h(queue, s, 0.125, 0.5, norm, workspace);
  norm_inf(queue, size, q, norm + 1, workspace);
  measure(queue, s, &f, p.g.data(), p.g.data(), q, p.g.data(), q, &sums, workspace);
  double* const y = make(p.k);
  double* const solution = make(p.k);
  double* const vectors = make(5 * p.k);
  ArrowschurPcgRecord iteration;
  const double* const g_beta = p.g.data() + p.total;
  schur_apply(queue, s, 0.5, f, g_beta, y, workspace);
  pcg_begin(queue, s, 0.5, f, 1e-3, 4, g_beta, solution, vectors, &iteration, workspace);
  for (int i = 0; i < 5; ++i) pcg_iterate(queue, s, 0.5, f, solution, vectors, &iteration, workspace);
  const double coefficients[] = {1.5, -2.0, 0.25};
  const double* const inputs[] = {p.g.data(), q, p.g.data()};
  combine(queue, size, 3, coefficients, inputs, mixed);
  static_assert(sizeof record == 64 && sizeof sums == 64 && sizeof iteration == 64);
  out.emplace_back(8), std::memcpy(out.back().data(), &record, 64);
  out.emplace_back(8), std::memcpy(out.back().data(), &sums, 64);
  out.emplace_back(8), std::memcpy(out.back().data(), &iteration, 64);
  return out;
}

void check_orders(const Problem& p, bool dual_route = false) {
  for (const bool full_inverse : {false, true}) {
    const auto expected = results(p, full_inverse, dual_route, Order::forward);
    for (const Order order : {Order::reverse, Order::shuffled}) {
      const auto found = results(p, full_inverse, dual_route, order);
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        if (!same_bits(expected[i], found[i])) {
          checks::fail(__FILE__, __LINE__, "output " + std::to_string(i) + " depends on the order of the threads");
        }
      }
    }
  }
}

// ---- what the executor is for ---------------------------------------------------------------------------------------
// Reverses 64 numbers through shared memory. Without the barrier a thread reads what another has yet to write.
template <int kPhases>
struct Reversal {
  static constexpr int kThreads = 64;
  struct Args {
    const double* in;
    double* out;
  };
  static Launch launch(const Args&) { return {1, kThreads, kPhases}; }
  static void run(int phase, std::int64_t, int thread, double* shared, const Args& args) {
    if (phase == 0) shared[thread] = args.in[thread];
    if (phase == kPhases - 1) args.out[thread] = shared[kThreads - 1 - thread];
  }
};

}  // namespace

TEST(AMissingBarrierIsSeen) {
  Vector in(64), out(64);
  for (std::size_t i = 0; i < 64; ++i) in[i] = static_cast<double>(i);
  const Vector reversed(in.rbegin(), in.rend());
  for (const Order order : kOrders) {
    execute<Reversal<2>>({in.data(), out.data()}, order);
    CHECK(out == reversed);
    execute<Reversal<1>>({in.data(), out.data()}, order);
    CHECK(out != reversed);
  }
}

TEST(UniformRowsOfEveryDepth) {
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    check_orders(stage_driver::random_problem(stage_driver::repeated(d, 7), 9 + d % 4, ARROWSCHUR_BORDER_DENSE, 0,
                                              static_cast<unsigned>(d)));
  }
}

TEST(RaggedRowsAndEveryBorder) {
  const std::vector<int> dims = {3, 1, 17, 3, 2, 8, 32, 1, 1, 9, 2, 24, 5};
  for (const std::int64_t k : {1, 2, 31, 264}) {
    check_orders(stage_driver::random_problem(dims, k, ARROWSCHUR_BORDER_DENSE, 0, 3));
    check_orders(stage_driver::random_problem(dims, k, ARROWSCHUR_BORDER_BANDED, 2, 5));
    check_orders(stage_driver::random_problem(dims, k, ARROWSCHUR_BORDER_BLOCKS, k == 264 ? 11 : 1, 7));
  }
}

TEST(TheDualRoute) {
  const std::vector<int> dims = {3, 1, 17, 3, 2, 8, 32, 1};
  for (const std::int64_t width : {0, 1, 2, 8, 9, 64}) {
    for (const std::int64_t k : {1, 40, 290}) {
      check_orders(stage_driver::random_problem(dims, k, ARROWSCHUR_BORDER_BANDED, width, 13), true);
    }
  }
}

// S x for one to five pairs of columns of a thread, odd widths and even ones, and beyond.
TEST(ProductsWithWideSlabs) {
  for (const std::int64_t k : {1024, 1025, 2047, 2048, 3000, 3999, 4096, 5119, 5120, 5121}) {
    for (const std::int64_t lines : {1, 2, 139, 270}) {
      std::mt19937_64 engine(11);
      std::normal_distribution<double> normal;
      Vector w(static_cast<std::size_t>(lines * k)), x(static_cast<std::size_t>(k)), diagonal(x.size(), 2.0);
      for (double& value : w) value = normal(engine);
      for (double& value : x) value = normal(engine);
      ArrowschurBuildRecord record{};
      System s{};
      s.n = s.total = lines, s.k = k, s.border_form = ARROWSCHUR_BORDER_BANDED, s.border = diagonal.data();
      Factor f{};
      f.w = w.data(), f.record = &record;
      std::vector<Vector> found;
      for (const Order order : kOrders) {
        HostQueue queue(order);
        Vector y(x.size(), kNothing), workspace(static_cast<std::size_t>(workspace_doubles(lines, k, 0)), kNothing);
        schur_apply(queue, s, 0.5, f, x.data(), y.data(), workspace.data());
        found.push_back(std::move(y));
      }
      CHECK(same_bits(found[0], found[1]) && same_bits(found[0], found[2]));
      long double h = 0.0L, expected = 2.5L * x[7];
      for (std::int64_t t = 0; t < lines; ++t, h = 0.0L) {
        const double* const line = w.data() + t * k;
        for (std::size_t c = 0; c < x.size(); ++c) h += static_cast<long double>(line[c]) * x[c];
        expected -= h * line[7];
      }
      const double scale = static_cast<double>(lines * k);
      CHECK(std::fabs(static_cast<double>(expected) - found[0][7]) <= 1e-16 * scale);
    }
  }
}

// Systems of every depth, some without a factor, and one that several blocks share.
TEST(Batches) {
  std::vector<Problem> problems;
  for (int d = 1; d <= ARROWSCHUR_DEVICE_MAX_DEPTH; ++d) {
    problems.push_back(stage_driver::random_problem(stage_driver::repeated(d, 9), d, ARROWSCHUR_BORDER_DENSE, 0, 3));
  }
  problems[1].a[4] = problems[20].a[0] = problems[4].border[0] = -1.0;
  problems.push_back(stage_driver::random_problem(stage_driver::repeated(2, 2100), 7, ARROWSCHUR_BORDER_DENSE, 0, 5));
  std::vector<ArrowschurBatchEntry> entries;
  Vector a, b, m, g;
  for (const Problem& p : problems) {
    const auto at = [](const Vector& v) { return static_cast<std::int64_t>(v.size()); };
    entries.push_back({static_cast<std::int64_t>(p.dims.size()), p.dims[0], static_cast<std::int32_t>(p.k), at(a),
                       at(b), at(m), at(g)});
    a.insert(a.end(), p.a.begin(), p.a.end()), b.insert(b.end(), p.b.begin(), p.b.end());
    m.insert(m.end(), p.border.begin(), p.border.end()), g.insert(g.end(), p.g.begin(), p.g.end());
  }
  const ArrowschurDeviceBatch batch{static_cast<std::int64_t>(entries.size()),
                                    entries.data(),
                                    entries.data(),
                                    a.data(),
                                    b.data(),
                                    m.data(),
                                    g.data()};
  std::vector<Vector> found;
  for (const Order order : kOrders) {
    HostQueue queue(order);
    Vector x(g.size(), kNothing), workspace(static_cast<std::size_t>(batch_doubles(batch)), kNothing);
    std::vector<ArrowschurBuildRecord> records(entries.size());
    batch_solve(queue, batch, 0.125, 0.5, x.data(), records.data(), workspace.data());
    Vector made(8 * records.size());
    std::memcpy(made.data(), records.data(), 64 * records.size());
    found.push_back(std::move(x)), found.push_back(std::move(made));
  }
  for (const std::size_t i : {2u, 3u, 4u, 5u}) CHECK(same_bits(found[i % 2], found[i]));
}

// Two tiles of rows and three of atoms, candidates by the float products and whole rows; lists of all atoms. The products
// are summed in another order as well.
TEST(Routing) {
  for (const auto& [rows, atoms, width, wanted, copies] :
       {std::array<int, 5>{4100, 1100, 5, 3, 1}, {30, 900, 40, 128, 1}, {30, 900, 7, 20, 60}, {9, 40, 6, 20, 1}}) {
    route_driver::Dictionary given = route_driver::random_dictionary(rows, atoms, width, wanted, 11);
    for (std::int64_t a = 0; a < atoms; ++a) std::copy_n(given.atom(a % (atoms / copies)), width, given.atom(a));
    const ArrowschurDeviceAtoms dictionary{atoms, width, given.d.data()};
    const std::size_t size = given.x.size() / static_cast<std::size_t>(width) * static_cast<std::size_t>(wanted);
    const route_driver::Routes expected = route_driver::reference(given);
    for (const Order order : kOrders) {
      HostQueue queue(order);
      Vector workspace(static_cast<std::size_t>(route_space(atoms, rows, wanted).end) + 1, kNothing);
      route_driver::Routes found{std::vector<std::uint32_t>(size, 7u), Vector(size, kNothing)};
      CHECK_EQUAL(route(queue, dictionary, rows, given.x.data(), wanted, found.index.data(), found.score.data(),
                        &found.rescanned, workspace.data()),
                  0);
      CHECK(found == expected);
      CHECK_EQUAL(found.rescanned, std::int64_t{copies > 1 ? rows : 0});
      CHECK(same_bits(std::span(workspace).last(1), std::span(&kNothing, 1)));
    }
  }
}

TEST(EmptySystems) {
  const std::vector<int> none, some = {2, 3, 3};
  check_orders(stage_driver::random_problem(none, 0, ARROWSCHUR_BORDER_DENSE, 0, 1));
  check_orders(stage_driver::random_problem(none, 5, ARROWSCHUR_BORDER_BANDED, 1, 1));
  check_orders(stage_driver::random_problem(some, 0, ARROWSCHUR_BORDER_DENSE, 0, 1));
}

TEST(ManyTilesAndChunks) {
  check_orders(stage_driver::random_problem(stage_driver::repeated(2, 150), 515, ARROWSCHUR_BORDER_DENSE, 0, 9));
}

TEST(FailingRowsAndBorders) {
  Problem rows = stage_driver::random_problem({2, 9, 2, 9, 2}, 20, ARROWSCHUR_BORDER_DENSE, 0, 9);
  rows.a[0] = -1.0;
  rows.a[static_cast<std::size_t>(rows.entry[3] + 10)] = -3.0;
  check_orders(rows);
  Problem border = stage_driver::random_problem({2, 2}, 150, ARROWSCHUR_BORDER_BANDED, 0, 9);
  border.border[130] = -1.0;
  check_orders(border);
  check_orders(border, true);
}

CHECK_MAIN()
