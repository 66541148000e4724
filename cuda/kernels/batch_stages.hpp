// Small systems as launches: part of stages.hpp.
#pragma once

#include "batch.hpp"
#include "calls.hpp"

namespace arrowschur::kernels {

inline bool shared_by_blocks(const ArrowschurBatchEntry& e) { return e.n * e.d > kBatchLines; }
template <int D>
std::int64_t batch_parts(const ArrowschurBatchEntry& e) {
  return ceil_div(BatchSolve<D>::groups(e), kPartGroups);
}

inline std::int64_t batch_doubles(const ArrowschurDeviceBatch& batch) {
  std::int64_t parts = 0;
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const ArrowschurBatchEntry& e = batch.host_entries[i];
    if (!shared_by_blocks(e)) continue;
    with_depth(e.d, [&]<int D> { return parts = larger(parts, batch_parts<D>(e)), 0; });
  }
  return larger(1, parts * kPartNumbers * kBatchThreads);
}

// One launch for all systems of a depth that a block can solve, four for each that is larger.
template <int D, class Queue>
void batch_of_depth(Calls<Queue>& calls, const ArrowschurDeviceBatch& batch, BatchArgs args) {
  using Kernel = BatchSolve<D>;
  args.part = BatchPart::whole, args.blocks = batch.count;
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const ArrowschurBatchEntry& e = batch.host_entries[i];
    if (!serves(D, e.d) || shared_by_blocks(e)) continue;
    args.phases = static_cast<int>(larger(args.phases, Kernel::phases(e, args.part).all()));
  }
  if (args.phases > 0) calls.template run<Kernel>(args);
  for (args.entry = 0; args.entry < batch.count; ++args.entry) {
    const ArrowschurBatchEntry& e = batch.host_entries[args.entry];
    if (!serves(D, e.d) || !shared_by_blocks(e)) continue;
    calls.template run<ResetRecord>({args.records + args.entry});
    args.parts = batch_parts<D>(e);
    for (const BatchPart part : {BatchPart::down, BatchPart::border, BatchPart::up}) {
      args.part = part, args.blocks = part == BatchPart::border ? 1 : args.parts;
      args.phases = Kernel::phases(e, part).all();
      calls.template run<Kernel>(args);
    }
  }
}

template <class Queue>
int batch_solve(Queue& queue, const ArrowschurDeviceBatch& batch, double ridge_t, double ridge_beta, double* x,
                ArrowschurBuildRecord* records, double* workspace) {
  BatchArgs args{};
  args.entries = batch.entries, args.a = batch.a, args.b = batch.b, args.m = batch.m, args.g = batch.g;
  args.ridge_t = ridge_t, args.ridge_beta = ridge_beta;
  args.x = x, args.records = records, args.partial = workspace;
  Calls calls(queue);
  for (const int depth : kDepths) {
    with_depth(depth, [&]<int D> { return batch_of_depth<D>(calls, batch, args), 0; });
  }
  return calls.status();
}

}  // namespace arrowschur::kernels
