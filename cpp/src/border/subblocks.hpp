// What the preconditioners made of sub-blocks S[c, c] share: assembly through the cross block's own form, and the
// scalars that stand in where a sub-block is too wide or not positive definite.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "border/preconditioner.hpp"
#include "system/border_graph.hpp"

namespace arrowschur::border {

// The columns of each group, ascending.
eliminate::ColumnSets columns_of(const BorderGraph&, const BlockGroups&);

// f(s, block) for every set s with block = S[cols_s, cols_s], a full symmetric c x c matrix that f may overwrite. Sets
// are assembled in batches of bounded memory, one pass over W each; f runs concurrently for different sets.
void for_each_subblock(const PreconditionerInputs&, const eliminate::ColumnSets&,
                       const std::function<void(Index s, double* block)>& f);

// 1 / S_jj, [k], under the floor of 10.4: without a trust region none where an entry is at or below it (`why` says
// which).
std::optional<std::vector<double>> scalar_reciprocals(const PreconditionerInputs&, std::string& why);

// True, and `why` says so, when sub-blocks of this system are not to be had at a sensible price: nothing but products
// is known of an operator.
bool only_products(const PreconditionerInputs&, std::string& why);

}  // namespace arrowschur::border
