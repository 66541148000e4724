// The kernels of kernels.hpp, once per instruction set: ARROWSCHUR_ISA names the namespace. Included by
// kernels_*.cpp only. Everything is in an unnamed namespace or uses no library templates: a function shared with
// another translation unit could be linked in its AVX-512 version and run on a machine without it.

#include <cstring>

#include "linalg/kernels.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace arrowschur::linalg::ARROWSCHUR_ISA {
namespace {

// ---- vectors ------------------------------------------------------------------------------------------------------
#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif

typedef double Vd __attribute__((vector_size(kBytes)));
typedef float Vf __attribute__((vector_size(kBytes)));
template <class T>
struct VecOf;
template <>
struct VecOf<double> {
  using V = Vd;
};
template <>
struct VecOf<float> {
  using V = Vf;
};
template <class T>
using Vec = typename VecOf<T>::V;
template <class T>
inline constexpr int kLanes = static_cast<int>(kBytes / sizeof(T));

#define ARROWSCHUR_INLINE inline __attribute__((always_inline))

template <class T>
ARROWSCHUR_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
ARROWSCHUR_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
ARROWSCHUR_INLINE Vec<T> splat(T x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 8) {
    return (Vec<T>)_mm512_set1_pd(x);
  } else {
    return (Vec<T>)_mm512_set1_ps(x);
  }
#else
  return x - Vec<T>{};
#endif
}

// a b + c and c - a b, fused where the instruction set fuses: one formula for scalars and vectors.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
ARROWSCHUR_INLINE double madd(double a, double b, double c) { return __builtin_fma(a, b, c); }
ARROWSCHUR_INLINE float madd(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ARROWSCHUR_INLINE double nmadd(double a, double b, double c) { return __builtin_fma(-a, b, c); }
ARROWSCHUR_INLINE float nmadd(float a, float b, float c) { return __builtin_fmaf(-a, b, c); }
#if defined(__AVX512F__)
ARROWSCHUR_INLINE Vd madd(Vd a, Vd b, Vd c) { return (Vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
ARROWSCHUR_INLINE Vf madd(Vf a, Vf b, Vf c) { return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
ARROWSCHUR_INLINE Vd nmadd(Vd a, Vd b, Vd c) { return (Vd)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
ARROWSCHUR_INLINE Vf nmadd(Vf a, Vf b, Vf c) { return (Vf)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__AVX2__)
ARROWSCHUR_INLINE Vd madd(Vd a, Vd b, Vd c) { return (Vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
ARROWSCHUR_INLINE Vf madd(Vf a, Vf b, Vf c) { return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
ARROWSCHUR_INLINE Vd nmadd(Vd a, Vd b, Vd c) { return (Vd)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
ARROWSCHUR_INLINE Vf nmadd(Vf a, Vf b, Vf c) { return (Vf)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
ARROWSCHUR_INLINE Vd madd(Vd a, Vd b, Vd c) {
  for (int i = 0; i < kLanes<double>; ++i) c[i] = madd(a[i], b[i], c[i]);
  return c;
}
ARROWSCHUR_INLINE Vf madd(Vf a, Vf b, Vf c) {
  for (int i = 0; i < kLanes<float>; ++i) c[i] = madd(a[i], b[i], c[i]);
  return c;
}
ARROWSCHUR_INLINE Vd nmadd(Vd a, Vd b, Vd c) { return madd(-a, b, c); }
ARROWSCHUR_INLINE Vf nmadd(Vf a, Vf b, Vf c) { return madd(-a, b, c); }
#endif
#else
template <class V>
ARROWSCHUR_INLINE V madd(V a, V b, V c) {
  return a * b + c;
}
template <class V>
ARROWSCHUR_INLINE V nmadd(V a, V b, V c) {
  return c - a * b;
}
#endif

ARROWSCHUR_INLINE double root(double x) { return __builtin_sqrt(x); }
ARROWSCHUR_INLINE float root(float x) { return __builtin_sqrtf(x); }
#if defined(__AVX512F__)
ARROWSCHUR_INLINE Vd root(Vd x) { return (Vd)_mm512_sqrt_pd((__m512d)x); }
ARROWSCHUR_INLINE Vf root(Vf x) { return (Vf)_mm512_sqrt_ps((__m512)x); }
#elif defined(__AVX2__)
ARROWSCHUR_INLINE Vd root(Vd x) { return (Vd)_mm256_sqrt_pd((__m256d)x); }
ARROWSCHUR_INLINE Vf root(Vf x) { return (Vf)_mm256_sqrt_ps((__m256)x); }
#else
ARROWSCHUR_INLINE Vd root(Vd x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = root(x[i]);
  return x;
}
ARROWSCHUR_INLINE Vf root(Vf x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = root(x[i]);
  return x;
}
#endif

ARROWSCHUR_INLINE double magnitude(double x) { return __builtin_fabs(x); }
ARROWSCHUR_INLINE float magnitude(float x) { return __builtin_fabsf(x); }
ARROWSCHUR_INLINE Vd magnitude(Vd x) {
  typedef long long Bits __attribute__((vector_size(kBytes)));
  return (Vd)((Bits)x & 0x7fffffffffffffffLL);
}
ARROWSCHUR_INLINE Vf magnitude(Vf x) {
  typedef int Bits __attribute__((vector_size(kBytes)));
  return (Vf)((Bits)x & 0x7fffffff);
}
template <class V>
ARROWSCHUR_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
ARROWSCHUR_INLINE V smaller(V a, V b) {
  return a < b ? a : b;
}
ARROWSCHUR_INLINE double sum_lanes(Vd v) {
  double s[kLanes<double>];
  __builtin_memcpy(s, &v, sizeof v);
  for (int width = kLanes<double> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  }
  return s[0];
}

// Stored data as float64 vectors.
ARROWSCHUR_INLINE Vd load_double(const double* p) { return load(p); }
ARROWSCHUR_INLINE Vd load_double(const float* p) {
#if defined(__AVX512F__)
  return (Vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
  return (Vd)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  Vd v;
  for (int i = 0; i < kLanes<double>; ++i) v[i] = static_cast<double>(p[i]);
  return v;
#endif
}

// The first n entries (0 <= n <= lanes), zeros behind them; memory beyond is not touched.
#if defined(__AVX512F__)
ARROWSCHUR_INLINE Vd load_first(const double* p, int n) {
  return (Vd)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p);
}
ARROWSCHUR_INLINE Vd load_first(const float* p, int n) {
  return (Vd)_mm512_cvtps_pd(_mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << n) - 1u), p));
}
ARROWSCHUR_INLINE void store_first(double* p, Vd v, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), (__m512d)v);
}
#elif defined(__AVX2__)
alignas(64) const long long kFirst64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
alignas(32) const int kFirst32[8] = {-1, -1, -1, -1, 0, 0, 0, 0};
ARROWSCHUR_INLINE Vd load_first(const double* p, int n) {
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst64 + 4 - n));
  return (Vd)_mm256_maskload_pd(p, mask);
}
ARROWSCHUR_INLINE Vd load_first(const float* p, int n) {
  const __m128i mask = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kFirst32 + 4 - n));
  return (Vd)_mm256_cvtps_pd(_mm_maskload_ps(p, mask));
}
ARROWSCHUR_INLINE void store_first(double* p, Vd v, int n) {
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst64 + 4 - n));
  _mm256_maskstore_pd(p, mask, (__m256d)v);
}
#else
template <class In>
ARROWSCHUR_INLINE Vd load_first(const In* p, int n) {
  Vd v = {};
  for (int i = 0; i < n; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}
ARROWSCHUR_INLINE void store_first(double* p, Vd v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
#endif
// Vector number v of a segment of `size` entries.
template <class In>
ARROWSCHUR_INLINE Vd load_segment(const In* p, int v, int size) {
  constexpr int n = kLanes<double>;
  const int left = size - v * n;
  return left >= n ? load_double(p + v * n) : load_first(p + v * n, left);
}
ARROWSCHUR_INLINE void store_segment(double* p, Vd x, int v, int size) {
  constexpr int n = kLanes<double>;
  const int left = size - v * n;
  if (left >= n) {
    store(p + v * n, x);
  } else {
    store_first(p + v * n, x, left);
  }
}

// Calls f(Int<d>{}) for a specialised d = 1..16 and f(Int<0>{}) otherwise (0: the size is only known at run time).
template <int N>
struct Int {
  static constexpr int value = N;
};
template <int D, class F>
ARROWSCHUR_INLINE void with_dim_from(Index d, F&& f) {
  if constexpr (D > kMaxFixed) {
    f(Int<0>{});
  } else {
    if (d == D) {
      f(Int<D>{});
    } else {
      with_dim_from<D + 1>(d, f);
    }
  }
}
template <class F>
void with_dim(Index d, bool force_dynamic, F&& f) {
  if (force_dynamic) {
    f(Int<0>{});
  } else {
    with_dim_from<1>(d, f);
  }
}
template <int D>
inline constexpr int kCapacity = D > 0 ? D : static_cast<int>(kMaxSmall);

// ---- C += alpha B'A on packed panels --------------------------------------------------------------------------------
// kRows x kVecs vectors of C in registers: 8 x 3 with 32 registers, 4 x 3 with 16 (two of them for a, b).
template <class T, int kRows, int kVecs>
ARROWSCHUR_INLINE void micro_tile(Index rows, const T* a, Index a_step, const T* b, Index b_step, Index b_row, T alpha,
                                  T* c, Index ldc) {
  Vec<T> acc[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) acc[i][v] = Vec<T>{};
  }
  for (int i = 0; i < kRows; ++i) __builtin_prefetch(c + i * ldc, 1);
  for (Index r = 0; r < rows; ++r) {
    Vec<T> x[kVecs];
    for (int v = 0; v < kVecs; ++v) x[v] = load(a + v * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> y = splat(b[i * b_row]);
      for (int v = 0; v < kVecs; ++v) acc[i][v] = madd(y, x[v], acc[i][v]);
    }
    a += a_step;
    b += b_step;
  }
  const Vec<T> scale = splat(alpha);
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      T* p = c + i * ldc + v * kLanes<T>;
      store(p, madd(scale, acc[i][v], load(p)));  // alpha = +-1: the product is exact
    }
  }
}

