// Functions that are compiled for the host and for a device. No CUDA header is needed on the host.
#pragma once

#ifdef __CUDACC__
#define ARROWSCHUR_HD __host__ __device__
#define ARROWSCHUR_UNROLL _Pragma("unroll")
#define ARROWSCHUR_UNROLL_8 _Pragma("unroll 8")
#else
#define ARROWSCHUR_HD
#define ARROWSCHUR_UNROLL
#define ARROWSCHUR_UNROLL_8
#endif
