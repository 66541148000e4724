// The kernels for one instruction set; the flags are in CMakeLists.txt.
#define ARROWSCHUR_ISA isa_baseline
#define ARROWSCHUR_ISA_NAME "baseline"
#include "dictionary/kernels_body.hpp"
