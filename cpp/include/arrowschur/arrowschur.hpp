// Everything an embedder may include.
#pragma once

#include "arrowschur/error.hpp"
#include "arrowschur/factor.hpp"
#include "arrowschur/fixtures.hpp"
#include "arrowschur/inner_loop.hpp"
#include "arrowschur/newton.hpp"
#include "arrowschur/options.hpp"
#include "arrowschur/plan.hpp"
#include "arrowschur/policy.hpp"
#include "arrowschur/profile.hpp"
#include "arrowschur/result.hpp"
#include "arrowschur/sweep.hpp"
#include "arrowschur/system.hpp"
#include "arrowschur/telemetry.hpp"
#include "arrowschur/threads.hpp"
#include "arrowschur/types.hpp"
#include "arrowschur/version.hpp"
