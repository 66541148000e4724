// Gather-Kronecker W: W_i = sum_s phi_s Jw at columns [base_s, base_s + p), Jw = L_i^-1 J (d_i x p), one or more a row.
//
// Nothing of size d nnz p is formed. Products are staged, a slot being one matrix:
//   gather    z_q = sum_s phi_s x[base_s : base_s + p]   over the pairs of slot q
//   contract  w_i = sum_q Jw_q z_q
//   lift      v_q = Jw_q' w_i
//   scatter   out[base : base + p] += phi v_q            over the slots that use the base
#include "eliminate/whitened_forms.hpp"
#include "linalg/blas.hpp"
#include "system/cross.hpp"

namespace arrowschur::eliminate {
namespace {

using linalg::Buffer;

constexpr Index kStaged = Index{1} << 23;  // entries of z and v at a time, for several vectors: 64 MiB

template <class In>
class KroneckerForm final : public Whitened {
 public:
  KroneckerForm(const ArrowSystem& s, const RowFactors<double>& rows)
      : Whitened(s.total_dim(), s.k()),
        system_(s),
        cross_(std::get<KroneckerCross>(system_.cross())),
        layout_(system_.cross_layout()),
        p_(cross_.p),
        jw_(layout_.first_value[at(s.n())]) {
    with_storage(s.dtype(), cross_.j, [&](const auto* j) { fill(rows, j); });
    with_storage(s.dtype(), cross_.support_phi, [&](const auto* phi) {
      phi_ = Buffer<double>(cross_.support_ptr[s.n()]);
      std::copy(phi, phi + phi_.size(), phi_.data());
    });
  }

  void apply(const double* x, double* y, Index m) const override {
    for_panels(m, cols_, x, rows_, y, [&](const double* from, double* to, Index live) { apply_panel(from, to, live); });
  }
  void transpose(const double* y, double* x, Index m) const override {
    for_panels(m, rows_, y, cols_, x, [&](const double* from, double* to, Index live) {
      Buffer<double> v(layout_.slots * p_ * live);
      for_rows(live, [&](Index i, Buffer<double>& scratch) {
        lift(i, from + system_.row_offset(i) * live, live, v.data() + slot(i) * p_ * live, scratch);
      });
      cross::scatter(system_, v.data(), to, live);
    });
  }

  void subtract_gram_apply(const double* x, double* y) const override {
    Buffer<double> z(layout_.slots * p_), w(rows_), sum(cols_);
    cross::gather(system_, 0, system_.n(), x, z.data(), 1);
    for_rows(1, [&](Index i, Buffer<double>& scratch) {
      double* own = w.data() + system_.row_offset(i);
      double* staged = z.data() + slot(i) * p_;
      contract(i, staged, 1, own, scratch);
      lift(i, own, 1, staged, scratch);
    });
    cross::scatter(system_, z.data(), sum.data(), 1);
    for (Index j = 0; j < cols_; ++j) y[j] -= sum[j];
  }

  void column_squares(double* out) const override {
    Buffer<double> squares(layout_.slots * p_);
    for_rows(1, [&](Index i, Buffer<double>&) {
      for (Index q = slot(i); q < slot(i + 1); ++q) {
        double* sum = squares.data() + q * p_;
        std::fill(sum, sum + p_, 0.0);
        for (Index r = 0; r < system_.row_dim(i); ++r) {
          const In* line = jw(i, q) + r * p_;
          for (Index j = 0; j < p_; ++j) sum[j] += static_cast<double>(line[j]) * static_cast<double>(line[j]);
        }
      }
    });
    // Tasks own stretches of columns, whatever the targets do to each other.
    constexpr Index kStretch = 512;
    const auto& targets = layout_.target_base;
    linalg::parallel_for_if(phi_.size() * p_ >= linalg::kParallelWork, (cols_ + kStretch - 1) / kStretch, [&](Index g) {
      const Index begin = g * kStretch, end = std::min(cols_, begin + kStretch);
      std::fill(out + begin, out + end, 0.0);
      auto base = std::upper_bound(targets.begin(), targets.end(), begin - p_);
      for (; base != targets.end() && *base < end; ++base) {
        const Index from = std::max(begin, *base), to = std::min(end, *base + p_);
        // Slots that follow one another are rows of one matrix.
        const Index first = layout_.target_ptr[at(base - targets.begin())];
        const Index last = layout_.target_ptr[at(base - targets.begin()) + 1];
        Buffer<double> weight(last - first);
        for (Index t = first; t < last; ++t) {
          const double phi = phi_[layout_.target_pair[at(t)]];
          weight[t - first] = phi * phi;
        }
        for (Index t = first; t < last;) {
          const Index q = layout_.target_slot[at(t)];
          Index next = t + 1;
          while (next < last && layout_.target_slot[at(next)] == q + next - t) ++next;
          linalg::kernels().data64.rows_axpy(next - t, to - from, squares.data() + q * p_ + from - *base, p_,
                                             weight.data() + t - first, out + from, nullptr);
          t = next;
        }
      }
    });
  }

