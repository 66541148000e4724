#include "fake_stages.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <type_traits>
#include <vector>

#include "fake_device.hpp"
#include "fake_heap.hpp"
#include "fake_stream.hpp"
#include "host_queue.hpp"
#include "kernels/shape.hpp"
#include "kernels/stages.hpp"

namespace fake {
namespace {

namespace kernels = arrowschur::kernels;
inline constexpr int kDone = ARROWSCHUR_DEVICE_OK;

struct Outside {};  // thrown by a translation

// Device addresses to the bytes behind them.
template <class T>
T* here(T* memory, std::int64_t count, std::size_t alignment = 256) {
  if (memory == nullptr && count == 0) return nullptr;
  if (reinterpret_cast<std::uintptr_t>(memory) % alignment != 0) throw Outside{};
  unsigned char* const at = heap().content(memory, static_cast<std::size_t>(count) * sizeof(T));
  if (at == nullptr) throw Outside{};
  return reinterpret_cast<T*>(at);
}

// A system and a factor, as they were when the stage was called.
class Call {
 public:
  Call(const ArrowschurDeviceSystem& system, const ArrowschurDeviceFactor* factor, void* workspace)
      : system_(system), rows_(system.rows, system.rows + system.groups), workspace_(workspace) {
    if (factor != nullptr) factor_ = *factor;
    has_factor_ = factor != nullptr;
  }

  // Before it is translated: what is launched depends on shapes and on which pointers are equal.
  const ArrowschurDeviceSystem& system() {
    system_.rows = rows_.data();
    return system_;
  }
  const ArrowschurDeviceFactor& factor() const { return factor_; }
  double* workspace() const { return static_cast<double*>(workspace_); }

  Call here() const {
    Call made = *this;
    made.translate();
    return made;
  }

 private:
  void translate() {
    ArrowschurDeviceSystem& s = system_;
    std::int64_t entries = 0;
    for (const ArrowschurDeviceRows& rows : rows_) entries += rows.n * rows.d * rows.d;
    for (ArrowschurDeviceRows& rows : rows_) {
      if (rows.line != nullptr) rows.line = fake::here(rows.line, rows.n);
      if (rows.entry != nullptr) rows.entry = fake::here(rows.entry, rows.n);
      if (rows.row != nullptr) rows.row = fake::here(rows.row, rows.n);
    }
    s.a = fake::here(s.a, entries);
    s.b = fake::here(s.b, s.total * s.k);
    std::int64_t border = s.k * s.k;
    if (s.border_form != ARROWSCHUR_BORDER_DENSE) border = s.k * s.border_width;
    if (s.border_form == ARROWSCHUR_BORDER_BANDED) border += s.k;
    s.border = fake::here(s.border, border);
    std::int64_t order = 0;
    if (has_factor_ && factor_.l == nullptr && factor_.s == nullptr) {  // W and the record alone
      factor_.w = fake::here(factor_.w, s.total * s.k);
      factor_.record = fake::here(factor_.record, 1);
    } else if (has_factor_) {
      ArrowschurDeviceFactor& f = factor_;
      const bool dual = f.v != nullptr, rows_only = f.s == nullptr && !dual;
      order = dual ? s.total : rows_only ? 0 : s.k;
      if (f.lds < order || f.lds % 16 != 0) throw Outside{};
      f.l = fake::here(f.l, entries);
      f.inverse_diagonal = fake::here(f.inverse_diagonal, s.total);
      f.w = fake::here(f.w, s.total * s.k);
      f.s0 = dual || rows_only ? nullptr : fake::here(f.s0, s.k * f.lds);
      f.s = fake::here(f.s, order * f.lds);
      f.border_inverses = fake::here(f.border_inverses, kernels::inverse_doubles(order, f.full_inverse != 0));
      if (dual) {
        f.v = fake::here(f.v, s.total * s.k);
        f.band_factor = fake::here(f.band_factor, (s.border_width + 1) * s.k);
      }
      f.record = fake::here(f.record, 1);
    }
    if (workspace_ == nullptr) return;  // of a stage that takes none
    const auto doubles = static_cast<std::int64_t>(kernels::workspace_bytes(s.total, s.k, order, 0) / sizeof(double));
    double* const workspace = fake::here(static_cast<double*>(workspace_), doubles);
    std::fill_n(workspace, doubles, std::bit_cast<double>(kernels::kPoison));  // nothing survives from stage to stage
    workspace_ = workspace;
  }

