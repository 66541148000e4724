// Times of single operations on this CPU and on its device, transfers included: what thresholds are calibrated from.
#pragma once

#include <functional>
#include <vector>

#include "arrowschur/profile.hpp"

namespace arrowschur::policy {

// Seconds that `run` takes. Replaced by tests.
using OperationTimer =
    std::function<double(const Measurement& point, bool on_device, const std::function<void()>& run)>;
// Median of five runs after two.
double median_of_five(const Measurement&, bool on_device, const std::function<void()>& run);

// The points of kGemmGrid, kGramGrid and kPotrfGrid, by the stages that solves are made of, on systems in which nothing else
// takes time: W'W of a square W ("gemm": the library has no other product), B' diag(w) B of n rows of size 1 ("xtwx"), and
// the Cholesky factor of a border without rows ("potrf"). The device is sent the numbers and sends the matrix back, every
// time. Throws what a device throws, and DeviceError where a result is not finite.
std::vector<Measurement> measure_operations(const OperationTimer& = median_of_five);

}  // namespace arrowschur::policy
