/* common.h: what the Arm micro-kernels share: the walk over panels, blocks and tokens, the float epilogue, the stores.
 *
 * An integer kernel gives one always-inlined function that accumulates ROWS x NT products of one block (int32, exact);
 * the rest is here. The running sums f of a panel live in a small buffer in L1, so that one pass over a panel serves
 * all its tokens.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ARM_COMMON_H
#define AGQ_ARM_COMMON_H

#include <arm_neon.h>
#include <string.h>

#include "formats/formats.h"
#include "gemm/gemm.h"

#define AGQ_INLINE static inline __attribute__((always_inline))
#define AGQ_NOINLINE static __attribute__((noinline)) /* own registers: the compilers spill less */
#if defined(__clang__)
#define AGQ_UNROLL_FOR(...) _Pragma("clang loop unroll(full)") for (__VA_ARGS__)
#define AGQ_NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define AGQ_UNROLL_FOR(...) _Pragma("GCC unroll 32") for (__VA_ARGS__)
#define AGQ_NO_UNROLL _Pragma("GCC unroll 1")
#endif

/* Lane numbers must be literals for the intrinsics; with a constant n the switch disappears. */
AGQ_INLINE int8x16_t agq_dup4(int8x16_t x, int n) {
  int32x4_t v = vreinterpretq_s32_s8(x);
  switch (n) {
    case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 0));
    case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 1));
    case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 2));
    default: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 3));
  }
}

/* Keeps a vector in a register: gcc would replace a vector load by four scalar ones when only lanes of it are used. */
#define AGQ_KEEP(v) __asm__("" : "+w"(v))

/* Four codes of one token in every 32-bit lane. */
AGQ_INLINE int8x16_t agq_load_dup4(const int8_t *a) {
  int32_t v;
  memcpy(&v, a, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

AGQ_INLINE float32x4_t agq_load_scale4(const void *scale, size_t index, int type) {
  if (type == AGQ_BF16) return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)scale + index), 16));
  if (type == AGQ_F16) return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)scale + index)));
  return vld1q_f32((const float *)scale + index);
}

#if defined(__ARM_FEATURE_DOTPROD)
/* c[n * stride] += w . x for the 4 tokens n whose codes are in x. */
AGQ_INLINE void agq_dot4(int32x4_t *c, const int stride, int8x16_t w, int8x16_t x) {
  c[0] = vdotq_laneq_s32(c[0], w, x, 0);
  c[stride] = vdotq_laneq_s32(c[stride], w, x, 1);
  c[2 * stride] = vdotq_laneq_s32(c[2 * stride], w, x, 2);
  c[3 * stride] = vdotq_laneq_s32(c[3 * stride], w, x, 3);
}
#endif

/* Conversion to float takes one pipe only and two cycles there (Neoverse-N1). An accumulator that starts at the bits of
 * 1.5 * 2^23 is, while |sum| < 2^22, the bits of 1.5 * 2^23 + sum: one subtraction on either pipe gives the same
 * float. */
#define AGQ_MAGIC 12582912.0f
#define AGQ_MAGIC_BITS 0x4b400000
#define AGQ_MAGIC_BLOCK 2048 /* columns: 15 * 127 * 2048 < 2^22 */

AGQ_INLINE float32x4_t agq_to_float(int32x4_t c, int magic) {
  return magic ? vsubq_f32(vreinterpretq_f32_s32(c), vdupq_n_f32(AGQ_MAGIC)) : vcvtq_f32_s32(c);
}

/* Where one panel stands: pointers to its current block. */
typedef struct {
  const agq_tile *t;
  const uint8_t *w;                /* weights of the block */
  const int8_t *a;                 /* codes of the block: [block/4][width][4] */
  const int32_t *sums;             /* [width] */
  const float *as;                 /* activation scale of the block of token 0, or NULL: per token */
  int tokens_first, opens, closes; /* agq_tokens_first; first and last of the blocks that share the outer scale
                                    * (gemm.h) */
  float32x4_t ws[4];               /* scales of the 16 rows */
  int32x4_t zc[4];                 /* what multiplies the sum of the codes: offset - zero point */
  int correct;                     /* the epilogue adds zc * sums */
} agq_arm_block;

