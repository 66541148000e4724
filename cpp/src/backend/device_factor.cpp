#include "backend/device_factor.hpp"

#include <cstring>
#include <limits>

#include "backend/device_stage.hpp"
#include "linalg/pool.hpp"

namespace arrowschur::device {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

Index leading_dimension(Index k) { return (k + 15) / 16 * 16; }

// E1 to E4, E4 alone, or Y1 and Y2 in their place.
telemetry::StageCost build_cost(const DeviceSystem& s, BorderRoute route, bool rows) {
  const auto t = static_cast<double>(s.total_dim()), d = static_cast<double>(s.max_dim()),
             k = static_cast<double>(s.k());
  const double m = route == BorderRoute::direct ? k : route == BorderRoute::dual ? t : 0.0;
  double flops = m * m * m / 3.0, bytes = 8.0 * m * m;
  if (route == BorderRoute::dual) {
    flops += k * t * (t + 1.0);
    bytes += 16.0 * t * k + 8.0 * (t * k + t * t);
  }
  if (rows) {
    flops += t * d * d / 3.0 + t * d * k;
    bytes += 16.0 * t * d + 16.0 * t * k;
  }
  if (rows && route == BorderRoute::direct) {
    flops += t * k * (k + 1.0);
    bytes += 8.0 * (t * k + k * k);
  }
  return {rows ? "frame_build" : "border_build", s.n(), s.max_dim(), s.k(), flops, bytes};
}

// Order of the matrix that the route factors.
Index order_of(const DeviceSystem& s, BorderRoute route) {
  return route == BorderRoute::direct ? s.k() : route == BorderRoute::dual ? s.total_dim() : 0;
}

struct RowLayout : Layout {
  RowLayout(const DeviceSystem& s, bool keep_s0)
      : l(add_array<double>(s.row_entries())),
        inverse_diagonal(add_array<double>(s.total_dim())),
        w(add_array<double>(s.total_dim() * s.k())),
        record(add(sizeof(ArrowschurBuildRecord))),
        s0(add_array<double>(keep_s0 ? s.k() * leading_dimension(s.k()) : 0)) {}
  std::size_t l, inverse_diagonal, w, record, s0;
};

struct BorderLayout : Layout {
  BorderLayout(const DeviceSystem& s, BorderRoute route)
      : s_matrix(add_array<double>(order_of(s, route) * leading_dimension(order_of(s, route)))),
        inverses(add(route == BorderRoute::iterative ? 0 : s.inverse_bytes(route == BorderRoute::dual))),
        v(add_array<double>(route == BorderRoute::dual ? s.total_dim() * s.k() : 0)),
        band(add_array<double>(route == BorderRoute::dual ? s.band_entries() : 0)),
        record(add(sizeof(ArrowschurBuildRecord))) {}
  std::size_t s_matrix, inverses, v, band, record;
};

}  // namespace

RowPart::RowPart(DeviceSystem& s, bool keep_s0) : keeps_s0(keep_s0) {
  const RowLayout layout(s, keep_s0);
  memory = Memory(s.lane(), layout.bytes());
  l = layout.l;
  inverse_diagonal = layout.inverse_diagonal;
  w = layout.w;
  s0 = layout.s0;
  record = layout.record;
}

std::size_t RowPart::bytes(const DeviceSystem& s, bool keep_s0) { return RowLayout(s, keep_s0).bytes(); }
std::size_t DeviceFactor::bytes(const DeviceSystem& s, BorderRoute route) { return BorderLayout(s, route).bytes(); }

void BuildFailure::raise() const {
  if (!rows_failed) {
    throw SchurFactorError(SchurFailure::non_pd, record.border_pivot, kNone, kNone);
  }
  RowFactorError::Facts facts;
  facts.row = static_cast<Index>(record.first_failure >> 8);
  facts.pivot_index = static_cast<Index>(record.first_failure & 0xff);
  facts.pivot = kNone;  // the device tells its place only
  facts.base_ridge = facts.last_ridge = ridge_t;
  facts.suggested_ridge = ridge_t + record.suggested_bump;
  throw RowFactorError(facts);
}

std::string BuildFailure::message() const {
  try {
    raise();
  } catch (const ArrowError& error) {
    return error.what();
  }
}