template <class T>
ARROWSCHUR_INLINE void product(Index rows, const T* a, Index a_step, const T* b, Index b_step, Index b_row, T alpha,
                               T* c, Index ldc) {
  constexpr int kVecs = kBytes == 64 ? 3 : (kBytes == 32 ? 3 : 2);
  constexpr int kRows = kBytes == 64 ? 8 : 4;
  constexpr Index kWidth = kVecs * kLanes<T>;
  for (Index i = 0; i < kStrip; i += kRows) {
    for (Index j = 0; j < kPanel<T>; j += kWidth) {
      micro_tile<T, kRows, kVecs>(rows, a + j, a_step, b + i * b_row, b_step, b_row, alpha, c + i * ldc + j, ldc);
    }
  }
}
template <class T>
void rank_update(Index rows, const T* a, const T* b, T alpha, T* c, Index ldc) {
  product(rows, a, kPanel<T>, b, kPanel<T>, Index{1}, alpha, c, ldc);
}
template <class T>
void multiply(Index rows, const T* a, Index a_step, const T* b, Index b_step, Index b_row, T* c, Index ldc) {
  product(rows, a, a_step, b, b_step, b_row, T(1), c, ldc);
}

template <class T>
void solve_strip(const T* l, Index ldl, T* x) {
  constexpr int kVecs = kBytes == 64 ? 3 : 1;
  constexpr Index kWidth = kVecs * kLanes<T>;
  T inverse[kStrip];
  for (Index c = 0; c < kStrip; ++c) inverse[c] = T(1) / l[c * ldl + c];
  for (Index j = 0; j < kPanel<T>; j += kWidth) {
    Vec<T> y[kStrip][kVecs];
    for (int c = 0; c < kStrip; ++c) {
      for (int v = 0; v < kVecs; ++v) {
        Vec<T> s = load(x + c * kPanel<T> + j + v * kLanes<T>);
        for (int q = 0; q < c; ++q) s = nmadd(splat(l[c * ldl + q]), y[q][v], s);
        y[c][v] = s * splat(inverse[c]);
        store(x + c * kPanel<T> + j + v * kLanes<T>, y[c][v]);
      }
    }
  }
}

// ---- row blocks -----------------------------------------------------------------------------------------------------
// Cholesky of kLanes row blocks at once, one block per lane: the operations of a lane are those of a scalar loop.
// V is a vector, or T itself for the dynamic kernel.
template <class T, class V, int D>
struct RowCholesky {
  static constexpr int kCap = kCapacity<D>;
  V a[kCap][kCap];  // lower triangle of A, shifted
  V l[kCap][kCap];
  V inv[kCap];

  // Left-looking, column by column. Lane-wise first bad pivot in `bad` (as a T) and its value.
  ARROWSCHUR_INLINE void factor(int d, V& bad, V& value) {
    bad = V{} - T(1);
    value = V{};
    for (int c = 0; c < d; ++c) {
      V s = a[c][c];
      for (int q = 0; q < c; ++q) s = nmadd(l[c][q], l[c][q], s);
      const V zero = V{};
      // s > 0 and s < inf; false for NaN.
      const auto ok = (s > zero) & (s <= zero + largest());
      const V unseen = bad < zero ? V{} + T(1) : V{};
      const V fresh = ok ? V{} : unseen;
      bad = fresh > zero ? V{} + T(c) : bad;
      value = fresh > zero ? s : value;
      s = ok ? s : V{} + T(1);
      const V root_s = root(s);
      inv[c] = (V{} + T(1)) / root_s;
      l[c][c] = root_s;
      for (int r = c + 1; r < d; ++r) {
        V t = a[r][c];
        for (int q = 0; q < c; ++q) t = nmadd(l[r][q], l[c][q], t);
        l[r][c] = t * inv[c];
      }
    }
  }

  // ||E||_1 ||E^-1||_1 of E = D^-1 A D^-1, D_c = sqrt(A_cc), from the explicit inverse A^-1 = L^-T L^-1.
  ARROWSCHUR_INLINE V condition(int d) const {
    V x[kCap][kCap];  // L^-1, lower
    for (int c = 0; c < d; ++c) {
      x[c][c] = inv[c];
      for (int r = c + 1; r < d; ++r) {
        V t = l[r][c] * x[c][c];
        for (int q = c + 1; q < r; ++q) t = madd(l[r][q], x[q][c], t);
        x[r][c] = -t * inv[r];
      }
    }
    V scale[kCap], unscale[kCap];
    for (int c = 0; c < d; ++c) {
      scale[c] = root(magnitude(a[c][c]));
      unscale[c] = (V{} + T(1)) / scale[c];
    }
    V norm = V{}, inverse_norm = V{};
    V column[kCap], inverse_column[kCap];
    for (int c = 0; c < d; ++c) column[c] = inverse_column[c] = V{};
    for (int r = 0; r < d; ++r) {
      for (int c = 0; c <= r; ++c) {
        V y = V{};
        for (int q = r; q < d; ++q) y = madd(x[q][r], x[q][c], y);
        const V e = magnitude(a[r][c]) * unscale[r] * unscale[c];
        const V f = magnitude(y) * scale[r] * scale[c];
        column[c] += e;
        inverse_column[c] += f;
        if (c != r) {
          column[r] += e;
          inverse_column[r] += f;
        }
      }
    }
    for (int c = 0; c < d; ++c) {
      norm = larger(column[c], norm);
      inverse_norm = larger(inverse_column[c], inverse_norm);
    }
    return norm * inverse_norm;
  }

  ARROWSCHUR_INLINE V pivot_ratio(int d) const {
    V lo = l[0][0], hi = l[0][0];
    for (int c = 1; c < d; ++c) {
      lo = smaller(l[c][c], lo);
      hi = larger(l[c][c], hi);
    }
    const V ratio = hi / lo;
    return ratio * ratio;
  }

 private:
  static constexpr T largest() { return sizeof(T) == 8 ? T(1.7976931348623157e308) : T(3.4028234663852886e38); }
};

template <class T, class V>
ARROWSCHUR_INLINE T lane(const V& v, int i) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return v;
  } else {
    return v[i];
  }
}
template <class T, class V>
ARROWSCHUR_INLINE void set_lane(V& v, int i, T x) {
  if constexpr (sizeof(V) == sizeof(T)) {
    v = x;
  } else {
    v[i] = x;
  }
}

