#include "backend/backend.hpp"

#include "backend/cpu_frame.hpp"

namespace arrowschur::backend {
namespace {

class CpuBackend final : public Backend {
 public:
  std::string_view name() const noexcept override { return "cpu"; }
  std::unique_ptr<Frame> make_frame(const ArrowSystem& system, const SolveOptions& options,
                                    const SolvePlan&) const override {
    if (options.precision == Precision::float32) return std::make_unique<CpuFrame<float>>(system);
    return std::make_unique<CpuFrame<double>>(system);
  }
};

}  // namespace

const Backend& choose_backend(Device device) {
  static const CpuBackend cpu;
  if (device == Device::required) {
    throw DeviceUnavailableError("this build of the library has no CUDA backend");
  }
  return cpu;
}

}  // namespace arrowschur::backend
