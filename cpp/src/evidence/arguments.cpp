#include "evidence/arguments.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "arrowschur/error.hpp"

namespace arrowschur::evidence {

Index entries(Index rows, Index m) {
  if (m < 1) throw InvalidArgument("m", std::to_string(m), "a number of columns >= 1");
  if (rows > 0 && m > std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(double)) / rows) {
    throw InvalidArgument("m", std::to_string(m), "a number of columns whose arrays can be addressed");
  }
  return rows * m;
}

void check_size(const char* name, std::size_t size, Index expected, const char* shape) {
  if (std::cmp_equal(size, expected)) return;
  throw InvalidArgument(name, std::to_string(size) + " entries", std::to_string(expected) + " entries (" + shape + ")");
}

void check_input(const char* name, std::span<const double> values, Index expected, const char* shape) {
  check_size(name, values.size(), expected, shape);
  constexpr std::size_t kChunk = 4096;
  for (std::size_t begin = 0; begin < values.size(); begin += kChunk) {
    const auto chunk = values.subspan(begin, std::min(kChunk, values.size() - begin));
    double sum = 0.0;
    for (const double v : chunk) sum += v * 0.0;  // NaN as soon as one entry is not finite
    if (sum == 0.0) continue;
    const auto bad = std::ranges::find_if_not(chunk, [](double v) { return std::isfinite(v); });
    const auto index = begin + static_cast<std::size_t>(bad - chunk.begin());
    throw InvalidArgument(name, std::to_string(*bad) + " at index " + std::to_string(index), "finite values");
  }
}

void check_index(const char* name, Index index, Index count) {
  if (index >= 0 && index < count) return;
  throw InvalidArgument(name, std::to_string(index), "an index in [0, " + std::to_string(count) + ")");
}

bool overlap(std::span<const double> a, std::span<const double> b) noexcept {
  const std::less<> before;  // a total order, also for unrelated pointers
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) && before(b.data(), a.data() + a.size());
}

}  // namespace arrowschur::evidence