template <class T, class V, int D>
void factor_rows_dim(const FactorRowsArgs<T>& args) {
  constexpr int kWidth = static_cast<int>(sizeof(V) / sizeof(T));
  const int d = D > 0 ? D : static_cast<int>(args.d);
  const Index dd = static_cast<Index>(d) * d;
  RowCholesky<T, V, D> block;
  for (Index i0 = 0; i0 < args.count; i0 += kWidth) {
    const int live = args.count - i0 < kWidth ? static_cast<int>(args.count - i0) : kWidth;
    for (int w = 0; w < kWidth; ++w) {
      const Index i = i0 + (w < live ? w : live - 1);  // idle lanes repeat the last block
      const T* a = args.a + i * dd;
      for (int r = 0; r < d; ++r) {
        for (int c = 0; c < r; ++c) set_lane<T>(block.a[r][c], w, a[r * d + c]);
        set_lane<T>(block.a[r][r], w, a[r * d + r] + args.shift[i * d + r]);
      }
    }
    V bad, value;
    block.factor(d, bad, value);
    V kappa = V{};
    if (args.guard == RowGuard::relative) kappa = block.condition(d);
    if (args.guard == RowGuard::proxy) kappa = block.pivot_ratio(d);
    for (int w = 0; w < live; ++w) {
      const Index i = i0 + w;
      T* l = args.l + i * dd;
      for (int r = 0; r < d; ++r) {
        for (int c = 0; c <= r; ++c) l[r * d + c] = lane<T>(block.l[r][c], w);
        args.inv[i * d + r] = lane<T>(block.inv[r], w);
      }
      args.kappa[i] = lane<T>(kappa, w);
      args.pivot_index[i] = static_cast<int>(lane<T>(bad, w));
      args.pivot[i] = lane<T>(value, w);
    }
  }
}

template <class T>
void factor_rows(const FactorRowsArgs<T>& args, bool force_dynamic) {
  with_dim(args.d, force_dynamic, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if constexpr (D > 0) {
      factor_rows_dim<T, Vec<T>, D>(args);
    } else {
      factor_rows_dim<T, T, 0>(args);
    }
  });
}

// W_i = L_i^-1 B_i panel by panel, kVecs vectors of columns at a time, so that r stays in registers over all rows.
template <class T, int D, int kVecs>
ARROWSCHUR_INLINE void whiten_columns(const WhitenArgs<T>& args, const T* b, Index ldb, bool direct, T* out, T* r) {
  const int d = D > 0 ? D : static_cast<int>(args.d);
  const Index dd = static_cast<Index>(d) * d;
  Vec<T> sum[kVecs];
  for (int v = 0; v < kVecs; ++v) sum[v] = load(r + v * kLanes<T>);
  Vec<T> w[kCapacity<D>][kVecs];
  for (Index i = 0; i < args.count; ++i) {
    const T* row = b + (direct ? args.first[i] : i * d) * ldb;
    const T* l = args.l + i * dd;
    const T* inv = args.inv + i * d;
    const T* u = args.u + i * d;
    for (int q = 0; q < d; ++q) {
      for (int v = 0; v < kVecs; ++v) {
        Vec<T> x = load(row + q * ldb + v * kLanes<T>);
        for (int c = 0; c < q; ++c) x = nmadd(splat(l[q * d + c]), w[c][v], x);
        x *= splat(inv[q]);
        w[q][v] = x;
        sum[v] = madd(x, splat(u[q]), sum[v]);
        if (out != nullptr) store(out + v * kLanes<T>, x);
      }
      if (direct) {  // the lines of the next panel but one
        for (int line = 0; line < 3; ++line)
          __builtin_prefetch(row + q * ldb + 2 * kPanel<T> + line * static_cast<Index>(64 / sizeof(T)));
      }
      if (out != nullptr) out += kPanel<T>;
    }
  }
  for (int v = 0; v < kVecs; ++v) store(r + v * kLanes<T>, sum[v]);
}

template <class T, int D>
void whiten_dim(const WhitenArgs<T>& args) {
  // Blocks up to 4 rows hold their whitened panel in registers; larger ones take one vector of columns at a time.
  constexpr int kPanelVecs = static_cast<int>(kPanel<T>) / kLanes<T>;
  constexpr int kVecs = (D > 0 && D <= 4 && kBytes == 64) ? kPanelVecs : (kBytes == 16 ? 2 : 1);
  constexpr Index kWidth = kVecs * kLanes<T>;
  for (Index col = args.col_begin; col < args.col_end; col += kPanel<T>) {
    T* out = args.packed == nullptr ? nullptr : args.packed + col / kPanel<T> * args.panel_stride;
    for (Index v = 0; v < kPanel<T>; v += kWidth) {
      const Index c = col + v;
      T* panel = out == nullptr ? nullptr : out + v;
      if (c + kWidth <= args.col_end) {
        whiten_columns<T, D, kVecs>(args, args.b + c, args.ldb, true, panel, args.r + c);
        continue;
      }
      // Right edge: gather what is left of the columns into a zero-padded copy.
      constexpr int kRows = 512;
      T edge[kRows * kWidth];
      T sums[kWidth] = {};
      const Index left = c < args.col_end ? args.col_end - c : 0;
      for (Index j = 0; j < left; ++j) sums[j] = args.r[c + j];
      const Index d = args.d;
      const Index step = kRows / d;  // blocks per copy
      WhitenArgs<T> part = args;
      for (Index i = 0; i < args.count; i += step) {
        part.count = args.count - i < step ? args.count - i : step;
        part.l = args.l + i * d * d;
        part.inv = args.inv + i * d;
        part.u = args.u + i * d;
        for (Index q = 0; q < part.count * d; ++q) {
          const T* row = args.b + (args.first[i + q / d] + q % d) * args.ldb + c;
          for (Index j = 0; j < kWidth; ++j) edge[q * kWidth + j] = j < left ? row[j] : T(0);
        }
        whiten_columns<T, D, kVecs>(part, edge, kWidth, false, panel == nullptr ? nullptr : panel + i * d * kPanel<T>,
                                    sums);
      }
      for (Index j = 0; j < left; ++j) args.r[c + j] = sums[j];
    }
  }
}

template <class T>
void whiten(const WhitenArgs<T>& args, bool force_dynamic) {
  with_dim(args.d, force_dynamic, [&](auto dim) { whiten_dim<T, decltype(dim)::value>(args); });
}

// Triangular solves with m right-hand sides per block, x [count * d, m].
template <class T, int D>
void solve_lower_dim(Index d_, Index count, const T* l, const T* inv, T* x, Index m) {
  const int d = D > 0 ? D : static_cast<int>(d_);
  const Index dd = static_cast<Index>(d) * d;
  for (Index i = 0; i < count; ++i, l += dd, inv += d, x += d * m) {
    for (int r = 0; r < d; ++r) {
      T* xr = x + r * m;
      for (int c = 0; c < r; ++c) {
        const T f = l[r * d + c];
        const T* xc = x + c * m;
        for (Index j = 0; j < m; ++j) xr[j] = nmadd(f, xc[j], xr[j]);
      }
      for (Index j = 0; j < m; ++j) xr[j] *= inv[r];
    }
  }
}
template <class T, int D>
void solve_upper_dim(Index d_, Index count, const T* l, const T* inv, T* x, Index m) {
  const int d = D > 0 ? D : static_cast<int>(d_);
  const Index dd = static_cast<Index>(d) * d;
  for (Index i = 0; i < count; ++i, l += dd, inv += d, x += d * m) {
    for (int r = d - 1; r >= 0; --r) {
      T* xr = x + r * m;
      for (int c = r + 1; c < d; ++c) {
        const T f = l[c * d + r];
        const T* xc = x + c * m;
        for (Index j = 0; j < m; ++j) xr[j] = nmadd(f, xc[j], xr[j]);
      }
      for (Index j = 0; j < m; ++j) xr[j] *= inv[r];
    }
  }
}
// One right-hand side, registers only.
template <class T, int D>
void solve_lower_one(Index count, const T* l, const T* inv, T* x) {
  for (Index i = 0; i < count; ++i) {
    T y[D];
    for (int r = 0; r < D; ++r) {
      T t = x[i * D + r];
      for (int c = 0; c < r; ++c) t = nmadd(l[i * D * D + r * D + c], y[c], t);
      y[r] = t * inv[i * D + r];
    }
    for (int r = 0; r < D; ++r) x[i * D + r] = y[r];
  }
}
template <class T, int D>
void solve_upper_one(Index count, const T* l, const T* inv, T* x) {
  for (Index i = 0; i < count; ++i) {
    T y[D];
    for (int r = D - 1; r >= 0; --r) {
      T t = x[i * D + r];
      for (int c = r + 1; c < D; ++c) t = nmadd(l[i * D * D + c * D + r], y[c], t);
      y[r] = t * inv[i * D + r];
    }
    for (int r = 0; r < D; ++r) x[i * D + r] = y[r];
  }
}
template <class T>
void solve_lower(Index d, Index count, const T* l, const T* inv, T* x, Index m) {
  with_dim(d, false, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if constexpr (D > 0) {
      if (m == 1) return solve_lower_one<T, D>(count, l, inv, x);
    }
    solve_lower_dim<T, D>(d, count, l, inv, x, m);
  });
}
template <class T>
void solve_upper(Index d, Index count, const T* l, const T* inv, T* x, Index m) {
  with_dim(d, false, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if constexpr (D > 0) {
      if (m == 1) return solve_upper_one<T, D>(count, l, inv, x);
    }
    solve_upper_dim<T, D>(d, count, l, inv, x, m);
  });
}

