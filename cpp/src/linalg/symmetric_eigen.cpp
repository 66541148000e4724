#include "linalg/symmetric_eigen.hpp"

#include <Eigen/Eigenvalues>

namespace arrowschur::linalg {
namespace {

using Solver = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>;

}  // namespace

SymmetricEigen symmetric_eigen(const Eigen::MatrixXd& a) {
  const Solver solver(a);
  return {solver.info() == Eigen::Success, solver.eigenvalues(), solver.eigenvectors()};
}

Eigen::VectorXd symmetric_eigenvalues(const Eigen::MatrixXd& a) {
  const Solver solver(a, Eigen::EigenvaluesOnly);
  if (solver.info() != Eigen::Success) return {};
  return solver.eigenvalues();
}

Eigen::VectorXd tridiagonal_eigenvalues(const Eigen::VectorXd& diagonal, const Eigen::VectorXd& off_diagonal) {
  Solver solver;
  solver.computeFromTridiagonal(diagonal, off_diagonal, Eigen::EigenvaluesOnly);
  return solver.eigenvalues();
}

}  // namespace arrowschur::linalg
