// Version and build facts.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace arrowschur {

// "major.minor.patch"
const char* version() noexcept;

// What was compiled, what was chosen on this machine: compiler, instruction_sets, instruction_set, blas, blas_kernels,
// blas_library, threads, cuda.
std::vector<std::pair<std::string, std::string>> build_info();

// Forces one of the compiled instruction sets ("baseline", "avx2", "avx512", "native") for tests and bug reports; also
// read from ARROWSCHUR_ISA when the library is loaded. Throws InvalidArgument for one that is not compiled in or that
// this CPU lacks.
void force_instruction_set(const std::string& name);

}  // namespace arrowschur