// ---- passes over the data as stored, in float64
// -----------------------------------------------------------------------
template <class In, int kRows, bool kAbs>
ARROWSCHUR_INLINE void dot_rows(Index k, const In* b, Index ldb, const double* x, double* z, double* row_abs) {
  constexpr int n = kLanes<double>;
  Vd even[kRows], odd[kRows], size[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = size[r] = Vd{};
  Index j = 0;
  for (; j + 2 * n <= k; j += 2 * n) {
    const Vd x0 = load(x + j), x1 = load(x + j + n);
    for (int r = 0; r < kRows; ++r) {
      const Vd b0 = load_double(b + r * ldb + j), b1 = load_double(b + r * ldb + j + n);
      even[r] = madd(b0, x0, even[r]);
      odd[r] = madd(b1, x1, odd[r]);
      if (kAbs) size[r] += magnitude(b0) + magnitude(b1);
    }
  }
  for (; j + n <= k; j += n) {
    const Vd x0 = load(x + j);
    for (int r = 0; r < kRows; ++r) {
      const Vd b0 = load_double(b + r * ldb + j);
      even[r] = madd(b0, x0, even[r]);
      if (kAbs) size[r] += magnitude(b0);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    double s = sum_lanes(even[r] + odd[r]);
    double a = kAbs ? sum_lanes(size[r]) : 0.0;
    for (Index q = j; q < k; ++q) {
      const double value = static_cast<double>(b[r * ldb + q]);
      s = madd(value, x[q], s);
      if (kAbs) a += magnitude(value);
    }
    z[r] = s;
    if (kAbs) row_abs[r] = a;
  }
}
template <class In>
void rows_dot(Index rows, Index k, const In* b, Index ldb, const double* x, double* z, double* row_abs) {
  Index r = 0;
  if (row_abs != nullptr) {
    for (; r + 4 <= rows; r += 4) dot_rows<In, 4, true>(k, b + r * ldb, ldb, x, z + r, row_abs + r);
    for (; r < rows; ++r) dot_rows<In, 1, true>(k, b + r * ldb, ldb, x, z + r, row_abs + r);
  } else {
    for (; r + 4 <= rows; r += 4) dot_rows<In, 4, false>(k, b + r * ldb, ldb, x, z + r, nullptr);
    for (; r < rows; ++r) dot_rows<In, 1, false>(k, b + r * ldb, ldb, x, z + r, nullptr);
  }
}

template <class In, int kVecs, bool kAbs>
ARROWSCHUR_INLINE void axpy_columns(Index rows, const In* b, Index ldb, const double* v, double* acc, double* col_abs) {
  constexpr int n = kLanes<double>;
  Vd sum[kVecs], size[kVecs];
  for (int q = 0; q < kVecs; ++q) {
    sum[q] = load(acc + q * n);
    size[q] = kAbs ? load(col_abs + q * n) : Vd{};
  }
  for (Index r = 0; r < rows; ++r) {
    const Vd f = splat(v[r]);
    for (int q = 0; q < kVecs; ++q) {
      const Vd x = load_double(b + r * ldb + q * n);
      sum[q] = madd(x, f, sum[q]);
      if (kAbs) size[q] += magnitude(x);
    }
  }
  for (int q = 0; q < kVecs; ++q) {
    store(acc + q * n, sum[q]);
    if (kAbs) store(col_abs + q * n, size[q]);
  }
}
template <class In, bool kAbs>
ARROWSCHUR_INLINE void axpy_all(Index rows, Index k, const In* b, Index ldb, const double* v, double* acc,
                                double* col_abs) {
  constexpr int n = kLanes<double>;
  constexpr int kVecs = kBytes == 64 ? 8 : 4;
  Index j = 0;
  for (; j + kVecs * n <= k; j += kVecs * n) {
    axpy_columns<In, kVecs, kAbs>(rows, b + j, ldb, v, acc + j, kAbs ? col_abs + j : nullptr);
  }
  for (; j + n <= k; j += n) {
    axpy_columns<In, 1, kAbs>(rows, b + j, ldb, v, acc + j, kAbs ? col_abs + j : nullptr);
  }
  for (; j < k; ++j) {
    double s = acc[j], a = 0.0;
    for (Index r = 0; r < rows; ++r) {
      const double x = static_cast<double>(b[r * ldb + j]);
      s = madd(x, v[r], s);
      a += magnitude(x);
    }
    acc[j] = s;
    if (kAbs) col_abs[j] += a;
  }
}
template <class In>
void rows_axpy(Index rows, Index k, const In* b, Index ldb, const double* v, double* acc, double* col_abs) {
  if (col_abs != nullptr) {
    axpy_all<In, true>(rows, k, b, ldb, v, acc, col_abs);
  } else {
    axpy_all<In, false>(rows, k, b, ldb, v, acc, nullptr);
  }
}

template <class In, int D>
void block_matvec_dim(Index d_, Index count, const In* a, const double* shift, const double* x, double* y,
                      double* abs) {
  const int d = D > 0 ? D : static_cast<int>(d_);
  const Index dd = static_cast<Index>(d) * d;
  for (Index i = 0; i < count; ++i, a += dd, shift += d, x += d, y += d) {
    for (int r = 0; r < d; ++r) {
      double s = 0.0, t = 0.0;
      for (int c = 0; c < d; ++c) {
        const double e = static_cast<double>(c <= r ? a[r * d + c] : a[c * d + r]) + (c == r ? shift[r] : 0.0);
        s = madd(e, x[c], s);
        t += magnitude(e);
      }
      y[r] = s;
      if (abs != nullptr) abs[i * d + r] = t;
    }
  }
}
template <class In>
void block_matvec(Index d, Index count, const In* a, const double* shift, const double* x, double* y, double* abs) {
  with_dim(d, false, [&](auto dim) { block_matvec_dim<In, decltype(dim)::value>(d, count, a, shift, x, y, abs); });
}

// acc += B'(B x) for kRows rows: their dots, then their sum; the rows after them are prefetched on the way.
template <class In, int kRows>
ARROWSCHUR_INLINE void gram_rows(Index k, const In* b, Index ldb, const double* x, double* acc, bool more) {
  constexpr int n = kLanes<double>;
  constexpr Index kLine = static_cast<Index>(64 / sizeof(In));
  constexpr int kHalf = kRows / 2;
  const In* next = b + kRows * ldb;  // what follows in memory is fetched in the order of memory
  Vd sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = Vd{};
  Index j = 0;
  for (; j + kLine <= k; j += kLine) {
    if (more) {
      for (int r = 0; r < kHalf; ++r, next += kLine) __builtin_prefetch(next, 0, 2);
    }
    for (int v = 0; v < static_cast<int>(kLine); v += n) {
      const Vd x0 = load(x + j + v);
      for (int r = 0; r < kRows; ++r) sum[r] = madd(load_double(b + r * ldb + j + v), x0, sum[r]);
    }
  }
  double z[kRows];
  for (int r = 0; r < kRows; ++r) {
    double s = sum_lanes(sum[r]);
    for (Index q = j; q < k; ++q) s = madd(static_cast<double>(b[r * ldb + q]), x[q], s);
    z[r] = s;
  }
  Vd f[kRows];
  for (int r = 0; r < kRows; ++r) f[r] = splat(z[r]);
  for (j = 0; j + kLine <= k; j += kLine) {
    if (more) {
      for (int r = kHalf; r < kRows; ++r, next += kLine) __builtin_prefetch(next, 0, 2);
    }
    for (int v = 0; v < static_cast<int>(kLine); v += n) {
      Vd even = load(acc + j + v), odd = Vd{};
      for (int r = 0; r < kRows; r += 2) {
        even = madd(load_double(b + r * ldb + j + v), f[r], even);
        if (r + 1 < kRows) odd = madd(load_double(b + (r + 1) * ldb + j + v), f[r + 1], odd);
      }
      store(acc + j + v, even + odd);
    }
  }
  for (; j < k; ++j) {
    double s = acc[j];
    for (int r = 0; r < kRows; ++r) s = madd(static_cast<double>(b[r * ldb + j]), z[r], s);
    acc[j] = s;
  }
}
template <class In>
void rows_gram(Index rows, Index k, const In* b, Index ldb, const double* x, double* acc) {
  Index r = 0;
  if (k * static_cast<Index>(sizeof(In)) <= (Index{32} << 10)) {  // eight rows and the next eight fit half of L2
    for (; r + 8 <= rows; r += 8) gram_rows<In, 8>(k, b + r * ldb, ldb, x, acc, r + 16 <= rows);
  }
  for (; r + 4 <= rows; r += 4) gram_rows<In, 4>(k, b + r * ldb, ldb, x, acc, r + 8 <= rows);
  for (; r < rows; ++r) gram_rows<In, 1>(k, b + r * ldb, ldb, x, acc, false);
}

// ---- block-sparse rows ----------------------------------------------------------------------------------------------
// f(Int<B>{}) for the widths that are compiled in, f(Int<0>{}) otherwise.
template <class F>
ARROWSCHUR_INLINE void with_width(Index b, F&& f) {
  switch (b) {
    case 1:
      return f(Int<1>{});
    case 2:
      return f(Int<2>{});
    case 3:
      return f(Int<3>{});
    case 6:
      return f(Int<6>{});
    case 9:
      return f(Int<9>{});
    default:
      return f(Int<0>{});
  }
}
template <class F>
ARROWSCHUR_INLINE void with_height(Index d, F&& f) {
  switch (d) {
    case 1:
      return f(Int<1>{});
    case 2:
      return f(Int<2>{});
    case 3:
      return f(Int<3>{});
    case 6:
      return f(Int<6>{});
    default:
      return f(Int<0>{});
  }
}

// First column of an entry's block, and how many it has.
struct Columns {
  Index first;
  int width;
};
template <int B>
ARROWSCHUR_INLINE Columns columns_of(Index block, const Index* offsets) {
  if constexpr (B > 0) {
    return {block * B, B};
  } else {
    return {offsets[block], static_cast<int>(offsets[block + 1] - offsets[block])};
  }
}

template <class In, int D, int B>
void block_rows_sized(const BlockRowsArgs<In>& args) {
  constexpr int n = kLanes<double>;
  const int d = D > 0 ? D : static_cast<int>(args.d);
  const In* w = args.values;
  for (Index i = 0; i < args.count; ++i) {
    const Index begin = args.ptr[i], end = args.ptr[i + 1];
    double* z = args.x == nullptr ? nullptr : args.z + i * d;
    const double* factor = args.x == nullptr ? args.v + i * d : z;
    const In* row = w;
    if (args.x != nullptr) {
      if constexpr (D == 1 && B == 1) {
        double sum[4] = {0.0, 0.0, 0.0, 0.0};
        Index e = begin;
        for (; e + 4 <= end; e += 4, w += 4) {
          for (int q = 0; q < 4; ++q) sum[q] = madd(static_cast<double>(w[q]), args.x[args.block[e + q]], sum[q]);
        }
        for (; e < end; ++e, ++w) sum[0] = madd(static_cast<double>(*w), args.x[args.block[e]], sum[0]);
        z[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      } else if constexpr (D > 0 && B > 0) {
        constexpr int kVecs = (B + n - 1) / n;
        Vd sum[D];
        for (int r = 0; r < D; ++r) sum[r] = Vd{};
        for (Index e = begin; e < end; ++e, w += D * B) {
          const double* x = args.x + args.block[e] * B;
          for (int v = 0; v < kVecs; ++v) {
            const Vd xv = load_segment(x, v, B);
            for (int r = 0; r < D; ++r) sum[r] = madd(load_segment(w + r * B, v, B), xv, sum[r]);
          }
        }
        for (int r = 0; r < D; ++r) z[r] = sum_lanes(sum[r]);
      } else {
        for (int r = 0; r < d; ++r) z[r] = 0.0;
        for (Index e = begin; e < end; ++e) {
          const Columns c = columns_of<B>(args.block[e], args.offsets);
          const double* x = args.x + c.first;
          for (int r = 0; r < d; ++r, w += c.width) {
            Vd sum = Vd{};
            for (int v = 0; v * n < c.width; ++v) {
              sum = madd(load_segment(w, v, c.width), load_segment(x, v, c.width), sum);
            }
            z[r] += sum_lanes(sum);
          }
        }
      }
    }
    if (args.acc == nullptr) continue;
    w = row;
    for (Index e = begin; e < end; ++e) {
      const Columns c = columns_of<B>(args.block[e], args.offsets);
      double* y = args.acc + c.first;
      if constexpr (B == 1) {
        double s = *y;
        for (int r = 0; r < d; ++r) s = madd(static_cast<double>(w[r]), factor[r], s);
        *y = s;
      } else {
        constexpr bool kApart = B % n == 1;  // as in block_abs_sums_sized
        const int width = kApart ? B - 1 : c.width;
        for (int v = 0; v * n < width; ++v) {
          Vd s = load_segment(y, v, width);
          for (int r = 0; r < d; ++r) s = madd(load_segment(w + r * c.width, v, width), splat(factor[r]), s);
          store_segment(y, s, v, width);
        }
        if constexpr (kApart) {
          double s = y[B - 1];
          for (int r = 0; r < d; ++r) s = madd(static_cast<double>(w[r * B + B - 1]), factor[r], s);
          y[B - 1] = s;
        }
      }
      w += d * c.width;
    }
  }
}
template <class In>
void block_rows(const BlockRowsArgs<In>& args) {
  with_width(args.b, [&](auto b) {
    with_height(args.d, [&](auto d) { block_rows_sized<In, decltype(d)::value, decltype(b)::value>(args); });
  });
}

template <class In, int D, int B>
void block_abs_sums_sized(const BlockRowsArgs<In>& args) {
  constexpr int n = kLanes<double>;
  const int d = D > 0 ? D : static_cast<int>(args.d);
  const In* w = args.values;
  for (Index i = 0; i < args.count; ++i) {
    double* z = args.z + i * d;
    if constexpr (D > 0 && B > 0) {
      constexpr bool kApart = B % n == 1;  // a last column of its own: what is loaded again was stored in that shape
      constexpr int kVecs = kApart ? B / n : (B + n - 1) / n;
      Vd sum[D];
      double last[D];
      for (int r = 0; r < D; ++r) {
        sum[r] = Vd{};
        last[r] = 0.0;
      }
      for (Index e = args.ptr[i]; e < args.ptr[i + 1]; ++e, w += D * B) {
        double* to = args.acc + args.block[e] * B;
        for (int v = 0; v < kVecs; ++v) {
          Vd column = load_segment(to, v, B);
          for (int r = 0; r < D; ++r) {
            const Vd a = magnitude(load_segment(w + r * B, v, B));
            sum[r] += a;
            column += a;
          }
          store_segment(to, column, v, B);
        }
        if constexpr (kApart) {
          double column = to[B - 1];
          for (int r = 0; r < D; ++r) {
            const double a = magnitude(static_cast<double>(w[r * B + B - 1]));
            last[r] += a;
            column += a;
          }
          to[B - 1] = column;
        }
      }
      for (int r = 0; r < D; ++r) z[r] = kVecs > 0 ? sum_lanes(sum[r]) + last[r] : last[r];
    } else {
      for (int r = 0; r < d; ++r) z[r] = 0.0;
      for (Index e = args.ptr[i]; e < args.ptr[i + 1]; ++e) {
        const Columns c = columns_of<B>(args.block[e], args.offsets);
        double* to = args.acc + c.first;
        for (int r = 0; r < d; ++r, w += c.width) {
          Vd sum = Vd{};
          for (int v = 0; v * n < c.width; ++v) {
            const Vd a = magnitude(load_segment(w, v, c.width));
            sum += a;
            store_segment(to, load_segment(to, v, c.width) + a, v, c.width);
          }
          z[r] += sum_lanes(sum);
        }
      }
    }
  }
}
template <class In>
void block_abs_sums(const BlockRowsArgs<In>& args) {
  with_width(args.b, [&](auto b) {
    with_height(args.d, [&](auto d) { block_abs_sums_sized<In, decltype(d)::value, decltype(b)::value>(args); });
  });
}

// c [wa, wb] -= A'B for kRows rows of A and B; only its lower triangle when `lower` (then A = B).
template <class In, int kRows>
ARROWSCHUR_INLINE void subtract_product(const In* a, int wa, const In* b, int wb, double* c, Index ldc, bool lower) {
  constexpr int n = kLanes<double>;
  for (int v = 0; v * n < wb; ++v) {
    Vd y[kRows];
    for (int r = 0; r < kRows; ++r) y[r] = load_segment(b + r * wb, v, wb);
    for (int p = lower ? v * n : 0; p < wa; ++p) {
      const int live = lower ? p + 1 : wb;
      double* to = c + p * ldc;
      Vd s = load_segment(to, v, live);
      for (int r = 0; r < kRows; ++r) s = nmadd(y[r], splat(static_cast<double>(a[r * wa + p])), s);
      store_segment(to, s, v, live);
    }
  }
}

// A tile holds a B x B sum as whole vectors only: what was just stored is loaded again in the same shape, which the
// store buffer can forward (it cannot with masks). B = 9 would waste most of a second vector: its last column lies
// apart, as a vector over the rows.
template <int B>
struct GramTile {
  static constexpr int n = kLanes<double>;
  static constexpr bool kSplit = B % n == 1 && B > n;
  static constexpr int kVecs = kSplit ? B / n : (B + n - 1) / n;
  static constexpr int kWidth = kVecs * n;
  static constexpr int kSize = B * kWidth + (kSplit ? kWidth + 1 : 0);
  static_assert(kSize <= kGramTile);

  // Tiles that add() takes at a time: a broadcast entry of A serves them all, as long as their B stay in registers.
  static constexpr int kRegisters = n == 8 ? 12 : 6;  // for B
  template <int kRows>
  static constexpr int kTogether = kRows * kVecs * 4 <= kRegisters   ? 4
                                   : kRows * kVecs * 2 <= kRegisters ? 2
                                                                     : 1;

  // tile_m += A'B_m, m < M; B_m follow one another, `step` numbers apart.
  template <class In, int kRows, int M>
  ARROWSCHUR_INLINE static void add(const In* a, const In* b, Index step, double* const* tile) {
    Vd y[M][kRows][kVecs];
    for (int m = 0; m < M; ++m) {
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVecs; ++v) y[m][r][v] = load_segment(b + m * step + r * B, v, B);
      }
    }
#pragma GCC unroll 9
    for (int p = 0; p < B; ++p) {
      Vd s[M][kVecs];
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < kVecs; ++v) s[m][v] = load(tile[m] + p * kWidth + v * n);
      }
      for (int r = 0; r < kRows; ++r) {
        const Vd x = splat(static_cast<double>(a[r * B + p]));
        for (int m = 0; m < M; ++m) {
          for (int v = 0; v < kVecs; ++v) s[m][v] = madd(y[m][r][v], x, s[m][v]);
        }
      }
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < kVecs; ++v) store(tile[m] + p * kWidth + v * n, s[m][v]);
      }
    }
    if constexpr (kSplit) {
      for (int m = 0; m < M; ++m) {
        const In* last_of = b + m * step + B - 1;
        double* last = tile[m] + B * kWidth;
        double corner = last[kWidth];
        for (int v = 0; v < kVecs; ++v) {
          Vd s = load(last + v * n);
          for (int r = 0; r < kRows; ++r) {
            s = madd(load_double(a + r * B + v * n), splat(static_cast<double>(last_of[r * B])), s);
          }
          store(last + v * n, s);
        }
        for (int r = 0; r < kRows; ++r) {
          corner = madd(static_cast<double>(a[r * B + B - 1]), static_cast<double>(last_of[r * B]), corner);
        }
        last[kWidth] = corner;
      }
    }
  }
  ARROWSCHUR_INLINE static double at(const double* tile, int p, int q) {
    return kSplit && q == B - 1 ? tile[B * kWidth + p] : tile[p * kWidth + q];
  }
};

