// What the sequences of stages.hpp are written in: a queue, and calls to it until one fails.
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

#include "border.hpp"

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

}  // namespace arrowschur::kernels
