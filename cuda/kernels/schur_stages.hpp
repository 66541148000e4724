// S from W alone (P1, conjugate gradients) as sequences of kernels: part of stages.hpp.
#pragma once

#include "calls.hpp"
#include "line_products.hpp"
#include "pcg.hpp"
#include "reduce_rhs.hpp"
#include "schur.hpp"

namespace arrowschur::kernels {

// Calls f.operator()<pairs>() for the pairs of columns that a thread has.
template <int kPairs = 1, class F>
int with_pairs(int pairs, F&& f) {
  if constexpr (kPairs < kSchurPairs) {
    if (pairs > kPairs) return with_pairs<kPairs + 1>(pairs, f);
  }
  return f.template operator()<kPairs>();
}

// P1, for the whole of y; for conjugate gradients with the terms of x'y, and nothing once they have stopped.
template <class Queue>
void schur_product(Calls<Queue>& calls, const System& s, double ridge_beta, const Factor& f, const double* x, double* y,
                   double* workspace, const ArrowschurPcgRecord* pcg) {
  const SchurSpace space = schur_space(s.total, s.k);
  double* const image = workspace + space.image;
  if (reads_once(s.k)) {
    const SchurArgs args{s.total, s.k, f.w, x, workspace, f.record, pcg};
    with_pairs(pairs_of(s.k), [&]<int P> { return calls.template run<SchurProduct<P>>(args), 0; });
  } else {
    calls.template run<LineProducts>({s.total, s.k, f.w, x, nullptr, 1.0, image, f.record});
    calls.template run<TransposedProduct>({tiling_of(s.total, s.k), f.w, image, workspace, f.record});
  }
  // A dense border as the lines of a stacked matrix that has no others.
  const bool dense = s.border_form == ARROWSCHUR_BORDER_DENSE;
  const Tiling border = dense ? tiling_of(s.k, s.k) : Tiling{};
  double *const columns = workspace + space.columns, *const lines = workspace + space.lines;
  if (dense) calls.template run<CrossProducts<false>>({border, 0, 0.0, nullptr, s.border, x, columns, lines});
  calls.template run<SchurSum>({border_of(s), space.parts, border.chunks, border.tiles, ridge_beta, x, workspace,
                                columns, lines, y, pcg != nullptr ? workspace + space.dots : nullptr, f.record, pcg});
}

template <class Queue>
int schur_apply(Queue& queue, const System& s, double ridge_beta, const Factor& f, const double* x, double* y,
                double* workspace) {
  Calls calls(queue);
  schur_product(calls, s, ridge_beta, f, x, y, workspace, nullptr);
  return calls.status();
}

inline PcgArgs pcg_args(const System& s, double ridge_beta, const Factor& f, const double* b, double* x,
                        double* vectors, ArrowschurPcgRecord* record, double* workspace) {
  const SchurSpace space = schur_space(s.total, s.k);
  PcgArgs args{};
  args.k = s.k, args.border = border_of(s), args.ridge = ridge_beta;
  args.b = b, args.x = x;
  args.r = vectors, args.z = args.r + s.k, args.p = args.z + s.k, args.q = args.p + s.k, args.diagonal = args.q + s.k;
  args.parts = tiling_of(s.total, s.k).chunks, args.partial = workspace;
  args.dots = workspace + space.dots, args.sums = workspace + space.sums, args.scalars = workspace + space.scalars;
  args.build = f.record, args.record = record;
  return args;
}

template <class Queue>
int pcg_begin(Queue& queue, const System& s, double ridge_beta, const Factor& f, double relative_tolerance,
              std::int64_t max_iterations, const double* b, double* x, double* vectors, ArrowschurPcgRecord* record,
              double* workspace) {
  PcgArgs args = pcg_args(s, ridge_beta, f, b, x, vectors, record, workspace);
  args.relative_tolerance = relative_tolerance, args.max_iterations = max_iterations;
  Calls calls(queue);
  calls.template run<ColumnSquares>({tiling_of(s.total, s.k), f.w, workspace, f.record});
  calls.template run<PcgStart>(args);
  calls.template run<PcgFirstRecord>(args);
  return calls.status();
}

template <class Queue>
int pcg_iterate(Queue& queue, const System& s, double ridge_beta, const Factor& f, double* x, double* vectors,
                ArrowschurPcgRecord* record, double* workspace) {
  const PcgArgs args = pcg_args(s, ridge_beta, f, nullptr, x, vectors, record, workspace);
  Calls calls(queue);
  schur_product(calls, s, ridge_beta, f, args.p, args.q, workspace, record);
  calls.template run<PcgAdvance>(args);
  calls.template run<PcgTurn>(args);
  return calls.status();
}

}  // namespace arrowschur::kernels
