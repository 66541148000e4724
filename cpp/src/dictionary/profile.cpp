#include "dictionary/profile.hpp"

#include <algorithm>

#include "dictionary/kernels.hpp"
#include "linalg/pool.hpp"
#include "linalg/symmetric_eigen.hpp"

namespace arrowschur::dictionary {
namespace {

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

void leading_direction(Packer& pack, const Index* rows, Index count, Index p, double* out) {
  if (count < p) {  // u of X X', then X'u
    Eigen::MatrixXd gram(count, count);
    std::vector<float> x(size(count * p));
    for (Index i = 0; i < count; ++i) std::copy_n(pack(rows[i], 1).data, p, x.data() + i * p);
    for (Index i = 0; i < count; ++i) {
      for (Index j = 0; j <= i; ++j) gram(i, j) = kernels().s64(x.data() + i * p, x.data() + j * p, p);
    }
    const auto eigen = linalg::symmetric_eigen(gram);
    std::fill_n(out, p, 0.0);
    for (Index i = 0; i < count; ++i) {
      const double u = eigen.vectors(i, count - 1);
      for (Index c = 0; c < p; ++c) out[c] += u * static_cast<double>(x[size(i * p + c)]);
    }
    return;
  }
  Eigen::MatrixXd scatter = Eigen::MatrixXd::Zero(p, p);
  for (Index i = 0; i < count; ++i) {
    const float* x = pack(rows[i], 1).data;
    for (Index c = 0; c < p; ++c) {
      const auto v = static_cast<double>(x[c]);
      for (Index r = c; r < p; ++r) scatter(r, c) += v * static_cast<double>(x[r]);
    }
  }
  const auto eigen = linalg::symmetric_eigen(scatter);
  for (Index c = 0; c < p; ++c) out[c] = eigen.vectors(c, p - 1);
}

}  // namespace

void leading_directions(Packer& pack, const std::uint32_t* indices, const float* codes, Index k, Index p,
                        const std::vector<char>& live, double* b) {
  std::vector<Index> ends(size(k + 1), 0), rows(size(pack.count()));
  for (Index i = 0; i < pack.count(); ++i) ends[indices[i] + 1] += codes[i] != 0.0f ? 1 : 0;
  for (Index a = 0; a < k; ++a) ends[size(a + 1)] += ends[size(a)];
  for (Index i = 0; i < pack.count(); ++i) {
    if (codes[i] != 0.0f) rows[size(ends[indices[i]]++)] = i;
  }
  // now ends[a] is the end of the rows of atom a
  linalg::parallel_for_if(pack.in_place(), k, [&](Index a) {
    const Index begin = a == 0 ? 0 : ends[size(a - 1)], count = ends[size(a)] - begin;
    if (live[size(a)] != 0 && count > 0) leading_direction(pack, rows.data() + begin, count, p, b + a * p);
  });
}

}  // namespace arrowschur::dictionary