/* The float sums of a panel's tokens. */
typedef struct {
  float f[AGQ_MAX_MR][AGQ_PANEL], g[AGQ_MAX_MR][AGQ_PANEL]; /* g: inside an outer scale; without one, f only */
} agq_arm_sums;

/* Takes x = (float)acc of one block, NT tokens x 4*NV rows (vectors v0 .. v0+NV-1 of the panel), into the sums, as
 * gemm.h says. */
AGQ_INLINE void agq_arm_scale(const agq_arm_block *k, float32x4_t (*x)[4], int v0, const int NV, int tok, const int NT,
                              agq_arm_sums *s) {
  float *f = s->f[tok] + 4 * v0, *g = s->g[tok] + 4 * v0;
  const size_t stride = (size_t)k->t->a_scale_stride;
  float32x4_t ws[4];
  AGQ_UNROLL_FOR (int v = 0; v < NV; v++) ws[v] = k->ws[v0 + v];
  if (!k->as) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
        float *q = f + AGQ_PANEL * n + 4 * v;
        vst1q_f32(q, vfmaq_f32(vld1q_f32(q), x[n][v], ws[v]));
      }
    return;
  }
  const float *as = k->as + (size_t)tok * stride;
  if (k->tokens_first) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++, as += stride)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++)
        x[n][v] =
            k->opens ? vmulq_n_f32(x[n][v], *as) : vfmaq_n_f32(vld1q_f32(g + AGQ_PANEL * n + 4 * v), x[n][v], *as);
  } else if (k->opens) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) x[n][v] = vmulq_f32(x[n][v], ws[v]);
  } else {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) x[n][v] = vfmaq_f32(vld1q_f32(g + AGQ_PANEL * n + 4 * v), x[n][v], ws[v]);
  }
  if (!k->closes) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) vst1q_f32(g + AGQ_PANEL * n + 4 * v, x[n][v]);
  } else if (k->tokens_first) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
        float *q = f + AGQ_PANEL * n + 4 * v;
        vst1q_f32(q, vfmaq_f32(vld1q_f32(q), x[n][v], ws[v]));
      }
  } else {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++, as += stride)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
        float *q = f + AGQ_PANEL * n + 4 * v;
        vst1q_f32(q, vfmaq_n_f32(vld1q_f32(q), x[n][v], *as));
      }
  }
}

/* The same of acc + correction. */
AGQ_INLINE void agq_arm_epilogue(const agq_arm_block *k, int32x4_t (*acc)[4], int v0, const int NV, int tok,
                                 const int NT, agq_arm_sums *sums) {
  float32x4_t x[8][4];
  if (k->correct) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) acc[n][v] = vmlaq_n_s32(acc[n][v], k->zc[v0 + v], k->sums[tok + n]);
  }
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) x[n][v] = vcvtq_f32_s32(acc[n][v]);
  agq_arm_scale(k, x, v0, NV, tok, NT, sums);
}

/* Zero points of a group's 16 rows, widened: offset - zero. 16 bits in between: a zero point may be -128. */
AGQ_INLINE void agq_arm_zero(const int8_t *zero, int offset, int32x4_t *zc) {
  const int8x16_t z = vld1q_s8(zero);
  const int8x8_t o = vdup_n_s8((int8_t)offset);
  const int16x8_t lo = vsubl_s8(o, vget_low_s8(z)), hi = vsubl_s8(o, vget_high_s8(z));
  zc[0] = vmovl_s16(vget_low_s16(lo));
  zc[1] = vmovl_s16(vget_high_s16(lo));
  zc[2] = vmovl_s16(vget_low_s16(hi));
  zc[3] = vmovl_s16(vget_high_s16(hi));
}

