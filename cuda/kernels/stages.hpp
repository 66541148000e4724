// The stages of the table as sequences of kernels and library calls, written once for the device and for the host.
//
// A queue has, each returning an ARROWSCHUR_DEVICE_ status:
//     template <class Kernel> int run(const typename Kernel::Args&)   nothing where the launch has no blocks
//     int subtract_gram(k, lines, w, s, lds)     S -= W'W, lower triangle of the column-major S; W row-major [lines, k]
//     int minus_outer(lines, k, z, c, ldc)       C = -Z Z', lower triangle of the column-major C; Z row-major [lines, k]
//     int cholesky(k, s, lds, info, workspace)   S = L L' in place, lower; *info 0 or the failing pivot from 1 on
//     int solve_lower(k, l, lds, x, ldx)         X = L^-1 X, [k, k]
//     int scores(atoms, rows, width, d, x, s, lds)   s[i, a] = x_i . d_a in float32, in any order, never in fewer bits; D
//                                                [atoms, width], X [rows, width], S row-major, rows lds apart
#pragma once

#include "apply_h.hpp"
#include "band_factor.hpp"
#include "band_sweep.hpp"
#include "batch.hpp"
#include "border_solve.hpp"
#include "diagonal_inverses.hpp"
#include "expand.hpp"
#include "factor_and_whiten.hpp"
#include "line_products.hpp"
#include "log_det.hpp"
#include "pcg.hpp"
#include "reduce_rhs.hpp"
#include "route_score.hpp"
#include "schur.hpp"
#include "suggest_bump.hpp"
#include "vectors.hpp"

namespace arrowschur::kernels {

using System = ArrowschurDeviceSystem;
using Factor = ArrowschurDeviceFactor;

inline Border border_of(const System& s) {
  return {s.border_form, s.k, s.border_form == ARROWSCHUR_BORDER_DENSE ? 0 : s.border_width, s.border};
}

// The dual route (device_api.h): what is factored has order T instead of k.
inline bool dual(const Factor& f) { return f.v != nullptr; }
inline std::int64_t order_of(const System& s, const Factor& f) { return dual(f) ? s.total : s.k; }

// Calls until one fails.
template <class Queue>
class Calls {
 public:
  explicit Calls(Queue& queue) : queue_(queue) {}
  template <class Kernel>
  void run(const typename Kernel::Args& args) {
    if (status_ == ARROWSCHUR_DEVICE_OK) status_ = queue_.template run<Kernel>(args);
  }
  template <class F>
  void call(F&& f) {
    if (status_ == ARROWSCHUR_DEVICE_OK) status_ = f(queue_);
  }
  int status() const { return status_; }

 private:
  Queue& queue_;
  int status_ = ARROWSCHUR_DEVICE_OK;
};

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

// ---- small systems ----------------------------------------------------------------------------------------------------
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

// ---- routing ------------------------------------------------------------------------------------------------------------
template <class Queue>
int route(Queue& queue, const ArrowschurDeviceAtoms& atoms, std::int64_t rows, const float* x, int wanted,
          std::uint32_t* index, double* score, std::int64_t* rescanned, double* workspace) {
  const RouteSpace space = route_space(atoms.count, rows, wanted);
  auto* const scores = reinterpret_cast<float*>(workspace);
  Calls calls(queue);
  for (std::int64_t row = 0; row < rows; row += space.rows) {
    RouteArgs args{};
    args.rows = smaller(space.rows, rows - row), args.atoms = atoms.count, args.width = atoms.width;
    args.wanted = wanted, args.d = atoms.atoms, args.x = x + row * atoms.width;
    args.lists = reinterpret_cast<std::uint64_t*>(workspace + space.lists);
    args.states = reinterpret_cast<RouteRow*>(workspace + space.states);
    args.index = index + row * wanted, args.score = score + row * wanted, args.rescanned = rescanned;
    args.pitch = space.atoms, args.scores = scores;
    calls.template run<RouteBegin>(args);
    for (; !args.all_are_candidates() && args.first < args.atoms; args.first += args.count) {
      args.count = smaller(space.atoms, args.atoms - args.first);
      calls.call([&](Queue& q) {
        return q.scores(args.count, args.rows, args.width, args.d + args.first * args.width, args.x, scores,
                        args.pitch);
      });
      calls.template run<RouteFold>(args);
    }
    calls.template run<RouteScore>(args);
    calls.template run<RouteScan>(args);
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
