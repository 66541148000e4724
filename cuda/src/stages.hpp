// The stages of the table: build.cu (E1 to E6), solve.cu (V2 to V6), product.cu (Q1, norms, vectors), sizes.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/device_api.h"

namespace arrowschur::cuda {

using System = ArrowschurDeviceSystem;
using Factor = ArrowschurDeviceFactor;

int sizes(const System*, std::int32_t dual, std::int32_t full_inverse, ArrowschurDeviceSizes*) noexcept;

int factor_and_whiten(const System*, double ridge_t, const Factor*, void* workspace, void* stream) noexcept;
int reduce(const System*, const Factor*, void* workspace, void* stream) noexcept;
int dual_reduce(const System*, double ridge_beta, const Factor*, void* workspace, void* stream) noexcept;
int factor_border(const System*, double ridge_beta, const Factor*, void* workspace, void* stream) noexcept;
int log_det(const System*, const Factor*, void* workspace, void* stream) noexcept;
int prepare_border_solve(const System*, const Factor*, void* workspace, void* stream) noexcept;
int suggest_bump(const System*, double ridge_t, double ridge_beta, const Factor*, void* workspace,
                 void* stream) noexcept;

int reduce_rhs(const System*, const Factor*, const double* g, double* out, void* workspace, void* stream) noexcept;
int border_solve(const System*, const Factor*, double* x, void* workspace, void* stream) noexcept;
int expand(const System*, const Factor*, double* x, void* workspace, void* stream) noexcept;

int schur_apply(const System*, double ridge_beta, const Factor*, const double* x, double* y, void* workspace,
                void* stream) noexcept;
int pcg_begin(const System*, double ridge_beta, const Factor*, double relative_tolerance, std::int64_t max_iterations,
              const double* b, double* x, double* vectors, ArrowschurPcgRecord*, void* workspace,
              void* stream) noexcept;
int pcg_iterate(const System*, double ridge_beta, const Factor*, double* x, double* vectors, ArrowschurPcgRecord*,
                void* workspace, void* stream) noexcept;

int batch_sizes(const ArrowschurDeviceBatch*, std::size_t* workspace) noexcept;
int batch_solve(const ArrowschurDeviceBatch*, double ridge_t, double ridge_beta, double* x, ArrowschurBuildRecord*,
                void* workspace, void* stream) noexcept;

int route_sizes(const ArrowschurDeviceAtoms*, std::int64_t rows, std::int32_t wanted, std::size_t* workspace) noexcept;
int route(const ArrowschurDeviceAtoms*, std::int64_t rows, const float* x, std::int32_t wanted, std::uint32_t* index,
          double* score, std::int64_t* rescanned, void* workspace, void* stream) noexcept;

int apply_h(const System*, const double* z, double* q, void* workspace, void* stream) noexcept;
int norm_h(const System*, double ridge_t, double ridge_beta, double* norm, void* workspace, void* stream) noexcept;
int norm_inf(std::int64_t size, const double* x, double* norm, void* workspace, void* stream) noexcept;
int combine(std::int64_t size, std::int32_t count, const double* coefficients, const double* const* inputs, double* out,
            void* stream) noexcept;
int measure(const System*, const Factor*, const double* g, const double* z, const double* r, const double* delta,
            const double* q, ArrowschurLoopRecord*, void* workspace, void* stream) noexcept;

}  // namespace arrowschur::cuda
