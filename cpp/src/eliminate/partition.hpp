// The fixed grouping of rows that every reduction over rows uses: it depends on the shape only, never on the number of
// threads, so that sums have the same bits for every thread count (and for every route that uses the same groups).
#pragma once

#include <vector>

#include "arrowschur/system.hpp"
#include "eliminate/row_access.hpp"

namespace arrowschur::eliminate {

struct Group {
  Index bucket = 0, first = 0, count = 0;  // rows [first, first + count) of the bucket
  Index flat_row = 0;                      // flat rows in the groups before this one
};

struct Partition {
  std::vector<Group> groups;
  // Thin borders: each group whitens chunks that stay in L2 and adds them to a k x k partial of its own. Wide borders:
  // super-chunks of rows are whitened by all threads, then the tiles of S are updated by all threads.
  bool thin = false;
  bool parallel = false;
  Index largest_rows = 0;  // flat rows of the largest group

  static Partition make(const ArrowSystem& system);
  static RowRun run(const ArrowSystem& system, const Group& g) {
    return {&system, &system.buckets()[static_cast<std::size_t>(g.bucket)], g.first, g.count};
  }
};

}  // namespace arrowschur::eliminate