// The lines of the entries begin .. e of a row.
template <class In, int D, int B>
ARROWSCHUR_INLINE void prefetch_row(const BlockGramArgs<In>& args, Index begin, Index e) {
  constexpr Index kMostLines = 32;
  constexpr Index kLine = static_cast<Index>(64 / sizeof(In));
  constexpr bool kEven = D > 0 && B > 0;
  const Index first = kEven ? begin * D * B : args.value_ptr[begin];
  const Index size = (kEven ? (e + 1) * D * B : args.value_ptr[e + 1]) - first;
  for (Index line = 0; line < kMostLines && line * kLine < size; ++line) {
    __builtin_prefetch(args.values + first + line * kLine);
  }
  for (Index line = 0; line * 8 <= e - begin && line < 4; ++line) __builtin_prefetch(args.block + begin + line * 8);
}

template <class In, int D, int B>
void block_gram_sized(const BlockGramArgs<In>& args) {
  constexpr bool kTiled = B > 1;
  const int wa = B > 0 ? B : static_cast<int>(args.width);
  Index listed = 0;
  if constexpr (B == 1) {  // the row is about to be met in no order
    const Index last = args.count > 0 && !args.own_only && args.column == nullptr ? args.block[args.entries[0]] : 0;
    for (Index j = 0; j < last; j += 8) __builtin_prefetch(args.c + j, 1, 2);
  }
  for (Index t = 0; t < args.count; ++t) {
    // Rows lie anywhere: what leads to their values is asked for in time, then the values.
    if (t + 16 < args.count) {
      __builtin_prefetch(args.row_of + args.entries[t + 16]);
      if (D == 0 || B == 0) __builtin_prefetch(args.value_ptr + args.entries[t + 16]);
    }
    if (t + 10 < args.count) __builtin_prefetch(args.ptr + args.row_of[args.entries[t + 10]]);
    if (t + 4 < args.count) {
      const Index ahead = args.entries[t + 4];
      prefetch_row<In, D, B>(args, args.own_only ? ahead : args.ptr[args.row_of[ahead]], ahead);
    }
    const Index e = args.entries[t];
    const Index at = D > 0 && B > 0 ? e * D * B : args.value_ptr[e];
    const int d = D > 0 ? D : static_cast<int>((args.value_ptr[e + 1] - at) / wa);
    const In* a = args.values + at;
    if constexpr (D == 1 && B == 1) {
      const double factor = static_cast<double>(*a);
      for (Index f = args.own_only ? e : args.ptr[args.row_of[e]]; f <= e; ++f) {
        const Index column = args.column == nullptr ? args.block[f] : args.column[args.block[f]];
        if (column >= 0) args.c[column] = nmadd(factor, static_cast<double>(args.values[f]), args.c[column]);
      }
      continue;
    }
    for (Index f = args.own_only ? e : args.ptr[args.row_of[e]]; f <= e; ++f) {
      const Index block = args.block[f];
      if (args.column != nullptr && args.column[block] < 0) continue;
      const In* b = args.values + (D > 0 && B > 0 ? f * D * B : args.value_ptr[f]);
      if constexpr (kTiled) {
        const Index slot = args.own_only ? 0 : block;
        double* tile = args.tiles + slot * kGramTile;
        if (args.touched[slot] == 0) {
          args.touched[slot] = 1;
          args.list[listed++] = block;
          for (int q = 0; q < GramTile<B>::kSize; ++q) tile[q] = 0.0;
        }
        if constexpr (D > 0) {
          constexpr int kStep = D % 3 == 0 ? 3 : D;
          for (int r = 0; r < D; r += kStep) GramTile<B>::template add<In, kStep, 1>(a + r * B, b + r * B, 0, &tile);
        } else {
          int r = 0;
          for (; r + 4 <= d; r += 4) GramTile<B>::template add<In, 4, 1>(a + r * B, b + r * B, 0, &tile);
          for (; r < d; ++r) GramTile<B>::template add<In, 1, 1>(a + r * B, b + r * B, 0, &tile);
        }
      } else {
        const Columns cols = columns_of<B>(block, args.offsets);
        double* c = args.c + (args.column == nullptr ? cols.first : args.column[block]);
        int r = 0;
        for (; r + 4 <= d; r += 4) {
          subtract_product<In, 4>(a + r * wa, wa, b + r * cols.width, cols.width, c, args.ldc, f == e);
        }
        for (; r < d; ++r) {
          subtract_product<In, 1>(a + r * wa, wa, b + r * cols.width, cols.width, c, args.ldc, f == e);
        }
      }
    }
  }
  if constexpr (kTiled) {
    const Index own = args.count > 0 ? args.block[args.entries[0]] : 0;
    for (Index i = 0; i < listed; ++i) {
      const Index block = args.list[i];
      const Index slot = args.own_only ? 0 : block;
      const double* tile = args.tiles + slot * kGramTile;
      double* c = args.c + (args.column == nullptr ? block * B : args.column[block]);
      for (int p = 0; p < B; ++p) {
        const int live = block == own ? p + 1 : B;
        for (int q = 0; q < live; ++q) c[p * args.ldc + q] -= GramTile<B>::at(tile, p, q);
      }
      args.touched[slot] = 0;
    }
  }
}
template <class In>
void block_gram(const BlockGramArgs<In>& args) {
  with_width(args.b, [&](auto b) {
    with_height(args.d, [&](auto d) { block_gram_sized<In, decltype(d)::value, decltype(b)::value>(args); });
  });
}

