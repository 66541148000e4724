// The kernels for one instruction set; the flags are in CMakeLists.txt.
#define ARROWSCHUR_ISA isa_avx2
#define ARROWSCHUR_ISA_NAME "avx2"
#include "dictionary/kernels_body.hpp"