  void subtract_gram(double* s, Index ld) const override {
    if (by_pairs()) return subtract_gram_by_pairs(s, ld);
    gram_of_packed(rows_, cols_, -1.0, s, ld, [&](Index begin, Index end, double* packed, Index stride) {
      Buffer<double> line(cols_);
      Index i = row_at(begin);
      for (Index r = begin; r < end; ++r, packed += linalg::kPanel<double>) {
        while (r >= system_.row_offset(i) + system_.row_dim(i)) ++i;
        write_line(i, r - system_.row_offset(i), line.data());
        pack_rows(1, cols_, line.data(), cols_, nullptr, packed, stride);
      }
    });
  }

  void subtract_gram_blocks(const ColumnSets& sets, std::span<double* const> out) const override {
    linalg::parallel_for_if(phi_.size() * p_ >= linalg::kParallelWork / 8, sets.count(),
                            [&](Index s) { subtract_set(sets.set(s), out[static_cast<std::size_t>(s)]); });
  }

  void to_dense(double* out, Index ld) const override {
    for_rows(1, [&](Index i, Buffer<double>&) {
      for (Index r = 0; r < system_.row_dim(i); ++r) write_line(i, r, out + (system_.row_offset(i) + r) * ld);
    });
  }

  Index nbytes() const override { return jw_.nbytes() + phi_.nbytes(); }
  const char* form() const noexcept override { return "kronecker"; }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Index slot(Index row) const { return cross_.j_ptr == nullptr ? row : cross_.j_ptr[row]; }
  Index slot_of(Index row, Index pair) const {
    return cross_.j_ptr == nullptr ? row : cross_.j_ptr[row] + cross_.support_j[pair];
  }
  Index row_of(Index q) const {
    if (cross_.j_ptr == nullptr) return q;
    return std::upper_bound(cross_.j_ptr, cross_.j_ptr + system_.n() + 1, q) - cross_.j_ptr - 1;
  }
  const In* jw(Index row, Index q) const {
    return jw_.data() + layout_.first_value[at(row)] + (q - slot(row)) * system_.row_dim(row) * p_;
  }
  Index row_at(Index flat_row) const {
    Index low = 0, high = system_.n();
    while (high - low > 1) {
      const Index middle = (low + high) / 2;
      (system_.row_offset(middle) <= flat_row ? low : high) = middle;
    }
    return low;
  }
  // f(slot, phi) for the pairs of a target, ascending slots.
  template <class F>
  void for_target(Index target, F&& f) const {
    for (Index t = layout_.target_ptr[at(target)]; t < layout_.target_ptr[at(target) + 1]; ++t) {
      f(layout_.target_slot[at(t)], phi_[layout_.target_pair[at(t)]]);
    }
  }

  template <class From>
  void fill(const RowFactors<double>& rows, const From* j) {
    const Partition partition = Partition::make(system_);
    const auto groups = static_cast<Index>(partition.groups.size());
    linalg::parallel_for_if(jw_.size() >= linalg::kParallelWork, groups, [&](Index g) {
      const Group& group = partition.groups[at(g)];
      const RowRun run = Partition::run(system_, group);
      const auto& f = rows.buckets[at(group.bucket)];
      const Index size = f.d * p_;
      Buffer<double> scratch(size);
      for (Index i = 0; i < run.count; ++i) {
        const Index row = run.row(i);
        for (Index q = slot(row); q < slot(row + 1); ++q) {
          const Index first = layout_.first_value[at(row)] + (q - slot(row)) * size;
          std::copy(j + first, j + first + size, scratch.data());
          solve_blocks(backend::Part::lower, f, run.first + i, 1, scratch.data(), p_);
          for (Index e = 0; e < size; ++e) jw_[first + e] = static_cast<In>(scratch[e]);
        }
      }
    });
  }

