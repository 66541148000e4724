// One walk over rows with a frozen decoder: route, code, accumulate, remember the worst.
#pragma once

#include "dictionary/reservoir.hpp"
#include "dictionary/router.hpp"
#include "dictionary/statistics.hpp"

namespace arrowschur::dictionary {

// Sums of a pass; each is one float64 that takes its terms in the order of the rows.
struct PassSums {
  double rss = 0.0, energy = 0.0;  // of the residuals; of the rows
  Index rows = 0;
};

struct PassTarget {
  std::uint32_t* indices = nullptr;  // [rows, s]; null: forgotten after each minibatch
  float* codes = nullptr;
  double* energies = nullptr;        // [rows]; null likewise
  Statistics* statistics = nullptr;
  Reservoir* reservoir = nullptr;
  ShiftedSums* moments = nullptr;
};

// Rows begin .. end - 1 of `pack`; `first_row` is the number of row `begin` in the pass, and what `target` points to
// belongs to row `begin`. An interrupt ends it between minibatches: what
// was added by then is whole ones (sums.rows).
void run_pass(Packer& pack, Index begin, Index end, Index first_row, const RowRouter& router, Index s,
              const PassTarget& target, PassSums& sums, RouteCounters& counters, RouteReport& report,
              StepSeconds& seconds);

}  // namespace arrowschur::dictionary
