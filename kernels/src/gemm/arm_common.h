/* arm_common.h: what the Arm micro-kernels share: the walk over panels, blocks and tokens, the float epilogue, the stores.
 *
 * An integer kernel gives one always-inlined function that accumulates ROWS x NT products of one block (int32, exact); the rest
 * is here. The running sums f of a panel live in a small buffer in L1, so that one pass over a panel serves all its tokens.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ARM_COMMON_H
#define AGQ_ARM_COMMON_H

#include <arm_neon.h>
#include <string.h>

#include "gemm.h"

#define AGQ_INLINE static inline __attribute__((always_inline))
#define AGQ_NOINLINE static __attribute__((noinline)) /* own registers: the compilers spill less */
#if defined(__clang__)
#define AGQ_UNROLL _Pragma("clang loop unroll(full)")
#define AGQ_NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define AGQ_UNROLL _Pragma("GCC unroll 32")
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

AGQ_INLINE float32x4_t agq_load_scale4(const void *scale, size_t index, int bf16) {
  if (bf16) return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)scale + index), 16));
  return vld1q_f32((const float *)scale + index);
}

/* Conversion to float takes one pipe only and two cycles there (Neoverse-N1). An accumulator that starts at the bits of 1.5 * 2^23
 * is, while |sum| < 2^22, the bits of 1.5 * 2^23 + sum: one subtraction on either pipe gives the same float. */
#define AGQ_MAGIC 12582912.0f
#define AGQ_MAGIC_BITS 0x4b400000
#define AGQ_MAGIC_BLOCK 2048 /* columns: 15 * 127 * 2048 < 2^22 */

AGQ_INLINE float32x4_t agq_to_float(int32x4_t c, int magic) {
  return magic ? vsubq_f32(vreinterpretq_f32_s32(c), vdupq_n_f32(AGQ_MAGIC)) : vcvtq_f32_s32(c);
}

/* Where one panel stands: pointers to its current block. */
typedef struct {
  const agq_tile *t;
  const uint8_t *w;    /* weights of the block */
  const int8_t *a;     /* codes of the block: [block/4][width][4] */
  const int32_t *sums; /* [width] */
  const float *as;     /* activation scale of the block of token 0, or NULL: per token */
  float32x4_t ws[4];   /* scales of the 16 rows */
  int32x4_t zc[4];     /* what multiplies the sum of the codes: offset - zero point */
  int correct;         /* the epilogue adds zc * sums */
} agq_arm_block;

/* f += scale * (acc + correction): NT tokens x 4*NV rows (vectors v0 .. v0+NV-1 of the panel) of one block. */
AGQ_INLINE void agq_arm_epilogue(const agq_arm_block *k, int32x4_t (*acc)[4], int v0, const int NV, int tok, const int NT,
                                 float (*f)[AGQ_PANEL]) {
  float *p = f[tok] + 4 * v0;
  float32x4_t ws[4];
  AGQ_UNROLL for (int v = 0; v < NV; v++) ws[v] = k->ws[v0 + v];
  if (k->correct) {
    AGQ_UNROLL for (int n = 0; n < NT; n++)
      AGQ_UNROLL for (int v = 0; v < NV; v++) acc[n][v] = vmlaq_n_s32(acc[n][v], k->zc[v0 + v], k->sums[tok + n]);
  }
  if (k->as) {
    const float *as = k->as + (size_t)tok * k->t->a_scale_stride;
    AGQ_UNROLL for (int n = 0; n < NT; n++, as += k->t->a_scale_stride)
      AGQ_UNROLL for (int v = 0; v < NV; v++) {
        float *q = p + AGQ_PANEL * n + 4 * v;
        vst1q_f32(q, vfmaq_f32(vld1q_f32(q), vcvtq_f32_s32(acc[n][v]), vmulq_n_f32(ws[v], *as)));
      }
  } else {
    AGQ_UNROLL for (int n = 0; n < NT; n++)
      AGQ_UNROLL for (int v = 0; v < NV; v++) {
        float *q = p + AGQ_PANEL * n + 4 * v;
        vst1q_f32(q, vfmaq_f32(vld1q_f32(q), vcvtq_f32_s32(acc[n][v]), ws[v]));
      }
  }
}

