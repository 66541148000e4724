// The queue of the stages (kernels/stages.hpp) that is a CUDA stream. Included by the files that hold kernels.
#pragma once

#include <string>

#include "kernels/shape.hpp"
#include "kernels/stages.hpp"
#include "status.hpp"
#include "stream.hpp"

namespace arrowschur::cuda {

template <class Kernel>
constexpr int resident_blocks() {
  if constexpr (requires { Kernel::kResident; }) {
    return Kernel::kResident;
  } else {
    return 1;
  }
}

// The phases of a kernel with barriers between them. Arguments stay in constant memory.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, resident_blocks<Kernel>())
    phases(const __grid_constant__ typename Kernel::Args args, const int count) {
  extern __shared__ __align__(16) double shared[];
  if (kernels::idle<Kernel>(blockIdx.x, args)) return;
  if constexpr (kernels::HasState<Kernel>) {
    typename Kernel::State state;
    for (int phase = 0; phase < count; ++phase) {
      if (phase > 0) __syncthreads();
      Kernel::run(phase, blockIdx.x, static_cast<int>(threadIdx.x), shared, state, args);
    }
  } else {
    for (int phase = 0; phase < count; ++phase) {
      if (phase > 0) __syncthreads();
      Kernel::run(phase, blockIdx.x, static_cast<int>(threadIdx.x), shared, args);
    }
  }
}

class DeviceQueue {
 public:
  DeviceQueue(Stream& stream, const char* stage) : stream_(stream), stage_(stage) {}

  template <class Kernel>
  int run(const typename Kernel::Args& args) {
    const kernels::Launch launch = Kernel::launch(args);
    if (launch.blocks == 0) return ARROWSCHUR_DEVICE_OK;
    if (launch.blocks > kernels::kMostBlocks) {
      return fail(ARROWSCHUR_DEVICE_INVALID, std::string(stage_) + ": more blocks than a grid holds");
    }
    const std::size_t shared = launch.shared_doubles * sizeof(double);
    if (launch.shared_doubles > kernels::kSharedDoubles) {
      // A limit of the function, whoever launches it: never lowered, so that no other thread's launch is refused.
      constexpr int kLimit = kernels::kMostSharedDoubles * sizeof(double);
      const cudaError_t error =
          cudaFuncSetAttribute(phases<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, kLimit);
      if (const int status = check(error, stage_)) return status;
    }
    phases<Kernel><<<static_cast<unsigned>(launch.blocks), Kernel::kThreads, shared, stream_.get()>>>(args,
                                                                                                      launch.phases);
    ++stream_.counters().kernel_launches;
    return check(cudaGetLastError(), stage_);
  }

  int subtract_gram(std::int64_t k, std::int64_t lines, const double* w, double* s, std::int64_t lds) {
    return stream_.subtract_gram(k, lines, w, s, lds);
  }
  int minus_outer(std::int64_t lines, std::int64_t k, const double* z, double* c, std::int64_t ldc) {
    return stream_.minus_outer(lines, k, z, c, ldc);
  }
  int cholesky(std::int64_t k, double* s, std::int64_t lds, int* info, void* workspace) {
    return stream_.cholesky(k, s, lds, info, workspace);
  }
  int solve_lower(std::int64_t k, const double* l, std::int64_t lds, double* x, std::int64_t ldx) {
    return stream_.solve_lower(k, l, lds, x, ldx);
  }
  int scores(std::int64_t atoms, std::int64_t rows, std::int64_t width, const float* d, const float* x, float* s,
             std::int64_t lds) {
    return stream_.scores(atoms, rows, width, d, x, s, lds);
  }

 private:
  Stream& stream_;
  const char* stage_;
};

// Runs stage(queue) on the stream of a handle.
template <class Stage>
int on_stream(void* stream, const char* name, const Stage& stage) {
  int status = ARROWSCHUR_DEVICE_OK;
  Stream* const s = stream_of(stream, &status);
  if (s == nullptr) return status;
  DeviceQueue queue(*s, name);
  return stage(queue);
}

// The same for stages on a system, whose shape is looked at first.
template <class Stage>
int on_system(const ArrowschurDeviceSystem* system, void* stream, const char* name, const Stage& stage) {
  if (system == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": no system");
  if (const char* words = kernels::complaint(*system)) {
    return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": " + words);
  }
  return on_stream(stream, name, stage);
}

}  // namespace arrowschur::cuda