  ArrowschurDeviceSystem system_;
  ArrowschurDeviceFactor factor_{};
  std::vector<ArrowschurDeviceRows> rows_;
  void* workspace_;
  bool has_factor_ = false;
};

// Queues `work` and counts what the real backend would launch for it: count(queue).
template <class Count, class Work>
int queue_stage(const char* name, void* stream, const Count& count, Work work) {
  Stream* const s = stream_of(stream);
  if (s == nullptr) return ARROWSCHUR_DEVICE_INVALID;
  kernels::CountingQueue counting;
  count(counting);
  s->counters.kernel_launches += counting.launches();
  return enqueue(*s, [name, work] {
    try {
      return work();
    } catch (const Outside&) {
      return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": a pointer outside of an allocation, or misaligned");
    }
  });
}

// What a script makes of a build that may have gone well.
void break_build(ArrowschurBuildRecord& record, const std::string& stage) {
  if (stage == "dual_reduce") {
    record.failed |= ARROWSCHUR_BAND_FAILED;
    record.border_pivot = 0;
  } else if (stage == "factor_border") {
    record.failed |= ARROWSCHUR_BORDER_FAILED;
    record.border_pivot = 0;
  } else {
    record.failed |= ARROWSCHUR_ROWS_FAILED;
    record.failing_rows = 1;
    record.first_failure = 0;
    record.bump = 1.0;
  }
}

// stage(queue, call, at), where a call has its system, factor and workspace, for those that take a system, and at(pointer,
// count) is what the host can read.
template <class Stage>
int queue_call(const char* name, const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor,
               void* workspace, void* stream, Stage stage) {
  const int status = scripted(name);
  if (status != kDone && status != kFakeNumericalFailure) return status;
  if (system == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, std::string(name) + ": no system");
  if (const char* words = kernels::complaint(*system)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  const std::lock_guard lock(mutex());
  Call call(*system, factor, workspace);
  const auto as_it_is = [](auto* pointer, auto...) { return pointer; };
  return queue_stage(
      name, stream, [&](auto& queue) { stage(queue, call, as_it_is); },
      [=] {
        kernels::HostQueue queue;
        Call translated = call.here();
        const int done = stage(queue, translated, [](auto* pointer, std::int64_t count, std::size_t alignment = 256) {
          return here(pointer, count, alignment);
        });
        if (status == kFakeNumericalFailure) break_build(*translated.factor().record, name);
        return done;
      });
}

}  // namespace

int sizes(const ArrowschurDeviceSystem* system, std::int32_t dual, std::int32_t full_inverse,
          ArrowschurDeviceSizes* out) {
  if (const int status = scripted("sizes")) return status;
  if (system == nullptr || out == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "no system");
  if (const char* words = dual != 0 ? kernels::dual_complaint(*system) : kernels::complaint(*system)) {
    return fail(ARROWSCHUR_DEVICE_INVALID, words);
  }
  const std::int64_t order = dual != 0 ? system->total : system->k;
  *out = {kernels::workspace_bytes(system->total, system->k, order, 0),
          kernels::inverse_bytes(order, full_inverse != 0)};
  return kDone;
}

int factor_and_whiten(const ArrowschurDeviceSystem* system, double ridge_t, const ArrowschurDeviceFactor* factor,
                      void* workspace, void* stream) {
  return queue_call("factor_and_whiten", system, factor, workspace, stream, [=](auto& queue, Call& call, auto) {
    return kernels::factor_and_whiten(queue, call.system(), ridge_t, call.factor());
  });
}

int reduce(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, void* workspace, void* stream) {
  return queue_call("reduce", system, factor, workspace, stream,
                    [](auto& queue, Call& call, auto) { return kernels::reduce(queue, call.system(), call.factor()); });
}

int dual_reduce(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                void* workspace, void* stream) {
  if (system != nullptr) {
    if (const char* words = kernels::dual_complaint(*system)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  }
  return queue_call("dual_reduce", system, factor, workspace, stream, [=](auto& queue, Call& call, auto) {
    return kernels::dual_reduce(queue, call.system(), ridge_beta, call.factor());
  });
}

int factor_border(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                  void* workspace, void* stream) {
  return queue_call("factor_border", system, factor, workspace, stream, [=](auto& queue, Call& call, auto) {
    return kernels::factor_border(queue, call.system(), ridge_beta, call.factor(),
                                  reinterpret_cast<int*>(call.workspace()), nullptr);
  });
}

int log_det(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, void* workspace, void* stream) {
  return queue_call("log_det", system, factor, workspace, stream, [](auto& queue, Call& call, auto) {
    return kernels::log_det(queue, call.system(), call.factor(), call.workspace());
  });
}

int prepare_border_solve(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, void* workspace,
                         void* stream) {
  return queue_call("prepare_border_solve", system, factor, workspace, stream, [](auto& queue, Call& call, auto) {
    return kernels::prepare_border_solve(queue, call.system(), call.factor());
  });
}

int suggest_bump(const ArrowschurDeviceSystem* system, double ridge_t, double ridge_beta,
                 const ArrowschurDeviceFactor* factor, void* workspace, void* stream) {
  return queue_call("suggest_bump", system, factor, workspace, stream, [=](auto& queue, Call& call, auto) {
    return kernels::suggest_bump(queue, call.system(), ridge_t, ridge_beta, call.factor(), call.workspace());
  });
}

int reduce_rhs(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, const double* g, double* out,
               void* workspace, void* stream) {
  return queue_call("reduce_rhs", system, factor, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t size = call.system().total + call.system().k;
    return kernels::reduce_rhs(queue, call.system(), call.factor(), at(g, size), at(out, size), call.workspace());
  });
}

int border_solve(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, double* x, void* workspace,
                 void* stream) {
  return queue_call("border_solve", system, factor, workspace, stream, [=](auto& queue, Call& call, auto at) {
    return kernels::border_solve(queue, call.system(), call.factor(),
                                 at(x, kernels::order_of(call.system(), call.factor()), sizeof(double)),
                                 call.workspace());
  });
}

int expand(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, double* x, void* workspace,
           void* stream) {
  return queue_call("expand", system, factor, workspace, stream, [=](auto& queue, Call& call, auto at) {
    return kernels::expand(queue, call.system(), call.factor(), at(x, call.system().total + call.system().k),
                           call.workspace());
  });
}

// Of the factor only W and the record are looked at.
namespace {

ArrowschurDeviceFactor whitened(const ArrowschurDeviceFactor& factor) {
  ArrowschurDeviceFactor part{};
  part.w = factor.w, part.record = factor.record;
  return part;
}

}  // namespace

int schur_apply(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                const double* x, double* y, void* workspace, void* stream) {
  const ArrowschurDeviceFactor part = whitened(*factor);
  return queue_call("schur_apply", system, &part, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t k = call.system().k;
    return kernels::schur_apply(queue, call.system(), ridge_beta, call.factor(), at(x, k, sizeof(double)),
                                at(y, k, sizeof(double)), call.workspace());
  });
}

