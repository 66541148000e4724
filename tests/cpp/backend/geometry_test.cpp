// How the kernels' work is cut: limits of a device, coverage, workspace, for the reference shapes and for random ones.
#include "kernels/geometry.hpp"

#include <random>
#include <string>
#include <vector>

#include "backend/host_queue.hpp"
#include "check.hpp"
#include "kernels/shape.hpp"

using namespace arrowschur::kernels;

namespace {

struct Shape {
  std::int64_t n, k;
  int d;
  int form;
  std::int64_t width;
};

std::string text(const Shape& s) {
  return "n " + std::to_string(s.n) + ", k " + std::to_string(s.k) + ", d " + std::to_string(s.d) + ", form " +
         std::to_string(s.form);
}

// Takes what a device would launch, and holds it to the limits of compute capability 8.0.
class LimitQueue {
 public:
  explicit LimitQueue(const Shape& shape) : shape_(shape) {}
  template <class Kernel>
  int run(const typename Kernel::Args& args) {
    const Launch launch = Kernel::launch(args);
    const bool good = launch.blocks >= 0 && launch.blocks <= kMostBlocks && launch.phases >= 1 &&
                      launch.shared_doubles <= kMostSharedDoubles && Kernel::kThreads % 32 == 0 &&
                      Kernel::kThreads <= 1024;
    if (!good) checks::fail(__FILE__, __LINE__, text(shape_) + ": blocks " + std::to_string(launch.blocks));
    kernels_ += launch.blocks > 0;
    return ARROWSCHUR_DEVICE_OK;
  }
  int subtract_gram(std::int64_t, std::int64_t, const double*, double*, std::int64_t) { return 0; }
  int minus_outer(std::int64_t, std::int64_t, const double*, double*, std::int64_t) { return 0; }
  int cholesky(std::int64_t, double*, std::int64_t, int*, void*) { return 0; }
  int solve_lower(std::int64_t, const double*, std::int64_t, double*, std::int64_t) { return 0; }
  int scores(std::int64_t, std::int64_t, std::int64_t, const float*, const float*, float*, std::int64_t) { return 0; }
  int kernels() const { return kernels_; }