// The tiles of entry `e` and the M entries from `f` on, which are distinct. `tiles`: those of the block of e.
template <class In, int D, int B, int M>
ARROWSCHUR_INLINE void add_to_tiles(const GramBandArgs<In>& args, Index e, Index f, double* tiles) {
  constexpr int kStep = D % 3 == 0 ? 3 : D;
  double* tile[M];
  for (int m = 0; m < M; ++m) tile[m] = tiles + args.block[f + m] * kGramTile;
  const In* a = args.values + e * D * B;
  const In* b = args.values + f * D * B;
  for (int r = 0; r < D; r += kStep) GramTile<B>::template add<In, kStep, M>(a + r * B, b + r * B, D * B, tile);
}
template <class In, int D, int B>
void gram_band_sized(const GramBandArgs<In>& args) {
  constexpr int kTogether = GramTile<B>::template kTogether < D % 3 == 0 ? 3 : D > ;
  constexpr Index kAhead = 2;  // entries
  constexpr Index kLine = static_cast<Index>(64 / sizeof(In));
  const Index before = args.begin * (args.begin + 1) / 2;
  for (Index c = 0; c < args.chunks; ++c) {
    const Index* ptr = args.ptr + c * args.blocks;
    // The next chunk is fetched along with this one, some lines an entry. Its values are those of its list.
    const Index next_end = c + 1 < args.chunks ? ptr[2 * args.blocks] : ptr[args.blocks];
    Index next = ptr[args.blocks] * D * B;
    const Index own = ptr[args.end] - ptr[args.begin];
    const Index share = own > 0 ? (next_end * D * B - next) / own + kLine : 0;
    for (Index a = args.begin; a < args.end; ++a) {
      double* tiles = args.tiles + (a * (a + 1) / 2 - before) * kGramTile;
      for (Index t = ptr[a]; t < ptr[a + 1]; ++t) {
        if (t + kAhead < ptr[a + 1]) {
          const GramEntry ahead = args.list[t + kAhead];
          for (Index at = ahead.first * D * B; at < (ahead.entry + 1) * D * B; at += kLine) {
            __builtin_prefetch(args.values + at);
          }
        }
        const Index until = next + share < next_end * D * B ? next + share : next_end * D * B;
        for (; next < until; next += kLine) __builtin_prefetch(args.values + next, 0, 2);
        const Index e = args.list[t].entry;
        Index f = args.list[t].first;
        for (; f + kTogether <= e + 1; f += kTogether) add_to_tiles<In, D, B, kTogether>(args, e, f, tiles);
        if (kTogether == 4 && f + 2 <= e + 1) {
          add_to_tiles<In, D, B, 2>(args, e, f, tiles);
          f += 2;
        }
        if (f <= e) add_to_tiles<In, D, B, 1>(args, e, f, tiles);
      }
    }
  }
}
template <class In>
bool gram_band(const GramBandArgs<In>& args) {
  bool found = false;
  with_width(args.b, [&](auto b) {
    constexpr int B = decltype(b)::value;
    with_height(args.d, [&](auto d) {
      constexpr int D = decltype(d)::value;
      if constexpr (D > 0 && B > 1) {
        gram_band_sized<In, D, B>(args);
        found = true;
      }
    });
  });
  return found;
}
void subtract_gram_tile(Index width, const double* tile, double* c, Index ldc, bool lower) {
  with_width(width, [&](auto b) {
    constexpr int B = decltype(b)::value;
    if constexpr (B > 1) {
      for (int p = 0; p < B; ++p) {
        for (int q = 0; q < (lower ? p + 1 : B); ++q) c[p * ldc + q] -= GramTile<B>::at(tile, p, q);
      }
    }
  });
}