int pcg_begin(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
              double relative_tolerance, std::int64_t max_iterations, const double* b, double* x, double* vectors,
              ArrowschurPcgRecord* record, void* workspace, void* stream) {
  const ArrowschurDeviceFactor part = whitened(*factor);
  return queue_call("pcg_begin", system, &part, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t k = call.system().k;
    return kernels::pcg_begin(queue, call.system(), ridge_beta, call.factor(), relative_tolerance, max_iterations,
                              at(b, k, sizeof(double)), at(x, k, sizeof(double)), at(vectors, 5 * k), at(record, 1),
                              call.workspace());
  });
}

int pcg_iterate(const ArrowschurDeviceSystem* system, double ridge_beta, const ArrowschurDeviceFactor* factor,
                double* x, double* vectors, ArrowschurPcgRecord* record, void* workspace, void* stream) {
  const ArrowschurDeviceFactor part = whitened(*factor);
  return queue_call("pcg_iterate", system, &part, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t k = call.system().k;
    return kernels::pcg_iterate(queue, call.system(), ridge_beta, call.factor(), at(x, k, sizeof(double)),
                                at(vectors, 5 * k), at(record, 1), call.workspace());
  });
}

int apply_h(const ArrowschurDeviceSystem* system, const double* z, double* q, void* workspace, void* stream) {
  return queue_call("apply_h", system, nullptr, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t size = call.system().total + call.system().k;
    return kernels::apply_h(queue, call.system(), at(z, size), at(q, size), call.workspace());
  });
}

