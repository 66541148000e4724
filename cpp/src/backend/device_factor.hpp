// Factors of a device system at one pair of ridges, and how they are built.
//
// ridge_t moves everything, ridge_beta only the border: the two parts are separate, and factors that share a ridge_t share
// the part of the rows. S_0 = M - W'W is kept with it where memory allows, so that a move of ridge_beta alone costs one
// factorization of the border, with the bits of a build from the blocks.
#pragma once

#include <memory>

#include "backend/device_graph.hpp"
#include "backend/device_system.hpp"

namespace arrowschur::device {

// L, W, S_0 at one ridge_t.
struct RowPart {
  RowPart(DeviceSystem&, bool keep_s0);
  double ridge_t = 0.0;
  Memory memory;
  std::size_t l = 0, inverse_diagonal = 0, w = 0, s0 = 0, record = 0;  // offsets
  bool keeps_s0 = false;
  bool built = false;
  static std::size_t bytes(const DeviceSystem&, bool keep_s0);
};

// How a build that has failed failed.
struct BuildFailure {
  bool rows_failed = false;
  double ridge_t = 0.0;
  ArrowschurBuildRecord record{};
  [[noreturn]] void raise() const;  // RowFactorError or SchurFactorError
  std::string message() const;  // its text
};

class DeviceFactor {
 public:
  DeviceFactor(DeviceSystem&, std::shared_ptr<RowPart>);

  // Makes the factor at these ridges, from the blocks or, where the rows are those of this ridge_t already, from S_0. One
  // record comes back (two when rows have failed). A failure leaves a factor that nobody may solve with.
  std::optional<BuildFailure> build(DeviceSystem&, double ridge_t, double ridge_beta);

  double ridge_t() const noexcept { return rows_->ridge_t; }
  double ridge_beta() const noexcept { return ridge_beta_; }
  bool at(double ridge_t, double ridge_beta) const noexcept {
    return rows_->ridge_t == ridge_t && ridge_beta_ == ridge_beta;
  }
  double log_det() const noexcept { return host_.log_det; }
  double smallest_pivot() const noexcept { return host_.smallest_pivot; }
  const ArrowschurDeviceFactor* view() const noexcept { return &view_; }
  const std::shared_ptr<RowPart>& rows() const noexcept { return rows_; }
  void take_rows(std::shared_ptr<RowPart>);  // before another build
  std::size_t bytes() const noexcept { return memory_.bytes(); }  // without the rows

  // Of the solves that are repeated with this factor: one for a frame's steps, one for a loop's attempts.
  Graph& step_graph() noexcept { return step_; }
  Graph& loop_graph() noexcept { return loop_; }
  const void* graph_key() const noexcept { return rows_->memory.data(); }

  static std::size_t bytes(const DeviceSystem&);

 private:
  void read_record(DeviceSystem&);

  std::shared_ptr<RowPart> rows_;
  Memory memory_;
  ArrowschurDeviceFactor view_{};
  std::size_t s_ = 0, inverses_ = 0, record_ = 0;
  ArrowschurBuildRecord host_{};
  double ridge_beta_ = 0.0;
  Graph step_, loop_;  // destroyed before the memory that they name
};

}  // namespace arrowschur::device
