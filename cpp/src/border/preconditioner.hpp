// Preconditioners of the border system (arrow_schur 10.4 to 10.7, E8): symmetric positive definite approximations of S^-1,
// built from sub-blocks of S = M - W'W through the Whitened interface, never from a dense slab.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arrowschur/options.hpp"
#include "arrowschur/system.hpp"
#include "eliminate/whitened.hpp"

namespace arrowschur::border {

// What a preconditioner is built from. All outlive it.
struct PreconditionerInputs {
  const ArrowSystem* system = nullptr;
  const eliminate::Whitened* w = nullptr;
  const double* shift = nullptr;  // [k]: ridge_beta (curvature ridge included) + damping_beta
  Guards guards = Guards::relative;
  bool trust_region = false;  // a finite radius: 10.4 keeps going on entries below the floor
};

class Preconditioner {
 public:
  virtual ~Preconditioner() = default;
  virtual void apply(const double* r, double* z) const = 0;  // z = P^-1 r
  virtual Index nbytes() const = 0;
  const std::string& name() const noexcept { return name_; }  // "diagonal", "block", "cluster", ...

 protected:
  explicit Preconditioner(std::string name) : name_(std::move(name)) {}
  std::string name_;
};

// The diagonal of S, [k]; `bad` is the first entry that is not finite or at or below the floor of 6.2 (-1: none).
struct SchurDiagonal {
  std::vector<double> values;
  Index bad = -1;
};
SchurDiagonal schur_diagonal(const PreconditionerInputs&);

// Null when it cannot be built for this problem; then `why` says why (for the account of the ladder).
using Built = std::unique_ptr<Preconditioner>;
// jacobi.cpp. scalar_jacobi throws PcgError(jacobi_diagonal) without a trust region.
Built scalar_jacobi(const PreconditionerInputs&);
Built block_jacobi(const PreconditionerInputs&, std::string& why);
// clusters.cpp: bounded clusters (E8), symmetric additive Schwarz, both from the border graph.
Built clusters(const PreconditionerInputs&, std::string& why);
Built schwarz(const PreconditionerInputs&, Index overlap, std::string& why);
// incomplete.cpp: incomplete Cholesky with zero fill per component.
Built incomplete_cholesky(const PreconditionerInputs&, std::string& why);
// power_series.cpp: S^-1 ~ sum_{i <= order} (M^-1 W'W)^i M^-1 (Weber, Demmel, Chan, Cremers, CVPR 2023).
Built power_series(const PreconditionerInputs&, Index order, std::string& why);
// nystrom.cpp: randomised Nystrom approximation of M^-1/2 W'W M^-1/2 (Frangella, Tropp, Udell, SIMAX 44(2), 2023).
Built nystrom(const PreconditionerInputs&, Index rank, std::string& why);

// Directions recycled between the solves of one factor: the coarse correction V (V'SV)^-1 V' of span(V), V from earlier
// CG runs, kept with V'SV = I. deflation.cpp. Thread safety: none; the solver guards it.
class Deflation {
 public:
  // `scale`: positive diagonal D [k] of the metric in which eigenvalues are small (that of S, say); empty: identity.
  explicit Deflation(Index k, Index most = 16, std::vector<double> scale = {});
  bool empty() const noexcept;
  Index size() const noexcept;
  // Keeps the `most` Ritz vectors of smallest Ritz values in the span of V and `directions` [count, k], whose products
  // with S are `images` (p and S p of a CG run, any part of it).
  void absorb(Index count, const double* directions, const double* images);
  void initial(const double* rhs, double* x) const;  // x = V V' rhs: the solution of S x = rhs in span(V)
  void correct(const double* r, double* z) const;  // z += V V' r
  Index nbytes() const noexcept;

 private:
  Index k_, most_, size_ = 0;
  std::vector<double> scale_, v_, sv_;  // [k], [size, k], [size, k]
};

}  // namespace arrowschur::border