 private:
  Shape shape_;
  int kernels_ = 0;
};

void check_launches(const Shape& shape) {
  ArrowschurDeviceRows rows{shape.d, shape.n, nullptr, nullptr, nullptr};
  System s{};
  s.n = shape.n, s.total = shape.n * shape.d, s.k = shape.k, s.groups = shape.n > 0, s.rows = &rows;
  s.border_form = shape.form, s.border_width = shape.width;
  REQUIRE(complaint(s) == nullptr);
  LimitQueue queue(shape);
  double other = 0.0;
  for (const bool full_inverse : {false, true}) {
    Factor f{};
    f.lds = padded(s.k), f.full_inverse = full_inverse, f.s = &other;  // apart from s0
    factor_and_whiten(queue, s, 0.0, f);
    reduce(queue, s, f);
    factor_border(queue, s, 0.0, f, nullptr, nullptr);
    log_det(queue, s, f, nullptr);
    prepare_border_solve(queue, s, f);
    suggest_bump(queue, s, 0.0, 0.0, f, nullptr);
    reduce_rhs(queue, s, f, &other, &other, nullptr);
    if (s.k < 100'000) border_solve(queue, s, f, nullptr, nullptr);  // as many launches as blocks
    expand(queue, s, f, &other, nullptr);
    if (dual_complaint(s) != nullptr) continue;
    f.v = f.band_factor = &other, f.lds = padded(s.total);
    dual_reduce(queue, s, 0.0, f);
    factor_border(queue, s, 0.0, f, nullptr, nullptr);
    log_det(queue, s, f, nullptr);
    prepare_border_solve(queue, s, f);
    reduce_rhs(queue, s, f, &other, &other, nullptr);
    if (s.total < 100'000) border_solve(queue, s, f, nullptr, nullptr);
    expand(queue, s, f, &other, nullptr);
  }
  apply_h(queue, s, &other, &other, nullptr);
  norm_h(queue, s, 0.0, 0.0, nullptr, &other);
  const double one = 1.0;
  const double* const input = &one;
  combine(queue, s.total + s.k, 1, &one, &input, nullptr);
  Factor whitened{};
  schur_apply(queue, s, 0.0, whitened, &other, &other, &other);
  pcg_begin(queue, s, 0.0, whitened, 0.0, 0, &other, &other, &other, nullptr, &other);
  pcg_iterate(queue, s, 0.0, whitened, &other, &other, nullptr, &other);
  measure(queue, s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
  CHECK(queue.kernels() > 0);
}

// Chunks and pieces follow on each other and end where the matrix or vector does.
void check_coverage(std::int64_t lines, std::int64_t k) {
  const Tiling tiling = tiling_of(lines, k);
  CHECK(tiling.lines_per_chunk % kSublines == 0);
  CHECK(tiling.tiles * kTileColumns >= k && (tiling.tiles - 1) * kTileColumns < k);
  if (lines > 0 && k > 0) {
    CHECK_EQUAL(tiling.begin(0), std::int64_t{0});
    CHECK_EQUAL(tiling.end(tiling.chunks - 1), lines);
    CHECK(tiling.begin(tiling.chunks - 1) < lines);  // none is empty
    const std::int64_t middle = tiling.chunks / 2;
    if (middle > 0) CHECK_EQUAL(tiling.end(middle - 1), tiling.begin(middle));
    // Partial sums are a small part of what is read.
    CHECK(tiling.chunks <= lines / 32 + 1);
  } else {
    CHECK_EQUAL(tiling.chunks * tiling.tiles, std::int64_t{0});
  }
  if (reads_once(k)) {
    const int pairs = pairs_of(k);
    const Walk walk = walk_of(lines, pairs);
    CHECK(pairs * kPairColumns >= k && pairs <= kSchurPairs && walk.blocks <= kSchurBlocks);
    CHECK(walk.slabs * slab_lines(pairs) >= lines && walk.blocks * walk.each >= walk.slabs);
    CHECK(walk.blocks == 0 || (walk.blocks - 1) * walk.each < walk.slabs);  // none is empty
  }
  const Pieces pieces = pieces_of(lines + k);
  CHECK(pieces_of(k).count <= PcgTurn::kThreads);
  CHECK(pieces.count >= 1 && pieces.count <= 256);
  CHECK(pieces.count * pieces.length >= lines + k);
}

// Each stage's own account of its workspace is inside of what sizes() asks for.
void check_workspace(std::int64_t total, std::int64_t k) {
  const std::int64_t room = workspace_doubles(total, k, k), size = total + k;
  for (const std::int64_t lines : {total, total + k}) {
    const Tiling tiling = tiling_of(lines, k);
    const std::int64_t partials = tiling.chunks * k + tiling.tiles * lines;
    CHECK(partials <= product_doubles(total, k));
    CHECK(product_doubles(total, k) + size + pieces_of(size).count <= room);  // norm_h has the most
  }
  CHECK(kMeasures * pieces_of(size).count <= room);
  const SchurSpace schur = schur_space(total, k);
  CHECK(schur.parts * k <= schur.image && tiling_of(total, k).chunks * k <= schur.image);
  CHECK(schur.image + total <= schur.columns && schur.columns + tiling_of(k, k).chunks * k <= schur.lines);
  CHECK(schur.lines + tiling_of(k, k).tiles * k <= schur.dots && schur.dots + ceil_div(k, kSchurEntries) <= schur.sums);
  CHECK(schur.sums + 3 * pieces_of(k).count <= schur.scalars && schur.scalars + 3 < schur.end && schur.end <= room);
  const InverseArgs inverse{k, padded(k), nullptr, nullptr, nullptr, nullptr};
  CHECK(diagonal_blocks(k) * inverse.pitch() + k <= room);
  CHECK(workspace_bytes(total, k, k, 123) >= kInfoBytes + 123);
  CHECK(inverse_bytes(k, true) >= static_cast<std::size_t>(k * k) * 8);
}

}  // namespace

TEST(ReferenceShapes) {
  const Shape shapes[] = {
      {2000, 2048, 2, ARROWSCHUR_BORDER_DENSE, 0},  // qwen
      {2000, 2048, 2, ARROWSCHUR_BORDER_BANDED, 1}, {180, 5120, 2, ARROWSCHUR_BORDER_DENSE, 0},  // color_arm
      {180, 5120, 2, ARROWSCHUR_BORDER_BANDED, 1},  {8, 4, 2, ARROWSCHUR_BORDER_BANDED, 0},
      {5000, 6, 16, ARROWSCHUR_BORDER_DENSE, 0},    {1'000'000, 512, 3, ARROWSCHUR_BORDER_BLOCKS, 8}};
  for (const Shape& shape : shapes) {
    check_launches(shape);
    check_coverage(shape.n * shape.d, shape.k);
    check_coverage(shape.n * shape.d + shape.k, shape.k);
    check_workspace(shape.n * shape.d, shape.k);
  }
  // Enough blocks for every multiprocessor in the passes over W.
  CHECK(tiling_of(4000, 2048).chunks * tiling_of(4000, 2048).tiles >= 264);
  CHECK(tiling_of(360, 5120).chunks * tiling_of(360, 5120).tiles >= 132);
  // The bytes beside the factors stay small: qwen's partial sums and chunks under an eighth of W.
  CHECK(workspace_doubles(4000, 2048, 2048) * 8 <= 4000 * 2048);
}

TEST(TenThousandRandomShapes) {
  const unsigned seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 engine(seed);
  const auto up_to = [&](std::int64_t most) {  // small numbers as often as large ones
    const double scale =
        std::uniform_real_distribution<double>(0.0, std::log2(static_cast<double>(most) + 1.0))(engine);
    return static_cast<std::int64_t>(std::exp2(scale)) - 1;
  };
  for (int i = 0; i < 10'000; ++i) {
    Shape shape{up_to(1'000'000), up_to(50'000), 1 + static_cast<int>(engine() % 32), static_cast<int>(engine() % 3),
                0};
    if (shape.form == ARROWSCHUR_BORDER_BANDED) shape.width = up_to(100);
    if (shape.form == ARROWSCHUR_BORDER_BLOCKS) shape.width = 1, shape.k = std::max<std::int64_t>(shape.k, 1);
    if (!fits(shape.n * shape.d, shape.k, shape.n)) continue;
    check_launches(shape);
    check_coverage(shape.n * shape.d, shape.k);
    check_workspace(shape.n * shape.d, shape.k);
    if (checks::failures_of_case() > 10) return;
  }
}

TEST(BatchesOfRandomSystems) {
  std::mt19937_64 engine(7);
  for (int i = 0; i < 1000; ++i) {
    std::vector<ArrowschurBatchEntry> entries(1 + engine() % 20);
    for (ArrowschurBatchEntry& e : entries) {
      const auto n = static_cast<std::int64_t>(engine() % (engine() % 8 == 0 ? 100'000 : 300));
      e = {n, 1 + static_cast<int>(engine() % 32), static_cast<int>(engine() % 33), 0, 0, 0, 0};
    }
    const ArrowschurDeviceBatch batch{
        static_cast<std::int64_t>(entries.size()), entries.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
    REQUIRE(complaint(batch) == nullptr);
    LimitQueue queue({entries[0].n, entries[0].k, entries[0].d, 0, 0});
    batch_solve(queue, batch, 0.0, 0.0, nullptr, nullptr, nullptr);
    CHECK(queue.kernels() > 0);
    for (const ArrowschurBatchEntry& e : entries) {
      int served = 0;
      for (const int depth : kDepths) {
        served += serves(depth, e.d);
        if (!serves(depth, e.d)) continue;
        const std::int64_t groups = ceil_div(e.n, batch_rows(depth)), parts = ceil_div(groups, kPartGroups);
        CHECK(e.n * e.d <= kBatchLines || parts * kPartNumbers * kBatchThreads <= batch_doubles(batch));
        CHECK(parts == 0 || (parts - 1) * kPartGroups < groups);  // none is empty
        CHECK(batch_rows(depth) * depth <= kBatchThreads);  // a thread for each line
      }
      CHECK_EQUAL(served, 1);
    }
  }
}

// Tiles of at most 2^21 scores, arrays that lie apart, and launches that a grid holds.
TEST(RoutesOfRandomDictionaries) {
  std::mt19937_64 engine(11);
  const auto up_to = [&](double most) {
    return static_cast<std::int64_t>(std::exp2(std::uniform_real_distribution<double>(0.0, std::log2(most))(engine)));
  };
  double other = 0.0;
  float one = 1.0f;
  std::uint32_t index = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::int64_t atoms = up_to(4e9), rows = up_to(1e5), width = up_to(200.0);
    const int wanted = static_cast<int>(smaller(atoms, 1 + static_cast<std::int64_t>(engine() % ARROWSCHUR_ROUTE_MAX)));
    const ArrowschurDeviceAtoms dictionary{atoms, width, &one};
    REQUIRE(complaint(dictionary, rows, wanted) == nullptr);
    const RouteSpace space = route_space(atoms, rows, wanted);
    CHECK(space.rows >= 1 && space.rows <= kRouteRows && space.atoms >= 1 && space.rows * space.atoms <= kRouteScores);
    const bool scored = atoms > route_keep(wanted);
    CHECK(2 * space.lists >= (scored ? space.rows * space.atoms : 0) && space.lists % 32 == 0);
    CHECK(space.states - space.lists >= space.rows * route_keep(wanted) && space.states % 32 == 0);
    CHECK(space.end - space.states >= 2 * space.rows);
    CHECK(space.end * 8 <= (std::int64_t{8} << 20) + space.rows * (8 * route_keep(wanted) + 16) + 1024);
    if (ceil_div(rows, space.rows) * ceil_div(atoms, space.atoms) > 100'000) continue;
    LimitQueue queue({rows, atoms, wanted, 0, 0});
    route(queue, dictionary, rows, &one, wanted, &index, &other, nullptr, &other);
    CHECK(queue.kernels() >= 3);
  }
}

// The largest that is accepted does not overflow, what is larger is refused.
TEST(LargeShapesAreRefusedBeforeTheyOverflow) {
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, std::int64_t{1000}, std::int64_t{500'000}}) {
    for (const int d : {1, 2, 7, 32}) {
      std::int64_t low = 0, high = std::int64_t{1} << 56;
      while (high - low > 1) {
        const std::int64_t middle = low + (high - low) / 2;
        (fits(d * middle, k, middle) ? low : high) = middle;
      }
      CHECK(low > 0);
      check_coverage(d * low, k);
      CHECK(workspace_doubles(d * low, k, k) > 0);
      check_launches({low, k, d, ARROWSCHUR_BORDER_BANDED, 0});
    }
  }
  CHECK(!fits(-1, 1, 1) && !fits(1, -1, 1) && !fits(1, 1, -1));
  CHECK(!fits(std::int64_t{1} << 62, std::int64_t{1} << 62, 1));
}

CHECK_MAIN()
