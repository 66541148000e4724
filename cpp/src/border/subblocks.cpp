#include "border/subblocks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "linalg/buffer.hpp"
#include "linalg/pool.hpp"
#include "system/border.hpp"

namespace arrowschur::border {
namespace {

// Numbers in the sub-blocks of one pass over W (128 MiB); a wider set goes alone.
constexpr Index kBatch = Index{1} << 24;
// Products with a border operator that sub-blocks may cost.
constexpr Index kProbes = 1024;

}  // namespace

eliminate::ColumnSets columns_of(const BorderGraph& graph, const BlockGroups& groups) {
  eliminate::ColumnSets sets;
  for (const std::vector<Index>& group : groups) {
    for (const Index b : group) {
      const Index begin = graph.offsets()[static_cast<std::size_t>(b)];
      for (Index c = 0; c < graph.width(b); ++c) sets.cols.push_back(begin + c);
    }
    sets.ptr.push_back(static_cast<Index>(sets.cols.size()));
  }
  return sets;
}

void for_each_subblock(const PreconditionerInputs& in, const eliminate::ColumnSets& sets,
                       const std::function<void(Index s, double* block)>& f) {
  const Border& border = in.system->border();
  const bool callback = !has_dense(border);  // an operator is called from here, never from the pool
  const auto size = [&](Index s) {
    const auto c = static_cast<Index>(sets.set(s).size());
    return c * c;
  };
  for (Index first = 0; first < sets.count();) {
    Index last = first, total = 0;
    for (; last < sets.count() && (last == first || total + size(last) <= kBatch); ++last) total += size(last);
    eliminate::ColumnSets batch;
    linalg::Buffer<double> memory(total);
    std::fill(memory.begin(), memory.end(), 0.0);
    std::vector<double*> out;
    double* next = memory.data();
    for (Index s = first; s < last; ++s) {
      const std::span<const Index> cols = sets.set(s);
      batch.cols.insert(batch.cols.end(), cols.begin(), cols.end());
      batch.ptr.push_back(static_cast<Index>(batch.cols.size()));
      out.push_back(next);
      next += size(s);
    }
    linalg::parallel_for_if(!callback && total >= linalg::kParallelWork, last - first, [&](Index s) {
      const std::span<const Index> cols = batch.set(s);
      double* block = out[static_cast<std::size_t>(s)];
      subblock_add(border, cols, block);
      for (std::size_t i = 0; i < cols.size(); ++i) block[i * cols.size() + i] += in.shift[cols[i]];
    });
    in.w->subtract_gram_blocks(batch, out);
    // One set alone leaves the threads to f.
    linalg::parallel_for_if(total >= linalg::kParallelWork && last - first > 1, last - first,
                            [&](Index s) { f(first + s, out[static_cast<std::size_t>(s)]); });
    first = last;
  }
}

std::optional<std::vector<double>> scalar_reciprocals(const PreconditionerInputs& in, std::string& why) {
  SchurDiagonal diagonal = schur_diagonal(in);
  if (diagonal.bad >= 0 && !in.trust_region) {
    why = "entry " + std::to_string(diagonal.bad) + " of the Schur diagonal is at or below its floor";
    return std::nullopt;
  }
  const double largest = std::accumulate(diagonal.values.begin(), diagonal.values.end(), 0.0,
                                         [](double most, double v) { return std::max(most, std::fabs(v)); });
  for (double& v : diagonal.values) v = 1.0 / (diagonal.bad < 0 ? v : std::max(std::fabs(v), 1e-8 * largest));
  return std::move(diagonal.values);
}

bool only_products(const PreconditionerInputs& in, std::string& why) {
  if (!has_dense(in.system->border()) && in.w->cols() > kProbes) {
    why = "the border is an operator, whose sub-blocks would cost one product per column";
    return true;
  }
  return false;
}

}  // namespace arrowschur::border
