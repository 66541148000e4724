#include "system/border_structure.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::border {
namespace {

constexpr Index kSmallest = 32;   // width from which it is worth a look
constexpr Index kSaving = 4;      // a compact form stores at most 1 / kSaving of the entries
constexpr Index kRowsPerTask = 64;

// First column of row i that holds something, i at most. A zero of either sign has no bit but that of its sign.
template <class T>
Index first_entry(const T* row, Index i) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(double), std::uint64_t, std::uint32_t>;
  constexpr Bits kMagnitude = std::numeric_limits<Bits>::max() >> 1;
  constexpr Index kRun = 64;
  Index c = 0;
  for (; c + kRun <= i; c += kRun) {
    Bits run[kRun], seen = 0;
    std::memcpy(run, row + c, sizeof run);
    for (const Bits bits : run) seen |= bits;
    if ((seen & kMagnitude) != 0) break;
  }
  while (c < i && row[c] == T(0)) ++c;
  return c;
}

// first_entry() of all rows, empty when some row is so long that no compact form can pay: it needs i - first + 1
// sub-diagonals, or a diagonal block of that size.
template <class T>
std::vector<Index> profile(const T* m, Index k) {
  std::vector<Index> first(static_cast<std::size_t>(k));
  std::atomic<bool> hopeless{false};
  const Index tasks = (k + kRowsPerTask - 1) / kRowsPerTask;
  // From the bottom: those rows are the longest. The first task alone, most dense matrices end there.
  const auto look = [&](Index task) {
    for (Index i = std::min(k, (tasks - task) * kRowsPerTask) - 1; i >= (tasks - 1 - task) * kRowsPerTask; --i) {
      if (hopeless.load(std::memory_order_relaxed)) return;
      const Index c = first_entry(m + i * k, i);
      first[static_cast<std::size_t>(i)] = c;
      if (kSaving * (i - c + 1) * (i - c + 1) > k * k) hopeless.store(true, std::memory_order_relaxed);
    }
  };
  look(0);
  if (!hopeless.load()) {
    linalg::parallel_for_if(k * k >= linalg::kParallelWork, tasks - 1, [&](Index task) { look(task + 1); });
  }
  if (hopeless.load()) first.clear();
  return first;
}

template <class T>
struct Data {
  explicit Data(Index entries) : buffer(std::make_shared<linalg::Buffer<T>>(entries)) {}
  T* get() { return buffer->data(); }
  std::shared_ptr<linalg::Buffer<T>> buffer;
};

template <class T>
Recognised banded(const T* m, Index k, Index bandwidth) {
  Data<T> bands((bandwidth + 1) * k);
  for (Index j = 0; j <= bandwidth; ++j) {
    T* band = bands.get() + j * k;
    for (Index i = 0; i + j < k; ++i) band[i] = m[(i + j) * k + i];
    std::fill(band + k - j, band + k, T(0));
  }
  if (bandwidth == 0) return {DiagonalBorder{bands.get()}, bands.buffer, "diagonal"};
  return {BandedBorder{bands.get(), bandwidth}, bands.buffer,
          "banded, " + std::to_string(bandwidth) + (bandwidth == 1 ? " sub-diagonal" : " sub-diagonals")};
}

template <class T>
Recognised block_diagonal(const T* m, Index k, std::vector<Index> sizes, Index entries) {
  Data<T> blocks(entries);
  T* to = blocks.get();
  Index begin = 0, largest = 0;
  for (const Index size : sizes) {
    for (Index r = 0; r < size; ++r) {
      for (Index c = 0; c < size; ++c) *to++ = m[(begin + std::max(r, c)) * k + begin + std::min(r, c)];
    }
    begin += size;
    largest = std::max(largest, size);
  }
  const std::string what =
      "block-diagonal, " + std::to_string(sizes.size()) + " blocks of size at most " + std::to_string(largest);
  return {BlockDiagonalBorder{blocks.get(), std::move(sizes)}, blocks.buffer, what};
}

}  // namespace

template <class T>
std::optional<Recognised> recognise(const T* m, Index k) {
  if (k < kSmallest) return std::nullopt;
  const std::vector<Index> first = profile(m, k);
  if (first.empty()) return std::nullopt;

  // A block ends before column b when no later row reaches left of b.
  Index bandwidth = 0, reach = k, end = k, block_entries = 0;
  std::vector<Index> sizes;
  for (Index i = k - 1; i >= 0; --i) {
    bandwidth = std::max(bandwidth, i - first[static_cast<std::size_t>(i)]);
    reach = std::min(reach, first[static_cast<std::size_t>(i)]);
    if (reach < i) continue;
    sizes.push_back(end - i);
    block_entries += (end - i) * (end - i);
    end = i;
  }
  std::reverse(sizes.begin(), sizes.end());
  const Index band_entries = (bandwidth + 1) * k;
  if (kSaving * std::min(band_entries, block_entries) > k * k) return std::nullopt;
  if (bandwidth == 0 || band_entries < block_entries) return banded(m, k, bandwidth);
  return block_diagonal(m, k, std::move(sizes), block_entries);
}

template std::optional<Recognised> recognise<double>(const double*, Index);
template std::optional<Recognised> recognise<float>(const float*, Index);

}  // namespace arrowschur::border
