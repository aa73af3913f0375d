/* vec.h: the vectors of the x86 level that is being compiled, under common names.
 *
 * One 32-bit lane = one output row; a weight panel of 16 rows is AGQ_NV vectors. Levels differ in vector length and in
 * how an (unsigned weight byte) x (signed activation byte) product of four columns is accumulated: with vpdpbusd
 * straight into int32, or with pmaddubsw into int16 (AGQ_MADDUBS).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_X86_VEC_H
#define AGQ_X86_VEC_H

#include "isa/features.h"

#if defined(AGQ_HAS_X86)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "agq.h"

#define INLINE static inline __attribute__((always_inline))

#define AGQ_VB AGQ_VECTOR_BYTES /* bytes of a vector */
#if !defined(AGQ_HAS_DPBUSD)
#define AGQ_MADDUBS 1
#endif

#if AGQ_VB == 64
typedef __m512i vi;
typedef __m512 vf;
INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vi vi_set8(int x) { return _mm512_set1_epi8((char)x); }
INLINE vi vi_set32(int x) { return _mm512_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
INLINE vi vi_high_nibble(vi a, vi m15) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), m15); }
INLINE vi vi_shr4(vi a) { return _mm512_srai_epi32(a, 4); }
INLINE vi vi_add32(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi vi_max_s32(vi a, vi b) { return _mm512_max_epi32(a, b); }
INLINE vi vi_max_u32(vi a, vi b) { return _mm512_max_epu32(a, b); }
INLINE vi vi_mul32(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
INLINE vi vi_from_s8(const int8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE vi vi_dot(vi c, vi u, vi s) { return _mm512_dpbusd_epi32(c, u, s); }
INLINE vf vf_from_int(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_bits(vi a) { return _mm512_castsi512_ps(a); }
INLINE vi vi_bits(vf a) { return _mm512_castps_si512(a); }
INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_madd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
/* Rounds half to even and stores one byte per lane; lanes are within int8. */
INLINE void vf_store_s8(int8_t *p, vf a) {
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
/* Four vectors likewise. Packing goes by quarters of a vector: they are put in order afterwards. */
INLINE void vf_store4_s8(int8_t *p, vf a, vf b, vf c, vf d) {
  const vi low = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  const vi high = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
  const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
}
/* Sums of 32 bytes, added to four lanes. */
INLINE __m128i vi_sum32(__m128i s, const int8_t *p) {
  s = _mm_dpbusd_epi32(s, _mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)p));
  return _mm_dpbusd_epi32(s, _mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)p + 1));
}
INLINE vi vi_shr32(vi a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_shl32(vi a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_sra32(vi a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }

#elif AGQ_VB == 32
typedef __m256i vi;
typedef __m256 vf;
INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
INLINE vi vi_set8(int x) { return _mm256_set1_epi8((char)x); }
INLINE vi vi_set32(int x) { return _mm256_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
INLINE vi vi_high_nibble(vi a, vi m15) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), m15); }
INLINE vi vi_shr4(vi a) { return _mm256_srai_epi32(a, 4); }
INLINE vi vi_add32(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi vi_max_s32(vi a, vi b) { return _mm256_max_epi32(a, b); }
INLINE vi vi_max_u32(vi a, vi b) { return _mm256_max_epu32(a, b); }
INLINE vi vi_mul32(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
INLINE vi vi_from_s8(const int8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE vf vf_from_int(vi a) { return _mm256_cvtepi32_ps(a); }
INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_bits(vi a) { return _mm256_castsi256_ps(a); }
INLINE vi vi_bits(vf a) { return _mm256_castps_si256(a); }
INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_madd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_load_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE void vf_store_s8(int8_t *p, vf a) {
  vi i = _mm256_cvtps_epi32(a);
  __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(h, h));
}
INLINE void vf_store4_s8(int8_t *p, vf a, vf b, vf c, vf d) {
  const vi low = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
  const vi high = _mm256_packs_epi32(_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
  const vi order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i *)p, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
}
INLINE vi vi_shr32(vi a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_shl32(vi a, int n) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_sra32(vi a, int n) { return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n)); }
#if defined(AGQ_HAS_DPBUSD)
INLINE vi vi_dot(vi c, vi u, vi s) { return _mm256_dpbusd_avx_epi32(c, u, s); }
INLINE __m128i vi_sum32(__m128i s, const int8_t *p) {
  s = _mm_dpbusd_avx_epi32(s, _mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)p));
  return _mm_dpbusd_avx_epi32(s, _mm_set1_epi8(1), _mm_loadu_si128((const __m128i *)p + 1));
}
#else
INLINE vi vi_set16(int x) { return _mm256_set1_epi16((short)x); }
INLINE vi vi_add16(vi a, vi b) { return _mm256_add_epi16(a, b); }
INLINE vi vi_maddubs(vi u, vi s) { return _mm256_maddubs_epi16(u, s); }
INLINE vi vi_madd16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
INLINE vi vi_sra16_4(vi a) { return _mm256_srai_epi16(a, 4); }
INLINE vi vi_sign8(vi a, vi by) { return _mm256_sign_epi8(a, by); }
INLINE vi vi_abs8(vi a) { return _mm256_abs_epi8(a); }
#endif

