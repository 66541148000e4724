// Eigenvalues of small dense symmetric matrices. Eigen's solver takes half a minute to compile, so it stands in one
// translation unit.
#pragma once

#include <Eigen/Core>

namespace arrowschur::linalg {

struct SymmetricEigen {
  bool ok = false;          // the iteration converged
  Eigen::VectorXd values;   // ascending
  Eigen::MatrixXd vectors;  // columns, orthonormal
};

// a = vectors diag(values) vectors', from the lower triangle of a. O(n^3).
SymmetricEigen symmetric_eigen(const Eigen::MatrixXd& a);

// The eigenvalues alone, ascending; empty when the iteration did not converge.
Eigen::VectorXd symmetric_eigenvalues(const Eigen::MatrixXd& a);

// Those of the tridiagonal matrix with this diagonal and off_diagonal (one entry less), ascending.
Eigen::VectorXd tridiagonal_eigenvalues(const Eigen::VectorXd& diagonal, const Eigen::VectorXd& off_diagonal);

}  // namespace arrowschur::linalg
