#include "dictionary/kernels.hpp"

#include <string_view>

#include "linalg/kernels.hpp"

namespace arrowschur::dictionary {

namespace isa_baseline {
extern const Kernels kTable;
}
#ifdef ARROWSCHUR_X86_KERNELS
namespace isa_avx2 {
extern const Kernels kTable;
}
namespace isa_avx512 {
extern const Kernels kTable;
}
#endif

const Kernels& kernels() noexcept {
#ifdef ARROWSCHUR_X86_KERNELS
  const std::string_view set = linalg::instruction_set();
  if (set == isa_avx512::kTable.name) return isa_avx512::kTable;
  if (set == isa_avx2::kTable.name) return isa_avx2::kTable;
#endif
  return isa_baseline::kTable;
}

}  // namespace arrowschur::dictionary
