// The route of the factors of a device system: what is possible, what it costs, which is taken.
#pragma once

#include "arrowschur/frame.hpp"
#include "backend/device_factor.hpp"
#include "plan/time_model.hpp"

namespace arrowschur::device {

// The system as the time model of dense routes sees it.
policy::CostShape cost_shape(const ArrowSystem&);
// The route that automatic takes by time alone.
FrameRoute faster_route(const policy::CostShape&, const char* dual_obstacle, Index solves, const MachineProfile&);

// Throws UnsupportedConfiguration where `wanted` is a route that this system does not have, and OutOfMemory with the bytes
// of the cheapest where none fits `budget`. `held`: bytes beside blocks and factors.
FramePlan plan_route(const DeviceSystem&, FrameRoute wanted, Index solves, std::size_t held, std::size_t budget,
                     const MachineProfile&);
BorderRoute border_route(FrameRoute) noexcept;
FrameRoute frame_route(BorderRoute) noexcept;

}  // namespace arrowschur::device