  // f(from [a, live], to [b, live], live): columns in panels whose staging fits.
  template <class F>
  void for_panels(Index m, Index a, const double* from, Index b, double* to, F&& f) const {
    const Index panel = std::clamp<Index>(kStaged / std::max<Index>(layout_.slots * p_, 1), 1, std::max<Index>(m, 1));
    if (panel >= m) return f(from, to, m);
    Buffer<double> in(a * panel), out(b * panel);
    for (Index c = 0; c < m; c += panel) {
      const Index live = std::min(panel, m - c);
      for (Index r = 0; r < a; ++r) std::copy(from + r * m + c, from + r * m + c + live, in.data() + r * live);
      f(in.data(), out.data(), live);
      for (Index r = 0; r < b; ++r) std::copy(out.data() + r * live, out.data() + (r + 1) * live, to + r * m + c);
    }
  }
  void apply_panel(const double* x, double* y, Index m) const {
    Buffer<double> z(layout_.slots * p_ * m);
    cross::gather(system_, 0, system_.n(), x, z.data(), m);
    for_rows(m, [&](Index i, Buffer<double>& scratch) {
      contract(i, z.data() + slot(i) * p_ * m, m, y + system_.row_offset(i) * m, scratch);
    });
  }
  // f(row, scratch) in parallel.
  template <class F>
  void for_rows(Index m, F&& f) const {
    constexpr Index kRows = 16;
    const Index n = system_.n();
    linalg::parallel_for_if(rows_ * p_ * m >= linalg::kParallelWork / 4, (n + kRows - 1) / kRows, [&](Index task) {
      Buffer<double> scratch;
      for (Index i = task * kRows; i < std::min(n, (task + 1) * kRows); ++i) f(i, scratch);
    });
  }

  // Jw of a slot in float64.
  const double* widened(const In* from, Index d, Buffer<double>& scratch) const {
    if constexpr (std::is_same_v<In, double>) {
      return from;
    } else {
      if (scratch.size() < d * p_) scratch = Buffer<double>(d * p_);
      for (Index e = 0; e < d * p_; ++e) scratch[e] = static_cast<double>(from[e]);
      return scratch.data();
    }
  }
  // w [d, m] = sum_q Jw_q z_q, z [slots of the row, p, m]
  void contract(Index row, const double* z, Index m, double* w, Buffer<double>& scratch) const {
    const Index d = system_.row_dim(row);
    const auto& kernel = linalg::kernels().data<In>();
    std::fill(w, w + d * m, 0.0);
    for (Index q = slot(row); q < slot(row + 1); ++q, z += p_ * m) {
      if (m == 1) {
        constexpr Index kRows = 32;
        double part[kRows];
        for (Index r = 0; r < d; r += kRows) {
          const Index count = std::min(kRows, d - r);
          kernel.rows_dot(count, p_, jw(row, q) + r * p_, p_, z, part, nullptr);
          for (Index e = 0; e < count; ++e) w[r + e] += part[e];
        }
      } else {  // column-major: W' (m x d) += Z' (m x p) Jw'
        linalg::blas_table<double>().gemm('N', 'N', m, d, p_, 1.0, z, m, widened(jw(row, q), d, scratch), p_, 1.0, w,
                                          m);
      }
    }
  }
  // v_q [p, m] = Jw_q' w
  void lift(Index row, const double* w, Index m, double* v, Buffer<double>& scratch) const {
    const Index d = system_.row_dim(row);
    for (Index q = slot(row); q < slot(row + 1); ++q, v += p_ * m) {
      std::fill(v, v + p_ * m, 0.0);
      if (m == 1) {
        linalg::kernels().data<In>().rows_axpy(d, p_, jw(row, q), p_, w, v, nullptr);
      } else if (d > 0) {  // column-major: V' (m x p) = W' (m x d) Jw
        linalg::blas_table<double>().gemm('N', 'T', m, p_, d, 1.0, w, m, widened(jw(row, q), d, scratch), p_, 0.0, v,
                                          m);
      }
    }
  }

  // Line r of row i, dense.
  void write_line(Index row, Index r, double* line) const {
    std::fill(line, line + cols_, 0.0);
    for (Index t = cross_.support_ptr[row]; t < cross_.support_ptr[row + 1]; ++t) {
      const In* from = jw(row, slot_of(row, t)) + r * p_;
      double* to = line + cross_.support_base[t];
      for (Index j = 0; j < p_; ++j) to[j] = phi_[t] * static_cast<double>(from[j]);
    }
  }

  // Pairs of pairs, d p^2 each, or one dense update with T k^2 / 2, which runs several times faster.
  bool by_pairs() const {
    constexpr double kDenseSpeed = 4.0;
    double work = 0.0;
    for (Index i = 0; i < system_.n(); ++i) {
      const double width = static_cast<double>((cross_.support_ptr[i + 1] - cross_.support_ptr[i]) * p_);
      work += static_cast<double>(system_.row_dim(i)) * width * width;
    }
    const double k = static_cast<double>(cols_);
    return kDenseSpeed * work < static_cast<double>(rows_) * k * k;
  }
  // Tasks own the rows of S that a run of overlapping targets covers.
  void subtract_gram_by_pairs(double* s, Index ld) const {
    const auto& base = layout_.target_base;
    std::vector<std::size_t> runs;
    for (std::size_t t = 0; t < base.size(); ++t) {
      if (t == 0 || base[t] >= base[t - 1] + p_) runs.push_back(t);
    }
    runs.push_back(base.size());
    const auto tasks = static_cast<Index>(runs.size()) - 1;
    const auto& kernel = linalg::kernels().data<In>();
    linalg::parallel_for_if(phi_.size() * p_ >= linalg::kParallelWork / 16, tasks, [&](Index task) {
      const Index run = tasks - 1 - task;  // the last ones meet the most pairs
      for (std::size_t a = runs[at(run)]; a < runs[at(run) + 1]; ++a) {
        for_target(static_cast<Index>(a), [&](Index q, double phi) {
          const Index row = row_of(q), d = system_.row_dim(row);
          for (Index t = cross_.support_ptr[row]; t < cross_.support_ptr[row + 1]; ++t) {
            const Index b = cross_.support_base[t];
            if (b > base[a]) continue;
            kernel.subtract_outer(d, p_, phi * phi_[t], jw(row, q), jw(row, slot_of(row, t)), s + base[a] * ld + b, ld,
                                  b == base[a]);
          }
        });
      }
    });
  }

