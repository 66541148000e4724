// Deterministic test systems. Same numbers on every platform with IEEE arithmetic and the C library's sin and cos.
#pragma once

#include <cstdint>
#include <vector>

#include "arrowschur/inner_loop.hpp"
#include "arrowschur/system.hpp"

namespace arrowschur::fixtures {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double signed_unit() noexcept { return 2.0 * (static_cast<double>(next() >> 11) * 0x1p-53) - 1.0; }  // [-1, 1)

 private:
  std::uint64_t state_;
};

enum class BorderKind { dense, tridiagonal, diagonal };

// The parts of a uniform float64 system, and (where the fixture defines them) the data of a resident workspace.
struct FixtureData {
  Index n = 0, d = 0, k = 0, basis_cols = 0;
  std::vector<double> h_tt, h_tb, h_bb, g_t,
      g_beta;  // h_bb [k, k] for dense, [2, k] bands for tridiagonal, [k] diagonal
  BorderKind border = BorderKind::dense;
  std::vector<double> target, basis, gates;  // [n, k], [n, basis_cols], [n, basis_cols]
  ArrowSystem system() const;                // borrows this object's buffers
};

// Smooth reference shapes with a tridiagonal border stored dense; `with_target` also makes target, basis, gates.
FixtureData shape_fixture(Index n, Index k, Index basis_cols, Index d, std::uint64_t seed, bool with_target = true);
FixtureData qwen_fixture(bool with_target = true);       // n 2000, k 2048, basis 8, d 2
FixtureData color_arm_fixture(bool with_target = true);  // n 180, k 5120, basis 9, d 2
FixtureData small_fixture(std::uint64_t seed);           // n 8, k 4, basis 2, d 2
// Random system whose cross block matters: coupling in (0, 1) moves S towards singular. The benchmark fixture.
FixtureData coupled_fixture(Index n, Index d, Index k, std::uint64_t seed, double coupling, BorderKind border);

// One fit of a sweep: shape_fixture() of this shape and seed.
struct SweepVariant {
  ResidentShape shape;
  std::uint64_t seed = 0;
};
// The battery: K = 1..4 by 4, 8, 12 basis functions, color_arm otherwise; K reaches the seed only.
std::vector<SweepVariant> color_arm_variant_matrix();

}  // namespace arrowschur::fixtures
