// Rows as the trainer sees them: floats, scaled by a power of two, centred.
//
//     packed = (float)((double)(float)(x 2^-e) - mu 2^-e)
//
// e is the binary exponent of max |x| where that is beyond 2^+-40, else 0. The product is exact, so that training on x and
// on x 2^j gives the same bits, and values near 1e25 or 1e-25 stay inside the range of float products.
#pragma once

#include <optional>
#include <vector>

#include "arrowschur/dictionary.hpp"
#include "linalg/buffer.hpp"

namespace arrowschur::dictionary {

// What depends on the data alone.
struct Moments {
  int exponent = 0;
  double tss = 0.0;  // of the scaled rows
  std::vector<double> center;  // their column means
  std::vector<float> mean;  // of the rows as given
};
// Checks that every entry is finite (InvalidArgument names the first that is not), then one pass for sums. With
// `exponent` given it is not chosen anew.
Moments examine(const Rows& rows, Index batch, std::optional<int> exponent = {});
void check_shape(const Rows& rows);
void check_finite(const Rows& rows, Index batch);
// The same for a shard of a stream, whose values must not exceed 2^(e + 60) either.
void check_range(const Rows& rows, Index batch, int exponent);

// Shifted sums, ascending rows: S1 = sum (x - x_0), S2 = sum (x - x_0)^2 by column, x_0 the first row.
class ShiftedSums {
 public:
  explicit ShiftedSums(Index width) : p_(width), shift_(size(width)), s1_(size(width)), s2_(size(width)) {}
  void add(const float* x, Index stride, Index count);
  Index count() const noexcept { return n_; }
  double mean(Index c) const { return shift_[at(c)] + (n_ == 0 ? 0.0 : s1_[at(c)] / static_cast<double>(n_)); }
  double tss() const;  // sum over columns of S2 - S1^2 / N
  void reset();

 private:
  friend struct StreamFile;
  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }
  static std::size_t at(Index c) { return static_cast<std::size_t>(c); }
  Index p_, n_ = 0;
  std::vector<double> shift_, s1_, s2_;
};

struct RowBlock {
  const float* data = nullptr;
  Index stride = 0, count = 0;
  const float* operator[](Index i) const { return data + i * stride; }
};

// Packs one minibatch at a time; rows that are floats in memory, unscaled and not centred are used where they are.
class Packer {
 public:
  Packer(const Rows& rows, int exponent, const std::vector<float>* mean, Index batch);
  // Rows first .. first + count - 1, count <= batch unless in place; valid until the next call.
  RowBlock operator()(Index first, Index count);
  bool in_place() const noexcept { return in_place_; }
  Index count() const noexcept { return rows_->count; }
  // Largest step through the rows: the minibatch, or more where nothing is packed.
  Index step(Index in_place_step) const noexcept { return in_place_ ? in_place_step : batch_; }

 private:
  const Rows* rows_;
  int exponent_;
  bool in_place_, as_read_ = false;
  Index batch_;
  std::vector<double> mean_;  // scaled; empty: not centred
  linalg::Buffer<float> packed_;
  linalg::Buffer<char> raw_;
};

}  // namespace arrowschur::dictionary