int norm_h(const ArrowschurDeviceSystem* system, double ridge_t, double ridge_beta, double* norm, void* workspace,
           void* stream) {
  return queue_call("norm_h", system, nullptr, workspace, stream, [=](auto& queue, Call& call, auto at) {
    return kernels::norm_h(queue, call.system(), ridge_t, ridge_beta, at(norm, 1, sizeof(double)), call.workspace());
  });
}

int norm_inf(std::int64_t size, const double* x, double* norm, void* workspace, void* stream) {
  if (const int status = scripted("norm_inf")) return status;
  if (size < 0) return fail(ARROWSCHUR_DEVICE_INVALID, "norm_inf: a negative size");
  const std::lock_guard lock(mutex());
  return queue_stage(
      "norm_inf", stream,
      [&](auto& queue) { kernels::norm_inf(queue, size, x, norm, static_cast<double*>(workspace)); },
      [=] {
        kernels::HostQueue queue;
        double* const partial = here(static_cast<double*>(workspace), kernels::pieces_of(size).count);
        return kernels::norm_inf(queue, size, here(x, size, sizeof(double)), here(norm, 1, sizeof(double)), partial);
      });
}

int combine(std::int64_t size, std::int32_t count, const double* coefficients, const double* const* inputs, double* out,
            void* stream) {
  if (const int status = scripted("combine")) return status;
  if (size < 0 || count < 1 || count > kernels::Combine::kMost) {
    return fail(ARROWSCHUR_DEVICE_INVALID, "combine: 1 to 4 vectors");
  }
  const std::lock_guard lock(mutex());
  const std::vector<double> factors(coefficients, coefficients + count);
  const std::vector<const double*> vectors(inputs, inputs + count);
  return queue_stage(
      "combine", stream, [&](auto& queue) { kernels::combine(queue, size, count, coefficients, inputs, out); },
      [=] {
        kernels::HostQueue queue;
        std::vector<const double*> translated;
        for (const double* vector : vectors) translated.push_back(here(vector, size, sizeof(double)));
        return kernels::combine(queue, size, count, factors.data(), translated.data(), here(out, size, sizeof(double)));
      });
}

int measure(const ArrowschurDeviceSystem* system, const ArrowschurDeviceFactor* factor, const double* g,
            const double* z, const double* r, const double* delta, const double* q, ArrowschurLoopRecord* record,
            void* workspace, void* stream) {
  const bool has_factor = factor != nullptr;
  return queue_call("measure", system, factor, workspace, stream, [=](auto& queue, Call& call, auto at) {
    const std::int64_t size = call.system().total + call.system().k;
    return kernels::measure(queue, call.system(), has_factor ? &call.factor() : nullptr, at(g, size), at(z, size),
                            at(r, size), at(delta, size), at(q, size), at(record, 1, sizeof(double)), call.workspace());
  });
}

