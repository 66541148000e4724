#include "arrowschur/fixtures.hpp"

#include <cmath>

#include "system/format.hpp"
#include "system/storage.hpp"

namespace arrowschur::fixtures {
namespace {

constexpr std::uint64_t kQwenSeed = 0x10170003D3A15EEDu;
constexpr std::uint64_t kColorArmSeed = 0x1017C0102A125EEDu;

// A vector of a x b x c zeros; require_shape() has seen to it that this does not overflow.
std::vector<double> zeros(Index a, Index b = 1, Index c = 1) {
  return std::vector<double>(static_cast<std::size_t>(a * b * c));
}

void require_bytes(Index a, Index b, Index c) {
  const Index entries = checked_product(checked_product(a, b, "a fixture"), c, "a fixture");
  checked_product(entries, static_cast<Index>(sizeof(double)), "a fixture");
}

void require_shape(Index n, Index d, Index k) {
  if (n < 0) throw InvalidArgument("n", std::to_string(n), "an integer >= 0");
  if (d < 1) throw InvalidArgument("d", std::to_string(d), "an integer >= 1");
  if (k < 0) throw InvalidArgument("k", std::to_string(k), "an integer >= 0");
  require_bytes(n, d, d);
  require_bytes(n, d, k);
  require_bytes(2, k, k);
}

double real(Index i) { return static_cast<double>(i); }

}  // namespace

ArrowSystem FixtureData::system() const {
  SystemParts parts;
  parts.n = n;
  parts.k = k;
  parts.d = d;
  parts.h_tt = h_tt.data();
  parts.h_tb = h_tb.data();
  parts.g_t = g_t.data();
  parts.g_beta = g_beta.data();
  parts.border = {k, DType::float64, {}, {}};
  switch (border) {
    case BorderKind::dense:
      parts.border.terms.push_back(DenseBorder{h_bb.data()});
      break;
    case BorderKind::tridiagonal:
      parts.border.terms.push_back(BandedBorder{h_bb.data(), k > 1 ? Index{1} : Index{0}});
      break;
    case BorderKind::diagonal:
      parts.border.terms.push_back(DiagonalBorder{h_bb.data()});
      break;
  }
  return ArrowSystem::make(std::move(parts));
}

FixtureData shape_fixture(Index n, Index k, Index basis_cols, Index d, std::uint64_t seed, bool with_target) {
  require_shape(n, d, k);
  if (basis_cols < 0) throw InvalidArgument("basis_cols", std::to_string(basis_cols), "an integer >= 0");
  require_bytes(n, basis_cols, 1);
  FixtureData f;
  f.n = n;
  f.d = d;
  f.k = k;
  f.basis_cols = basis_cols;
  f.h_tt = zeros(n, d, d);
  f.h_tb = zeros(n, d, k);
  f.h_bb = zeros(k, k);
  f.g_t = zeros(n, d);
  f.g_beta = zeros(k);

  std::vector<double> border_wave(257);
  for (std::size_t j = 0; j < border_wave.size(); ++j) border_wave[j] = std::cos(0.011 * static_cast<double>(j));

  double* h_tt = f.h_tt.data();
  double* h_tb = f.h_tb.data();
  for (Index i = 0; i < n; ++i) {
    double s = 0.0;
    for (Index a = 0; a < basis_cols; ++a) s += std::cos(0.003 * real(i + 1) * real(a + 1));
    for (Index r = 0; r < d; ++r, h_tt += d, h_tb += k) {
      for (Index c = 0; c < d; ++c) {
        h_tt[c] = r == c ? 3.0 + 0.01 * std::fabs(s) + 0.1 * real(r) : 0.02 * std::sin(s + real(r + c)) / real(d);
      }
      const double row_wave = std::sin(s + real(r));
      for (Index j = 0; j < k; ++j) h_tb[j] = 1e-4 * row_wave * border_wave[static_cast<std::size_t>(j % 257)];
      f.g_t[static_cast<std::size_t>(i * d + r)] = 0.01 * row_wave;
    }
  }
  for (Index j = 0; j < k; ++j) {
    f.h_bb[static_cast<std::size_t>(j * k + j)] = 4.0;
    if (j > 0)
      f.h_bb[static_cast<std::size_t>(j * k + j - 1)] = f.h_bb[static_cast<std::size_t>((j - 1) * k + j)] = 0.01;
    f.g_beta[static_cast<std::size_t>(j)] = 0.001 * std::sin(0.017 * real(j % 193));
  }
  if (!with_target) return f;

  f.target = zeros(n, k);
  f.basis = zeros(n, basis_cols);
  f.gates.assign(f.basis.size(), 1.0);
  std::vector<double> wave(97 * 131);  // the smooth part takes no more values than these
  for (Index i = 0; i < 97; ++i) {
    for (Index j = 0; j < 131; ++j) {
      wave[static_cast<std::size_t>(i * 131 + j)] = 0.02 * std::sin(0.013 * real(i) + 0.007 * real(j));
    }
  }
  SplitMix64 stream(seed);
  double* target = f.target.data();
  double* basis = f.basis.data();
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < k; ++j) {
      *target++ = wave[static_cast<std::size_t>(i % 97 * 131 + j % 131)] + 0.001 * stream.signed_unit();
    }
    for (Index a = 0; a < basis_cols; ++a) *basis++ = std::cos(0.003 * real(i + 1) * real(a + 1));
  }
  return f;
}

