/* float.c: float activations (Armv8.0): weights f32, f16, bf16, or codes that are turned into floats on the way.
 *
 * 16 rows x NT tokens; columns ascending, one fused multiply-add each, so the result equals the scalar twin's bit for
 * bit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_NEON)

#include "common.h"
#include "kernels.h"
#include "formats/formats.h"

/* Rows 4v .. 4v+3 of column c. */
AGQ_INLINE float32x4_t load4(const void *w, size_t c, int v, const int dtype) {
  const size_t at = c * AGQ_PANEL + 4 * (size_t)v;
  if (dtype == AGQ_F32) return vld1q_f32((const float *)w + at);
  const uint16x4_t h = vld1_u16((const uint16_t *)w + at);
  if (dtype == AGQ_BF16) return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
  return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

AGQ_INLINE float32x4_t madd_lane(float32x4_t c, float32x4_t w, float32x4_t x, int lane) {
  switch (lane) {
    case 0: return vfmaq_laneq_f32(c, w, x, 0);
    case 1: return vfmaq_laneq_f32(c, w, x, 1);
    case 2: return vfmaq_laneq_f32(c, w, x, 2);
    default: return vfmaq_laneq_f32(c, w, x, 3);
  }
}

/* Adds the bias, or what is there, and writes one token's rows of panel p. */
static void write_rows(const agq_float_tile *t, int token, int p, const float32x4_t *f) {
  const int first = p * AGQ_PANEL, rows = t->l->out_features - first;
  const float *addend = agq_float_addend(t, token);
  float *y = t->y + (size_t)token * t->ldy + first;
  if (rows >= AGQ_PANEL) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++)
      vst1q_f32(y + 4 * v, addend ? vaddq_f32(f[v], vld1q_f32(addend + first + 4 * v)) : f[v]);
  } else {
    float part[AGQ_PANEL];
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) vst1q_f32(part + 4 * v, f[v]);
    for (int r = 0; r < rows; r++) y[r] = addend ? part[r] + addend[first + r] : part[r];
  }
}

AGQ_INLINE void float_tile(const agq_float_tile *t, int p, int token, const int NT, const int dtype) {
  const int k = t->l->in_features;
  const char *w = (const char *)t->l->weight + (size_t)p * k * AGQ_PANEL * (agq_formats[dtype].bits / 8);
  const float *x = t->x + (size_t)token * t->ldx;
  float32x4_t f[4][4];
  int c = 0;
  AGQ_UNROLL_FOR (int i = 0; i < 16; i++) f[i / 4][i % 4] = vdupq_n_f32(0);
  for (; c + 4 <= k; c += 4) {
    float32x4_t xs[4];
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++) xs[n] = vld1q_f32(x + n * t->ldx + c);
    AGQ_UNROLL_FOR (int j = 0; j < 4; j++)
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
        const float32x4_t ws = load4(w, (size_t)(c + j), v, dtype);
        AGQ_UNROLL_FOR (int n = 0; n < NT; n++) f[n][v] = madd_lane(f[n][v], ws, xs[n], j);
      }
  }
  for (; c < k; c++)
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
      const float32x4_t ws = load4(w, (size_t)c, v, dtype);
      AGQ_UNROLL_FOR (int n = 0; n < NT; n++) f[n][v] = vfmaq_n_f32(f[n][v], ws, x[n * t->ldx + c]);
    }
  for (int n = 0; n < NT; n++) write_rows(t, token + n, p, f[n]);
}

/* Code of column j (of the 8 or 4 of a unit) in every lane of u, as a float without its zero point. */
AGQ_INLINE float32x4_t code4(uint32x4_t u, float32x4_t zero, int j, const agq_format *format) {
  if (format->bits == 4) {
    const int shift = 8 * (j & 3) + (j & 4);
    const uint32x4_t c = vshlq_u32(u, vdupq_n_s32(-shift));
    return vsubq_f32(vcvtq_f32_u32(vandq_u32(c, vdupq_n_u32(15))), zero);
  }
  const int32x4_t c = vshlq_s32(vreinterpretq_s32_u32(u), vdupq_n_s32(24 - 8 * j));
  return vsubq_f32(vcvtq_f32_s32(vshrq_n_s32(c, 24)), zero);
}