DeviceFactor::DeviceFactor(DeviceSystem& s, BorderRoute route, std::shared_ptr<RowPart> rows) : route_(route) {
  const BorderLayout layout(s, route);
  memory_ = Memory(s.lane(), layout.bytes());
  view_.record = memory_.at<ArrowschurBuildRecord>(layout.record);
  if (route != BorderRoute::iterative) {
    view_.lds = leading_dimension(order_of(s, route));
    view_.full_inverse = s.full_inverse(route == BorderRoute::dual) ? 1 : 0;
    view_.s = memory_.at<double>(layout.s_matrix);
    view_.border_inverses = memory_.at<double>(layout.inverses);
  }
  if (route == BorderRoute::dual) {
    view_.v = memory_.at<double>(layout.v);
    view_.band_factor = memory_.at<double>(layout.band);
  }
  take_rows(std::move(rows));
}

void DeviceFactor::take_rows(std::shared_ptr<RowPart> rows) {
  rows_ = std::move(rows);
  view_.l = rows_->memory.at<double>(rows_->l);
  view_.inverse_diagonal = rows_->memory.at<double>(rows_->inverse_diagonal);
  view_.w = rows_->memory.at<double>(rows_->w);
  if (route_ == BorderRoute::direct) view_.s0 = rows_->keeps_s0 ? rows_->memory.at<double>(rows_->s0) : view_.s;
}

void DeviceFactor::read_record(DeviceSystem& s) {
  Lane& lane = s.lane();
  lane.require(lane.table().copy_to_host(lane.record(), view_.record, sizeof host_, lane.stream()), "copy_to_host");
  lane.synchronize();
  std::memcpy(&host_, lane.record(), sizeof host_);
}

// What follows the rows.
void DeviceFactor::queue_border(DeviceSystem& s, double ridge_beta) {
  if (route_ == BorderRoute::iterative) return;
  Lane& lane = s.lane();
  const Table& table = lane.table();
  void *const workspace = s.workspace(), *const stream = lane.stream();
  if (route_ == BorderRoute::dual) {
    lane.require(table.dual_reduce(s.view(), ridge_beta, &view_, workspace, stream), "dual_reduce");
  } else if (!rows_->has_s0) {
    lane.require(table.reduce(s.view(), &view_, workspace, stream), "reduce");
  }
  lane.require(table.factor_border(s.view(), ridge_beta, &view_, workspace, stream), "factor_border");
  lane.require(table.log_det(s.view(), &view_, workspace, stream), "log_det");
  lane.require(table.prepare_border_solve(s.view(), &view_, workspace, stream), "prepare_border_solve");
}

std::optional<BuildFailure> DeviceFactor::build(DeviceSystem& s, double ridge_t, double ridge_beta) {
  static_assert(sizeof(ArrowschurBuildRecord) == Lane::kRecord);
  Lane& lane = s.lane();
  const Table& table = lane.table();
  void* const stream = lane.stream();
  void* const kept_record = rows_->memory.at<void>(rows_->record);
  const bool rows_are_there = rows_->built && rows_->ridge_t == ridge_t;
  if (route_ == BorderRoute::iterative && ridge_beta != ridge_beta_) loop_ = Graph();  // which has the ridge in it
  ridge_beta_ = ridge_beta;
  DeviceStage stage(lane, build_cost(s, route_, !rows_are_there));
  if (rows_are_there) {
    lane.require(table.copy_on_device(view_.record, kept_record, Lane::kRecord, stream), "copy_on_device");
  } else {
    linalg::poll_interrupt();
    rows_->built = rows_->has_s0 = false;
    rows_->ridge_t = ridge_t;
    lane.require(table.factor_and_whiten(s.view(), ridge_t, &view_, s.workspace(), stream), "factor_and_whiten");
    // Without a failure of the border, which a later build from these rows must not see.
    lane.require(table.copy_on_device(kept_record, view_.record, Lane::kRecord, stream), "copy_on_device");
  }
  queue_border(s, ridge_beta);
  stage.end();
  read_record(s);
  rows_->built = (host_.failed & ARROWSCHUR_ROWS_FAILED) == 0;
  rows_->has_s0 = rows_->has_s0 || (rows_->built && rows_->keeps_s0 && route_ == BorderRoute::direct);
  if (route_ == BorderRoute::iterative) host_.log_det = host_.smallest_pivot = kNone;
  if (host_.failed == 0) return std::nullopt;
  BuildFailure failure;
  failure.rows_failed = !rows_->built;
  failure.ridge_t = ridge_t;
  if (failure.rows_failed) {
    lane.require(table.suggest_bump(s.view(), ridge_t, ridge_beta, &view_, s.workspace(), stream), "suggest_bump");
    read_record(s);
  }
  failure.record = host_;
  host_.log_det = host_.smallest_pivot = kNone;
  return failure;
}

}  // namespace arrowschur::device
