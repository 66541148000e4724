// Runs a kernel (cuda/kernels/kernel.hpp) on the host: phase by phase, in each the threads of a block one after another, in
// the order that is asked for; the blocks likewise. Shared memory, and what threads keep, is poisoned before each block. A kernel whose result
// depends on the order lacks a barrier, or two of its blocks write the same place.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/kernel.hpp"

namespace arrowschur::kernels {

enum class Order { forward, reverse, shuffled };

inline constexpr std::uint64_t kPoison = 0x7ff4dead0badf00du;  // a signalling NaN

// A permutation of 0 .. size - 1.
class Permutation {
 public:
  Permutation(Order order, std::size_t size) : order_(order), at_(order == Order::shuffled ? size : 0), size_(size) {
    std::iota(at_.begin(), at_.end(), std::size_t{0});
  }
  void renew() {
    for (std::size_t i = at_.size(); i > 1; --i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      std::swap(at_[i - 1], at_[static_cast<std::size_t>(state_ >> 33) % i]);
    }
  }
  std::size_t operator[](std::size_t i) const {
    return order_ == Order::forward ? i : order_ == Order::reverse ? size_ - 1 - i : at_[i];
  }

 private:
  Order order_;
  std::vector<std::size_t> at_;
  std::size_t size_;
  std::uint64_t state_ = 0x9e3779b97f4a7c15u;
};

// What the threads of a block keep from phase to phase.
template <class Kernel>
class States {
 public:
  void poison() {}
};
template <HasState Kernel>
class States<Kernel> {
  using State = typename Kernel::State;
  static_assert(std::is_trivially_copyable_v<State> && sizeof(State) % sizeof kPoison == 0);

 public:
  void poison() {
    for (State& state : all_) {
      auto* const bytes = reinterpret_cast<unsigned char*>(&state);
      for (std::size_t i = 0; i < sizeof state; i += sizeof kPoison) std::memcpy(bytes + i, &kPoison, sizeof kPoison);
    }
  }
  State& operator[](std::size_t thread) { return all_[thread]; }

 private:
  std::vector<State> all_ = std::vector<State>(static_cast<std::size_t>(Kernel::kThreads));
};

template <class Kernel>
void execute(const typename Kernel::Args& args, Order order = Order::forward) {
  const Launch launch = Kernel::launch(args);
  std::vector<double> shared(launch.shared_doubles);
  States<Kernel> states;
  Permutation blocks(order, static_cast<std::size_t>(launch.blocks));
  Permutation threads(order, static_cast<std::size_t>(Kernel::kThreads));
  blocks.renew();
  for (std::size_t b = 0; b < static_cast<std::size_t>(launch.blocks); ++b) {
    if (idle<Kernel>(static_cast<std::int64_t>(blocks[b]), args)) continue;
    std::fill(shared.begin(), shared.end(), std::bit_cast<double>(kPoison));
    states.poison();
    for (int phase = 0; phase < launch.phases; ++phase) {
      threads.renew();
      for (std::size_t t = 0; t < static_cast<std::size_t>(Kernel::kThreads); ++t) {
        const auto block = static_cast<std::int64_t>(blocks[b]);
        const auto thread = static_cast<int>(threads[t]);
        if constexpr (HasState<Kernel>) {
          Kernel::run(phase, block, thread, shared.data(), states[threads[t]], args);
        } else {
          Kernel::run(phase, block, thread, shared.data(), args);
        }
      }
    }
  }
}

// Equal in every bit, NaNs too.
inline bool same_bits(std::span<const double> a, std::span<const double> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(y);
  });
}

}  // namespace arrowschur::kernels
