// Counter-based random numbers: the value is a function of (seed, counter), so that any part of a stream can be made by
// any thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace arrowschur::evidence {

// Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011. Four words of counter, two of key; ten rounds.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                               std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Two independent standard normals (Box and Muller, Ann. Math. Statist. 29, 1958) of the pair (unknown, draw_pair).
inline std::array<double, 2> normal_pair(std::uint64_t seed, std::uint64_t unknown, std::uint64_t draw_pair) noexcept {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto w = philox4x32({low(unknown), high(unknown), low(draw_pair), high(draw_pair)}, {low(seed), high(seed)});
  const auto unit = [](std::uint32_t a, std::uint32_t b) {  // (0, 1], 53 bits
    return static_cast<double>((((std::uint64_t{a} << 32) | b) >> 11) + 1) * 0x1p-53;
  };
  const double radius = std::sqrt(-2.0 * std::log(unit(w[0], w[1])));
  const double angle = 2.0 * std::numbers::pi * unit(w[2], w[3]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace arrowschur::evidence
