/* quantize.c: activations to codes, bit-equal to scalar/quantize.c; see quantize.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#if defined(AGQ_HAS_X86)
#include "gemm/quantize.h"
#include "kernels.h"

/* min and max return their second operand when the first is a NaN, as the comparisons in scalar/quantize.c do. */
INLINE void emit(const float *x, int n, float inv, float lo, float hi, int8_t *codes) {
  const vf vinv = vf_set(inv), vlo = vf_set(lo), vhi = vf_set(hi);
  int i = 0;
#define SCALED(v) vf_max(vf_min(vf_mul(v, vinv), vhi), vlo)
#define AT(j) SCALED(vf_load(x + i + (j) * AGQ_VL))
  for (; i + 4 * AGQ_VL <= n; i += 4 * AGQ_VL) vf_store4_s8(codes + i, AT(0), AT(1), AT(2), AT(3));
  for (; i + AGQ_VL <= n; i += AGQ_VL) vf_store_s8(codes + i, AT(0));
  if (i < n) {
    int8_t t[AGQ_VL];
    vf_store_s8(t, SCALED(vf_load_rows(x + i, n - i)));
    memcpy(codes + i, t, (size_t)(n - i));
  }
#undef AT
#undef SCALED
}

/* Maxima of bits, as in scalar/quantize.c: no NaN is lost. */
static float quantize_symmetric(const float *x, int n, float qmax, float clip, int8_t *codes) {
  const vi magnitude = vi_set32(0x7fffffff);
  vi m0 = vi_zero(), m1 = vi_zero();
  int i = 0;
  for (; i + 2 * AGQ_VL <= n; i += 2 * AGQ_VL) {
    m0 = vi_max_s32(m0, vi_and(vi_load(x + i), magnitude));
    m1 = vi_max_s32(m1, vi_and(vi_load(x + i + AGQ_VL), magnitude));
  }
  for (; i < n; i += AGQ_VL) m0 = vi_max_s32(m0, vi_and(vi_bits(vf_load_rows(x + i, n - i)), magnitude));
  const float amax = vi_largest_s32(vi_max_s32(m0, m1)) * clip;
  if (amax < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  emit(x, n, qmax / amax, -qmax, qmax, codes);
  return amax / qmax;
}

/* The least and the largest of n values and 0, times clip. */
INLINE void range_of(const float *x, int n, float clip, float *lo, float *hi) {
  vi l0 = vi_set32(INT32_MIN), l1 = l0, h0 = vi_zero(), h1 = h0; /* least: the sign and the largest size */
  int i = 0;
  for (; i + 2 * AGQ_VL <= n; i += 2 * AGQ_VL) {
    const vi a = vi_load(x + i), b = vi_load(x + i + AGQ_VL);
    l0 = vi_max_u32(l0, a);
    h0 = vi_max_s32(h0, a);
    l1 = vi_max_u32(l1, b);
    h1 = vi_max_s32(h1, b);
  }
  for (; i < n; i += AGQ_VL) {
    const vi a = vi_bits(vf_load_rows(x + i, n - i));
    l0 = vi_max_u32(l0, a);
    h0 = vi_max_s32(h0, a);
  }
  *lo = vi_largest_u32(vi_max_u32(l0, l1)) * clip;
  *hi = vi_largest_s32(vi_max_s32(h0, h1)) * clip;
}

INLINE float quantize_asymmetric(const float *x, int n, float lo, float hi, int8_t *codes) {
  const float range = hi - lo;
  if (range < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  const float inv = 15.0f / range;
  float zero = -lo * inv;
  zero = zero < 15.0f ? zero : 15.0f;
  zero = zero > 0.0f ? zero : 0.0f;
  zero = (zero + 12582912.0f) - 12582912.0f; /* rint, half to even */
  emit(x, n, inv, -zero, 15.0f - zero, codes);
  return range / 15.0f;
}

#define TOGETHER 16 /* groups whose ranges are found before the first is encoded, so that none waits for its own */

void agq_x86_quantize_row(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                          int8_t *codes, float *scales) {
  if (!group) group = k;
  const int groups = k / group;
  if (symmetric)
    for (int g = 0; g < groups; g++)
      scales[g] =
          quantize_symmetric(x + (size_t)g * group, group, bits == 8 ? 127.0f : 7.0f, clip, codes + (size_t)g * group);
  else
    for (int g = 0; g < groups; g += TOGETHER) {
      const int count = groups - g < TOGETHER ? groups - g : TOGETHER;
      float lo[TOGETHER], hi[TOGETHER];
      for (int i = 0; i < count; i++) range_of(x + (size_t)(g + i) * group, group, clip, lo + i, hi + i);
      for (int i = 0; i < count; i++) {
        const size_t at = (size_t)(g + i) * group;
        scales[g + i] = quantize_asymmetric(x + at, group, lo[i], hi[i], codes + at);
      }
    }
  memset(codes + k, 0, (size_t)(k_padded - k));
}

void agq_x86_sum_blocks(const int8_t *codes, int block, int blocks, int32_t *sums, int stride) {
  for (int b = 0; b < blocks; b++, codes += block) {
    __m128i s = _mm_setzero_si128();
    for (int i = 0; i < block; i += 32) s = vi_sum32(s, codes + i);
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    sums[(size_t)b * (size_t)stride] = _mm_cvtsi128_si32(s);
  }
}

/* AGQ_VL operands of static activations. Powers of two come from exponent bits. */
INLINE void emit_static(vf x, vi e, const agq_static *s, int bits, int8_t *codes) {
  int32_t inverse;
  memcpy(&inverse, &s->inverse, 4);
  const vi steps = vi_shl32(e, 23);
  /* Bits of the inverse - steps. */
  const vf factor = vf_bits(vi_add32(vi_xor(steps, vi_set32(-1)), vi_set32(inverse + 1)));
  vf v = vf_max(vf_min(vf_mul(x, factor), vf_set(s->hi)), vf_set(s->lo));
  v = vf_sub(vf_add(v, vf_set(12582912.0f)), vf_set(12582912.0f)); /* rint, half to even */
  if (bits == 8) v = vf_add(v, vf_set((float)s->offset));
  else v = vf_mul(v, vf_bits(vi_add32(steps, vi_set32(127 << 23))));
  vf_store_s8(codes, v);
}

INLINE void quantize_static(const float *x, int k, const agq_static *s, const int bits, int8_t *codes) {
  int i = 0;
  for (; i + AGQ_VL <= k; i += AGQ_VL)
    emit_static(vf_load(x + i), vi_from_s8((const int8_t *)s->exponent + i), s, bits, codes + i);
  if (i < k) {
    int8_t e[AGQ_VL] = {0}, t[AGQ_VL];
    memcpy(e, s->exponent + i, (size_t)(k - i));
    emit_static(vf_load_rows(x + i, k - i), vi_from_s8(e), s, bits, t);
    memcpy(codes + i, t, (size_t)(k - i));
  }
}

void agq_x86_quantize_static(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes) {
  if (s->bits == 8) quantize_static(x, k, s, 8, codes);
  else quantize_static(x, k, s, 4, codes);
  memset(codes + k, 0, (size_t)(k_padded - k));
}
#endif
