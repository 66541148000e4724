// The stages of the table as sequences of kernels and library calls, written once for the device and for the host.
#pragma once

#include "apply_h.hpp"
#include "band_factor.hpp"
#include "band_sweep.hpp"
#include "batch_stages.hpp"
#include "border_solve.hpp"
#include "calls.hpp"
#include "diagonal_inverses.hpp"
#include "expand.hpp"
#include "factor_and_whiten.hpp"
#include "line_products.hpp"
#include "log_det.hpp"
#include "reduce_rhs.hpp"
#include "route_stages.hpp"
#include "schur_stages.hpp"
#include "suggest_bump.hpp"
#include "tridiagonal_factor.hpp"
#include "tridiagonal_solve.hpp"
#include "vectors.hpp"

namespace arrowschur::kernels {

template <class Queue>
int factor_and_whiten(Queue& queue, const System& s, double ridge_t, const Factor& f) {
  Calls calls(queue);
  calls.template run<ResetRecord>({f.record});
  for (int group = 0; group < s.groups; ++group) {
    const WhitenArgs args{s.rows[group], s.k, ridge_t, s.a, s.b, f.l, f.inverse_diagonal, f.w, f.record};
    with_depth(args.rows.d, [&]<int D> { return calls.template run<FactorAndWhiten<D>>(args), 0; });
  }
  return calls.status();
}

template <class Queue>
int reduce(Queue& queue, const System& s, const Factor& f) {
  Calls calls(queue);
  calls.template run<ExpandBorder>({border_of(s), f.s0, f.lds});
  if (s.k > 0 && s.total > 0) {
    calls.call([&](Queue& q) { return q.subtract_gram(s.k, s.total, f.w, f.s0, f.lds); });
  }
  return calls.status();
}

// out_t = L_M^-1 in_t for `lines` lines, or L_M^-T in_t.
template <bool kDown, class Queue>
void sweep(Calls<Queue>& calls, const System& s, const Factor& f, std::int64_t lines, const double* in, double* out) {
  const SweepArgs args{lines, s.k, s.border_width, f.band_factor, in, out, f.record};
  if (s.border_width == 0) {
    calls.template run<DiagonalSweep>({args, false});
  } else if (s.border_width == 1) {
    calls.template run<BandSweep<kDown, true>>(args);
  } else {
    calls.template run<BandSweep<kDown, false>>(args);
  }
}

// Y1: L_M, Z = W L_M^-T, C - I = -Z Z', V = Z L_M^-1. The identity is added by factor_border.
template <class Queue>
int dual_reduce(Queue& queue, const System& s, double ridge_beta, const Factor& f) {
  Calls calls(queue);
  const BandArgs band{s.k, s.border_width, ridge_beta, s.border, f.band_factor, f.record};
  if (s.border_width == 0) {
    calls.template run<DiagonalFactor>(band);
  } else if (s.border_width == 1) {
    calls.template run<TridiagonalFactor>(band);
  } else if (s.border_width <= kNarrowBand) {
    calls.template run<BandFactor<32>>(band);
  } else {
    calls.template run<BandFactor<256>>(band);
  }
  sweep<true>(calls, s, f, s.total, f.w, f.v);
  if (s.k == 0) {
    calls.template run<SetIdentity>({s.total, f.lds, f.s, 0.0});
  } else if (s.total > 0) {
    calls.call([&](Queue& q) { return q.minus_outer(s.total, s.k, f.v, f.s, f.lds); });
  }
  sweep<false>(calls, s, f, s.total, f.v, f.v);
  return calls.status();
}

// `workspace`: an int first, the library's from `library_workspace` on.
template <class Queue>
int factor_border(Queue& queue, const System& s, double ridge_beta, const Factor& f, int* info, void* workspace) {
  const std::int64_t order = order_of(s, f);
  Calls calls(queue);
  if (dual(f)) {
    calls.template run<AddRidge>({order, f.lds, 1.0, f.s, f.s, f.record});
  } else {
    calls.template run<AddRidge>({order, f.lds, ridge_beta, f.s0, f.s, f.record});
  }
  if (order > 0) calls.call([&](Queue& q) { return q.cholesky(order, f.s, f.lds, info, workspace); });
  calls.template run<CheckBorder>({order, f.lds, f.s, info, f.record});
  return calls.status();
}

template <class Queue>
int log_det(Queue& queue, const System& s, const Factor& f, double* workspace) {
  const LogDetArgs args{s.total,   s.k,     f.lds, f.inverse_diagonal, f.s, dual(f) ? f.band_factor : nullptr,
                        workspace, f.record};
  Calls calls(queue);
  calls.template run<LogDetPieces>(args);
  calls.template run<LogDetTotal>(args);
  return calls.status();
}

template <class Queue>
int prepare_border_solve(Queue& queue, const System& s, const Factor& f) {
  const std::int64_t order = order_of(s, f);
  Calls calls(queue);
  if (f.full_inverse == 0) {
    calls.template run<InvertDiagonalBlocks>({order, f.lds, f.s, f.border_inverses, f.record});
  } else if (order > 0) {
    calls.template run<SetIdentity>({order, padded(order), f.border_inverses});
    calls.call([&](Queue& q) { return q.solve_lower(order, f.s, f.lds, f.border_inverses, padded(order)); });
  }
  return calls.status();
}

template <class Queue>
int suggest_bump(Queue& queue, const System& s, double ridge_t, double ridge_beta, const Factor& f, double* workspace) {
  Calls calls(queue);
  calls.template run<BorderDrain>({border_of(s), ridge_beta, workspace, f.record});
  for (int group = 0; group < s.groups; ++group) {
    calls.template run<SuggestBump>({s.rows[group], s.k, ridge_t, s.a, s.b, f.inverse_diagonal, workspace, f.record});
  }
  return calls.status();
}

// out = W'x - y for W [T, k], x [T], y [k].
template <class Queue>
void transposed_product(Calls<Queue>& calls, const System& s, const Factor& f, const double* w, const double* x,
                        const double* y, double* out, double* workspace) {
  const Tiling tiling = tiling_of(s.total, s.k);
  calls.template run<TransposedProduct>({tiling, w, x, workspace, f.record});
  calls.template run<AddPartials>({s.k, tiling.chunks, workspace, y, out, f.record});
}

// m = (M + ridge_beta I)^-1 g, [k] each.
template <class Queue>
void solve_band(Calls<Queue>& calls, const System& s, const Factor& f, const double* g, double* m) {
  if (s.border_width == 0) {
    calls.template run<DiagonalSweep>({{1, s.k, 0, f.band_factor, g, m, f.record}, true});
  } else if (s.border_width == 1) {
    calls.template run<TridiagonalSolve>({s.k, f.band_factor, g, m, f.record});
  } else {
    sweep<true>(calls, s, f, 1, g, m);
    sweep<false>(calls, s, f, 1, m, m);
  }
}

template <class Queue>
int reduce_rhs(Queue& queue, const System& s, const Factor& f, const double* g, double* out, double* workspace) {
  Calls calls(queue);
  for (int group = 0; group < s.groups; ++group) {
    const RowVectorArgs args{s.rows[group], f.l, f.inverse_diagonal, g, out, f.record};
    with_depth(args.rows.d, [&]<int D> { return calls.template run<WhitenVector<D>>(args), 0; });
  }
  double* const border = out + s.total;
  if (dual(f)) {
    solve_band(calls, s, f, g + s.total, border);
    calls.template run<LineProducts>({s.total, s.k, f.w, border, out, -1.0, out, f.record});
  } else {
    transposed_product(calls, s, f, f.w, out, g + s.total, border, workspace);
  }
  return calls.status();
}

template <class Queue>
int border_solve(Queue& queue, const System& s, const Factor& f, double* x, double* workspace) {
  Calls calls(queue);
  const std::int64_t order = order_of(s, f);
  if (f.full_inverse != 0) {
    const InverseArgs args{order, padded(order), f.border_inverses, x, workspace, f.record};
    calls.template run<InverseTiles>(args);
    calls.template run<InverseSums>(args);
    calls.template run<InverseTransposed>(args);
    return calls.status();
  }
  StepArgs args{order, f.lds, 0, f.s, f.border_inverses, x, f.record};
  const std::int64_t blocks = diagonal_blocks(order);
  for (args.step = 0; args.step < blocks; ++args.step) calls.template run<ForwardStep>(args);
  for (args.step = blocks - 1; args.step >= 0; --args.step) calls.template run<BackwardStep>(args);
  return calls.status();
}

template <class Queue>
int expand(Queue& queue, const System& s, const Factor& f, double* x, double* workspace) {
  Calls calls(queue);
  // Dual: dbeta = V w - m first, then dt = -L^-T w, to which the border adds no columns.
  if (dual(f)) transposed_product(calls, s, f, f.v, x, x + s.total, x + s.total, workspace);
  const std::int64_t columns = dual(f) ? 0 : s.k;
  for (int group = 0; group < s.groups; ++group) {
    const ExpandArgs args{s.rows[group], columns, f.l, f.inverse_diagonal, f.w, x + s.total, x, f.record};
    with_depth(args.rows.d, [&]<int D> { return calls.template run<Expand<D>>(args), 0; });
  }
  return calls.status();
}

template <bool kAbsolute, class Queue>
int multiply(Queue& queue, const System& s, double ridge_t, double ridge_beta, const double* z, double* q,
             double* workspace) {
  const std::int64_t stacked = stacked_lines(s);
  const Tiling tiling = tiling_of(stacked, s.k);
  double* const columns = workspace;
  double* const lines = workspace + tiling.chunks * s.k;
  Calls calls(queue);
  calls.template run<CrossProducts<kAbsolute>>({tiling, s.total, ridge_beta, s.b, s.border, z, columns, lines});
  for (int group = 0; group < s.groups; ++group) {
    calls.template run<RowProducts<kAbsolute>>({s.rows[group], tiling.tiles, stacked, ridge_t, s.a, z, lines, q});
  }
  calls.template run<BorderProducts<kAbsolute>>(
      {border_of(s), tiling.chunks, tiling.tiles, stacked, s.total, ridge_beta, z, columns, lines, q});
  return calls.status();
}

template <class Queue>
int apply_h(Queue& queue, const System& s, const double* z, double* q, double* workspace) {
  return multiply<false>(queue, s, 0.0, 0.0, z, q, workspace);
}

template <class Queue>
int norm_inf(Queue& queue, std::int64_t size, const double* x, double* norm, double* workspace) {
  const LargestArgs args{size, x, workspace, norm};
  Calls calls(queue);
  calls.template run<LargestOfPieces>(args);
  calls.template run<Largest>(args);
  return calls.status();
}

template <class Queue>
int norm_h(Queue& queue, const System& s, double ridge_t, double ridge_beta, double* norm, double* workspace) {
  const std::int64_t size = s.total + s.k;
  double* const sums = workspace + product_doubles(s.total, s.k);
  if (const int status = multiply<true>(queue, s, ridge_t, ridge_beta, nullptr, sums, workspace)) return status;
  return norm_inf(queue, size, sums, norm, sums + size);
}

template <class Queue>
int combine(Queue& queue, std::int64_t size, int count, const double* coefficients, const double* const* inputs,
            double* out) {
  Combine::Args args{size, count, {}, {}, out};
  for (int v = 0; v < count; ++v) args.coefficients[v] = coefficients[v], args.inputs[v] = inputs[v];
  return queue.template run<Combine>(args);
}

template <class Queue>
int measure(Queue& queue, const System& s, const Factor* f, const double* g, const double* z, const double* r,
            const double* delta, const double* q, ArrowschurLoopRecord* record, double* workspace) {
  const MeasureArgs args{s.total, s.k, g, z, r, delta, q, workspace, f == nullptr ? nullptr : f->record, record};
  Calls calls(queue);
  calls.template run<MeasurePieces>(args);
  calls.template run<MeasureTotal>(args);
  return calls.status();
}

}  // namespace arrowschur::kernels
