// The kernels of kernels.hpp, once per instruction set: ARROWSCHUR_ISA names the namespace. As in linalg/kernels_body.hpp,
// everything is in an unnamed namespace and uses no library templates: shared code could be linked in its AVX-512 version.
#include "dictionary/kernels.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace arrowschur::dictionary::ARROWSCHUR_ISA {
namespace {

#define ARROWSCHUR_INLINE inline __attribute__((always_inline))

// ---- eight float64 lanes ----------------------------------------------------------------------------------------------
#if defined(__AVX512F__)
struct Lanes {
  __m512d v;
};
ARROWSCHUR_INLINE Lanes zero() { return {_mm512_setzero_pd()}; }
ARROWSCHUR_INLINE Lanes splat(double x) { return {_mm512_set1_pd(x)}; }
ARROWSCHUR_INLINE Lanes load(const double* p) { return {_mm512_loadu_pd(p)}; }
ARROWSCHUR_INLINE Lanes load(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
ARROWSCHUR_INLINE __mmask8 first_lanes(Index n) { return static_cast<__mmask8>((1u << n) - 1u); }
ARROWSCHUR_INLINE Lanes load_part(const float* p, Index n) {
  return {_mm512_cvtps_pd(_mm256_maskz_loadu_ps(first_lanes(n), p))};
}
ARROWSCHUR_INLINE Lanes load_part(const double* p, Index n) { return {_mm512_maskz_loadu_pd(first_lanes(n), p)}; }
ARROWSCHUR_INLINE void store(double* p, Lanes a) { _mm512_storeu_pd(p, a.v); }
ARROWSCHUR_INLINE void store_part(double* p, Lanes a, Index n) { _mm512_mask_storeu_pd(p, first_lanes(n), a.v); }
ARROWSCHUR_INLINE Lanes madd(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
ARROWSCHUR_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {  // rounds twice
  return {_mm512_add_pd(_mm512_mul_pd(a.v, b.v), c.v)};
}
#elif defined(__AVX2__)
struct Lanes {
  __m256d a, b;
};
ARROWSCHUR_INLINE Lanes zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
ARROWSCHUR_INLINE Lanes splat(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
ARROWSCHUR_INLINE Lanes load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
ARROWSCHUR_INLINE Lanes load(const float* p) {
  return {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
}
ARROWSCHUR_INLINE void store(double* p, Lanes x) {
  _mm256_storeu_pd(p, x.a);
  _mm256_storeu_pd(p + 4, x.b);
}
ARROWSCHUR_INLINE Lanes madd(Lanes x, Lanes y, Lanes z) {
  return {_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
}
ARROWSCHUR_INLINE Lanes multiply_add(Lanes x, Lanes y, Lanes z) {
  return {_mm256_add_pd(_mm256_mul_pd(x.a, y.a), z.a), _mm256_add_pd(_mm256_mul_pd(x.b, y.b), z.b)};
}
#else
struct Lanes {
  double v[8];
};
ARROWSCHUR_INLINE Lanes splat(double x) { return {{x, x, x, x, x, x, x, x}}; }
ARROWSCHUR_INLINE Lanes zero() { return splat(0.0); }
template <class T>
ARROWSCHUR_INLINE Lanes load(const T* p) {
  Lanes r;
  for (int l = 0; l < 8; ++l) r.v[l] = static_cast<double>(p[l]);
  return r;
}
ARROWSCHUR_INLINE void store(double* p, Lanes x) { __builtin_memcpy(p, x.v, sizeof x.v); }
ARROWSCHUR_INLINE Lanes multiply_add(Lanes x, Lanes y, Lanes z) {
  for (int l = 0; l < 8; ++l) z.v[l] += x.v[l] * y.v[l];
  return z;
}
ARROWSCHUR_INLINE Lanes madd(Lanes x, Lanes y, Lanes z) { return multiply_add(x, y, z); }
#endif

#if !defined(__AVX512F__)
template <class T>
ARROWSCHUR_INLINE Lanes load_part(const T* p, Index n) {
  T part[8] = {};
  for (Index l = 0; l < n; ++l) part[l] = p[l];
  return load(part);
}
ARROWSCHUR_INLINE void store_part(double* p, Lanes x, Index n) {
  double part[8];
  store(part, x);
  for (Index l = 0; l < n; ++l) p[l] = part[l];
}
#endif

ARROWSCHUR_INLINE double sum(Lanes x) {
  double l[8];
  store(l, x);
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

// ---- dots -------------------------------------------------------------------------------------------------------------
double s64(const float* a, const float* b, Index n) {
  Lanes acc = zero();
  Index i = 0;
  for (; i + 8 <= n; i += 8) acc = madd(load(a + i), load(b + i), acc);
  if (i < n) acc = madd(load_part(a + i, n - i), load_part(b + i, n - i), acc);
  return sum(acc);
}

void widen(const float* x, Index n, double* out) {
  Index i = 0;
  for (; i + 8 <= n; i += 8) store(out + i, load(x + i));
  if (i < n) store(out + i, load_part(x + i, n - i));
}

// Four rows at a time: one would wait for its own additions.
void dots(const double* x, const float* d, Index n, const std::uint32_t* index, Index count, double* out) {
  const Index whole = n / 8 * 8, rest = n - whole;
  Index j = 0;
  for (; j + 4 <= count; j += 4) {
    const float* r[4];
    for (int q = 0; q < 4; ++q) r[q] = d + (index == nullptr ? j + q : static_cast<Index>(index[j + q])) * n;
    Lanes a0 = zero(), a1 = zero(), a2 = zero(), a3 = zero();
    for (Index i = 0; i < whole; i += 8) {
      const Lanes v = load(x + i);
      a0 = madd(v, load(r[0] + i), a0);
      a1 = madd(v, load(r[1] + i), a1);
      a2 = madd(v, load(r[2] + i), a2);
      a3 = madd(v, load(r[3] + i), a3);
    }
    if (rest != 0) {
      const Lanes v = load(x + whole);
      a0 = madd(v, load_part(r[0] + whole, rest), a0);
      a1 = madd(v, load_part(r[1] + whole, rest), a1);
      a2 = madd(v, load_part(r[2] + whole, rest), a2);
      a3 = madd(v, load_part(r[3] + whole, rest), a3);
    }
    out[j] = sum(a0);
    out[j + 1] = sum(a1);
    out[j + 2] = sum(a2);
    out[j + 3] = sum(a3);
  }
  for (; j < count; ++j) {
    const float* r = d + (index == nullptr ? j : static_cast<Index>(index[j])) * n;
    Lanes acc = zero();
    for (Index i = 0; i < whole; i += 8) acc = madd(load(x + i), load(r + i), acc);
    if (rest != 0) acc = madd(load(x + whole), load_part(r + whole, rest), acc);
    out[j] = sum(acc);
  }
}

void dots_wide(const double* x, const double* w, Index n, Index count, double* out) {
  const Index m = (n + 7) / 8 * 8;
  Index j = 0;
  for (; j + 4 <= count; j += 4) {
    const double* r = w + j * m;
    Lanes a0 = zero(), a1 = zero(), a2 = zero(), a3 = zero();
    for (Index i = 0; i < m; i += 8) {
      const Lanes v = load(x + i);
      a0 = madd(v, load(r + i), a0);
      a1 = madd(v, load(r + m + i), a1);
      a2 = madd(v, load(r + 2 * m + i), a2);
      a3 = madd(v, load(r + 3 * m + i), a3);
    }
    out[j] = sum(a0);
    out[j + 1] = sum(a1);
    out[j + 2] = sum(a2);
    out[j + 3] = sum(a3);
  }
  for (; j < count; ++j) {
    Lanes acc = zero();
    for (Index i = 0; i < m; i += 8) acc = madd(load(x + i), load(w + j * m + i), acc);
    out[j] = sum(acc);
  }
}

double square_norm(const double* x, Index n) {
  Lanes acc = zero();
  Index i = 0;
  for (; i + 8 <= n; i += 8) acc = multiply_add(load(x + i), load(x + i), acc);
  if (i < n) acc = multiply_add(load_part(x + i, n - i), load_part(x + i, n - i), acc);
  return sum(acc);
}

// ---- accumulation -----------------------------------------------------------------------------------------------------
// 32 columns of b stay in registers while all rows are added.
void add_rows(double* b, Index n, const float* const* x, const double* c, Index count) {
  Index i = 0;
  for (; i + 32 <= n; i += 32) {
    Lanes b0 = load(b + i), b1 = load(b + i + 8), b2 = load(b + i + 16), b3 = load(b + i + 24);
    for (Index j = 0; j < count; ++j) {
      const Lanes cj = splat(c[j]);
      const float* xj = x[j] + i;
      b0 = madd(cj, load(xj), b0);
      b1 = madd(cj, load(xj + 8), b1);
      b2 = madd(cj, load(xj + 16), b2);
      b3 = madd(cj, load(xj + 24), b3);
    }
    store(b + i, b0);
    store(b + i + 8, b1);
    store(b + i + 16, b2);
    store(b + i + 24, b3);
  }
  for (; i + 8 <= n; i += 8) {
    Lanes b0 = load(b + i);
    for (Index j = 0; j < count; ++j) b0 = madd(splat(c[j]), load(x[j] + i), b0);
    store(b + i, b0);
  }
  if (i < n) {
    Lanes b0 = load_part(b + i, n - i);
    for (Index j = 0; j < count; ++j) b0 = madd(splat(c[j]), load_part(x[j] + i, n - i), b0);
    store_part(b + i, b0, n - i);
  }
}

// ---- score tiles ------------------------------------------------------------------------------------------------------
ARROWSCHUR_INLINE float magnitude(float x) { return __builtin_fabsf(x); }

// The largest of the lanes is taken out, again and again.
#if defined(__AVX512F__)
template <int kVectors>
ARROWSCHUR_INLINE float nth_of_lanes(const float* s, Index n, Index want) {
  __m512 top[kVectors];
  for (int v = 0; v < kVectors; ++v) top[v] = _mm512_setzero_ps();
  Index i = 0;
  for (; i + 16 * kVectors <= n; i += 16 * kVectors) {
    for (int v = 0; v < kVectors; ++v) {
      top[v] = _mm512_max_ps(top[v], _mm512_abs_ps(_mm512_loadu_ps(s + i + 16 * v)));
    }
  }
  for (int v = 0; v < kVectors && i < n; ++v, i += 16) {
    const __mmask16 part = n - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (n - i)) - 1u);
    top[v] = _mm512_max_ps(top[v], _mm512_abs_ps(_mm512_maskz_loadu_ps(part, s + i)));
  }
  float last = 0.0f;
  for (Index taken = 0; taken < want; ++taken) {
    __m512 most = top[0];
    for (int v = 1; v < kVectors; ++v) most = _mm512_max_ps(most, top[v]);
    last = _mm512_reduce_max_ps(most);
    const __m512 all = _mm512_set1_ps(last);
    for (int v = 0; v < kVectors; ++v) {
      top[v] = _mm512_mask_mov_ps(top[v], _mm512_cmp_ps_mask(top[v], all, _CMP_EQ_OQ), _mm512_setzero_ps());
    }
  }
  return last;
}
float nth_magnitude(const float* s, Index n, Index vectors, Index want) {
  if (vectors <= 1) return nth_of_lanes<1>(s, n, want);
  if (vectors <= 2) return nth_of_lanes<2>(s, n, want);
  if (vectors <= 4) return nth_of_lanes<4>(s, n, want);
  return nth_of_lanes<8>(s, n, want);
}
#else
float nth_magnitude(const float* s, Index n, Index vectors, Index want) {
  float top[128] = {};
  const Index width = 16 * vectors;
  Index i = 0;
  for (; i + width <= n; i += width) {
    for (Index l = 0; l < width; ++l) {
      const float v = magnitude(s[i + l]);
      top[l] = top[l] > v ? top[l] : v;
    }
  }
  for (Index l = 0; i < n; ++i, ++l) {
    const float v = magnitude(s[i]);
    top[l] = top[l] > v ? top[l] : v;
  }
  float last = 0.0f;
  for (Index taken = 0; taken < want; ++taken) {
    last = 0.0f;
    for (Index l = 0; l < width; ++l) last = top[l] > last ? top[l] : last;
    for (Index l = 0; l < width; ++l) top[l] = top[l] == last ? 0.0f : top[l];
  }
  return last;
}
#endif

Index at_least(const float* s, Index n, float threshold, std::uint32_t first, std::uint32_t* index, float* value) {
  Index count = 0, i = 0;
#if defined(__AVX512F__)
  const __m512 t = _mm512_set1_ps(threshold);
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + 16 <= n; i += 16) {
    const __m512 v = _mm512_abs_ps(_mm512_loadu_ps(s + i));
    const __mmask16 hit = _mm512_cmp_ps_mask(v, t, _CMP_GE_OQ);
    if (hit == 0) continue;
    const __m512i at =
        _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first + static_cast<std::uint32_t>(i))), steps);
    _mm512_mask_compressstoreu_epi32(index + count, hit, at);
    _mm512_mask_compressstoreu_ps(value + count, hit, v);
    count += __builtin_popcount(hit);
  }
#elif defined(__AVX2__)
  const __m256 t = _mm256_set1_ps(threshold), sign = _mm256_set1_ps(-0.0f);
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(s + i));
    unsigned hit = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, t, _CMP_GE_OQ)));
    for (; hit != 0; hit &= hit - 1) {
      const Index at = i + __builtin_ctz(hit);
      index[count] = first + static_cast<std::uint32_t>(at);
      value[count++] = magnitude(s[at]);
    }
  }