/* Zero points of group g of panel p, widened: offset - zero. 16 bits in between: a zero point may be -128. */
AGQ_INLINE void agq_arm_zero(const agq_tile *t, int p, int g, int offset, int symmetric_zero, int32x4_t *zc) {
  int8x16_t z = vdupq_n_s8((int8_t)symmetric_zero);
  const int8x8_t o = vdup_n_s8((int8_t)offset);
  if (t->zero) z = vld1q_s8(t->zero + (size_t)p * t->zero_stride + (size_t)g * AGQ_PANEL);
  int16x8_t lo = vsubl_s8(o, vget_low_s8(z)), hi = vsubl_s8(o, vget_high_s8(z));
  zc[0] = vmovl_s16(vget_low_s16(lo));
  zc[1] = vmovl_s16(vget_high_s16(lo));
  zc[2] = vmovl_s16(vget_low_s16(hi));
  zc[3] = vmovl_s16(vget_high_s16(hi));
}

/* Scales and zero points of group g of panel p. `offset` is what the kernel has already subtracted from each code. */
AGQ_INLINE void agq_arm_group(agq_arm_block *k, int p, int g, int offset, int symmetric_zero) {
  const agq_tile *t = k->t;
  const char *scale = (const char *)t->scale + (size_t)p * t->scale_stride;
  AGQ_UNROLL for (int v = 0; v < 4; v++) k->ws[v] = agq_load_scale4(scale, (size_t)g * AGQ_PANEL + 4 * v, t->scale_bf16);
  if (t->zero || k->correct) agq_arm_zero(t, p, g, offset, symmetric_zero, k->zc);
}

/* One token: the sums of the 16 rows stay in registers. */
typedef struct {
  const agq_tile *t;
  const uint8_t *w;
  const int8_t *a;
  const void *scale;
  const float *as; /* activation scale of the block */
  int panel, group, group_left, act_left;
  float32x4_t f[4];
} agq_arm_m1;

AGQ_INLINE void agq_arm_m1_begin(agq_arm_m1 *m, const agq_tile *t, int panel) {
  m->t = t;
  m->w = t->w + (size_t)panel * t->w_stride;
  m->a = t->a;
  m->scale = (const char *)t->scale + (size_t)panel * t->scale_stride;
  m->as = t->a_scale;
  m->panel = panel;
  m->group = 0;
  m->group_left = t->group_blocks;
  m->act_left = t->act_blocks;
  AGQ_UNROLL for (int v = 0; v < 4; v++) m->f[v] = vdupq_n_f32(0);
}

/* f += scale * (acc + (offset - zero) * sum) for block b, then on to the next block. magic: acc starts at AGQ_MAGIC_BITS. */
AGQ_INLINE void agq_arm_m1_block(agq_arm_m1 *m, int b, int32x4_t *acc, const int offset, const int symmetric_zero,
                                 const int magic) {
  const agq_tile *t = m->t;
  const size_t g = (size_t)m->group * AGQ_PANEL;
  if (t->zero) {
    int32x4_t zc[4];
    agq_arm_zero(t, m->panel, m->group, offset, symmetric_zero, zc);
    AGQ_UNROLL for (int v = 0; v < 4; v++) acc[v] = vmlaq_n_s32(acc[v], zc[v], t->sums[b]);
  }
  AGQ_UNROLL for (int v = 0; v < 4; v++) {
    float32x4_t s = agq_load_scale4(m->scale, g + 4 * v, t->scale_bf16);
    if (t->act_blocks) s = vmulq_n_f32(s, *m->as);
    m->f[v] = vfmaq_f32(m->f[v], agq_to_float(acc[v], magic), s);
  }
  if (--m->group_left == 0) {
    m->group++;
    m->group_left = t->group_blocks;
  }
  if (--m->act_left == 0) {
    m->as++;
    m->act_left = t->act_blocks;
  }
}

