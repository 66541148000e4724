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

}  // namespace

extern const Kernels kTable;
const Kernels kTable = {
    ARROWSCHUR_ISA_NAME,
    {rank_update<double>, multiply<double>, solve_strip<double>, factor_rows<double>, whiten<double>,
     solve_lower<double>, solve_upper<double>},
    {rank_update<float>, multiply<float>, solve_strip<float>, factor_rows<float>, whiten<float>, solve_lower<float>,
     solve_upper<float>},
    {rows_dot<double>, rows_axpy<double>, block_matvec<double>},
    {rows_dot<float>, rows_axpy<float>, block_matvec<float>},
};

}  // namespace arrowschur::linalg::ARROWSCHUR_ISA