template <int D, int B>
void whiten_blocks_sized(Index d_, Index count, const double* l, const double* inv, const Index* ptr,
                         const Index* value_ptr, const double* from, double* x) {
  constexpr int n = kLanes<double>;
  const int d = D > 0 ? D : static_cast<int>(d_);
  if constexpr (D > 0 && B > 1) {
    // Lines of D vectors each; the entries of L are the same for all blocks of a row.
    for (Index i = 0; i < count; ++i, l += D * D, inv += D) {
      for (Index e = ptr[i]; e < ptr[i + 1]; ++e, from += D * B, x += D * B) {
        for (int v = 0; v * n < B; ++v) {
          Vd w[D];
          for (int r = 0; r < D; ++r) {
            Vd s = load_segment(from + r * B, v, B);
            for (int c = 0; c < r; ++c) s = nmadd(splat(l[r * D + c]), w[c], s);
            w[r] = s * splat(inv[r]);
          }
          for (int r = 0; r < D; ++r) store_segment(x + r * B, w[r], v, B);
        }
      }
    }
    return;
  }
  for (Index i = 0; i < count; ++i, l += static_cast<Index>(d) * d, inv += d) {
    if constexpr (D == 1) {
      const Index size = value_ptr[ptr[i + 1]] - value_ptr[ptr[i]];
      for (Index j = 0; j < size; ++j) x[j] = from[j] * inv[0];
      from += size;
      x += size;
      continue;
    }
    for (Index e = ptr[i]; e < ptr[i + 1]; ++e) {
      const int b = static_cast<int>((value_ptr[e + 1] - value_ptr[e]) / d);
      for (int v = 0; v * n < b; ++v) {
        Vd w[kCapacity<D>];
        for (int r = 0; r < d; ++r) {
          Vd s = load_segment(from + r * b, v, b);
          for (int c = 0; c < r; ++c) s = nmadd(splat(l[r * d + c]), w[c], s);
          w[r] = s * splat(inv[r]);
          store_segment(x + r * b, w[r], v, b);
        }
      }
      from += d * b;
      x += d * b;
    }
  }
}
void whiten_blocks(Index d, Index b, Index count, const double* l, const double* inv, const Index* ptr,
                   const Index* value_ptr, const double* from, double* values) {
  with_width(b, [&](auto width) {
    with_height(d, [&](auto dim) {
      whiten_blocks_sized<decltype(dim)::value, decltype(width)::value>(d, count, l, inv, ptr, value_ptr, from, values);
    });
  });
}

