// The stages of the table as sequences of kernels and library calls, written once for the device and for the host.
//
// A queue has, each returning an ARROWSCHUR_DEVICE_ status:
//     template <class Kernel> int run(const typename Kernel::Args&)   nothing where the launch has no blocks
//     int subtract_gram(k, lines, w, s, lds)     S -= W'W, lower triangle of the column-major S; W row-major [lines, k]
//     int cholesky(k, s, lds, info, workspace)   S = L L' in place, lower; *info 0 or the failing pivot from 1 on
//     int solve_lower(k, l, lds, x, ldx)         X = L^-1 X, [k, k]
#pragma once

#include "apply_h.hpp"
#include "border_solve.hpp"
#include "diagonal_inverses.hpp"
#include "expand.hpp"
#include "factor_and_whiten.hpp"
#include "log_det.hpp"
#include "reduce_rhs.hpp"
#include "suggest_bump.hpp"
#include "vectors.hpp"

namespace arrowschur::kernels {

using System = ArrowschurDeviceSystem;
using Factor = ArrowschurDeviceFactor;

inline Border border_of(const System& s) {
  return {s.border_form, s.k, s.border_form == ARROWSCHUR_BORDER_DENSE ? 0 : s.border_width, s.border};
}

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

// `workspace`: an int first, the library's from `library_workspace` on.
template <class Queue>
int factor_border(Queue& queue, const System& s, double ridge_beta, const Factor& f, int* info, void* workspace) {
  Calls calls(queue);
  calls.template run<AddRidge>({s.k, f.lds, ridge_beta, f.s0, f.s, f.record});
  if (s.k > 0) calls.call([&](Queue& q) { return q.cholesky(s.k, f.s, f.lds, info, workspace); });
  calls.template run<CheckBorder>({s.k, f.lds, f.s, info, f.record});
  return calls.status();
}

template <class Queue>
int log_det(Queue& queue, const System& s, const Factor& f, double* workspace) {
  const LogDetArgs args{s.total, s.k, f.lds, f.inverse_diagonal, f.s, workspace, f.record};
  Calls calls(queue);
  calls.template run<LogDetPieces>(args);
  calls.template run<LogDetTotal>(args);
  return calls.status();
}

template <class Queue>
int prepare_border_solve(Queue& queue, const System& s, const Factor& f) {
  Calls calls(queue);
  if (f.full_inverse == 0) {
    calls.template run<InvertDiagonalBlocks>({s.k, f.lds, f.s, f.border_inverses, f.record});
  } else if (s.k > 0) {
    calls.template run<SetIdentity>({s.k, padded(s.k), f.border_inverses});
    calls.call([&](Queue& q) { return q.solve_lower(s.k, f.s, f.lds, f.border_inverses, padded(s.k)); });
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

template <class Queue>
int reduce_rhs(Queue& queue, const System& s, const Factor& f, const double* g, double* out, double* workspace) {
  Calls calls(queue);
  for (int group = 0; group < s.groups; ++group) {
    const RowVectorArgs args{s.rows[group], f.l, f.inverse_diagonal, g, out, f.record};
    with_depth(args.rows.d, [&]<int D> { return calls.template run<WhitenVector<D>>(args), 0; });
  }
  const Tiling tiling = tiling_of(s.total, s.k);
  calls.template run<TransposedProduct>({tiling, f.w, out, workspace, f.record});
  calls.template run<AddPartials>({s.k, tiling.chunks, workspace, g + s.total, out + s.total, f.record});
  return calls.status();
}

template <class Queue>
int border_solve(Queue& queue, const System& s, const Factor& f, double* x, double* workspace) {
  Calls calls(queue);
  if (f.full_inverse != 0) {
    const InverseArgs args{s.k, padded(s.k), f.border_inverses, x, workspace, f.record};
    calls.template run<InverseTiles>(args);
    calls.template run<InverseSums>(args);
    calls.template run<InverseTransposed>(args);
    return calls.status();
  }
  StepArgs args{s.k, f.lds, 0, f.s, f.border_inverses, x, f.record};
  const std::int64_t blocks = diagonal_blocks(s.k);
  for (args.step = 0; args.step < blocks; ++args.step) calls.template run<ForwardStep>(args);
  for (args.step = blocks - 1; args.step >= 0; --args.step) calls.template run<BackwardStep>(args);
  return calls.status();
}

template <class Queue>
int expand(Queue& queue, const System& s, const Factor& f, double* x) {
  Calls calls(queue);
  for (int group = 0; group < s.groups; ++group) {
    const ExpandArgs args{s.rows[group], s.k, f.l, f.inverse_diagonal, f.w, x + s.total, x, f.record};
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
