// Chooses among the compiled kernel sets.
#include "linalg/kernels.hpp"

#include <atomic>
#include <cstdlib>

#include "arrowschur/error.hpp"

namespace arrowschur::linalg {

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

namespace {

struct Candidate {
  const Kernels* kernels;
  bool supported;
};

// Best first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> list;
#ifdef ARROWSCHUR_X86_KERNELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                      __builtin_cpu_supports("avx512cd") != 0;
  list.push_back({&isa_avx512::kTable, avx512});
  list.push_back({&isa_avx2::kTable, avx2});
#endif
  list.push_back({&isa_baseline::kTable, true});
  return list;
}

const Kernels* find(const std::string& name) {
  for (const Candidate& c : candidates()) {
    if (name == c.kernels->name) return c.supported ? c.kernels : nullptr;
  }
  return nullptr;
}

const Kernels* choose() {
  if (const char* forced = std::getenv("ARROWSCHUR_ISA")) {
    if (const Kernels* set = find(forced))
      return set;  // an unknown name must not break the import; build_info shows it
  }
  for (const Candidate& c : candidates()) {
    if (c.supported) return c.kernels;
  }
  return nullptr;
}

std::atomic<const Kernels*>& chosen() noexcept {
  static std::atomic<const Kernels*> set{choose()};
  return set;
}

}  // namespace

const Kernels& kernels() noexcept { return *chosen().load(std::memory_order_relaxed); }
const char* instruction_set() noexcept { return kernels().name; }

std::vector<std::string> compiled_instruction_sets() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) names.emplace_back(c.kernels->name);
  return names;
}

void force_instruction_set(const std::string& name) {
  const Kernels* set = find(name);
  if (set == nullptr) {
    std::string names;
    for (const Candidate& c : candidates()) {
      if (c.supported) names += (names.empty() ? "" : ", ") + std::string(c.kernels->name);
    }
    throw InvalidArgument("name", name, "one of the instruction sets compiled in that this CPU has: " + names);
  }
  chosen().store(set, std::memory_order_relaxed);
}

}  // namespace arrowschur::linalg