// ---- normal equations -----------------------------------------------------------------------------------------------
// The lower triangle of a border block and, behind it, its gradient; vectors as in GramTile, a last column apart.
template <int B>
struct NormalTile {
  using Gram = GramTile<B>;
  static constexpr int n = Gram::n;
  static constexpr int kVecs = Gram::kVecs;
  static constexpr int kWidth = Gram::kWidth;
  static constexpr bool kSplit = Gram::kSplit;
  static constexpr int kCorner = B * kWidth;  // of kSplit: the last diagonal entry, then the last of the gradient
  static constexpr int kGradient = kCorner + (kSplit ? 2 : 0);
  static_assert(kGradient + kWidth <= kGramTile);
};

template <int D, int Q, int B>
void normal_rows_sized(const NormalRowsArgs& args) {
  using Tile = NormalTile<B>;
  constexpr int n = Tile::n;
  constexpr int kVecs = Tile::kVecs;
  for (Index i = args.begin; i < args.end; ++i) {
    double h[D * D] = {}, g[D] = {};
    if (!args.distinct) {
      for (Index at = args.ptr[i] * D * B; at < args.ptr[i + 1] * D * B; ++at) args.values[at] = 0.0;
    }
    const Index first = args.first == nullptr ? i : args.first[i];
    const Index last = args.first == nullptr ? i + 1 : args.first[i + 1];
    for (Index t = first; t < last; ++t) {
      const Index block = args.first == nullptr ? t : args.blocks[t];
      const double* j_t = args.j_t + block * Q * D;
      const double* residual = args.residual + block * Q;
      double weight[Q];
      for (int s = 0; s < Q; ++s) {
        weight[s] = args.weights == nullptr ? 1.0 : args.weights[args.weights_per_line ? block * Q + s : block];
        for (int c = 0; c < D; ++c) {
          const double scaled = weight[s] * j_t[s * D + c];
          for (int a = 0; a <= c; ++a) h[c * D + a] = madd(scaled, j_t[s * D + a], h[c * D + a]);
          g[c] = madd(scaled, residual[s], g[c]);
        }
      }
      for (Index e = args.j_ptr[block]; e < args.j_ptr[block + 1]; ++e) {
        const double* j_beta = args.j_beta + e * Q * B;
        double* cross = args.values + args.place[e] * D * B;
        Vd y[Q][kVecs];
        double y_last[Q];
        for (int s = 0; s < Q; ++s) {
          for (int v = 0; v < kVecs; ++v) y[s][v] = load_segment(j_beta + s * B, v, B) * splat(weight[s]);
          y_last[s] = weight[s] * j_beta[s * B + B - 1];
        }
        for (int r = 0; r < D; ++r) {
          for (int v = 0; v < kVecs; ++v) {
            Vd sum = args.distinct ? Vd{} : load_segment(cross + r * B, v, B);
            for (int s = 0; s < Q; ++s) sum = madd(y[s][v], splat(j_t[s * D + r]), sum);
            store_segment(cross + r * B, sum, v, B);
          }
          if constexpr (Tile::kSplit) {
            double sum = args.distinct ? 0.0 : cross[r * B + B - 1];
            for (int s = 0; s < Q; ++s) sum = madd(y_last[s], j_t[s * D + r], sum);
            cross[r * B + B - 1] = sum;
          }
        }
        if (args.tiles == nullptr) continue;
        double* tile = args.tiles + args.j_block[e] * kGramTile;
#pragma GCC unroll 9
        for (int p = 0; p < B; ++p) {
          for (int v = 0; v < kVecs && v * n <= p; ++v) {
            double* to = tile + p * Tile::kWidth + v * n;
            Vd sum = load(to);
            for (int s = 0; s < Q; ++s) sum = madd(y[s][v], splat(j_beta[s * B + p]), sum);
            store(to, sum);
          }
        }
        for (int v = 0; v < kVecs; ++v) {
          double* to = tile + Tile::kGradient + v * n;
          Vd sum = load(to);
          for (int s = 0; s < Q; ++s) sum = madd(y[s][v], splat(residual[s]), sum);
          store(to, sum);
        }
        if constexpr (Tile::kSplit) {
          double corner = tile[Tile::kCorner], gradient = tile[Tile::kCorner + 1];
          for (int s = 0; s < Q; ++s) {
            corner = madd(y_last[s], j_beta[s * B + B - 1], corner);
            gradient = madd(y_last[s], residual[s], gradient);
          }
          tile[Tile::kCorner] = corner;
          tile[Tile::kCorner + 1] = gradient;
        }
      }
    }
    double* h_tt = args.h_tt + i * D * D;
    for (int c = 0; c < D; ++c) {
      for (int a = 0; a <= c; ++a) h_tt[c * D + a] = h_tt[a * D + c] = h[c * D + a];
      args.g_t[i * D + c] = g[c];
    }
  }
}
bool normal_rows(Index d, Index q, Index b, const NormalRowsArgs& args) {
  if (d != 3 || q != 2 || (b != 6 && b != 9)) return false;
  if (b == 9) {
    normal_rows_sized<3, 2, 9>(args);
  } else {
    normal_rows_sized<3, 2, 6>(args);
  }
  return true;
}

template <int B>
void read_tiles_sized(Index blocks, const double* tiles, double* h, double* g) {
  using Tile = NormalTile<B>;
  for (Index block = 0; block < blocks; ++block, tiles += kGramTile, h += B * B, g += B) {
    for (int p = 0; p < B; ++p) {
      for (int q = 0; q <= p; ++q) {
        h[p * B + q] = Tile::kSplit && q == B - 1 ? tiles[Tile::kCorner] : tiles[p * Tile::kWidth + q];
      }
      g[p] = Tile::kSplit && p == B - 1 ? tiles[Tile::kCorner + 1] : tiles[Tile::kGradient + p];
    }
  }
}
void read_tiles(Index b, Index blocks, const double* tiles, double* h, double* g) {
  if (b == 9) {
    read_tiles_sized<9>(blocks, tiles, h, g);
  } else {
    read_tiles_sized<6>(blocks, tiles, h, g);
  }
}

template <class In, int kRows>
ARROWSCHUR_INLINE void subtract_outer_rows(Index p, double scale, const In* a, const In* b, double* c, Index ldc,
                                           bool lower) {
  constexpr int n = kLanes<double>;
  for (Index i = 0; i < p; ++i) {
    Vd f[kRows];
    for (int r = 0; r < kRows; ++r) f[r] = splat(scale * static_cast<double>(a[r * p + i]));
    const int width = static_cast<int>(lower ? i + 1 : p);
    double* to = c + i * ldc;
    for (int v = 0; v * n < width; ++v) {
      Vd s = load_segment(to, v, width);
      for (int r = 0; r < kRows; ++r) s = nmadd(f[r], load_segment(b + r * p, v, width), s);
      store_segment(to, s, v, width);
    }
  }
}
template <class In>
void subtract_outer(Index d, Index p, double scale, const In* a, const In* b, double* c, Index ldc, bool lower) {
  Index r = 0;
  for (; r + 4 <= d; r += 4) subtract_outer_rows<In, 4>(p, scale, a + r * p, b + r * p, c, ldc, lower);
  for (; r + 2 <= d; r += 2) subtract_outer_rows<In, 2>(p, scale, a + r * p, b + r * p, c, ldc, lower);
  for (; r < d; ++r) subtract_outer_rows<In, 1>(p, scale, a + r * p, b + r * p, c, ldc, lower);
}

}  // namespace

extern const Kernels kTable;
const Kernels kTable = {
    ARROWSCHUR_ISA_NAME,
    {rank_update<double>, multiply<double>, solve_strip<double>, factor_rows<double>, whiten<double>,
     solve_lower<double>, solve_upper<double>},
    {rank_update<float>, multiply<float>, solve_strip<float>, factor_rows<float>, whiten<float>, solve_lower<float>,
     solve_upper<float>},
    {rows_dot<double>, rows_axpy<double>, block_matvec<double>, rows_gram<double>, block_rows<double>,
     block_abs_sums<double>, block_gram<double>, gram_band<double>, subtract_outer<double>},
    {rows_dot<float>, rows_axpy<float>, block_matvec<float>, rows_gram<float>, block_rows<float>, block_abs_sums<float>,
     block_gram<float>, gram_band<float>, subtract_outer<float>},
    {normal_rows, read_tiles, whiten_blocks, subtract_gram_tile},
};

}  // namespace arrowschur::linalg::ARROWSCHUR_ISA
