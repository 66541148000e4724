// The exact decoder of given codes: (A_LL + rho I) D_L = B_L on the atoms L that fired ("method of optimal directions",
// with a ridge). Other atoms keep their row.
//
// By connected components of A: one atom is a division; otherwise a Cholesky factorization of the dense triangle where
// m^3 / 3 + 2 m^2 P flops are at most 60 per stored entry and column (and the triangle fits the budget), else conjugate
// gradients, whose unsolved columns are factored after all when the iterations have cost as much. The largest component is factored where A lies: A is garbage afterwards, and B is the solution.
#pragma once

#include "arrowschur/dictionary.hpp"
#include "dictionary/statistics.hpp"

namespace arrowschur::dictionary {

enum class Solver { automatic, cholesky, conjugate_gradients };

// `previous` [k, p]: where conjugate gradients start, and what a column that failed keeps.
RefreshReport refresh(Statistics& statistics, Index p, const std::vector<char>& live, const float* previous,
                      double ridge, Index budget, Solver solver = Solver::automatic);

}  // namespace arrowschur::dictionary
