// The stages of the real CUDA backend against dense references, with fresh random data: the claims that
// fake_stages_test.cpp makes of the same kernels on the host. Without a device each is skipped and says so; with
// ARROWSCHUR_REQUIRE_DEVICE set, a missing device is a failure.
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "backend/device_loader.hpp"
#include "backend/stage_driver.hpp"
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

// Bits do not depend on what other streams do.
void check_busy_streams(const ArrowschurDeviceTable& table) {
  const Problem p = random_problem(repeated(2, 500), 700, ARROWSCHUR_BORDER_DENSE, 0, 31);
  Stream quiet(table);
  Frame frame(quiet, p);
  frame.build(0.1, 0.2);
  const Vector expected = frame.step(p.g);

  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Frame>> frames;
  std::vector<double*> steps;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(std::make_unique<Stream>(table));
    frames.push_back(std::make_unique<Frame>(*streams.back(), p));
    steps.push_back(streams.back()->allocate(p.total + p.k));
  }
  std::vector<double*> gradients;
  for (const auto& stream : streams) gradients.push_back(stream->upload(p.g));
  for (size_t i = 0; i < frames.size(); ++i) {
    frames[i]->build(0.1, 0.2);
    frames[i]->solve(gradients[i], steps[i]);
  }
  for (size_t i = 0; i < frames.size(); ++i) CHECK(streams[i]->download(steps[i], p.total + p.k) == expected);
}

// The size of a real frame: many tiles, many chunks.
void check_large(const ArrowschurDeviceTable& table) {
  check_system(table, random_problem(repeated(2, 600), 1500, ARROWSCHUR_BORDER_DENSE, 0, 41), false, false);
  check_system(table, random_problem(repeated(8, 100), 1025, ARROWSCHUR_BORDER_BANDED, 1, 43), true, false);
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
TEST(LargeSystemsAgreeWithTheDenseMatrix) { on_device(check_large); }
TEST(FailingRowsAreCountedAndTheirBumpIsTaken) { on_device(check_failing_rows); }
TEST(AFailingBorderNamesItsPivot) { on_device(check_failing_border); }
TEST(VectorsAgreeWithLongSums) { on_device(check_vectors); }
TEST(ARecordedSolveIsReplayed) { on_device(check_graph); }
TEST(BitsDoNotDependOnOtherStreams) { on_device(check_busy_streams); }
TEST(StreamsOfTheCallerAndPlacesOfMemory) { on_device(check_neighbours); }
TEST(UnsupportedShapesAreRefused) { on_device(check_refusals); }

CHECK_MAIN()
