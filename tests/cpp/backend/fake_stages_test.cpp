// The stages, as the table has them, on the fake device: the same kernels and sequences as on a real one, against dense
// references. And what only the fake can do: scripts, guarded memory, queues.
#include <dlfcn.h>

#include <random>

#include "backend/batch_driver.hpp"
#include "backend/device_loader.hpp"
#include "backend/dual_driver.hpp"
#include "backend/fake_device.hpp"
#include "backend/route_driver.hpp"
#include "backend/rows_driver.hpp"
#include "backend/schur_driver.hpp"
#include "check.hpp"

using namespace stage_driver;

namespace {

const ArrowschurDeviceTable& table() {
  static const ArrowschurDeviceTable* const one = arrowschur::device::open_runtime(ARROWSCHUR_TEST_FAKE_DEVICE).table;
  return *one;
}

template <class Function>
Function* exported(const char* name) {
  void* const library = ::dlopen(ARROWSCHUR_TEST_FAKE_DEVICE, RTLD_NOW);
  return reinterpret_cast<Function*>(::dlsym(library, name));
}
void script(const char* function, int first, int count, int status) {
  exported<decltype(arrowschur_fake_fail)>("arrowschur_fake_fail")(function, first, count, status);
}
const FakeDeviceCounts& counts() { return *exported<decltype(arrowschur_fake_counts)>("arrowschur_fake_counts")(); }

ArrowschurDeviceCounters counters(const Stream& stream) {
  ArrowschurDeviceCounters found{};
  stream.require(table().counters(stream.handle(), &found));
  return found;
}

}  // namespace

TEST(EveryShapeAgreesWithTheDenseMatrix) { check_shapes(table(), std::random_device{}()); }
TEST(TheDualRouteAgreesWithTheDenseMatrix) { check_dual_shapes(table(), std::random_device{}()); }
TEST(TheDualRouteSaysWhereItEnds) { check_failing_dual(table()); }
TEST(ProductsAndIteratesOfTheSchurComplement) { check_schur(table(), std::random_device{}()); }
TEST(ProductsWithWideSchurComplements) { check_wide_schur(table()); }
TEST(ConjugateGradientsOfOrder512) { check_dense_pcg(table()); }
TEST(ConjugateGradientsSayHowTheyEnd) { check_pcg_stops(table()); }
TEST(RowsHaveTheBitsOfPlainLoops) { check_row_bits(table(), std::random_device{}()); }
TEST(RowsWithoutAFactorSayWhy) { check_row_status(table()); }
TEST(TheBatchFixture) { check_batch_fixture(table()); }
TEST(BatchesAgreeWithTheDenseMatrix) { check_batch(table(), std::random_device{}()); }
TEST(LargeSystemsOfABatchAreSharedByBlocks) { check_large_batch(table()); }
TEST(RoutesHaveTheBitsOfPlainLoops) { route_driver::check_random(table(), std::random_device{}()); }
TEST(EqualScoresAreInTheOrderOfTheAtoms) { route_driver::check_ties(table()); }
TEST(AtomsAndRowsOfZerosAndTheEndsOfTheRange) { route_driver::check_edges(table()); }
TEST(DictionariesThatAreRefused) { route_driver::check_refusals(table()); }
TEST(FailingRowsAreCountedAndTheirBumpIsTaken) { check_failing_rows(table()); }
TEST(AFailingBorderNamesItsPivot) { check_failing_border(table()); }
TEST(VectorsAgreeWithLongSums) { check_vectors(table()); }
TEST(ARecordedSolveIsReplayed) { check_graph(table()); }
TEST(UnsupportedShapesAreRefused) { check_refusals(table()); }

TEST(NothingIsLeftBehind) {
  CHECK_EQUAL(counts().allocations.load(), 0);
  CHECK_EQUAL(counts().streams.load(), 0);
  CHECK_EQUAL(counts().graphs.load(), 0);
  CHECK_EQUAL(counts().bytes.load(), std::size_t{0});
}