FixtureData qwen_fixture(bool with_target) { return shape_fixture(2000, 2048, 8, 2, kQwenSeed, with_target); }

FixtureData color_arm_fixture(bool with_target) { return shape_fixture(180, 5120, 9, 2, kColorArmSeed, with_target); }

FixtureData small_fixture(std::uint64_t seed) {
  FixtureData f;
  f.n = 8;
  f.d = 2;
  f.k = 4;
  f.basis_cols = 2;
  f.h_tt = zeros(f.n, f.d, f.d);
  f.h_tb = zeros(f.n, f.d, f.k);
  f.h_bb = zeros(f.k, f.k);
  f.g_t = zeros(f.n, f.d);
  f.g_beta = zeros(f.k);
  f.target = zeros(f.n, f.k);
  f.basis.assign(static_cast<std::size_t>(f.n * f.basis_cols), 0.5);
  f.gates.assign(f.basis.size(), 1.0);

  SplitMix64 stream(seed);
  for (Index i = 0; i < f.n; ++i) {
    double* block = f.h_tt.data() + i * 4;
    block[0] = 5.0 + 0.1 * stream.signed_unit();
    block[1] = block[2] = 0.05 * stream.signed_unit();
    block[3] = 4.0 + 0.1 * stream.signed_unit();
    double* cross = f.h_tb.data() + i * f.d * f.k;
    for (Index j = 0; j < f.k; ++j) {
      cross[j] = 0.01 * stream.signed_unit();
      cross[f.k + j] = 0.01 * stream.signed_unit();
    }
    double* gradient = f.g_t.data() + i * f.d;
    gradient[0] = stream.signed_unit();
    gradient[1] = stream.signed_unit();
  }
  for (Index j = 0; j < f.k; ++j) f.h_bb[static_cast<std::size_t>(j * f.k + j)] = 6.0 + 0.1 * stream.signed_unit();
  for (double& g : f.g_beta) g = stream.signed_unit();
  return f;
}

FixtureData coupled_fixture(Index n, Index d, Index k, std::uint64_t seed, double coupling, BorderKind border) {
  require_shape(n, d, k);
  if (!std::isfinite(coupling)) throw InvalidArgument("coupling", format_number(coupling), "a finite number");
  FixtureData f;
  f.n = n;
  f.d = d;
  f.k = k;
  f.basis_cols = 1;
  f.border = border;
  f.h_tt = zeros(n, d, d);
  f.h_tb = zeros(n, d, k);
  f.g_t = zeros(n, d);
  f.g_beta = zeros(k);
  f.target = zeros(n, k);
  f.basis.assign(static_cast<std::size_t>(n), 0.5);
  f.gates.assign(static_cast<std::size_t>(n), 1.0);

  SplitMix64 stream(seed);
  const double scale = 6.0 * coupling / (std::sqrt(real(n) * real(d)) + std::sqrt(real(k)));
  double* cross = f.h_tb.data();
  double* gradient = f.g_t.data();
  for (Index i = 0; i < n; ++i) {
    double* block = f.h_tt.data() + i * d * d;
    for (Index r = 0; r < d; ++r) {
      for (Index q = 0; q < r; ++q) block[r * d + q] = block[q * d + r] = 0.25 * stream.signed_unit() / real(d);
      block[r * d + r] = 3.0 + 0.5 * stream.signed_unit();
    }
    for (Index entry = 0; entry < d * k; ++entry) *cross++ = scale * stream.signed_unit();
    for (Index r = 0; r < d; ++r) *gradient++ = stream.signed_unit();
  }
  std::vector<double> diagonal = zeros(k);
  for (double& x : diagonal) x = 4.0 + 0.5 * stream.signed_unit();
  for (double& x : f.g_beta) x = stream.signed_unit();

  switch (border) {
    case BorderKind::diagonal:
      f.h_bb = std::move(diagonal);
      break;
    case BorderKind::tridiagonal:
      f.h_bb = std::move(diagonal);
      f.h_bb.resize(static_cast<std::size_t>(2 * k), -0.5);
      if (k > 0) f.h_bb.back() = 0.0;  // behind the end of the sub-diagonal
      break;
    case BorderKind::dense: {
      std::vector<double> off_diagonal = zeros(k);  // a function of the distance
      for (Index j = 1; j < k; ++j) {
        off_diagonal[static_cast<std::size_t>(j)] =
            0.2 * std::cos(0.37 * real(j)) / ((1.0 + real(j)) * (1.0 + real(j)));
      }
      f.h_bb = zeros(k, k);
      for (Index j = 0; j < k; ++j) {
        double* row = f.h_bb.data() + j * k;
        for (Index l = 0; l < k; ++l) row[l] = off_diagonal[static_cast<std::size_t>(l < j ? j - l : l - j)];
        row[j] = diagonal[static_cast<std::size_t>(j)];
      }
      break;
    }
  }
  return f;
}

std::vector<SweepVariant> color_arm_variant_matrix() {
  std::vector<SweepVariant> variants;
  for (std::uint64_t components = 1; components <= 4; ++components) {
    for (const Index basis_cols : {4, 8, 12}) {
      ResidentShape shape = ResidentShape::color_arm();
      shape.basis_cols = basis_cols;
      variants.push_back({shape, 0x1017004000000000u ^ (components << 8) ^ static_cast<std::uint64_t>(basis_cols)});
    }
  }
  return variants;
}

}  // namespace arrowschur::fixtures
