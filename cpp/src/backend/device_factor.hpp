// Factors of a device system at one pair of ridges, and how they are built.
//
// ridge_t moves everything, ridge_beta only the border (on the dual route V and C too): the two parts are separate, and
// factors that share a ridge_t share the part of the rows. S_0 = M - W'W is kept with it where memory allows, so that a
// move of ridge_beta alone costs one factorization of the border, with the bits of a build from the blocks.
#pragma once

#include <memory>

#include "backend/device_graph.hpp"
#include "backend/device_system.hpp"

namespace arrowschur::device {

// How the border is solved: by S = M - W'W, by C = I - W M^-1 W' (Woodbury), or by iterating on S, which is never formed.
enum class BorderRoute { direct, dual, iterative };

// L, W, S_0 at one ridge_t.
struct RowPart {
  RowPart(DeviceSystem&, bool keep_s0);
  double ridge_t = 0.0;
  Memory memory;
  std::size_t l = 0, inverse_diagonal = 0, w = 0, s0 = 0, record = 0;  // offsets
  bool keeps_s0 = false;
  bool built = false;  // L and W
  bool has_s0 = false;
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
  DeviceFactor(DeviceSystem&, BorderRoute, std::shared_ptr<RowPart>);

  // Makes the factor at these ridges, from the blocks or, where they are those of this ridge_t already, from W and S_0. One
  // record comes back (two when rows have failed). A failure leaves a factor that nobody may solve with.
  std::optional<BuildFailure> build(DeviceSystem&, double ridge_t, double ridge_beta);

  double ridge_t() const noexcept { return rows_->ridge_t; }
  double ridge_beta() const noexcept { return ridge_beta_; }
  bool at(double ridge_t, double ridge_beta) const noexcept {
    return rows_->ridge_t == ridge_t && ridge_beta_ == ridge_beta;
  }
  BorderRoute route() const noexcept { return route_; }
  double log_det() const noexcept { return host_.log_det; }  // NaN on the iterative route, smallest_pivot too
  double smallest_pivot() const noexcept { return host_.smallest_pivot; }
  const ArrowschurDeviceFactor* view() const noexcept { return &view_; }
  const std::shared_ptr<RowPart>& rows() const noexcept { return rows_; }
  void take_rows(std::shared_ptr<RowPart>);  // before another build
  std::size_t bytes() const noexcept { return memory_.bytes(); }  // without the rows

  // Of the solves that are repeated with this factor: one for a frame's steps, one for those whose gradient and step are on
  // the device, one for a loop's attempts, or the iterations on its border.
  Graph& step_graph() noexcept { return step_; }
  Graph& resident_graph() noexcept { return resident_; }
  Graph& loop_graph() noexcept { return loop_; }
  const void* graph_key() const noexcept { return rows_->memory.data(); }

  static std::size_t bytes(const DeviceSystem&, BorderRoute);

 private:
  void queue_border(DeviceSystem&, double ridge_beta);
  void read_record(DeviceSystem&);

  std::shared_ptr<RowPart> rows_;
  BorderRoute route_;
  Memory memory_;
  ArrowschurDeviceFactor view_{};
  ArrowschurBuildRecord host_{};
  double ridge_beta_ = 0.0;
  Graph step_, resident_, loop_;  // destroyed before the memory that they name
};

}  // namespace arrowschur::device