/* Scales and zero points of group g of panel p. `offset` is what the kernel has already subtracted from each code. */
AGQ_INLINE void agq_arm_group(agq_arm_block *k, int p, int g, int offset) {
  const agq_tile *t = k->t;
  const char *scale = (const char *)t->scale + (size_t)p * t->scale_stride;
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++)
    k->ws[v] = agq_load_scale4(scale, (size_t)g * AGQ_PANEL + 4 * v, t->scale_type);
  if (t->zero) agq_arm_zero(t->zero + (size_t)p * t->zero_stride + (size_t)g * AGQ_PANEL, offset, k->zc);
  else if (k->correct)
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) k->zc[v] = vdupq_n_s32(offset - t->symmetric);
}

/* y = f * as + bias (or f + bias) for one panel. */
AGQ_INLINE void agq_arm_store(const agq_tile *t, int p, float (*f)[AGQ_PANEL]) {
  int row = p * AGQ_PANEL, rows = t->rows - row;
  float32x4_t bias[4];
  if (rows > AGQ_PANEL) rows = AGQ_PANEL;
  if (rows <= 0) return;
  if (t->bias && rows == AGQ_PANEL) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) bias[v] = vld1q_f32(t->bias + row + 4 * v);
  } else {
    float b[AGQ_PANEL] = {0};
    if (t->bias) memcpy(b, t->bias + row, sizeof(float) * (size_t)rows);
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) bias[v] = vld1q_f32(b + 4 * v);
  }
  for (int n = 0; n < t->width; n++) {
    float *y = t->y + (size_t)n * t->ldy + row, part[AGQ_PANEL], *out = rows == AGQ_PANEL ? y : part;
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
      float32x4_t r = vld1q_f32(f[n] + 4 * v);
      if (!t->act_blocks) r = vmulq_n_f32(r, t->a_scale[(size_t)n * t->a_scale_stride]);
      vst1q_f32(out + 4 * v, vaddq_f32(r, bias[v]));
    }
    if (out == part) memcpy(y, part, sizeof(float) * (size_t)rows);
  }
}

/* Defines `static void NAME(const agq_tile *t)`: the walk over panels and blocks; TOKENS(k, sums) handles all tokens of
 * a block. BYTES: bytes of a panel per column (8 for U4, 16 for I8). OFFSET: what TOKENS subtracts from each code by
 * itself. CORRECT: the epilogue adds the rest, if there is one; 0: TOKENS itself does. */
#define AGQ_ARM_KERNEL(NAME, TOKENS, BYTES, OFFSET, CORRECT)                                     \
  static void NAME(const agq_tile *t) {                                                          \
    for (int p = 0; p < t->panels; p++) {                                                        \
      agq_arm_sums sums;                                                                         \
      agq_arm_block k = {.t = t,                                                                 \
                         .w = t->w + (size_t)p * t->w_stride,                                    \
                         .a = t->a,                                                              \
                         .sums = t->sums,                                                        \
                         .as = t->act_blocks ? t->a_scale : NULL,                                \
                         .correct = (CORRECT) && (t->zero != NULL || (OFFSET) != t->symmetric)}; \
      const int outer = agq_outer_blocks(t);                                                     \
      int group_left = 0, act_left = t->act_blocks, outer_left = outer;                          \
      k.tokens_first = agq_tokens_first(t);                                                      \
      memset(sums.f, 0, sizeof sums.f[0] * (size_t)t->width);                                    \
      for (int b = 0, g = 0; b < t->blocks; b++) {                                               \
        if (group_left == 0) {                                                                   \
          agq_arm_group(&k, p, g++, OFFSET);                                                     \
          group_left = t->group_blocks;                                                          \
        }                                                                                        \
        group_left--;                                                                            \
        if (k.as && act_left == 0) {                                                             \
          k.as++;                                                                                \
          act_left = t->act_blocks;                                                              \
        }                                                                                        \
        act_left--;                                                                              \
        k.opens = outer_left == outer;                                                           \
        k.closes = --outer_left == 0;                                                            \
        if (k.closes) outer_left = outer;                                                        \
        TOKENS(&k, &sums);                                                                       \
        k.w += (size_t)t->block * (BYTES);                                                       \
        k.a += (size_t)t->block * (size_t)t->width;                                              \
        k.sums += t->width;                                                                      \
      }                                                                                          \
      agq_arm_store(t, p, sums.f);                                                               \
    }                                                                                            \
  }

#endif
