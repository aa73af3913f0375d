/* vec.h: float vectors of the level's native width, one source for all levels. GCC/clang vector extensions where they
 * say enough, thin wrappers over intrinsics where they do not (fused multiply-add, maximum, widening of bytes).
 *
 * Lane-wise operations give the same bits at every lane, so a result does not depend on where in a vector it lies.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_VEC_H
#define AGQ_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa/features.h"

#define VW (AGQ_VECTOR_BYTES / 4) /* floats of a vector */
#if defined(AGQ_HAS_X86)
#include <immintrin.h>
#if VW == 4
#define AGQ_VEC_SSE41 1
#endif
#elif defined(AGQ_HAS_NEON)
#include <arm_neon.h>
#define AGQ_VEC_NEON 1
#endif

typedef float vf __attribute__((vector_size(4 * VW), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VW), may_alias));
typedef vf vf_any __attribute__((aligned(4))); /* at any float's address */

#define VINLINE static inline __attribute__((always_inline))

VINLINE vf vload(const float *p) { return *(const vf_any *)p; }
VINLINE void vstore(float *p, vf v) { *(vf_any *)p = v; }
VINLINE vf vset(float x) { return x - (vf){0}; }
VINLINE vi viset(int32_t x) { return x - (vi){0}; }

/* The first n < VW lanes; the others are 0. */
VINLINE vf vload_n(const float *p, int n) {
  float t[VW] = {0};
  memcpy(t, p, (size_t)n * sizeof(float));
  return vload(t);
}
VINLINE void vstore_n(float *p, vf v, int n) {
  float t[VW];
  vstore(t, v);
  memcpy(p, t, (size_t)n * sizeof(float));
}

VINLINE vi vlanes(void) {
#if VW == 16
  return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VW == 8
  return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
  return (vi){0, 1, 2, 3};
#endif
}

/* mask ? a : b; mask lanes are 0 or -1. */
VINLINE vf vselect(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* a*b + c, fused where the level has the instruction, else the product is rounded first. */
VINLINE vf vmadd(vf a, vf b, vf c) {
#if VW == 16
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VW == 8
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(AGQ_VEC_NEON)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return (vf){__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]), __builtin_fmaf(a[2], b[2], c[2]),
              __builtin_fmaf(a[3], b[3], c[3])};
#else
  return a * b + c;
#endif
}

/* A NaN in b is kept, one in a may be lost. */
VINLINE vf vmax(vf a, vf b) {
#if VW == 16
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VW == 8
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(AGQ_VEC_SSE41)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(AGQ_VEC_NEON)
  return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return vselect((vi)(a > b), a, b);
#endif
}
VINLINE vf vmin(vf a, vf b) {
#if VW == 16
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif VW == 8
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(AGQ_VEC_SSE41)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#elif defined(AGQ_VEC_NEON)
  return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return vselect((vi)(a < b), a, b);
#endif
}

VINLINE vf vabs(vf a) { return (vf)((vi)a & viset(0x7fffffff)); }

/* Sums are kept in a number of lanes that does not depend on the vectors' width, and added up in one tree: all levels
 * with a fused multiply-add give the same bits (and so do all without). `n` is a power of 2; destroys the lanes. */
VINLINE float vsum_lanes(float *lanes, int n) {
  for (n /= 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) lanes[i] += lanes[i + n];
  return lanes[0];
}

VINLINE float vmax_lane(vf a) {
#if VW == 16
  return _mm512_reduce_max_ps((__m512)a);
#elif defined(AGQ_VEC_NEON)
  return vmaxvq_f32((float32x4_t)a);
#else
#if VW == 8
  __m128 h = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
#else
  float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
  return x > y ? x : y;
#endif
#endif
}

/* The larger magnitudes |a| as bits, which grow with them up to infinity and, above it, NaN. */
VINLINE vi vlarger(vi bits, vf a) {
  const vi other = (vi)a & viset(0x7fffffff), more = other > bits;
  return (other & more) | (bits & ~more);
}
/* The largest lane of such bits as a float: NaN where one is. */
VINLINE float vlargest(vi bits) {
  int32_t lanes[VW], most = 0;
  memcpy(lanes, &bits, sizeof lanes);
  for (int i = 0; i < VW; i++) most = lanes[i] > most ? lanes[i] : most;
  float x;
  memcpy(&x, &most, sizeof x);
  return x;
}

/* The largest |x[i]|: NaN where one is. */
VINLINE float vlargest_of(const float *x, int n) {
  vi most = viset(0);
  int i = 0;
  for (; i + VW <= n; i += VW) most = vlarger(most, vload(x + i));
  if (i < n) most = vlarger(most, vload_n(x + i, n - i));
  return vlargest(most);
}

/* VW bytes, sign-extended. */
VINLINE vi vload_i8_int(const int8_t *p) {
#if VW == 16
  return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif VW == 8
  return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(AGQ_VEC_SSE41)
  int32_t w;
  memcpy(&w, p, 4);
  return (vi)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(w));
#elif defined(AGQ_VEC_NEON)
  uint32_t w;
  memcpy(&w, p, 4);
  int16x8_t h = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(w)));
  return (vi)vmovl_s16(vget_low_s16(h));
#else
  return (vi){p[0], p[1], p[2], p[3]};
#endif
}

/* The same as floats. */
VINLINE vf vload_i8(const int8_t *p) { return __builtin_convertvector(vload_i8_int(p), vf); }

/* VW bytes, zero-extended. */
VINLINE vi vload_u8(const uint8_t *p) {
#if VW == 16
  return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif VW == 8
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(AGQ_VEC_SSE41)
  int32_t w;
  memcpy(&w, p, 4);
  return (vi)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(w));
#elif defined(AGQ_VEC_NEON)
  uint32_t w;
  memcpy(&w, p, 4);
  return (vi)vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(w)))));
#else
  return (vi){p[0], p[1], p[2], p[3]};
#endif
}

/* Adding it rounds to the nearest integer (ties to even, |x| < 2^22), which then stands in the low bits. */
#define AGQ_ROUND_MAGIC 12582912.0f /* 1.5 * 2^23 */

VINLINE vf vrint(vf x) { return (x + vset(AGQ_ROUND_MAGIC)) - vset(AGQ_ROUND_MAGIC); }

#endif
