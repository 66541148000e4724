// A queue for the stages (cuda/kernels/stages.hpp) that runs them at once on the host: kernels through the executor, plain
// loops where a device calls its libraries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "host_executor.hpp"
#include "kernels/stages.hpp"

namespace arrowschur::kernels {

class HostQueue {
 public:
  explicit HostQueue(Order order = Order::forward) : order_(order) {}

  template <class Kernel>
  int run(const typename Kernel::Args& args) {
    execute<Kernel>(args, order_);
    return ARROWSCHUR_DEVICE_OK;
  }

  int subtract_gram(std::int64_t k, std::int64_t lines, const double* w, double* s, std::int64_t lds) {
    subtract_products(0, k, lines, w, k, s, lds);
    return ARROWSCHUR_DEVICE_OK;
  }

  int minus_outer(std::int64_t lines, std::int64_t k, const double* z, double* c, std::int64_t ldc) {
    for (std::int64_t j = 0; j < lines; ++j) {
      for (std::int64_t r = j; r < lines; ++r) {
        double sum = 0.0;
        for (std::int64_t q = 0; q < k; ++q) sum += z[j * k + q] * z[r * k + q];
        c[j * ldc + r] = -sum;
      }
    }
    return ARROWSCHUR_DEVICE_OK;
  }

  // Panels of columns, each subtracted from all that follow.
  int cholesky(std::int64_t k, double* s, std::int64_t lds, int* info, void*) {
    constexpr std::int64_t kPanel = 64;
    *info = 0;
    for (std::int64_t first = 0; first < k; first += kPanel) {
      const std::int64_t end = std::min(k, first + kPanel);
      for (std::int64_t j = first; j < end; ++j) {
        double* const column = s + j * lds;
        for (std::int64_t q = first; q < j; ++q) {
          const double* const earlier = s + q * lds;
          for (std::int64_t r = j; r < k; ++r) column[r] -= earlier[r] * earlier[j];
        }
        if (!(column[j] > 0.0)) {
          *info = static_cast<int>(j) + 1;
          return ARROWSCHUR_DEVICE_OK;
        }
        column[j] = std::sqrt(column[j]);
        for (std::int64_t r = j + 1; r < k; ++r) column[r] /= column[j];
      }
      subtract_products(end, k, end - first, s + first * lds, lds, s, lds);
    }
    return ARROWSCHUR_DEVICE_OK;
  }

  int solve_lower(std::int64_t k, const double* l, std::int64_t lds, double* x, std::int64_t ldx) {
    for (std::int64_t c = 0; c < k; ++c) {
      double* const column = x + c * ldx;
      for (std::int64_t j = 0; j < k; ++j) {
        column[j] /= l[j * lds + j];
        for (std::int64_t r = j + 1; r < k; ++r) column[r] -= l[j * lds + r] * column[j];
      }
    }
    return ARROWSCHUR_DEVICE_OK;
  }

  // Summed in an order that is the queue's: what is made of scores must not depend on it.
  int scores(std::int64_t atoms, std::int64_t rows, std::int64_t width, const float* d, const float* x, float* s,
             std::int64_t lds) {
    const bool descending = order_ != Order::forward;
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t a = 0; a < atoms; ++a) {
        float sum = 0.0f;
        for (std::int64_t j = 0; j < width; ++j) {
          const std::int64_t c = descending ? width - 1 - j : j;
          sum += d[a * width + c] * x[i * width + c];
        }
        s[i * lds + a] = sum;
      }
    }
    return ARROWSCHUR_DEVICE_OK;
  }

 private:
  // S[r, c] -= sum_t p[t, r] p[t, c] for first <= c <= r < k. Tiles of 4 columns by 64 lines: runs that the compiler's
  // vectors like.
  static void subtract_products(std::int64_t first, std::int64_t k, std::int64_t terms, const double* p,
                                std::int64_t pitch, double* s, std::int64_t lds) {
    constexpr std::int64_t kColumns = 4, kRows = 64;
    for (std::int64_t c0 = first; c0 < k; c0 += kColumns) {
      const std::int64_t columns = std::min(kColumns, k - c0);
      for (std::int64_t r0 = c0; r0 < k; r0 += kRows) {
        const std::int64_t rows = std::min(kRows, k - r0);
        double sum[kColumns][kRows] = {};
        for (std::int64_t t = 0; t < terms; ++t) {
          const double* const line = p + t * pitch;
          for (std::int64_t c = 0; c < columns; ++c) {
            const double x = line[c0 + c];
            for (std::int64_t r = 0; r < rows; ++r) sum[c][r] += x * line[r0 + r];
          }
        }
        for (std::int64_t c = 0; c < columns; ++c) {
          for (std::int64_t r = std::max(std::int64_t{0}, c0 + c - r0); r < rows; ++r) {
            s[(c0 + c) * lds + r0 + r] -= sum[c][r];
          }
        }
      }
    }
  }

  Order order_;
};

// Counts what a device would launch.
class CountingQueue {
 public:
  template <class Kernel>
  int run(const typename Kernel::Args& args) {
    launches_ += Kernel::launch(args).blocks > 0;
    return ARROWSCHUR_DEVICE_OK;
  }
  int subtract_gram(std::int64_t, std::int64_t, const double*, double*, std::int64_t) { return count(); }
  int minus_outer(std::int64_t, std::int64_t, const double*, double*, std::int64_t) { return count(); }
  int cholesky(std::int64_t, double*, std::int64_t, int*, void*) { return count(); }
  int solve_lower(std::int64_t, const double*, std::int64_t, double*, std::int64_t) { return count(); }
  int scores(std::int64_t, std::int64_t, std::int64_t, const float*, const float*, float*, std::int64_t) {
    return count();
  }
  std::int64_t launches() const { return launches_; }

 private:
  int count() {
    ++launches_;
    return ARROWSCHUR_DEVICE_OK;
  }
  std::int64_t launches_ = 0;
};

}  // namespace arrowschur::kernels
