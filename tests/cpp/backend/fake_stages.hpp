// The stages of the fake device: the sequences of the real one (cuda/kernels/stages.hpp), by the same kernels on the host.
// They run when their stream does; what they point to is checked then against the heap, size by size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/device_api.h"

namespace fake {

int sizes(const ArrowschurDeviceSystem* system, std::int32_t dual, std::int32_t full_inverse,
          ArrowschurDeviceSizes* sizes);
int factor_and_whiten(const ArrowschurDeviceSystem*, double ridge_t, const ArrowschurDeviceFactor*, void* workspace,
                      void* stream);
int reduce(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, void* workspace, void* stream);
int dual_reduce(const ArrowschurDeviceSystem*, double ridge_beta, const ArrowschurDeviceFactor*, void* workspace,
                void* stream);
int factor_border(const ArrowschurDeviceSystem*, double ridge_beta, const ArrowschurDeviceFactor*, void* workspace,
                  void* stream);
int log_det(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, void* workspace, void* stream);
int prepare_border_solve(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, void* workspace, void* stream);
int suggest_bump(const ArrowschurDeviceSystem*, double ridge_t, double ridge_beta, const ArrowschurDeviceFactor*,
                 void* workspace, void* stream);
int reduce_rhs(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, const double* g, double* out,
               void* workspace, void* stream);
int border_solve(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, double* x, void* workspace,
                 void* stream);
int expand(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, double* x, void* workspace, void* stream);
int schur_apply(const ArrowschurDeviceSystem*, double ridge_beta, const ArrowschurDeviceFactor*, const double* x,
                double* y, void* workspace, void* stream);
int pcg_begin(const ArrowschurDeviceSystem*, double ridge_beta, const ArrowschurDeviceFactor*,
              double relative_tolerance, std::int64_t max_iterations, const double* b, double* x, double* vectors,
              ArrowschurPcgRecord*, void* workspace, void* stream);
int pcg_iterate(const ArrowschurDeviceSystem*, double ridge_beta, const ArrowschurDeviceFactor*, double* x,
                double* vectors, ArrowschurPcgRecord*, void* workspace, void* stream);
int batch_sizes(const ArrowschurDeviceBatch*, std::size_t* workspace);
int batch_solve(const ArrowschurDeviceBatch*, double ridge_t, double ridge_beta, double* x, ArrowschurBuildRecord*,
                void* workspace, void* stream);
int route_sizes(const ArrowschurDeviceAtoms*, std::int64_t rows, std::int32_t wanted, std::size_t* workspace);
int route(const ArrowschurDeviceAtoms*, std::int64_t rows, const float* x, std::int32_t wanted, std::uint32_t* index,
          double* score, std::int64_t* rescanned, void* workspace, void* stream);
int apply_h(const ArrowschurDeviceSystem*, const double* z, double* q, void* workspace, void* stream);
int norm_h(const ArrowschurDeviceSystem*, double ridge_t, double ridge_beta, double* norm, void* workspace,
           void* stream);
int norm_inf(std::int64_t size, const double* x, double* norm, void* workspace, void* stream);
int combine(std::int64_t size, std::int32_t count, const double* coefficients, const double* const* inputs, double* out,
            void* stream);
int measure(const ArrowschurDeviceSystem*, const ArrowschurDeviceFactor*, const double* g, const double* z,
            const double* r, const double* delta, const double* q, ArrowschurLoopRecord* record, void* workspace,
            void* stream);

}  // namespace fake
