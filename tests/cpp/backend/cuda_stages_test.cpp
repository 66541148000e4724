// The stages of the real CUDA backend against dense references, with fresh random data: the claims that
// fake_stages_test.cpp makes of the same kernels on the host. Without a device each is skipped and says so; with
// ARROWSCHUR_REQUIRE_DEVICE set, a missing device is a failure.
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "backend/batch_driver.hpp"
#include "backend/device_loader.hpp"
#include "backend/dual_driver.hpp"
#include "backend/route_driver.hpp"
#include "backend/rows_driver.hpp"
#include "backend/schur_driver.hpp"
#include "check.hpp"

using namespace stage_driver;

namespace {

// Runs a claim on the device, or says why it does not.
void on_device(void (*claim)(const ArrowschurDeviceTable&)) {
  static const arrowschur::device::Runtime runtime = arrowschur::device::open_runtime(ARROWSCHUR_TEST_BACKEND);
  CHECK(runtime.info.outcome != arrowschur::DeviceOutcome::fault);  // a fault is never a skip
  if (runtime.table != nullptr) return claim(*runtime.table);
  CHECK(std::getenv("ARROWSCHUR_REQUIRE_DEVICE") == nullptr);
  std::cout << "SKIPPED(no-device): " << runtime.info.why() << "\n";
}

// A step and five iterates on a stream, queued; both are looked at later.
struct Work {
  Work(const ArrowschurDeviceTable& table, const Problem& p, bool dual)
      : stream(table), frame(stream, p, false, false, dual), x(stream.allocate(p.total + p.k)) {
    const Vector right_side(p.g.begin() + p.total, p.g.end());
    double* const g = stream.upload(p.g);
    frame.build(0.1, 0.2);
    frame.solve(g, x);
    pcg = std::make_unique<Iteration>(frame, 0.2, right_side, 0.0, 5);
    for (int i = 0; i < 5; ++i) pcg->iterate();
  }
  std::vector<Vector> results() {
    return {stream.download(x, frame.p.total + frame.p.k), stream.download(pcg->x, frame.p.k)};
  }

  Stream stream;
  Frame frame;
  double* x;
  std::unique_ptr<Iteration> pcg;
};

// Bits do not depend on what other streams do, on either route.
void check_busy_streams(const ArrowschurDeviceTable& table) {
  for (const bool dual : {false, true}) {
    const Problem p = random_problem(repeated(2, 500), 700, dual ? ARROWSCHUR_BORDER_BANDED : ARROWSCHUR_BORDER_DENSE,
                                     dual ? 2 : 0, 31);
    const std::vector<Vector> expected = Work(table, p, dual).results();
    std::vector<std::unique_ptr<Work>> works;
    for (int i = 0; i < 8; ++i) works.push_back(std::make_unique<Work>(table, p, dual));
    for (const auto& work : works) CHECK(work->results() == expected);
  }
}

// The size of a real frame: many tiles, many chunks.
void check_large(const ArrowschurDeviceTable& table) {
  check_system(table, random_problem(repeated(2, 600), 1500, ARROWSCHUR_BORDER_DENSE, 0, 41), false, false);
  check_system(table, random_problem(repeated(8, 100), 1025, ARROWSCHUR_BORDER_BANDED, 1, 43), true, false);
}

void check_large_dual(const ArrowschurDeviceTable& table) {
  check_system(table, random_problem(repeated(2, 180), 2000, ARROWSCHUR_BORDER_BANDED, 1, 47), false, false, true);
  check_system(table, random_problem(repeated(8, 100), 1025, ARROWSCHUR_BORDER_BANDED, 0, 53), true, false, true);
  check_system(table, random_problem(repeated(3, 300), 1201, ARROWSCHUR_BORDER_BANDED, 9, 59), false, true, true);
}

}  // namespace

TEST(EveryShapeAgreesWithTheDenseMatrix) {
  on_device([](const ArrowschurDeviceTable& table) { check_shapes(table, std::random_device{}()); });
}
TEST(TheDualRouteAgreesWithTheDenseMatrix) {
  on_device([](const ArrowschurDeviceTable& table) { check_dual_shapes(table, std::random_device{}()); });
}
TEST(TheDualRouteSaysWhereItEnds) { on_device(check_failing_dual); }
TEST(ProductsAndIteratesOfTheSchurComplement) {
  on_device([](const ArrowschurDeviceTable& table) { check_schur(table, std::random_device{}()); });
}
TEST(ProductsWithWideSchurComplements) { on_device(check_wide_schur); }
TEST(ConjugateGradientsOfOrder512) { on_device(check_dense_pcg); }
TEST(ConjugateGradientsSayHowTheyEnd) { on_device(check_pcg_stops); }
TEST(RowsHaveTheBitsOfPlainLoops) {
  on_device([](const ArrowschurDeviceTable& table) { check_row_bits(table, std::random_device{}()); });
}
TEST(RowsWithoutAFactorSayWhy) { on_device(check_row_status); }
TEST(TheBatchFixture) { on_device(check_batch_fixture); }
TEST(BatchesAgreeWithTheDenseMatrix) {
  on_device([](const ArrowschurDeviceTable& table) { check_batch(table, std::random_device{}()); });
}
TEST(LargeSystemsOfABatchAreSharedByBlocks) { on_device(check_large_batch); }
TEST(RoutesHaveTheBitsOfPlainLoops) {
  on_device([](const ArrowschurDeviceTable& table) { route_driver::check_random(table, std::random_device{}()); });
}
TEST(EqualScoresAreInTheOrderOfTheAtoms) { on_device(route_driver::check_ties); }
TEST(AtomsAndRowsOfZerosAndTheEndsOfTheRange) { on_device(route_driver::check_edges); }
TEST(DictionariesThatAreRefused) { on_device(route_driver::check_refusals); }
TEST(LargeSystemsAgreeWithTheDenseMatrix) { on_device(check_large); }
TEST(LargeDualSystemsAgreeWithTheDenseMatrix) { on_device(check_large_dual); }
TEST(FailingRowsAreCountedAndTheirBumpIsTaken) { on_device(check_failing_rows); }
TEST(AFailingBorderNamesItsPivot) { on_device(check_failing_border); }
TEST(VectorsAgreeWithLongSums) { on_device(check_vectors); }
TEST(ARecordedSolveIsReplayed) { on_device(check_graph); }
TEST(BitsDoNotDependOnOtherStreams) { on_device(check_busy_streams); }
TEST(StreamsOfTheCallerAndPlacesOfMemory) { on_device(check_neighbours); }
TEST(UnsupportedShapesAreRefused) { on_device(check_refusals); }

CHECK_MAIN()