#else /* SSE4.1 */
typedef __m128i vi;
typedef __m128 vf;
INLINE vi vi_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE void vi_store(void *p, vi a) { _mm_storeu_si128((__m128i *)p, a); }
INLINE vi vi_zero(void) { return _mm_setzero_si128(); }
INLINE vi vi_set8(int x) { return _mm_set1_epi8((char)x); }
INLINE vi vi_set32(int x) { return _mm_set1_epi32(x); }
INLINE vi vi_and(vi a, vi b) { return _mm_and_si128(a, b); }
INLINE vi vi_xor(vi a, vi b) { return _mm_xor_si128(a, b); }
INLINE vi vi_high_nibble(vi a, vi m15) { return _mm_and_si128(_mm_srli_epi16(a, 4), m15); }
INLINE vi vi_add32(vi a, vi b) { return _mm_add_epi32(a, b); }
INLINE vi vi_max_s32(vi a, vi b) { return _mm_max_epi32(a, b); }
INLINE vi vi_max_u32(vi a, vi b) { return _mm_max_epu32(a, b); }
INLINE vi vi_mul32(vi a, vi b) { return _mm_mullo_epi32(a, b); }
INLINE vi vi_from_s8(const int8_t *p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm_cvtepi8_epi32(_mm_cvtsi32_si128(x));
}
INLINE vf vf_from_int(vi a) { return _mm_cvtepi32_ps(a); }
INLINE vf vf_zero(void) { return _mm_setzero_ps(); }
INLINE vf vf_bits(vi a) { return _mm_castsi128_ps(a); }
INLINE vi vi_bits(vf a) { return _mm_castps_si128(a); }
INLINE vf vf_set(float x) { return _mm_set1_ps(x); }
INLINE vf vf_load(const float *p) { return _mm_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm_storeu_ps(p, a); }
INLINE vf vf_add(vf a, vf b) { return _mm_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm_mul_ps(a, b); }
INLINE vf vf_madd(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
INLINE vf vf_min(vf a, vf b) { return _mm_min_ps(a, b); }
INLINE vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
INLINE vi vi_load_u16(const uint16_t *p) { return _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE vf vf_load_bf16(const uint16_t *p) { return _mm_castsi128_ps(_mm_slli_epi32(vi_load_u16(p), 16)); }
/* Without F16C: exponent and mantissa moved into place, then times 2^112, which is exact for subnormals too. */
INLINE vf vf_load_f16(const uint16_t *p) {
  vi h = vi_load_u16(p), magnitude = _mm_and_si128(h, _mm_set1_epi32(0x7fff));
  vf f = _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(magnitude, 13)), _mm_set1_ps(5.192296858534828e33f));
  vi special = _mm_and_si128(_mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff)), _mm_set1_epi32(0x7f800000));
  vi sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
  return _mm_or_ps(f, _mm_castsi128_ps(_mm_or_si128(special, sign)));
}
INLINE void vf_store_s8(int8_t *p, vf a) {
  vi h = _mm_packs_epi32(_mm_cvtps_epi32(a), _mm_setzero_si128());
  int32_t x = _mm_cvtsi128_si32(_mm_packs_epi16(h, h));
  memcpy(p, &x, 4);
}
INLINE void vf_store4_s8(int8_t *p, vf a, vf b, vf c, vf d) {
  const vi low = _mm_packs_epi32(_mm_cvtps_epi32(a), _mm_cvtps_epi32(b));
  const vi high = _mm_packs_epi32(_mm_cvtps_epi32(c), _mm_cvtps_epi32(d));
  _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(low, high));
}
INLINE vi vi_shr32(vi a, int n) { return _mm_srl_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_shl32(vi a, int n) { return _mm_sll_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_sra32(vi a, int n) { return _mm_sra_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi vi_set16(int x) { return _mm_set1_epi16((short)x); }
INLINE vi vi_add16(vi a, vi b) { return _mm_add_epi16(a, b); }
INLINE vi vi_maddubs(vi u, vi s) { return _mm_maddubs_epi16(u, s); }
INLINE vi vi_madd16(vi a, vi b) { return _mm_madd_epi16(a, b); }
INLINE vi vi_sra16_4(vi a) { return _mm_srai_epi16(a, 4); }
INLINE vi vi_sign8(vi a, vi by) { return _mm_sign_epi8(a, by); }
INLINE vi vi_abs8(vi a) { return _mm_abs_epi8(a); }
#endif

#if defined(AGQ_MADDUBS)
INLINE __m128i vi_sum32(__m128i s, const int8_t *p) {
  const __m128i one = _mm_set1_epi8(1), a = _mm_maddubs_epi16(one, _mm_loadu_si128((const __m128i *)p));
  const __m128i b = _mm_maddubs_epi16(one, _mm_loadu_si128((const __m128i *)p + 1));
  return _mm_add_epi32(s, _mm_madd_epi16(_mm_add_epi16(a, b), _mm_set1_epi16(1)));
}
#endif

/* c += v in 16-bit or 32-bit lanes. As an instruction, because compilers otherwise reassociate the sums of an unrolled
 * loop into many partial ones, which then spill. */
#if defined(AGQ_MADDUBS) && AGQ_VB == 32
#define ACCUMULATE16(c, v) __asm__("vpaddw %1, %0, %0" : "+x"(c) : "x"(v))
#define ACCUMULATE32(c, v) __asm__("vpaddd %1, %0, %0" : "+x"(c) : "x"(v))
#elif defined(AGQ_MADDUBS)
#define ACCUMULATE16(c, v) __asm__("paddw %1, %0" : "+x"(c) : "x"(v))
#define ACCUMULATE32(c, v) __asm__("paddd %1, %0" : "+x"(c) : "x"(v))
#endif

#define AGQ_VL (AGQ_VB / 4)  /* rows of a vector */
#define AGQ_NV (64 / AGQ_VB) /* vectors of a panel */

/* The largest lane, signed or unsigned; as a float, whose bits it is. */
#define AGQ_REDUCE(NAME, OP)                     \
  INLINE float NAME(vi v) {                      \
    __m128i a = AGQ_QUARTERS(v, OP);             \
    a = _mm_##OP(a, _mm_shuffle_epi32(a, 0x4e)); \
    a = _mm_##OP(a, _mm_shuffle_epi32(a, 0xb1)); \
    return _mm_cvtss_f32(_mm_castsi128_ps(a));   \
  }
#if AGQ_VB == 64
#define AGQ_QUARTERS(v, OP)                                                      \
  _mm_##OP(_mm_##OP(_mm512_castsi512_si128(v), _mm512_extracti32x4_epi32(v, 1)), \
           _mm_##OP(_mm512_extracti32x4_epi32(v, 2), _mm512_extracti32x4_epi32(v, 3)))
#elif AGQ_VB == 32
#define AGQ_QUARTERS(v, OP) _mm_##OP(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1))
#else
#define AGQ_QUARTERS(v, OP) v
#endif
AGQ_REDUCE(vi_largest_s32, max_epi32)
AGQ_REDUCE(vi_largest_u32, max_epu32)

/* Four activation codes to every row. */
INLINE vi vi_broadcast4(const int8_t *p) {
  int32_t x;
  memcpy(&x, p, 4);
  return vi_set32(x);
}

INLINE vf vf_load_scale(const void *p, size_t i, int type) {
  if (type == AGQ_BF16) return vf_load_bf16((const uint16_t *)p + i);
  return type == AGQ_F16 ? vf_load_f16((const uint16_t *)p + i) : vf_load((const float *)p + i);
}

/* Writes AGQ_VL rows, or as many of them as exist. */
INLINE void vf_store_rows(float *y, vf v, int rows) {
  if (rows >= AGQ_VL) {
    vf_store(y, v);
  } else if (rows > 0) {
    float t[AGQ_VL];
    vf_store(t, v);
    memcpy(y, t, (size_t)rows * sizeof(float));
  }
}

/* Reads AGQ_VL floats, or as many of them as exist (the rest 0). */
INLINE vf vf_load_rows(const float *p, int rows) {
  if (rows >= AGQ_VL) return vf_load(p);
  float t[AGQ_VL] = {0};
  for (int r = 0; r < rows; r++) t[r] = p[r];
  return vf_load(t);
}
#endif
#endif
