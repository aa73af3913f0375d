/* quantize.c: one token of activations to codes and scales, bit-equal to scalar/quantize.c.
 *
 * The same divisions and products are rounded in the same places; FCVTNS rounds half to even. FMINNM and FMAXNM choose
 * the bound where the other operand is a NaN, as the comparisons of scalar/quantize.c do.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_NEON)

#include "common.h"
#include "gemm/quantize.h"
#include "kernels.h"

AGQ_INLINE int32x4_t clamp_rint(float32x4_t v, float32x4_t lo, float32x4_t hi) {
  return vcvtnq_s32_f32(vmaxnmq_f32(vminnmq_f32(v, hi), lo));
}

static int8_t clamp_rint1(float v, float lo, float hi) {
  return (int8_t)vgetq_lane_s32(clamp_rint(vdupq_n_f32(v), vdupq_n_f32(lo), vdupq_n_f32(hi)), 0);
}

/* codes[i] = clamp(rint(x[i] * inv), lo, hi) */
static void encode(const float *x, int n, float inv, float lo, float hi, int8_t *codes) {
  const float32x4_t l = vdupq_n_f32(lo), h = vdupq_n_f32(hi);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    int32x4_t q[4];
    AGQ_UNROLL_FOR (int j = 0; j < 4; j++) q[j] = clamp_rint(vmulq_n_f32(vld1q_f32(x + i + 4 * j), inv), l, h);
    const int16x8_t a = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
    const int16x8_t b = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    vst1q_s8(codes + i, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
  }
  for (; i < n; i++) codes[i] = clamp_rint1(x[i] * inv, lo, hi);
}

AGQ_INLINE uint32x4_t bits4(const float *x) { return vreinterpretq_u32_f32(vld1q_f32(x)); }
AGQ_INLINE uint32_t bits1(const float *x) {
  uint32_t bits;
  memcpy(&bits, x, sizeof bits);
  return bits;
}
AGQ_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Maxima of bits, as in scalar/quantize.c: no NaN is lost. */
static float quantize_symmetric(const float *x, int n, float qmax, float clip, int8_t *codes) {
  const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
  uint32x4_t m[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
  int i = 0;
  for (; i + 16 <= n; i += 16)
    AGQ_UNROLL_FOR (int j = 0; j < 4; j++) m[j] = vmaxq_u32(m[j], vandq_u32(bits4(x + i + 4 * j), magnitude));
  uint32_t most = vmaxvq_u32(vmaxq_u32(vmaxq_u32(m[0], m[1]), vmaxq_u32(m[2], m[3])));
  for (; i < n; i++) {
    const uint32_t bits = bits1(x + i) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  const float amax = float_of(most) * clip;
  if (amax < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  encode(x, n, qmax / amax, -qmax, qmax, codes);
  return amax / qmax;
}

static float quantize_asymmetric(const float *x, int n, float clip, int8_t *codes) {
  /* Least: the sign and the largest size. */
  uint32x4_t l[2] = {vdupq_n_u32(0x80000000), vdupq_n_u32(0x80000000)};
  int32x4_t h[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  int i = 0;
  for (; i + 8 <= n; i += 8)
    AGQ_UNROLL_FOR (int j = 0; j < 2; j++) {
      const uint32x4_t v = bits4(x + i + 4 * j);
      l[j] = vmaxq_u32(l[j], v);
      h[j] = vmaxq_s32(h[j], vreinterpretq_s32_u32(v));
    }
  uint32_t least = vmaxvq_u32(vmaxq_u32(l[0], l[1]));
  int32_t most = vmaxvq_s32(vmaxq_s32(h[0], h[1]));
  for (; i < n; i++) {
    const uint32_t bits = bits1(x + i);
    least = bits > least ? bits : least;
    most = (int32_t)bits > most ? (int32_t)bits : most;
  }
  const float lo = float_of(least) * clip, hi = float_of((uint32_t)most) * clip, range = hi - lo;
  if (range < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  const float inv = 15.0f / range, zero = (float)clamp_rint1(-lo * inv, 0.0f, 15.0f);
  encode(x, n, inv, -zero, 15.0f - zero, codes);
  return range / 15.0f;
}

void agq_arm_quantize_row(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                          int8_t *codes, float *scales) {
  if (!group) group = k;
  for (int g = 0; g * group < k; g++) {
    const float *p = x + (size_t)g * group;
    int8_t *c = codes + (size_t)g * group;
    scales[g] = symmetric ? quantize_symmetric(p, group, bits == 8 ? 127.0f : 7.0f, clip, c)
                          : quantize_asymmetric(p, group, clip, c);
  }
  memset(codes + k, 0, (size_t)(k_padded - k));
}

void agq_arm_sum_blocks(const int8_t *codes, int block, int blocks, int32_t *sums, int stride) {
  for (int b = 0; b < blocks; b++) {
    int32x4_t s = vdupq_n_s32(0);
    for (int i = 0; i < block; i += 16, codes += 16) {
#if defined(__ARM_FEATURE_DOTPROD)
      s = vdotq_s32(s, vld1q_s8(codes), vdupq_n_s8(1));
#else
      s = vpadalq_s16(s, vpaddlq_s8(vld1q_s8(codes)));
#endif
    }
    sums[(size_t)b * (size_t)stride] = vaddvq_s32(s);
  }
}

/* Four operands of static activations; powers of two come from exponent bits. */
AGQ_INLINE int32x4_t static4(float32x4_t x, int32x4_t e, const agq_static *s, const int bits) {
  const int32x4_t inverse = vreinterpretq_s32_f32(vdupq_n_f32(s->inverse));
  const float32x4_t factor = vreinterpretq_f32_s32(vsubq_s32(inverse, vshlq_n_s32(e, 23)));
  const int32x4_t code = clamp_rint(vmulq_f32(x, factor), vdupq_n_f32(s->lo), vdupq_n_f32(s->hi));
  return bits == 8 ? vaddq_s32(code, vdupq_n_s32(s->offset)) : vshlq_s32(code, e);
}

AGQ_INLINE void quantize_static(const float *x, int k, const agq_static *s, const int bits, int8_t *codes) {
  int i = 0;
  for (; i + 8 <= k; i += 8) {
    const int16x8_t e = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(s->exponent + i)));
    const int32x4_t a = static4(vld1q_f32(x + i), vmovl_s16(vget_low_s16(e)), s, bits);
    const int32x4_t b = static4(vld1q_f32(x + i + 4), vmovl_s16(vget_high_s16(e)), s, bits);
    vst1_s8(codes + i, vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b))));
  }
  for (; i < k; i++)
    codes[i] = (int8_t)vgetq_lane_s32(static4(vdupq_n_f32(x[i]), vdupq_n_s32(s->exponent[i]), s, bits), 0);
}

void agq_arm_quantize_static(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes) {
  if (s->bits == 8) quantize_static(x, k, s, 8, codes);
  else quantize_static(x, k, s, 4, codes);
  memset(codes + k, 0, (size_t)(k_padded - k));
}

#endif
