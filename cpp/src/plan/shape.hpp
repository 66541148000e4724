// What the plan needs to know of a system: sizes, and what its structure stores and costs. Found without looking at a
// value, in O(1) for dense parts and O(n) for block-sparse ones.
#pragma once

#include "arrowschur/plan.hpp"
#include "plan/memory.hpp"
#include "plan/time_model.hpp"

namespace arrowschur {

enum class CrossForm { dense, block_sparse, kronecker, callback };

struct PlanShape {
  ProblemShape problem;
  CrossForm form = CrossForm::dense;
  const char* cross_form = "dense";
  bool operator_border = false;
  bool cheap_border = false;  // asked for only where low_rank is in question
  double row_flops = 0.0;     // sum d_i^3 / 3
  policy::CostShape cost;
  StructuredMemory memory;
  const ArrowSystem* system = nullptr;  // block-sparse only: S may be sparse too, which takes a look at the pattern
};

PlanShape shape_of(const ProblemShape&, const SolveOptions&);  // dense parts
PlanShape shape_of(const ArrowSystem&, const SolveOptions&);

}  // namespace arrowschur