AGQ_INLINE void codes_tile(const agq_float_tile *t, int p, int token, const int NT, const agq_format *format) {
  const agq_linear *l = t->l;
  const int k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group,
            unit = agq_format_unit(format);
  const uint8_t *w = (const uint8_t *)l->weight + (size_t)p * agq_pad32(k) * AGQ_PANEL / (8 / format->bits);
  const float *x = t->x + (size_t)token * t->ldx;
  float32x4_t f[4][4];
  AGQ_UNROLL_FOR (int i = 0; i < 16; i++) f[i / 4][i % 4] = vdupq_n_f32(0);
  for (int g = 0, c = 0; g < groups; g++) {
    const size_t at = ((size_t)p * groups + g) * AGQ_PANEL;
    float32x4_t s[4][4], zero[4];
    AGQ_UNROLL_FOR (int i = 0; i < 16; i++) s[i / 4][i % 4] = vdupq_n_f32(0);
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
      zero[v] = vdupq_n_f32((float)agq_symmetric_zero(l));
      if (l->zero) {
        int32_t four;
        memcpy(&four, l->zero + at + 4 * v, 4);
        const int8x8_t z = vreinterpret_s8_s32(vdup_n_s32(four));
        zero[v] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(z))));
      }
    }
    const int end = c + group;
    for (; c + unit <= end; c += unit, w += 64) {
      float32x4_t xs[4][2];
      AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
        xs[n][0] = vld1q_f32(x + n * t->ldx + c);
        if (unit == 8) xs[n][1] = vld1q_f32(x + n * t->ldx + c + 4);
      }
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
        const uint32x4_t u = vreinterpretq_u32_u8(vld1q_u8(w + 16 * v));
        AGQ_UNROLL_FOR (int j = 0; j < unit; j++) {
          const float32x4_t ws = code4(u, zero[v], j, format);
          AGQ_UNROLL_FOR (int n = 0; n < NT; n++) s[n][v] = madd_lane(s[n][v], ws, xs[n][j / 4], j % 4);
        }
      }
    }
    for (int j = 0; c < end; c++, j++) /* a row that is not a whole number of units is one group */
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
        const float32x4_t ws = code4(vreinterpretq_u32_u8(vld1q_u8(w + 16 * v)), zero[v], j, format);
        AGQ_UNROLL_FOR (int n = 0; n < NT; n++) s[n][v] = vfmaq_n_f32(s[n][v], ws, x[n * t->ldx + c]);
      }
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
      const float32x4_t scale = agq_load_scale4(l->scale, at + 4 * v, l->scale_dtype);
      AGQ_UNROLL_FOR (int n = 0; n < NT; n++) f[n][v] = vfmaq_f32(f[n][v], s[n][v], scale);
    }
  }
  for (int n = 0; n < NT; n++) write_rows(t, token + n, p, f[n]);
}

#define FLOAT_KERNEL(NAME, TILE, ARGUMENT)                      \
  void NAME(const agq_float_tile *t) {                          \
    for (int p = t->panel; p < t->panel + t->panels; p++) {     \
      int i = 0;                                                \
      for (; i + 4 <= t->m; i += 4) TILE(t, p, i, 4, ARGUMENT); \
      for (; i < t->m; i++) TILE(t, p, i, 1, ARGUMENT);         \
    }                                                           \
  }
FLOAT_KERNEL(agq_arm_f32, float_tile, AGQ_F32)
FLOAT_KERNEL(agq_arm_f16, float_tile, AGQ_F16)
FLOAT_KERNEL(agq_arm_bf16, float_tile, AGQ_BF16)
FLOAT_KERNEL(agq_arm_u4, codes_tile, &agq_formats[AGQ_U4])
FLOAT_KERNEL(agq_arm_i8, codes_tile, &agq_formats[AGQ_I8])

#endif
