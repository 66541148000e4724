// The operator form: the caller's callbacks for the whole batch, plus the supplement.
#include <cmath>
#include <mutex>
#include <span>
#include <vector>

#include "linalg/buffer.hpp"
#include "system/cross_forms.hpp"

namespace arrowschur::cross {
namespace {

using linalg::Buffer;

// Calls of the operator, one vector at a time and, unless it is thread-safe, by one thread at a time.
class Calls {
 public:
  Calls(const ArrowSystem& s, const OperatorCross& c)
      : c_(c), border_(static_cast<std::size_t>(s.k()), 0.0), rows_(static_cast<std::size_t>(s.total_dim()), 0.0) {
    if (!c.thread_safe) lock_ = std::unique_lock(*c.lock);
  }
  std::vector<double>& border() { return border_; }
  std::vector<double>& rows() { return rows_; }
  void forward() { c_.forward(border_, rows_); }
  void transpose() { c_.transpose(rows_, border_); }

 private:
  const OperatorCross& c_;
  std::vector<double> border_, rows_;
  std::unique_lock<std::recursive_mutex> lock_;
};

// f(form, layout) unless there is no supplement.
template <class F>
void with_supplement(const OperatorCross& c, const Layout& l, F&& f) {
  std::visit(
      [&]<class Form>(const Form& form) {
        if constexpr (!std::is_same_v<Form, std::monostate>) f(form, *l.supplement);
      },
      c.supplement);
}

// What the bare operator is for the rows [first, last): transposes of unit vectors, or forwards, whichever is fewer.
void probe(const ArrowSystem& s, const OperatorCross& c, Index first, Index last, double* out, Index ld) {
  Calls calls(s, c);
  const Index k = s.k();
  if (last - first <= k) {
    for (Index t = first; t < last; ++t) {
      calls.rows()[static_cast<std::size_t>(t)] = 1.0;
      calls.transpose();
      calls.rows()[static_cast<std::size_t>(t)] = 0.0;
      std::copy(calls.border().begin(), calls.border().end(), out + (t - first) * ld);
    }
    return;
  }
  for (Index j = 0; j < k; ++j) {
    calls.border()[static_cast<std::size_t>(j)] = 1.0;
    calls.forward();
    calls.border()[static_cast<std::size_t>(j)] = 0.0;
    for (Index t = first; t < last; ++t) out[(t - first) * ld + j] = calls.rows()[static_cast<std::size_t>(t)];
  }
}

}  // namespace

void apply(const ArrowSystem& s, const OperatorCross& c, const Layout& l, Index row_begin, Index row_end,
           const double* x, double* y, Index m) {
  const Index base = s.row_offset(row_begin), rows = s.row_offset(row_end) - base;
  {
    Calls calls(s, c);
    for (Index q = 0; q < m; ++q) {
      for (Index j = 0; j < s.k(); ++j) calls.border()[static_cast<std::size_t>(j)] = x[j * m + q];
      calls.forward();
      for (Index r = 0; r < rows; ++r) y[r * m + q] = calls.rows()[static_cast<std::size_t>(base + r)];
    }
  }
  with_supplement(c, l, [&](const auto& form, const Layout& layout) {
    Buffer<double> more(rows * m);
    apply(s, form, layout, row_begin, row_end, x, more.data(), m);
    for (Index i = 0; i < rows * m; ++i) y[i] += more[i];
  });
}

void transpose(const ArrowSystem& s, const OperatorCross& c, const Layout& l, const double* y, double* x, Index m) {
  const Index k = s.k();
  {
    Calls calls(s, c);
    for (Index q = 0; q < m; ++q) {
      for (Index t = 0; t < s.total_dim(); ++t) calls.rows()[static_cast<std::size_t>(t)] = y[t * m + q];
      calls.transpose();
      for (Index j = 0; j < k; ++j) x[j * m + q] = calls.border()[static_cast<std::size_t>(j)];
    }
  }
  with_supplement(c, l, [&](const auto& form, const Layout& layout) {
    Buffer<double> more(k * m);
    transpose(s, form, layout, y, more.data(), m);
    for (Index i = 0; i < k * m; ++i) x[i] += more[i];
  });
}

void materialize(const ArrowSystem& s, const OperatorCross& c, const Layout& l, Index row_begin, Index row_end,
                 double* out, Index ld) {
  const Index first = s.row_offset(row_begin), last = s.row_offset(row_end);
  probe(s, c, first, last, out, ld);
  with_supplement(c, l, [&](const auto& form, const Layout& layout) {
    Buffer<double> row(s.max_dim() * s.k());
    for (Index i = row_begin; i < row_end; ++i) {
      materialize(s, form, layout, i, i + 1, row.data(), s.k());
      double* to = out + (s.row_offset(i) - first) * ld;
      for (Index r = 0; r < s.row_dim(i); ++r) {
        for (Index j = 0; j < s.k(); ++j) to[r * ld + j] += row[r * s.k() + j];
      }
    }
  });
}

bool abs_sums(const ArrowSystem& s, const OperatorCross& c, const Layout& l, double* row_abs, double* col_abs) {
  std::fill(row_abs, row_abs + s.total_dim(), 0.0);
  std::fill(col_abs, col_abs + s.k(), 0.0);
  with_supplement(c, l, [&](const auto& form, const Layout& layout) { abs_sums(s, form, layout, row_abs, col_abs); });
  return true;
}

// |B x|_inf / sqrt(k) for a vector of signs without a pattern: the root mean square of a row's entries, more or less.
double max_abs(const ArrowSystem& s, const OperatorCross& c, const Layout& l) {
  const Index k = s.k(), t = s.total_dim();
  if (k == 0 || t == 0) return 0.0;
  Buffer<double> x(k), y(t);
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  for (double& v : x) {  // xorshift64
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    v = (state >> 63) != 0 ? 1.0 : -1.0;
  }
  apply(s, c, l, 0, s.n(), x.data(), y.data(), 1);
  double largest = 0.0;
  for (const double v : y) largest = std::max(largest, std::abs(v));
  return largest / std::sqrt(static_cast<double>(k));
}

double row_squares(const ArrowSystem& s, const OperatorCross& c, const Layout& l, Index row, const double* m) {
  const Index k = s.k(), d = s.row_dim(row);
  Buffer<double> b(d * k);
  materialize(s, c, l, row, row + 1, b.data(), k);
  double sum = 0.0;
  for (Index j = 0; j < k; ++j) {
    double squares = 0.0;
    for (Index r = 0; r < d; ++r) squares += b[r * k + j] * b[r * k + j];
    sum += column_share(squares, m, j);
  }
  return sum;
}

}  // namespace arrowschur::cross