/* y = f * as + bias (or f + bias) for one panel. */
AGQ_INLINE void agq_arm_store(const agq_tile *t, int p, float (*f)[AGQ_PANEL]) {
  int row = p * AGQ_PANEL, rows = t->rows - row;
  float32x4_t bias[4];
  if (rows > AGQ_PANEL) rows = AGQ_PANEL;
  if (rows <= 0) return;
  if (t->bias && rows == AGQ_PANEL) {
    AGQ_UNROLL for (int v = 0; v < 4; v++) bias[v] = vld1q_f32(t->bias + row + 4 * v);
  } else {
    float b[AGQ_PANEL] = {0};
    if (t->bias) memcpy(b, t->bias + row, sizeof(float) * (size_t)rows);
    AGQ_UNROLL for (int v = 0; v < 4; v++) bias[v] = vld1q_f32(b + 4 * v);
  }
  for (int n = 0; n < t->width; n++) {
    float *y = t->y + (size_t)n * t->ldy + row, part[AGQ_PANEL], *out = rows == AGQ_PANEL ? y : part;
    AGQ_UNROLL for (int v = 0; v < 4; v++) {
      float32x4_t r = vld1q_f32(f[n] + 4 * v);
      if (!t->act_blocks) r = vmulq_n_f32(r, t->a_scale[(size_t)n * t->a_scale_stride]);
      vst1q_f32(out + 4 * v, vaddq_f32(r, bias[v]));
    }
    if (out == part) memcpy(y, part, sizeof(float) * (size_t)rows);
  }
}

AGQ_INLINE void agq_arm_m1_end(agq_arm_m1 *m) {
  float f[1][AGQ_PANEL];
  AGQ_UNROLL for (int v = 0; v < 4; v++) vst1q_f32(f[0] + 4 * v, m->f[v]);
  agq_arm_store(m->t, m->panel, f);
}

/* Defines `static void NAME(const agq_tile *t)`: the walk over panels and blocks; TOKENS(k, f) handles all tokens of a block.
 * BYTES: bytes of a panel per column (8 for U4, 16 for I8). OFFSET: what TOKENS subtracts from each code by itself. SYMMETRIC:
 * the zero point that NULL stands for. CORRECT: the epilogue adds the rest, if there is one; 0: TOKENS itself does. */
#define AGQ_ARM_KERNEL(NAME, TOKENS, BYTES, OFFSET, SYMMETRIC, CORRECT)                                    \
  static void NAME(const agq_tile *t) {                                                                    \
    for (int p = 0; p < t->panels; p++) {                                                                  \
      float f[AGQ_MAX_MR][AGQ_PANEL];                                                                      \
      agq_arm_block k = {.t = t, .w = t->w + (size_t)p * t->w_stride, .a = t->a, .sums = t->sums,          \
                         .as = t->act_blocks ? t->a_scale : NULL,                                          \
                         .correct = (CORRECT) && (t->zero != NULL || (OFFSET) != (SYMMETRIC))};            \
      int group_left = 0, act_left = t->act_blocks;                                                        \
      for (int n = 0; n < t->width; n++)                                                                   \
        for (int v = 0; v < 4; v++) vst1q_f32(f[n] + 4 * v, vdupq_n_f32(0));                               \
      for (int b = 0, g = 0; b < t->blocks; b++) {                                                         \
        if (group_left == 0) {                                                                             \
          agq_arm_group(&k, p, g++, OFFSET, SYMMETRIC);                                                    \
          group_left = t->group_blocks;                                                                    \
        }                                                                                                  \
        group_left--;                                                                                      \
        if (k.as && act_left == 0) {                                                                       \
          k.as++;                                                                                          \
          act_left = t->act_blocks;                                                                        \
        }                                                                                                  \
        act_left--;                                                                                        \
        TOKENS(&k, f);                                                                                     \
        k.w += (size_t)t->block * (BYTES);                                                                 \
        k.a += (size_t)t->block * (size_t)t->width;                                                        \
        k.sums += t->width;                                                                                \
      }                                                                                                    \
      agq_arm_store(t, p, f);                                                                              \
    }                                                                                                      \
  }

#endif
