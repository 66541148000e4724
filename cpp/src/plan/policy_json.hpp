// Policy records and machine profiles as JSON values.
#pragma once

#include "arrowschur/profile.hpp"
#include "plan/json.hpp"

namespace arrowschur {

json::Value to_value(const DispatchPolicy&);
DispatchPolicy policy_from_value(const json::Value&);  // InvalidArgument naming the field
json::Value to_value(const MachineProfile&);
MachineProfile profile_from_value(const json::Value&);  // InvalidArgument naming the field

}  // namespace arrowschur