TEST(TheBudgetOfLaunchesIsKept) {
  const Problem p = random_problem(repeated(2, 20), 300, ARROWSCHUR_BORDER_DENSE, 0, 5);
  Stream stream(table());
  Frame frame(stream, p);
  const auto launches = [&] { return counters(stream).kernel_launches; };
  std::int64_t before = launches();
  frame.build(0.0, 0.0);
  CHECK(launches() - before <= 12);
  double* const g = stream.upload(p.g);
  double* const x = stream.allocate(p.total + p.k);
  before = launches();
  frame.solve(g, x);
  CHECK(launches() - before <= 8 + 2 * 3);  // three diagonal blocks, two triangles
  before = launches();
  stream.require(table().apply_h(&frame.system, g, x, frame.workspace, stream.handle()));
  CHECK(launches() - before <= 3);

  double* const vectors = stream.allocate(5 * p.k);
  auto* const iteration = stream.allocate<ArrowschurPcgRecord>(1);
  before = launches();
  stream.require(table().pcg_begin(&frame.system, 0.0, &frame.factor, 0.0, 9, g + p.total, x, vectors, iteration,
                                   frame.workspace, stream.handle()));
  CHECK_EQUAL(launches() - before, std::int64_t{3});
  before = launches();
  stream.require(
      table().pcg_iterate(&frame.system, 0.0, &frame.factor, x, vectors, iteration, frame.workspace, stream.handle()));
  CHECK_EQUAL(launches() - before, std::int64_t{5});  // W, the dense border, their sum; two of vectors

  for (const std::int64_t width : {0, 1, 5}) {
    const Problem banded = random_problem(repeated(2, 20), 300, ARROWSCHUR_BORDER_BANDED, width, 5);
    Frame dual(stream, banded, false, false, true);
    before = launches();
    dual.build(0.0, 0.0);
    CHECK(launches() - before <= 12);
    before = launches();
    dual.solve(g, x);
    CHECK(launches() - before <= 8 + 2);  // one diagonal block
  }
}

TEST(CountersAreOfTheStream) {
  Stream stream(table());
  const ArrowschurDeviceCounters before = counters(stream);
  double* const memory = stream.upload(Vector(10, 1.0));
  (void)stream.download(memory, 4);
  const ArrowschurDeviceCounters after = counters(stream);
  CHECK_EQUAL(after.h2d_bytes - before.h2d_bytes, std::int64_t{80});
  CHECK_EQUAL(after.d2h_bytes - before.d2h_bytes, std::int64_t{32});
  CHECK_EQUAL(after.syncs - before.syncs, std::int64_t{2});
  CHECK_EQUAL(after.allocations - before.allocations, std::int64_t{1});
  CHECK_EQUAL(after.graph_replays, std::int64_t{0});
}

TEST(ACaptureMayNeitherAllocateNorSynchronize) {
  Stream stream(table());
  void *memory = nullptr, *graph = nullptr;
  stream.require(table().capture_begin(stream.handle()));
  CHECK_EQUAL(table().allocate(&memory, 8, stream.handle()), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(table().capture_end(stream.handle(), &graph), int{ARROWSCHUR_DEVICE_FAILED});
  stream.require(table().capture_begin(stream.handle()));
  CHECK_EQUAL(table().stream_synchronize(stream.handle()), int{ARROWSCHUR_DEVICE_INVALID});
  CHECK_EQUAL(table().capture_end(stream.handle(), &graph), int{ARROWSCHUR_DEVICE_FAILED});
  stream.synchronize();  // as it was before
}

TEST(StreamsOfTheCallerAndPlacesOfMemory) { check_neighbours(table()); }

TEST(AScriptFailsTheCallThatItNames) {
  Stream stream(table());
  script("allocate", 2, 1, ARROWSCHUR_DEVICE_OUT_OF_MEMORY);
  void* memory[3] = {};
  CHECK_EQUAL(table().allocate(&memory[0], 8, stream.handle()), 0);
  CHECK_EQUAL(table().allocate(&memory[1], 8, stream.handle()), int{ARROWSCHUR_DEVICE_OUT_OF_MEMORY});
  CHECK_EQUAL(std::string(table().last_error()), "scripted failure of allocate");
  CHECK_EQUAL(table().allocate(&memory[2], 8, stream.handle()), 0);
  script(nullptr, 0, 0, 0);
  CHECK_EQUAL(table().release(memory[0], stream.handle()) + table().release(memory[2], stream.handle()), 0);

  const Problem p = random_problem(repeated(2, 3), 4, ARROWSCHUR_BORDER_DENSE, 0, 5);
  Frame frame(stream, p);
  script("factor_border", 1, 1, kFakeNumericalFailure);
  frame.build(0.0, 0.0);
  CHECK_EQUAL(frame.record().failed, unsigned{ARROWSCHUR_BORDER_FAILED});
  frame.build(0.0, 0.0);
  CHECK_EQUAL(frame.record().failed, 0u);
  script("factor_and_whiten", 1, 1, kFakeNumericalFailure);
  frame.build(0.0, 0.0);
  CHECK_EQUAL(frame.record().failed & 1u, unsigned{ARROWSCHUR_ROWS_FAILED});
  script(nullptr, 0, 0, 0);
}

TEST(APointerOutsideOfItsAllocationIsAFailure) {
  Stream stream(table());
  const Problem p = random_problem(repeated(2, 3), 4, ARROWSCHUR_BORDER_DENSE, 0, 5);
  Frame frame(stream, p);
  frame.factor.w = stream.allocate(p.total * p.k / 2);  // too small
  CHECK_EQUAL(table().factor_and_whiten(&frame.system, 0.0, &frame.factor, frame.workspace, stream.handle()), 0);
  CHECK_EQUAL(table().stream_synchronize(stream.handle()), int{ARROWSCHUR_DEVICE_INVALID});
}

CHECK_MAIN()
