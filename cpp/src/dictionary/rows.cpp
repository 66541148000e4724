#include "dictionary/rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "dictionary/errors.hpp"
#include "linalg/pool.hpp"
#include "system/format.hpp"

namespace arrowschur::dictionary {
namespace {

constexpr Index kInPlaceStep = 8192;

// Rows of T in memory, or read into `space`.
template <class T>
class Source {
 public:
  Source(const Rows& rows, Index batch) : rows_(rows), batch_(rows.in_place() ? kInPlaceStep : batch) {
    if (!rows.in_place()) space_ = linalg::Buffer<T>(std::min(batch_, rows.count) * rows.width);
  }
  // f(first, count, data, stride) over all rows.
  template <class F>
  void each(F&& f) {
    for (Index first = 0; first < rows_.count; first += batch_) {
      const Index count = std::min(batch_, rows_.count - first);
      if (rows_.in_place()) {
        f(first, count, static_cast<const T*>(rows_.data) + first * rows_.stride, rows_.stride);
      } else {
        rows_.read(first, count, space_.data());
        f(first, count, static_cast<const T*>(space_.data()), rows_.width);
      }
      linalg::poll_interrupt();
    }
  }

 private:
  const Rows& rows_;
  Index batch_;
  linalg::Buffer<T> space_;
};

template <class T>
double finite_max(const Rows& rows, Index batch) {
  double largest = 0.0;
  Source<T>(rows, batch).each([&](Index first, Index count, const T* x, Index stride) {
    constexpr Index kRows = 64;
    const Index tasks = (count + kRows - 1) / kRows;
    std::vector<double> top(static_cast<std::size_t>(tasks));
    linalg::parallel_for_if(count * rows.width >= linalg::kParallelWork, tasks, [&](Index task) {
      T lanes[16] = {};
      T spoilt = 0;  // 0 x is NaN for an x that is not finite, else a zero
      const Index end = std::min(count, (task + 1) * kRows);
      for (Index i = task * kRows; i < end; ++i) {
        const T* row = x + i * stride;
        Index c = 0;
        for (; c + 16 <= rows.width; c += 16) {
          for (Index l = 0; l < 16; ++l) {
            const T v = std::abs(row[c + l]);
            lanes[l] = v > lanes[l] ? v : lanes[l];
          }
          T zeros[4] = {};
          for (Index l = 0; l < 16; ++l) zeros[l % 4] += row[c + l] * T(0);
          spoilt += (zeros[0] + zeros[1]) + (zeros[2] + zeros[3]);
        }
        for (; c < rows.width; ++c) {
          const T v = std::abs(row[c]);
          lanes[0] = v > lanes[0] ? v : lanes[0];
          spoilt += row[c] * T(0);
        }
      }
      const T most = *std::max_element(lanes, lanes + 16);
      top[static_cast<std::size_t>(task)] =
          spoilt == T(0) ? static_cast<double>(most) : std::numeric_limits<double>::quiet_NaN();
    });
    for (Index task = 0; task < tasks; ++task) {
      const double t = top[static_cast<std::size_t>(task)];
      if (std::isnan(t)) {
        for (Index i = task * kRows; i < count; ++i) {
          for (Index c = 0; c < rows.width; ++c) {
            if (!std::isfinite(x[i * stride + c])) {
              const std::string at = "X at row " + std::to_string(first + i) + ", column " + std::to_string(c);
              throw invalid(at + " is NaN or infinity (inf)", "X", at, "finite numbers");
            }
          }
        }
      }
      largest = std::max(largest, t);
    }
  });
  return largest;
}

double checked_max(const Rows& rows, Index batch) {
  check_shape(rows);
  return rows.dtype == DType::float32 ? finite_max<float>(rows, batch) : finite_max<double>(rows, batch);
}

}  // namespace

Rows Rows::of(const float* data, Index count, Index width) { return {count, width, DType::float32, data, width, {}}; }
Rows Rows::of(const double* data, Index count, Index width) { return {count, width, DType::float64, data, width, {}}; }

void check_shape(const Rows& rows) {
  const std::string shape = "(shape=(" + std::to_string(rows.count) + ", " + std::to_string(rows.width) + "))";
  if (rows.count < 1) {
    throw invalid("X has 0 sample(s) " + shape + " while a minimum of 1 is required.", "X", "0 rows", "1 or more rows");
  }
  if (rows.width < 1) {
    throw invalid("X has 0 feature(s) " + shape + " while a minimum of 1 is required.", "X", "0 columns",
                  "1 or more columns");
  }
}

void check_finite(const Rows& rows, Index batch) { (void)checked_max(rows, batch); }

void check_range(const Rows& rows, Index batch, int exponent) {
  const double limit = std::ldexp(1.0, exponent + 60);
  if (checked_max(rows, batch) <= limit) return;
  const auto look = [&](Index first, Index count, const auto* x, Index stride) {
    for (Index i = 0; i < count; ++i) {
      for (Index c = 0; c < rows.width; ++c) {
        const auto v = static_cast<double>(x[i * stride + c]);
        if (std::abs(v) <= limit) continue;
        throw invalid("value " + format_number(v) + " at row " + std::to_string(first + i) +
                          " exceeds the range fixed by the seed sample",
                      "X", format_number(v), "numbers within 2^60 times the range of the seed");
      }
    }
  };
  if (rows.dtype == DType::float32) {
    Source<float>(rows, batch).each(look);
  } else {
    Source<double>(rows, batch).each(look);
  }
}

void ShiftedSums::reset() {
  n_ = 0;
  for (auto* v : {&shift_, &s1_, &s2_}) std::fill(v->begin(), v->end(), 0.0);
}

void ShiftedSums::add(const float* x, Index stride, Index count) {
  if (count == 0) return;
  if (n_ == 0) {
    for (Index c = 0; c < p_; ++c) shift_[at(c)] = static_cast<double>(x[c]);
  }
  constexpr Index kColumns = 64;
  linalg::parallel_for_if(count * p_ >= linalg::kParallelWork, (p_ + kColumns - 1) / kColumns, [&](Index task) {
    const Index begin = task * kColumns, end = std::min(p_, begin + kColumns);
    double* s1 = s1_.data();
    double* s2 = s2_.data();
    const double* shift = shift_.data();
    for (Index i = 0; i < count; ++i) {
      const float* row = x + i * stride;
      for (Index c = begin; c < end; ++c) {
        const double v = static_cast<double>(row[c]) - shift[c];
        s1[c] += v;
        s2[c] += v * v;
      }
    }
  });
  n_ += count;
}

double ShiftedSums::tss() const {
  double sum = 0.0;
  for (Index c = 0; c < p_; ++c) {
    sum += std::max(0.0, s2_[at(c)] - s1_[at(c)] * s1_[at(c)] / static_cast<double>(std::max<Index>(n_, 1)));
  }
  return sum;
}

Moments examine(const Rows& rows, Index batch, std::optional<int> exponent) {
  const double largest = checked_max(rows, batch);
  Moments m;
  if (exponent) {
    m.exponent = *exponent;
  } else if (largest > 0.0) {
    const int e = std::ilogb(largest);
    if (std::abs(e) > 40) m.exponent = e;
  }
  ShiftedSums sums(rows.width);
  Packer pack(rows, m.exponent, nullptr, batch);
  const Index step = pack.step(kInPlaceStep);
  for (Index first = 0; first < rows.count; first += step) {
    const RowBlock x = pack(first, std::min(step, rows.count - first));
    sums.add(x.data, x.stride, x.count);
    linalg::poll_interrupt();
  }
  m.tss = sums.tss();
  m.mean.resize(static_cast<std::size_t>(rows.width));
  for (Index c = 0; c < rows.width; ++c) {
    m.center.push_back(sums.mean(c));
    m.mean[static_cast<std::size_t>(c)] = static_cast<float>(std::ldexp(sums.mean(c), m.exponent));
  }
  return m;
}

Packer::Packer(const Rows& rows, int exponent, const std::vector<float>* mean, Index batch)
    : rows_(&rows),
      exponent_(exponent),
      in_place_(rows.in_place() && rows.dtype == DType::float32 && exponent == 0 && mean == nullptr),
      batch_(std::min(batch, std::max<Index>(rows.count, 1))) {
  if (mean != nullptr) {
    for (const float v : *mean) mean_.push_back(std::ldexp(static_cast<double>(v), -exponent));
  }
  if (in_place_) return;
  as_read_ = !rows.in_place() && rows.dtype == DType::float32 && exponent == 0 && mean == nullptr;
  if (!as_read_) packed_ = linalg::Buffer<float>(batch_ * rows.width);
  if (!rows.in_place()) {
    raw_ = linalg::Buffer<char>(batch_ * rows.width * static_cast<Index>(size_of(rows.dtype)));
  }
}

namespace {

template <class T>
void pack_rows(const T* x, Index stride, Index count, Index width, int exponent, const double* mean, float* out) {
  const T scale = static_cast<T>(std::ldexp(1.0, -exponent));
  const bool one_factor = std::abs(exponent) <= (sizeof(T) == 4 ? 120 : 1000);  // else the factor is not normal itself
  linalg::parallel_for_if(count * width >= linalg::kParallelWork, (count + 63) / 64, [&](Index task) {
    const Index end = std::min(count, (task + 1) * 64);
    for (Index i = task * 64; i < end; ++i) {
      const T* row = x + i * stride;
      float* to = out + i * width;
      if (exponent == 0) {
        for (Index c = 0; c < width; ++c) to[c] = static_cast<float>(row[c]);
      } else if (one_factor) {
        for (Index c = 0; c < width; ++c) to[c] = static_cast<float>(row[c] * scale);
      } else {
        for (Index c = 0; c < width; ++c) {
          to[c] = static_cast<float>(std::ldexp(static_cast<double>(row[c]), -exponent));
        }
      }
      if (mean != nullptr) {
        for (Index c = 0; c < width; ++c) to[c] = static_cast<float>(static_cast<double>(to[c]) - mean[c]);
      }
    }
  });
}

}  // namespace

RowBlock Packer::operator()(Index first, Index count) {
  const Index p = rows_->width;
  if (in_place_) return {static_cast<const float*>(rows_->data) + first * rows_->stride, rows_->stride, count};

  const void* from = raw_.data();
  Index stride = p;
  if (rows_->in_place()) {
    stride = rows_->stride;
    from = static_cast<const char*>(rows_->data) + first * stride * static_cast<Index>(size_of(rows_->dtype));
  } else {
    rows_->read(first, count, raw_.data());
  }
  if (as_read_) return {static_cast<const float*>(from), stride, count};
  const double* mean = mean_.empty() ? nullptr : mean_.data();
  if (rows_->dtype == DType::float32) {
    pack_rows(static_cast<const float*>(from), stride, count, p, exponent_, mean, packed_.data());
  } else {
    pack_rows(static_cast<const double*>(from), stride, count, p, exponent_, mean, packed_.data());
  }
  return {packed_.data(), p, count};
}

}  // namespace arrowschur::dictionary
