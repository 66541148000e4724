// W of an operator: nothing is stored. One forward and one transpose call per application of W'W.
#include "eliminate/whitened_forms.hpp"
#include "system/cross.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;

constexpr Index kProbes = 64;  // calls that a preconditioner may cost (arrow_schur 10.4)

class OperatorWhitened final : public Whitened {
 public:
  OperatorWhitened(const ArrowSystem& s, const RowFactors<double>& rows)
      : Whitened(s.total_dim(), s.k()), system_(s), partition_(Partition::make(s)), factors_(rows) {}

  void apply(const double* x, double* y, Index m) const override {
    if (rows_ == 0 || m == 0) return;
    cross::apply(system_, 0, system_.n(), x, y, m);
    solve(backend::Part::lower, y, m);
  }
  void transpose(const double* y, double* x, Index m) const override {
    Buffer<double> solved(rows_ * m);
    std::copy(y, y + rows_ * m, solved.data());
    solve(backend::Part::upper, solved.data(), m);
    cross::transpose(system_, solved.data(), x, m);
  }
  void subtract_gram_apply(const double* x, double* y) const override {
    if (rows_ == 0) return;
    Buffer<double> z(rows_), wx(cols_);
    cross::apply(system_, 0, system_.n(), x, z.data(), 1);
    solve(backend::Part::full, z.data(), 1);
    cross::transpose(system_, z.data(), wx.data(), 1);
    for (Index j = 0; j < cols_; ++j) y[j] -= wx[j];
  }
  void column_squares(double* out) const override {
    if (!knows_gram()) return std::fill(out, out + cols_, 0.0);
    with_slab([&](const DenseProducts<double>& w) { w.column_squares(out); });
  }
  void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const override {
    if (knows_gram()) with_slab([&](const DenseProducts<double>& w) { w.subtract_gram_blocks(sets, out); });
  }
  void subtract_gram(double* s, Index ld) const override {
    with_slab([&](const DenseProducts<double>& w) { w.subtract_gram(s, ld); });
  }
  void to_dense(double* out, Index ld) const override {
    if (rows_ == 0) return;
    cross::materialize(system_, 0, system_.n(), out, ld);
    whiten_slab(system_, factors_, out, ld);
  }
  Index nbytes() const override { return 0; }
  const char* form() const noexcept override { return "operator"; }
  bool knows_gram() const noexcept override { return std::min(rows_, cols_) <= kProbes; }

 private:
  void solve(backend::Part part, double* x, Index m) const {
    solve_rows(system_, partition_, factors_, part, 0, system_.n(), x, m);
  }
  template <class F>
  void with_slab(F&& f) const {
    Buffer<double> slab(rows_ * cols_);
    to_dense(slab.data(), cols_);
    f(DenseProducts<double>(slab.data(), rows_, cols_));
  }

  ArrowSystem system_;
  Partition partition_;
  const RowFactors<double>& factors_;
};

}  // namespace

std::unique_ptr<Whitened> whiten_operator(const ArrowSystem& s, const RowFactors<double>& rows) {
  return std::make_unique<OperatorWhitened>(s, rows);
}

}  // namespace arrowschur::eliminate
