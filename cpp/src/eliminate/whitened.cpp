#include "eliminate/whitened.hpp"

#include "eliminate/whitened_forms.hpp"

namespace arrowschur::eliminate {

std::unique_ptr<Whitened> whiten(const ArrowSystem& system, const RowFactors<double>& rows, WhitenedStorage storage,
                                 TransposeAlong* along) {
  if (std::holds_alternative<BlockSparseCross>(system.cross())) {
    return whiten_block_sparse(system, rows, storage, along);
  }
  if (std::holds_alternative<KroneckerCross>(system.cross())) return whiten_kronecker(system, rows, storage);
  if (std::holds_alternative<OperatorCross>(system.cross())) return whiten_operator(system, rows);
  return whiten_dense(system, rows, storage);
}

Index whitened_bytes(const ArrowSystem& system, WhitenedStorage storage) {
  if (std::holds_alternative<BlockSparseCross>(system.cross())) return whitened_bytes_block_sparse(system, storage);
  if (std::holds_alternative<KroneckerCross>(system.cross())) return whitened_bytes_kronecker(system, storage);
  if (std::holds_alternative<OperatorCross>(system.cross())) return 0;
  return system.total_dim() * system.k() * bytes_of(storage);
}

void whiten_slab(const ArrowSystem& s, const RowFactors<double>& rows, double* out, Index ld) {
  constexpr Index kChunkBytes = Index{256} << 10;  // rows that stay in L2 while they are solved
  const Index k = s.k();
  const Partition partition = Partition::make(s);
  linalg::parallel_for_if(s.total_dim() * k >= linalg::kParallelWork, static_cast<Index>(partition.groups.size()),
                          [&](Index g) {
                            const Group& group = partition.groups[static_cast<std::size_t>(g)];
                            const RowRun run = Partition::run(s, group);
                            const auto& f = rows.buckets[static_cast<std::size_t>(group.bucket)];
                            const Index d = f.d, fit = kChunkBytes / (8 * std::max<Index>(1, d * k));
                            const Index chunk = std::clamp<Index>(fit, 1, 64);
                            linalg::Buffer<double> copy(ld == k ? 0 : chunk * d * k);
                            run.stretches([&](Index i0, Index blocks) {
                              for (Index i = i0; i < i0 + blocks; i += chunk) {
                                const Index count = std::min(chunk, i0 + blocks - i), live = count * d;
                                double* at = out + run.offset(i) * ld;
                                if (ld == k) {
                                  solve_blocks(backend::Part::lower, f, run.first + i, count, at, k);
                                  continue;
                                }
                                for (Index r = 0; r < live; ++r)
                                  std::copy(at + r * ld, at + r * ld + k, copy.data() + r * k);
                                solve_blocks(backend::Part::lower, f, run.first + i, count, copy.data(), k);
                                for (Index r = 0; r < live; ++r) {
                                  std::copy(copy.data() + r * k, copy.data() + (r + 1) * k, at + r * ld);
                                }
                              }
                            });
                          });
}

}  // namespace arrowschur::eliminate
