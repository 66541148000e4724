// The kernels for one instruction set; the flags are in CMakeLists.txt.
#define ARROWSCHUR_ISA isa_avx512
#define ARROWSCHUR_ISA_NAME "avx512"
#include "dictionary/kernels_body.hpp"