#endif
  for (; i < n; ++i) {
    const float v = magnitude(s[i]);
    if (v >= threshold) {
      index[count] = first + static_cast<std::uint32_t>(i);
      value[count++] = v;
    }
  }
  return count;
}

typedef float Strip __attribute__((vector_size(64)));

void subtract_rows(const float* b, Index n, const float* const* g, const float* c, Index count, float* out) {
  Index i = 0;
  for (; i + 64 <= n; i += 64) {
    Strip v[4];
    __builtin_memcpy(v, b + i, sizeof v);
    for (Index j = 0; j < count; ++j) {
      Strip w[4];
      __builtin_memcpy(w, g[j] + i, sizeof w);
      for (int q = 0; q < 4; ++q) v[q] -= c[j] * w[q];
    }
    __builtin_memcpy(out + i, v, sizeof v);
  }
  for (; i < n; ++i) {
    float v = b[i];
    for (Index j = 0; j < count; ++j) v -= c[j] * g[j][i];
    out[i] = v;
  }
}

#undef ARROWSCHUR_INLINE

}  // namespace

extern const Kernels kTable;
const Kernels kTable{ARROWSCHUR_ISA_NAME, &s64,      &widen,         &dots,     &dots_wide,
                     &square_norm,        &add_rows, &nth_magnitude, &at_least, &subtract_rows};

}  // namespace arrowschur::dictionary::ARROWSCHUR_ISA