// ---- small systems ----------------------------------------------------------------------------------------------------
int batch_sizes(const ArrowschurDeviceBatch* batch, std::size_t* workspace) {
  if (const int status = scripted("batch_sizes")) return status;
  if (batch == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "no batch");
  if (const char* words = kernels::complaint(*batch)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  *workspace = static_cast<std::size_t>(kernels::batch_doubles(*batch)) * sizeof(double);
  return kDone;
}

int batch_solve(const ArrowschurDeviceBatch* batch, double ridge_t, double ridge_beta, double* x,
                ArrowschurBuildRecord* records, void* workspace, void* stream) {
  const int status = scripted("batch_solve");
  if (status != kDone && status != kFakeNumericalFailure) return status;
  if (batch == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "no batch");
  if (const char* words = kernels::complaint(*batch)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  const std::lock_guard lock(mutex());
  const std::vector<ArrowschurBatchEntry> entries(batch->host_entries, batch->host_entries + batch->count);
  const ArrowschurDeviceBatch given = *batch;
  return queue_stage(
      "batch_solve", stream,
      [&](auto& queue) { kernels::batch_solve(queue, *batch, ridge_t, ridge_beta, x, records, nullptr); },
      [=] {
        if (entries.empty()) return kDone;
        ArrowschurDeviceBatch call = given;
        std::int64_t a = 0, b = 0, m = 0, g = 0;
        for (const ArrowschurBatchEntry& e : entries) {
          const std::int64_t total = e.n * e.d, k = e.k;
          a = std::max(a, e.a + total * e.d), b = std::max(b, e.b + total * k);
          m = std::max(m, e.m + k * k), g = std::max(g, e.x + total + k);
        }
        call.host_entries = entries.data();
        call.entries = here(call.entries, call.count);
        call.a = here(call.a, a), call.b = here(call.b, b), call.m = here(call.m, m), call.g = here(call.g, g);
        ArrowschurBuildRecord* const made = here(records, call.count);
        const std::int64_t doubles = kernels::batch_doubles(call);
        double* const partial = here(static_cast<double*>(workspace), doubles);
        std::fill_n(partial, doubles, std::bit_cast<double>(kernels::kPoison));
        kernels::HostQueue queue;
        const int done = kernels::batch_solve(queue, call, ridge_t, ridge_beta, here(x, g), made, partial);
        if (status == kFakeNumericalFailure) break_build(made[0], "factor_border");
        return done;
      });
}

// ---- routing ------------------------------------------------------------------------------------------------------------
int route_sizes(const ArrowschurDeviceAtoms* atoms, std::int64_t rows, std::int32_t wanted, std::size_t* workspace) {
  if (const int status = scripted("route_sizes")) return status;
  if (atoms == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "no dictionary");
  if (const char* words = kernels::complaint(*atoms, rows, wanted)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  *workspace = static_cast<std::size_t>(kernels::route_space(atoms->count, rows, wanted).end) * sizeof(double);
  return kDone;
}

int route(const ArrowschurDeviceAtoms* atoms, std::int64_t rows, const float* x, std::int32_t wanted,
          std::uint32_t* index, double* score, std::int64_t* rescanned, void* workspace, void* stream) {
  if (const int status = scripted("route")) return status;
  if (atoms == nullptr) return fail(ARROWSCHUR_DEVICE_INVALID, "no dictionary");
  if (const char* words = kernels::complaint(*atoms, rows, wanted)) return fail(ARROWSCHUR_DEVICE_INVALID, words);
  const std::lock_guard lock(mutex());
  const ArrowschurDeviceAtoms given = *atoms;
  return queue_stage(
      "route", stream,
      [&](auto& queue) {
        kernels::route(queue, given, rows, x, wanted, index, score, rescanned, static_cast<double*>(workspace));
      },
      [=] {
        ArrowschurDeviceAtoms call = given;
        call.atoms = here(call.atoms, call.count * call.width);
        const std::int64_t doubles = kernels::route_space(call.count, rows, wanted).end;
        double* const own = here(static_cast<double*>(workspace), doubles);
        std::fill_n(own, doubles, std::bit_cast<double>(kernels::kPoison));
        kernels::HostQueue queue;
        return kernels::route(queue, call, rows, here(x, rows * call.width), wanted,
                              here(index, rows * wanted, sizeof *index), here(score, rows * wanted, sizeof *score),
                              here(rescanned, 1, sizeof *rescanned), own);
      });
}

}  // namespace fake