  // One set: the rows that touch it, as dense lines of its columns, in one rank update.
  void subtract_set(std::span<const Index> cols, double* out) const {
    const auto c = static_cast<Index>(cols.size());
    if (c == 0) return;
    struct Touch {
      Index slot, base;
      double phi;
    };
    std::vector<Touch> touches;
    const auto position = [&](Index col) { return std::lower_bound(cols.begin(), cols.end(), col) - cols.begin(); };
    const auto& targets = layout_.target_base;
    auto base = std::upper_bound(targets.begin(), targets.end(), cols.front() - p_);
    for (; base != targets.end() && *base <= cols.back(); ++base) {
      if (position(*base) == position(*base + p_)) continue;
      for_target(base - targets.begin(), [&](Index q, double phi) { touches.push_back({q, *base, phi}); });
    }
    std::stable_sort(touches.begin(), touches.end(), [](const Touch& a, const Touch& b) { return a.slot < b.slot; });

    const Index depth = std::max(linalg::kDepth, system_.max_dim()), stride = depth * linalg::kPanel<double>;
    const Index ld = linalg::padded_ld<double>(c);
    Buffer<double> lines(depth * c), packed(stride * (ld / linalg::kPanel<double>)),
        gram(linalg::padded_size<double>(c));
    std::fill(gram.begin(), gram.end(), 0.0);
    std::fill(lines.begin(), lines.end(), 0.0);
    Index filled = 0;
    const auto flush = [&] {
      pack_rows(filled, c, lines.data(), c, nullptr, packed.data(), stride);
      for (Index i0 = 0; i0 < c; i0 += linalg::kTile) {
        const Index i1 = std::min(c, i0 + linalg::kTile);
        linalg::rank_update_tile<double>(linalg::kernels().f64, {packed.data(), stride}, 0, filled, i0,
                                         linalg::round_up(i1, linalg::kStrip), 0, i1, 1.0, gram.data(), ld, false);
      }
      std::fill(lines.data(), lines.data() + filled * c, 0.0);
      filled = 0;
    };
    for (std::size_t t = 0; t < touches.size();) {
      const Index row = row_of(touches[t].slot), d = system_.row_dim(row);
      if (filled + d > depth) flush();
      for (; t < touches.size() && touches[t].slot < slot(row + 1); ++t) {
        const Touch& touch = touches[t];
        const Index last = position(touch.base + p_);
        for (Index j = position(touch.base); j < last; ++j) {
          const In* from = jw(row, touch.slot) + cols[at(j)] - touch.base;
          for (Index r = 0; r < d; ++r) {
            lines[(filled + r) * c + j] = touch.phi * static_cast<double>(from[r * p_]);
          }
        }
      }
      filled += d;
    }
    flush();
    subtract_symmetric(c, gram.data(), ld, out);
  }

  ArrowSystem system_;
  const KroneckerCross& cross_;
  const cross::Layout& layout_;
  Index p_;
  Buffer<In> jw_;  // the matrices, d_i x p each, one after another as in J
  Buffer<double> phi_;  // weights of the pairs
};

}  // namespace

std::unique_ptr<Whitened> whiten_kronecker(const ArrowSystem& s, const RowFactors<double>& rows,
                                           WhitenedStorage storage) {
  if (storage == WhitenedStorage::float64) return std::make_unique<KroneckerForm<double>>(s, rows);
  return std::make_unique<KroneckerForm<float>>(s, rows);
}

Index whitened_bytes_kronecker(const ArrowSystem& s, WhitenedStorage storage) {
  const auto& cross = std::get<KroneckerCross>(s.cross());
  return s.cross_layout().first_value.back() * bytes_of(storage) +
         cross.support_ptr[s.n()] * static_cast<Index>(sizeof(double));
}

}  // namespace arrowschur::eliminate
