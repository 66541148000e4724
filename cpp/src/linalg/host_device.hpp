// Functions that are compiled for the host and for a device. No CUDA header is needed on the host.
#pragma once

#ifdef __CUDACC__
#define ARROWSCHUR_HD __host__ __device__
#else
#define ARROWSCHUR_HD
#endif

// Loops that are to be unrolled on a device; a host's compiler is left to itself.
#ifdef __CUDA_ARCH__
#define ARROWSCHUR_UNROLL _Pragma("unroll")
#define ARROWSCHUR_UNROLL_8 _Pragma("unroll 8")
#else
#define ARROWSCHUR_UNROLL
#define ARROWSCHUR_UNROLL_8
#endif
